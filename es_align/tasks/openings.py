"""How an answer that follows its instructions may begin, for reward `log_likelihood`.

Many of IFEval's kinds decide an answer's first words: a quotation mark, capitals, the prompt said
again. A small model begins with none of them by chance, so that no member of a population is ever
paid for one; but a beginning has a likelihood however rare it is, and what begins right goes on.
"""

from collections.abc import Mapping

from es_align.tasks import kinds
from es_align.tasks.arguments import Arguments, Draws
from es_align.tasks.topics import Split
from es_align.tasks.wordings import Wordings
from rewards.ifeval.detectable_format import ANSWERS

# Without commas, so that they suit every instruction.
STARTS = Wordings(
    train=(
        "There is a lot to say about {topic}",
        "Here is something about {topic}",
        "This is about {topic} and what belongs to it",
        "When people think of {topic} they smile",
        "It was a day that had everything to do with {topic}",
        "My friend told me about {topic}",
        "Some think that {topic} can change a life",
        "In our town you hear of {topic} all the time",
    ),
    heldout=(
        "What comes next is about {topic}",
        "You may have heard of {topic} before",
        "We all know something about {topic}",
    ),
)


def draw_opening(
    topic: str, split: Split, arguments: Mapping[str, Arguments], draws: Draws
) -> str | None:
    """The beginning of one answer; None where it would have to be in another language."""
    if kinds.LANGUAGE in arguments:
        return None
    if kinds.ANSWER in arguments:
        return draws.pick(ANSWERS)
    text = draws.pick(STARTS.half(split)).format(topic=topic)
    text = _arranged(text, arguments)
    if kinds.TITLE in arguments:
        text = f"<<{topic.title()}>>\n\n{text}"
    if kinds.JSON in arguments:
        text = f'{{"answer": "{text}'
    if repeated := arguments.get(kinds.REPEAT):
        text = f"{repeated.kwargs['prompt_to_repeat']}\n\n{text}"
    if kinds.QUOTATION in arguments:
        text = f'"{text}'
    if kinds.LOWERCASE in arguments:
        return text.lower()
    return text.upper() if kinds.CAPITAL in arguments else text


def _arranged(text: str, arguments: Mapping[str, Arguments]) -> str:
    """As the first bullet, section or paragraph."""
    if kinds.HIGHLIGHTS in arguments:
        first, second, rest = text.split(" ", 2)
        text = f"*{first} {second}* {rest}"
    if kinds.BULLETS in arguments:
        return f"* {text}"
    if given := arguments.get(kinds.SECTIONS):
        return f"{given.kwargs['section_spliter']} 1\n{text}"
    given = arguments.get(kinds.FIRST_WORD)
    if given is not None and given.kwargs["nth_paragraph"] == 1:
        return f"{given.kwargs['first_word']} {text[0].lower()}{text[1:]}"
    return text
