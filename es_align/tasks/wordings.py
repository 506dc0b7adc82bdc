"""How the `instructions` task asks: questions, lengths and constraint wordings, all written for it.

Each set has a training and a held-out half that share no sentence, so a held-out gain is not a
memory of the wording. Nothing here is taken from IFEval's prompts.
"""

from collections.abc import Mapping
from typing import NamedTuple

from es_align.tasks.topics import Kind, Split


class Wordings(NamedTuple):
    """The same request said in several ways; fields in braces are filled in."""

    train: tuple[str, ...]
    heldout: tuple[str, ...]

    def half(self, split: Split) -> tuple[str, ...]:
        """What one split may use."""
        return self.train if split == "train" else self.heldout


class Family(NamedTuple):
    """A kind of constraint: its short name in a configuration, and IFEval's id for the checker."""

    name: str
    instruction_id: str
    wordings: Wordings
    length: str = "sentences"  # key of LENGTHS: how long an answer is asked for


QUESTIONS: Mapping[Kind, Wordings] = {
    "animal": Wordings(
        train=(
            "Where do {topic} live and what do they eat?",
            "What do {topic} look like?",
            "How do {topic} spend their time?",
            "How do {topic} find their food?",
            "What is the body of {topic} like?",
            "How do {topic} raise their young?",
        ),
        heldout=(
            "What sort of creatures are {topic}?",
            "How would you recognise {topic}?",
            "What do {topic} do all day?",
        ),
    ),
    "food": Wordings(
        train=(
            "How do people enjoy {topic}?",
            "Describe the taste of {topic}.",
            "Explain where we get {topic} from.",
            "What goes well with {topic}?",
            "What can you make with {topic}?",
            "How do you keep {topic} fresh?",
        ),
        heldout=(
            "Describe the look and smell of {topic}.",
            "How would you serve {topic} to guests?",
            "In which dishes or drinks do we find {topic}?",
        ),
    ),
    "place": Wordings(
        train=(
            "What do people do at {topic}?",
            "What can you see at {topic}?",
            "Who works at {topic}?",
            "Why do people visit {topic}?",
            "What would you find at {topic}?",
            "Describe a visit to {topic}.",
        ),
        heldout=(
            "What is {topic} for?",
            "What might you notice inside {topic}?",
            "What happens at {topic} every day?",
        ),
    ),
    "person": Wordings(
        train=(
            "What does {topic} do at work?",
            "What tools does {topic} use?",
            "Describe a day in the life of {topic}.",
            "What must {topic} be good at?",
            "When do you meet {topic}?",
            "How does {topic} begin the day?",
        ),
        heldout=(
            "What is the job of {topic}?",
            "What is {topic} busy with?",
            "How would you describe {topic} at work?",
        ),
    ),
    "object": Wordings(
        train=(
            "What is {topic} used for?",
            "How does {topic} work?",
            "What are the parts of {topic}?",
            "What is {topic} made of?",
            "How do you take care of {topic}?",
            "When would someone need {topic}?",
        ),
        heldout=(
            "What can you do with {topic}?",
            "How do people use {topic}?",
            "Describe how {topic} is built.",
        ),
    ),
    "nature": Wordings(
        train=(
            "Explain {topic} to a young reader.",
            "Describe {topic} as a scientist would.",
            "How do people experience {topic}?",
            "What can you observe about {topic}?",
            "How does nature make {topic}?",
            "What would you show someone who has never seen {topic}?",
        ),
        heldout=(
            "Say in plain words what we know about {topic}.",
            "How would a text book describe {topic}?",
            "What would you notice about {topic} from close by?",
        ),
    ),
    "activity": Wordings(
        train=(
            "What do you need for {topic}?",
            "How would you teach {topic} to a beginner?",
            "What happens during {topic}?",
            "What are the basic steps of {topic}?",
            "Why do people enjoy {topic}?",
            "Where do people go for {topic}?",
        ),
        heldout=(
            "What does {topic} involve?",
            "Describe {topic} to someone who never tried it.",
            "What makes someone good at {topic}?",
        ),
    ),
}

_SENTENCES = Wordings(
    train=(
        "Use one or two short sentences.",
        "One short sentence is enough.",
        "Answer in two short sentences.",
        "Be brief: a sentence or two.",
    ),
    heldout=(
        "Keep it to one or two brief sentences.",
        "A short sentence or two will do.",
    ),
)

_POINTS = Wordings(
    train=("Keep every point short.", "Each point is one short sentence."),
    heldout=("Make each point brief.",),
)

_ONE_SENTENCE = Wordings(
    train=("Answer in one sentence.", "A single sentence will do."),
    heldout=("Reply with one sentence.",),
)

LENGTHS: Mapping[str, Wordings] = {
    "sentences": _SENTENCES,
    "points": _POINTS,
    "one sentence": _ONE_SENTENCE,
}

END_PHRASES = Wordings(
    train=(
        "That is all for now.",
        "Now you know it.",
        "Thanks for asking me.",
        "I hope this was useful.",
        "And so the story ends.",
        "Have a lovely afternoon.",
    ),
    heldout=(
        "This concludes my short reply.",
        "Until we talk again.",
        "Enjoy the rest of today.",
    ),
)

POSTSCRIPT_MARKERS = ("P.S.", "P.P.S")
NUM_BULLETS = (2, 3)
NUM_KEYWORDS = 2
WORD_LIMITS = (12, 15, 18)

FAMILIES: tuple[Family, ...] = (
    Family(
        "lowercase",
        "change_case:english_lowercase",
        Wordings(
            train=(
                "Write only in small letters.",
                "Use no capital letters at all.",
                "Every letter must be lowercase.",
                "Do not use a single uppercase letter.",
                "Keep it lowercase, even at the start of a sentence.",
                "Your answer may contain lowercase letters only.",
            ),
            heldout=(
                "Please avoid capitals completely.",
                "The whole reply has to be lowercase.",
                "Type everything in lower case.",
            ),
        ),
    ),
    Family(
        "capitals",
        "change_case:english_capital",
        Wordings(
            train=(
                "Write only in capital letters.",
                "Use capitals for every single letter.",
                "Every letter must be uppercase.",
                "Do not use a single small letter.",
                "Type it with the caps lock key on.",
                "Your answer may contain uppercase letters only.",
            ),
            heldout=(
                "Please put everything in capitals.",
                "The whole reply has to be uppercase.",
                "Leave no letter in lower case.",
            ),
        ),
    ),
    Family(
        "quotes",
        "startend:quotation",
        Wordings(
            train=(
                "Put the whole answer inside double quotation marks.",
                'Begin and finish with the character ".',
                "Wrap everything you say in double quotes.",
                "The first and the last character must be a double quotation mark.",
                "Write it as a quotation, with double quote marks around all of it.",
                'Enclose the entire text in " marks.',
            ),
            heldout=(
                "Surround your complete reply with double quotes.",
                "Place a double quotation mark before the first word and after the last.",
                "The full text has to stand between double quotation marks.",
            ),
        ),
    ),
    Family(
        "no_commas",
        "punctuation:no_comma",
        Wordings(
            train=(
                "Do without commas.",
                "Write it with no comma anywhere.",
                "Not one comma may appear in the answer.",
                "Stay away from the comma entirely.",
                "Commas are forbidden here.",
                "Leave out every comma.",
            ),
            heldout=(
                "Make sure there is not a comma in it.",
                "The reply has to be free of commas.",
                "Never type a comma.",
            ),
        ),
    ),
    Family(
        "end_phrase",
        "startend:end_checker",
        Wordings(
            train=(
                "The very last words must be: {phrase}",
                "Close with exactly this: {phrase}",
                "End by saying {phrase}",
                "Your last sentence is fixed: {phrase}",
                "Stop right after this sentence: {phrase}",
                "Let the answer end in these words: {phrase}",
            ),
            heldout=(
                "Conclude with this line and nothing after it: {phrase}",
                "The reply has to close on these words: {phrase}",
                "Sign off like this: {phrase}",
            ),
        ),
    ),
    Family(
        "title",
        "detectable_format:title",
        Wordings(
            train=(
                "Begin with a title put in double angle brackets, like <<My Title>>.",
                "Give it a heading written as <<heading>>.",
                "Put a title between << and >> above the answer.",
                "There must be a title, marked <<like this>>.",
                "Head the answer with a title enclosed by << and >>.",
                "Add a short title and write it inside <<>>.",
            ),
            heldout=(
                "Name your text with a title set in << >>.",
                "A title of the form <<some title>> has to be there.",
                "Open with a headline wrapped in << and >>.",
            ),
        ),
    ),
    Family(
        "bullets",
        "detectable_format:number_bullet_lists",
        Wordings(
            train=(
                "Answer with exactly {num} bullet points that begin with *.",
                "Make it a list of {num} points, each line starting with *.",
                "Use {num} markdown bullets, no more and no fewer.",
                "List {num} points, every one on a new line after a *.",
                "Give {num} bullet points marked with a star (*).",
                "Write {num} lines and start each with * and a space.",
            ),
            heldout=(
                "Reply as {num} bullets, each opened by *.",
                "Say it in {num} starred points (* at the start of the line).",
                "Break it into precisely {num} markdown bullet points.",
            ),
        ),
        length="points",
    ),
    Family(
        "keywords",
        "keywords:existence",
        Wordings(
            train=(
                "Use these words: {keywords}.",
                "The words {keywords} must appear.",
                "Be sure to mention {keywords}.",
                "Work the words {keywords} into it.",
                "It has to contain {keywords}.",
                "Let the words {keywords} occur somewhere.",
            ),
            heldout=(
                "Find room for the words {keywords}.",
                "Do not forget the words {keywords}.",
                "Bring in {keywords}.",
            ),
        ),
    ),
    Family(
        "postscript",
        "detectable_content:postscript",
        Wordings(
            train=(
                "Close with a postscript, introduced as {marker}",
                "After the answer add one more remark beginning with {marker}",
                "Append a short note marked {marker}",
                "Do not stop before adding a line that begins {marker}",
                "There must be a closing remark introduced by {marker}",
                "Leave a last word after the marker {marker}",
            ),
            heldout=(
                "Put a brief postscript below it, opened by {marker}",
                "Tack on an extra comment that starts {marker}",
                "Round it off with a remark headed {marker}",
            ),
        ),
    ),
    Family(
        "brief",
        "length_constraints:number_words",
        Wordings(
            train=(
                "Use fewer than {num} words.",
                "Stay below {num} words.",
                "It must have less than {num} words.",
                "Do not reach {num} words.",
                "You have less than {num} words for it.",
                "Keep the count of words under {num}.",
            ),
            heldout=(
                "The reply has to be shorter than {num} words.",
                "Say it in under {num} words.",
                "Stop before the word count gets to {num}.",
            ),
        ),
        length="one sentence",
    ),
)
