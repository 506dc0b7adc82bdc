"""Arguments of instructions, in IFEval's ranges, and the words by which a prompt names them.

With a limit on the length of answers, numbers that would ask for more are not drawn: each has a
rough cost in words.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from es_align.tasks import kinds
from es_align.tasks.argument_texts import CLOSING_PHRASES, LANGUAGES
from es_align.tasks.topics import Split
from es_align.tasks.wordings import POSTSCRIPT_MARKERS
from rewards.base import JsonValue
from rewards.ifeval.detectable_format import ANSWERS
from rewards.ifeval.length_constraints import AT_LEAST, LESS_THAN

T = TypeVar("T")

_AT_LEAST_WORDS = (30, 50, 80, 100, 150, 200, 250, 300, 300, 350, 400, 600, 800)
_LESS_THAN_WORDS = (60, 80, 100, 150, 200, 300, 500)
_LESS_THAN_WORDS_ALONE = (20, 30, 40, 50, *_LESS_THAN_WORDS)
_AT_LEAST_SENTENCES = (3, 4, 5, 6, 8, 10, 15, 20, 30, 40)
_LESS_THAN_SENTENCES = (4, 5, 6, 7, 10, 15, 20, 30, 40)
_PARAGRAPHS = (2, 3, 3, 4, 4, 5, 6)
_BULLETS = (2, 3, 3, 3, 4, 5, 6, 8, 10)
_HIGHLIGHTS = (2, 2, 3, 3, 3, 4, 5, 6)
_SECTIONS = (2, 2, 3, 4, 4, 5)
_PLACEHOLDERS = (2, 3, 3, 4, 5, 6, 7, 8)
_CAPITAL_WORDS = (2, 3, 4, 5, 5, 8, 10, 15)
_LESS_THAN_CAPITAL_WORDS = (4, 5, 10, 11, 20)
_AT_LEAST_TIMES = (1, 2, 2, 2, 3, 3, 4, 5, 6)
_LESS_THAN_TIMES = (2, 2, 3, 4, 5)
_COMMON_LETTERS, _RARE_LETTERS = "acdehilmnorstu", "bfgjkpqvwxyz"
_AT_LEAST_COMMON, _AT_LEAST_RARE = (3, 5, 8, 10, 15, 20), (1, 2, 3, 4, 5)
_LESS_THAN_LETTERS = (2, 3, 4, 5, 6)
_HEADINGS = ("SECTION", "SECTION", "Section", "Part", "PART", "Chapter")
_OFTEN_USED = ("very", "always", "beautiful", "people", "world", "important", "special", "great")
_FIRST_WORDS = ("yesterday", "nobody", "imagine", "perhaps", "dear", "meanwhile")
_WORDS_PER = {
    kinds.SENTENCES: 12,
    kinds.PARAGRAPHS: 20,
    kinds.FIRST_WORD: 20,
    kinds.SECTIONS: 20,
    kinds.BULLETS: 10,
    kinds.HIGHLIGHTS: 8,
    kinds.PLACEHOLDERS: 6,
    kinds.CAPITAL_WORDS: 5,
    kinds.FREQUENCY: 10,
    kinds.LETTER: 4,
}
_NUMBER_WORDS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_ORDINALS = ("one", "two", "three", "four", "five", "six")


class Arguments(NamedTuple):
    """Of one instruction."""

    kwargs: dict[str, JsonValue]  # the checker's
    fields: dict[str, str]  # how the wording names them


class Draws:
    """Draws of one prompt, each from a stream of its own: equal streams give equal draws."""

    def __init__(self, order: Callable[[int, int], list[int]]) -> None:
        """`order`: a shuffled order of range(num) for (num, how many draws came before)."""
        self._order = order
        self._num_drawn = 0

    def shuffle(self, items: Sequence[T]) -> list[T]:
        """All items in a drawn order."""
        order = self._order(len(items), self._num_drawn) if items else []
        self._num_drawn += 1
        return [items[index] for index in order]

    def pick(self, items: Sequence[T]) -> T:
        """One of the items."""
        return self.shuffle(items)[0]


class Scope(NamedTuple):
    """What arguments depend on beside their kind."""

    words: tuple[str, ...]  # the topic's four keywords in a drawn order; each has one use only
    split: Split
    is_alone: bool  # the prompt's only instruction
    max_words: int | None


def draw_arguments(kind: str, scope: Scope, draws: Draws) -> Arguments:
    """What a kind's checker and wording need; every kind is known."""
    maker = _MAKERS.get(kind)
    return Arguments({}, {}) if maker is None else maker(scope, draws)


def _affordable(kind: str, numbers: Sequence[int], scope: Scope) -> Sequence[int]:
    if scope.max_words is None:
        return numbers
    cost = _WORDS_PER.get(kind, 1)
    return [n for n in numbers if n * cost <= scope.max_words] or numbers[:1]


def _number(number: int, draws: Draws) -> str:
    """In digits or, up to ten, as a word."""
    is_word = draws.pick((True, False)) and number <= 10
    return _NUMBER_WORDS[number - 2] if is_word else str(number)


def _num(kind: str, name: str, numbers: Sequence[int]) -> Callable[[Scope, Draws], Arguments]:
    def make(scope: Scope, draws: Draws) -> Arguments:
        number = draws.pick(_affordable(kind, numbers, scope))
        return Arguments({name: number}, {"num": _number(number, draws)})

    return make


def _amount(relation: str, number: int, draws: Draws) -> str:
    """A bound before a plural: "at least 40", "less than 40"."""
    if relation == AT_LEAST:
        return draws.pick(("at least {}", "{} or more", "no fewer than {}")).format(number)
    return draws.pick(("less than {}", "fewer than {}")).format(number)


def _times(relation: str, number: int, draws: Draws) -> str:
    """A bound on how often: "at least twice", "less than 4 times"."""
    often = {1: "once", 2: "twice"}.get(number, f"{number} times")
    if relation == AT_LEAST:
        return f"{draws.pick(('at least', 'no less than'))} {often}"
    return f"{draws.pick(('less than', 'fewer than'))} {number} times"


def _words(scope: Scope, draws: Draws) -> Arguments:
    relation = draws.pick((AT_LEAST, AT_LEAST, LESS_THAN))
    if relation == AT_LEAST:
        numbers = _affordable(kinds.WORDS, _AT_LEAST_WORDS, scope)
    else:
        numbers = _LESS_THAN_WORDS_ALONE if scope.is_alone else _LESS_THAN_WORDS
    number = draws.pick(numbers)
    return Arguments(
        {"relation": relation, "num_words": number}, {"amount": _amount(relation, number, draws)}
    )


def _sentences(scope: Scope, draws: Draws) -> Arguments:
    relation = draws.pick((AT_LEAST, LESS_THAN))
    numbers = _AT_LEAST_SENTENCES if relation == AT_LEAST else _LESS_THAN_SENTENCES
    number = draws.pick(_affordable(kinds.SENTENCES, numbers, scope))
    return Arguments(
        {"relation": relation, "num_sentences": number},
        {"amount": _amount(relation, number, draws)},
    )


def _capital_words(scope: Scope, draws: Draws) -> Arguments:
    relation = draws.pick((AT_LEAST, AT_LEAST, AT_LEAST, LESS_THAN))
    numbers = _CAPITAL_WORDS if relation == AT_LEAST else _LESS_THAN_CAPITAL_WORDS
    number = draws.pick(_affordable(kinds.CAPITAL_WORDS, numbers, scope))
    return Arguments(
        {"capital_relation": relation, "capital_frequency": number},
        {"amount": _amount(relation, number, draws)},
    )


def _frequency(scope: Scope, draws: Draws) -> Arguments:
    relation = draws.pick((AT_LEAST, AT_LEAST, AT_LEAST, LESS_THAN))
    numbers = _AT_LEAST_TIMES if relation == AT_LEAST else _LESS_THAN_TIMES
    number = draws.pick(_affordable(kinds.FREQUENCY, numbers, scope))
    word = scope.words[0]
    return Arguments(
        {"keyword": word, "frequency": number, "relation": relation},
        {"keyword": word, "times": _times(relation, number, draws)},
    )


def _letter(scope: Scope, draws: Draws) -> Arguments:
    relation = draws.pick((AT_LEAST, AT_LEAST, LESS_THAN))
    if relation == LESS_THAN:
        letter, number = draws.pick(_RARE_LETTERS), draws.pick(_LESS_THAN_LETTERS)
    else:
        is_common = draws.pick((True, False))
        letter = draws.pick(_COMMON_LETTERS if is_common else _RARE_LETTERS)
        numbers = _AT_LEAST_COMMON if is_common else _AT_LEAST_RARE
        number = draws.pick(_affordable(kinds.LETTER, numbers, scope))
    return Arguments(
        {"letter": letter, "let_frequency": number, "let_relation": relation},
        {"letter": letter, "times": _times(relation, number, draws)},
    )


def _keywords(scope: Scope, draws: Draws) -> Arguments:
    words = scope.words[1:2] if draws.pick((False, False, True)) else scope.words[1:3]
    return Arguments({"keywords": list(words)}, {"keywords": _named(words, " and ", draws)})


def _forbidden(scope: Scope, draws: Draws) -> Arguments:
    words = (scope.words[3], *draws.shuffle(_OFTEN_USED))[: draws.pick((1, 2, 2, 3))]
    return Arguments({"forbidden_words": list(words)}, {"keywords": _named(words, " or ", draws)})


def _named(words: Sequence[str], joint: str, draws: Draws) -> str:
    """'the words "hive" and "wax"'; no comma, see `kind_wordings`."""
    mark = draws.pick(('"', "'", ""))
    listed = joint.join(f"{mark}{word}{mark}" for word in words)
    return f"the word {listed}" if len(words) == 1 else f"the words {listed}"


def _sections(scope: Scope, draws: Draws) -> Arguments:
    number = draws.pick(_affordable(kinds.SECTIONS, _SECTIONS, scope))
    heading = draws.pick(_HEADINGS)
    return Arguments(
        {"section_spliter": heading, "num_sections": number},
        {"num": _number(number, draws), "num_digits": str(number), "word": heading},
    )


def _first_word(scope: Scope, draws: Draws) -> Arguments:
    number = draws.pick(_affordable(kinds.FIRST_WORD, _PARAGRAPHS, scope))
    position = draws.pick((1, *range(1, number + 1)))
    word = draws.pick((*scope.words[1:3], *_FIRST_WORDS))
    return Arguments(
        {"num_paragraphs": number, "nth_paragraph": position, "first_word": word},
        {
            "num": _number(number, draws),
            "nth": draws.pick((str(position), _ORDINALS[position - 1])),
            "word": word,
        },
    )


def _end(scope: Scope, draws: Draws) -> Arguments:
    phrase = draws.pick(CLOSING_PHRASES.half(scope.split))
    return Arguments({"end_phrase": phrase}, {"phrase": phrase})


def _postscript(_: Scope, draws: Draws) -> Arguments:
    marker = draws.pick(POSTSCRIPT_MARKERS)
    return Arguments({"postscript_marker": marker}, {"marker": marker})


def _answer(_: Scope, draws: Draws) -> Arguments:
    joint = draws.pick((" ", " / ", "\n"))
    return Arguments({}, {"answers": joint.join(draws.shuffle(ANSWERS))})


def _language(_: Scope, draws: Draws) -> Arguments:
    code = draws.pick(tuple(LANGUAGES))
    return Arguments({"language": code}, {"language": LANGUAGES[code]})


_MAKERS: Mapping[str, Callable[[Scope, Draws], Arguments]] = {
    kinds.WORDS: _words,
    kinds.SENTENCES: _sentences,
    kinds.PARAGRAPHS: _num(kinds.PARAGRAPHS, "num_paragraphs", _PARAGRAPHS),
    kinds.BULLETS: _num(kinds.BULLETS, "num_bullets", _BULLETS),
    kinds.HIGHLIGHTS: _num(kinds.HIGHLIGHTS, "num_highlights", _HIGHLIGHTS),
    kinds.PLACEHOLDERS: _num(kinds.PLACEHOLDERS, "num_placeholders", _PLACEHOLDERS),
    kinds.CAPITAL_WORDS: _capital_words,
    kinds.FREQUENCY: _frequency,
    kinds.LETTER: _letter,
    kinds.KEYWORDS: _keywords,
    kinds.FORBIDDEN: _forbidden,
    kinds.SECTIONS: _sections,
    kinds.FIRST_WORD: _first_word,
    kinds.END: _end,
    kinds.POSTSCRIPT: _postscript,
    kinds.ANSWER: _answer,
    kinds.LANGUAGE: _language,
}
