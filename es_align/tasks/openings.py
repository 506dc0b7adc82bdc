"""How an answer that follows its instructions may begin, for reward `log_likelihood`.

Many of IFEval's kinds decide an answer's first words: a quotation mark, capitals, the prompt said
again. A small model begins with none of them by chance, so that no member of a population is ever
paid for one; but a beginning has a likelihood however rare it is, and what begins right goes on.
"""

import re
from collections.abc import Mapping

from es_align.tasks import kinds
from es_align.tasks.arguments import Arguments, Draws
from es_align.tasks.topics import Split
from es_align.tasks.wordings import Wordings
from rewards.ifeval.detectable_format import ANSWERS

# Without commas, so that they suit every instruction. Two words, as answers often begin: the mean
# over a beginning's tokens counts, and only the first ones say whether an instruction was heard.
STARTS = Wordings(
    train=("There is", "I like", "The best", "It was", "We all", "My friend", "As a", "In the"),
    heldout=("This is", "You may", "People say"),
)
REPEATED_WORDS = 4  # of a prompt that is to be said again: who begins so goes on


def draw_opening(
    topic: str, split: Split, arguments: Mapping[str, Arguments], draws: Draws
) -> str | None:
    """The beginning of one answer; None where it would have to be in another language."""
    if kinds.LANGUAGE in arguments:
        return None
    if kinds.ANSWER in arguments:
        return draws.pick(ANSWERS)
    text = draws.pick(STARTS.half(split))
    text = _arranged(text, arguments)
    if kinds.TITLE in arguments:
        text = f"<<{topic.title()}>>\n\n{text}"
    if kinds.JSON in arguments:
        text = f'{{"answer": "{text}'
    if repeated := arguments.get(kinds.REPEAT):
        text = _first_words(str(repeated.kwargs["prompt_to_repeat"]))
    if kinds.QUOTATION in arguments:
        text = f'"{text}'
    if kinds.LOWERCASE in arguments:
        return text.lower()
    return text.upper() if kinds.CAPITAL in arguments else text


def _arranged(text: str, arguments: Mapping[str, Arguments]) -> str:
    """As the first bullet, section or paragraph."""
    if kinds.HIGHLIGHTS in arguments:
        text = f"*{text}*"
    if kinds.BULLETS in arguments:
        return f"* {text}"
    if given := arguments.get(kinds.SECTIONS):
        return f"{given.kwargs['section_spliter']} 1\n{text}"
    given = arguments.get(kinds.FIRST_WORD)
    if given is not None and given.kwargs["nth_paragraph"] == 1:
        return f"{given.kwargs['first_word']} {text[0].lower()}{text[1:]}"
    return text


def _first_words(text: str) -> str:
    """As they stand in the text, with its own blanks and lines between them."""
    found = re.match(rf"(?:\S+\s+){{0,{REPEATED_WORDS - 1}}}\S+", text)
    return text if found is None else found[0]
