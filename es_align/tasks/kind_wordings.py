"""How each of IFEval's 25 kinds of instructions is asked for, all written for it.

Training and held-out halves share no sentence and none is taken from IFEval's prompts (a test
compares). No wording has a comma: a prompt may ask to be repeated in an answer without commas.
`{amount}` reads "at least 40" or "less than 40" in some form, `{times}` "at least twice".
"""

from collections.abc import Mapping

from es_align.tasks.wordings import Wordings

KIND_WORDINGS: Mapping[str, Wordings] = {
    "change_case:english_lowercase": Wordings(
        train=(
            "Write in English and only in small letters.",
            "Use lowercase English letters throughout and no capitals.",
            "Your English answer may not hold one capital letter.",
            "Keep every letter lowercase and stay with English.",
            "All of it should be English in lower case.",
        ),
        heldout=(
            "Type the English text without any uppercase letter.",
            "Avoid capitals completely and write English.",
            "Stick to small letters and to English.",
        ),
    ),
    "change_case:english_capital": Wordings(
        train=(
            "Write in English and only in capital letters.",
            "Use uppercase English letters throughout.",
            "Your English answer may not hold one small letter.",
            "Keep every letter uppercase and stay with English.",
            "All of it should be English in capitals.",
        ),
        heldout=(
            "Type the English text with the caps lock key on.",
            "Avoid small letters completely and write English.",
            "Stick to upper case and to English.",
        ),
    ),
    "change_case:capital_word_frequency": Wordings(
        train=(
            "Put {amount} words into all capitals.",
            "Write {amount} of the words entirely in capital letters.",
            "There should be {amount} words typed in full caps.",
            "The number of fully capitalised words has to be {amount}.",
            "Shout {amount} words by writing them in capitals only.",
        ),
        heldout=(
            "Let {amount} words consist of nothing but capitals.",
            "Spell {amount} words with uppercase letters alone.",
            "The text needs {amount} words in block capitals.",
        ),
    ),
    "startend:quotation": Wordings(
        train=(
            "Put the whole answer inside double quotation marks.",
            'Begin and finish with the character ".',
            "Enclose all that you write in double quotes.",
            "The first and the last character must be a double quotation mark.",
            'Set everything between " and " marks.',
        ),
        heldout=(
            "Surround the complete text with double quotes.",
            "Place a double quotation mark before the first word and after the last.",
            "The full text has to stand between double quotation marks.",
        ),
    ),
    "startend:end_checker": Wordings(
        train=(
            "The very last words must be: {phrase}",
            "Close with exactly these words and write nothing after them: {phrase}",
            'End by saying "{phrase}" and then stop.',
            'Your last sentence is fixed: "{phrase}"',
            'Stop right after the sentence "{phrase}"',
        ),
        heldout=(
            "Conclude with this line and nothing else: {phrase}",
            'The text has to close on the words "{phrase}"',
            'Sign off with "{phrase}" and add no more.',
        ),
    ),
    "punctuation:no_comma": Wordings(
        train=(
            "Do without commas.",
            "Write it with no comma anywhere.",
            "Not one comma may appear in what you write.",
            "Commas are forbidden here.",
            "Leave out every comma.",
            "Stay away from the comma entirely.",
        ),
        heldout=(
            "Make sure there is not a comma in it.",
            "It has to be free of commas.",
            "Never type a comma.",
        ),
    ),
    "detectable_format:title": Wordings(
        train=(
            "Give it a heading written as <<heading>>.",
            "Put a title between << and >> above the text.",
            "There must be a title that is marked <<like this>>.",
            "Head it with a title enclosed by << and >>.",
            "Add a short title and write it inside << >>.",
        ),
        heldout=(
            "Name your text with a title set in << >>.",
            "A title of the form <<some title>> has to be there.",
            "Open with a headline between << and >>.",
        ),
    ),
    "detectable_format:number_bullet_lists": Wordings(
        train=(
            "Use exactly {num} bullet points that begin with a star. For instance: * This is one",
            "Make it a list of {num} markdown bullets; no more and no fewer.",
            "There should be {num} bullet points: lines that start with * and a blank.",
            "List precisely {num} points and open every line of them with a star (*).",
            "It has to have {num} bullets in markdown style such as * A point",
        ),
        heldout=(
            "Break it into just {num} starred points (* at the start of the line).",
            "Count out {num} markdown bullet points; that is the number wanted.",
            "Say it in {num} bullets and let * open each of them.",
        ),
    ),
    "detectable_format:number_highlighted_sections": Wordings(
        train=(
            "Highlight at least {num} passages with stars around them: *like this*.",
            "Put *stars* around {num} or more parts of the text to highlight them.",
            "Set off {num} phrases or more in markdown as in *a highlighted phrase*.",
            "At least {num} pieces of the text should be emphasised with * on both sides.",
        ),
        heldout=(
            "Stress {num} passages or more by markdown stars such as *this one*.",
            "Use *single stars* to bring out no fewer than {num} phrases.",
            "Let {num} or more parts stand between stars as *emphasis*.",
        ),
    ),
    "detectable_format:multiple_sections": Wordings(
        train=(
            "Divide it into {num} sections headed {word} 1 and so on.",
            "Split the text into {num} parts. Start each with {word} and its number: {word} 1",
            "It should have {num} parts with the headings {word} 1 and {word} 2 and so forth.",
            "Use {num} numbered headings of the form {word} X.",
        ),
        heldout=(
            "Arrange it in {num} numbered pieces: {word} 1 then {word} 2 and so on.",
            "Write {num} parts and label every one {word} with its number after it.",
            "There are to be {num} chapters called {word} 1 up to {word} {num_digits}.",
        ),
    ),
    "detectable_format:json_format": Wordings(
        train=(
            "Answer with a JSON object and nothing else.",
            "Everything you write has to be valid JSON.",
            "Return it as JSON. A code fence around it is fine.",
            "Format all of the output as one JSON document.",
            "Only output that a JSON parser can read is accepted.",
        ),
        heldout=(
            "Give back JSON and no other text.",
            "Make the full reply a JSON value (in ``` if you like).",
            "Pack the complete answer into JSON.",
        ),
    ),
    "detectable_format:constrained_response": Wordings(
        train=(
            "Pick one of these as your answer: {answers}",
            "Reply with one of the following sentences: {answers}",
            "Three answers are allowed: {answers} Take one of them.",
            "Your reply must contain one of these: {answers}",
        ),
        heldout=(
            "Settle for one of these replies: {answers}",
            "Say which of the three is right: {answers}",
            "The reply has to be one out of: {answers}",
            "Decide between {answers}",
        ),
    ),
    "keywords:existence": Wordings(
        train=(
            "Use {keywords} somewhere in the text.",
            "Be sure to mention {keywords}.",
            "Work in {keywords}.",
            "The text has to contain {keywords}.",
            "Include {keywords} among your words.",
        ),
        heldout=(
            "Find room for {keywords}.",
            "Do not forget to bring in {keywords}.",
            "Somewhere there should be {keywords}.",
        ),
    ),
    "keywords:frequency": Wordings(
        train=(
            "Use the word {keyword} {times}.",
            'The word "{keyword}" should come up {times}.',
            "Write {keyword} {times} in the text.",
            "Let the word {keyword} occur {times}.",
        ),
        heldout=(
            'Bring in "{keyword}" {times}.',
            "The text should say {keyword} {times}.",
            "Readers should meet the word {keyword} {times}.",
        ),
    ),
    "keywords:forbidden_words": Wordings(
        train=(
            "Do not use {keywords}.",
            "Avoid {keywords} altogether.",
            "Leave out {keywords}.",
            "You may not write {keywords} anywhere.",
            "Forbidden here: {keywords}.",
        ),
        heldout=(
            "Never mention {keywords}.",
            "Get by without {keywords}.",
            "Keep {keywords} out of it.",
        ),
    ),
    "keywords:letter_frequency": Wordings(
        train=(
            "Use the letter {letter} {times}.",
            'The letter "{letter}" should turn up {times}.',
            "Have the letter {letter} in it {times}.",
            "Let the letter {letter} appear {times} in the text.",
        ),
        heldout=(
            'Write the letter "{letter}" {times}.',
            "Count the letter {letter}: it should be there {times}.",
            "Place the letter {letter} {times} in your words.",
        ),
    ),
    "length_constraints:number_words": Wordings(
        train=(
            "Write {amount} words.",
            "The text should have {amount} words.",
            "Its length has to be {amount} words.",
            "Use {amount} words for it.",
            "Count your words: there must be {amount}.",
        ),
        heldout=(
            "Make it {amount} words long.",
            "Say it in {amount} words.",
            "The number of words should be {amount}.",
        ),
    ),
    "length_constraints:number_sentences": Wordings(
        train=(
            "Write {amount} sentences.",
            "The text should have {amount} sentences.",
            "Its length has to be {amount} sentences.",
            "Use {amount} sentences for it.",
            "Count your sentences: there must be {amount}.",
        ),
        heldout=(
            "Make it {amount} sentences long.",
            "Say it in {amount} sentences.",
            "The number of sentences should be {amount}.",
        ),
    ),
    "length_constraints:number_paragraphs": Wordings(
        train=(
            "Write {num} paragraphs and put *** between them.",
            "Use exactly {num} paragraphs with the divider *** from one to the next.",
            "Part the text into {num} paragraphs by means of three stars: ***",
            "It needs {num} paragraphs. The markdown rule *** separates them.",
        ),
        heldout=(
            "Let *** stand between the {num} paragraphs that you write.",
            "Make {num} paragraphs of it: *** ends one and opens another.",
            "Three stars (***) keep your {num} paragraphs apart.",
        ),
    ),
    "length_constraints:nth_paragraph_first_word": Wordings(
        train=(
            "Write {num} paragraphs with an empty line between them. "
            "Paragraph {nth} begins with the word {word}.",
            "Use exactly {num} paragraphs that a blank line parts. "
            "Let paragraph {nth} open with {word}.",
            "It should have {num} paragraphs and only blank lines between them. "
            'The first word of paragraph {nth} is "{word}".',
            "Make {num} paragraphs with two line breaks from one to the next. "
            "Take {word} to begin paragraph {nth}.",
        ),
        heldout=(
            "Leave a blank line between each of {num} paragraphs. "
            "{word} has to be the word that opens paragraph {nth}.",
            "There are {num} paragraphs to write and an empty line parts any two. "
            'Begin paragraph {nth} by "{word}".',
        ),
    ),
    "detectable_content:postscript": Wordings(
        train=(
            "Close with a postscript that is introduced by {marker}",
            "Under the text add one more remark beginning with {marker}",
            "Append a short note marked {marker}",
            "Do not stop before adding a line that begins {marker}",
            "Leave a last word after the marker {marker}",
        ),
        heldout=(
            "Put a brief postscript below it and open that by {marker}",
            "Tack on an extra comment that starts {marker}",
            "Round it off with a remark headed {marker}",
        ),
    ),
    "detectable_content:number_placeholders": Wordings(
        train=(
            "Leave at least {num} blanks for me to fill in; write them as [date] or [price].",
            "Put in {num} or more placeholders with square brackets as in [city].",
            "Have {num} placeholders or more in it such as [street] and [time].",
            "Make it a template: {num} details or more stay open in brackets like [colour].",
        ),
        heldout=(
            "Use square brackets like [year] for {num} or more gaps that I can fill.",
            "No fewer than {num} spots should be left open as [size] or [number].",
            "Mark {num} open details or more by brackets: [person] for instance.",
        ),
    ),
    "combination:two_responses": Wordings(
        train=(
            "Answer twice in different ways and write ****** between the two.",
            "I want two versions. Six stars ****** come between them and nowhere else.",
            "Offer two different texts and part them with a line of six stars: ******",
            "Do it a second time in another way. Write ****** to divide both texts.",
        ),
        heldout=(
            "Write two texts that differ; the divider is ******",
            "Let me choose from two versions with ****** in the middle.",
            "After six stars (******) give another version that is not the same.",
        ),
    ),
    "combination:repeat_prompt": Wordings(
        train=(
            "Start by copying all of the text above as it is. After that do what it asks.",
            "Before you answer say everything above once more without changing it.",
            "First write down what is asked above exactly as I did and then answer it.",
            "Open with the request above in my own words. The answer comes behind it.",
        ),
        heldout=(
            "Copy what I wrote above to the top of the text and answer below it.",
            "The first thing to write is all of the above unchanged; the second is your answer.",
            "Quote the lines above in full before answering (this line is not part of them).",
        ),
    ),
    "language:response_language": Wordings(
        train=(
            "Write all of it in {language}.",
            "Use {language} and no other language.",
            "Your text has to be in {language} from beginning to end.",
            "I can read nothing but {language}: write in that.",
        ),
        heldout=(
            "Say it in {language} only.",
            "The language to use is {language}.",
            "Every sentence should be {language}.",
        ),
    ),
}
