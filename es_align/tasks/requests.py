"""What the prompts over all kinds of instructions ask for: a story, a letter, a plan, an answer.

Written for it; a training and a held-out half share no sentence. None has a comma: a prompt may ask
to be repeated in an answer without commas. `{topic}` is a topic as it stands in a sentence, of any
kind of topic.
"""

from es_align.tasks.wordings import Wordings

REQUESTS = Wordings(
    train=(
        "Write a short story that features {topic}.",
        "Tell a bedtime story about {topic}.",
        "Compose an email to a friend about {topic}.",
        "Draft an email that asks a colleague for advice on {topic}.",
        "Write a poem about {topic}.",
        "Write a rhyming song about {topic} for small children.",
        "Write a letter to the editor of a local newspaper about {topic}.",
        "Write a thank you letter that mentions {topic}.",
        "Invent a conversation between two neighbours about {topic}.",
        "Write an advertisement that has something to do with {topic}.",
        "Give a summary of the most important facts about {topic}.",
        "Make a plan for a school project about {topic}.",
        "List some surprising things about {topic}.",
        "Write a blog post on the subject of {topic}.",
        "Explain {topic} to a curious child.",
        "Write an introduction for an encyclopedia entry on {topic}.",
        "Think of a riddle about {topic} and explain its answer.",
        "Tell me a joke about {topic}.",
        "Prepare a speech for a class about {topic}.",
        "Write a diary entry of someone whose day was all about {topic}.",
        "Write a review of a film about {topic}.",
        "What should a beginner know about {topic}?",
        "Describe a painting that shows {topic}.",
        "Write a news report about {topic}.",
    ),
    heldout=(
        "Make up a fairy tale that has to do with {topic}.",
        "Write a postcard to your grandmother about {topic}.",
        "Write four lines of verse about {topic}.",
        "Put together a flyer for an evening about {topic}.",
        "Let two strangers on a bus talk about {topic}.",
        "Sum up what most people know about {topic}.",
        "Outline a documentary about {topic}.",
        "Write an essay on {topic}.",
        "What questions would you ask an expert on {topic}?",
        "Write a message to a pen friend about {topic}.",
    ),
)

# For an answer of yes, no or maybe.
YES_OR_NO = Wordings(
    train=(
        "Would a child enjoy a picture book about {topic}?",
        "Is it easy to draw {topic}?",
        "Have people been writing songs about {topic}?",
        "Would you call {topic} an interesting subject?",
        "Could a whole film be made about {topic}?",
        "Does everybody know something about {topic}?",
        "Is there much to learn about {topic}?",
        "Can one talk for an hour about {topic}?",
    ),
    heldout=(
        "Are there old tales about {topic}?",
        "Would {topic} make a good theme for a party?",
        "Do you think that {topic} could become boring?",
        "Might a poet be inspired by {topic}?",
        "Is a lecture about {topic} worth hearing?",
    ),
)

# Added where `task.max_words` limits the answer and no instruction speaks of its length.
BRIEFLY = Wordings(
    train=(
        "Keep it short.",
        "A few sentences are enough.",
        "Be brief.",
        "It should be quick to read.",
        "Do not make it long.",
        "A short text will do.",
    ),
    heldout=(
        "It need not be long.",
        "Something short is fine.",
        "Do it in a few sentences.",
    ),
)
