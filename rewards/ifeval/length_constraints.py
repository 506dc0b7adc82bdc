"""length_constraints: how many words, sentences or paragraphs, and how one paragraph begins.

Words are runs of letters, digits and underscores as NLTK 3.10 counts them, by `\\w+` of the package
`regex`: a mark on a letter, as Hindi has many, ends no word. Sentences are those of
`rewards.ifeval.sentences`. Paragraphs are divided by `***` in one kind, by an empty line in the
other.
"""

import re

import regex

from kernels.errors import DataError
from rewards.ifeval.base import (
    AT_LEAST,
    LESS_THAN,
    Arguments,
    Checker,
    Follows,
    bound_progress,
    closeness,
    count,
    holds,
    text,
)
from rewards.ifeval.sentences import num_sentences

__all__ = ["AT_LEAST", "CHECKERS", "LESS_THAN"]

_FIRST_WORD = "length_constraints:nth_paragraph_first_word"
_WORD = regex.compile(r"\w+")
_BLANK_LINES = re.compile(r"\n\s*\n")
_DIVIDED_CREDIT = 0.9
_BLANK_LINES_CREDIT = 0.4  # paragraphs without their `***`
_WORD_END = re.compile(r"[.,?!'\"]")


def _words(kwargs: Arguments) -> Follows:
    is_right = holds(kwargs, "relation", "num_words")
    return lambda response: is_right(len(_WORD.findall(response)))


def _words_progress(response: str, kwargs: Arguments) -> float:
    num_words, limit = len(_WORD.findall(response)), count(kwargs, "num_words")
    is_upper = kwargs["relation"] == LESS_THAN
    return (limit - 1) / max(num_words, 1) if is_upper else num_words / limit


def _sentences(kwargs: Arguments) -> Follows:
    is_right = holds(kwargs, "relation", "num_sentences")
    return lambda response: is_right(num_sentences(response))


def _sentences_progress(response: str, kwargs: Arguments) -> float:
    found = num_sentences(response)
    return bound_progress(found, kwargs["relation"], count(kwargs, "num_sentences"))


def _paragraphs(kwargs: Arguments) -> Follows:
    wanted = count(kwargs, "num_paragraphs")
    return lambda response: _num_paragraphs(response) == wanted


def _num_paragraphs(response: str) -> int | None:
    """Those between `***`; the first and the last may be blank, and another makes it None."""
    is_blank = [not paragraph.strip() for paragraph in response.split("***")]
    num_outer = is_blank[0] + is_blank[-1] if len(is_blank) > 1 else is_blank[0]
    return None if any(is_blank[1:-1]) else len(is_blank) - num_outer


def _paragraphs_progress(response: str, kwargs: Arguments) -> float:
    """How near the number of paragraphs is; those that only blank lines divide count less."""
    wanted = count(kwargs, "num_paragraphs")
    divided = sum(bool(paragraph.strip()) for paragraph in response.split("***"))
    return max(
        _DIVIDED_CREDIT * closeness(divided, wanted) if divided > 1 else 0.0,
        _BLANK_LINES_CREDIT * closeness(_num_blocks(response), wanted),
    )


def _num_blocks(response: str) -> int:
    return len(_BLANK_LINES.split(response.strip()))


def _first_word(kwargs: Arguments) -> Follows:
    wanted, position = count(kwargs, "num_paragraphs"), count(kwargs, "nth_paragraph")
    if position > wanted:
        raise DataError(
            f"{_FIRST_WORD}: nth_paragraph={position} is more than num_paragraphs={wanted}; "
            f"correct the row's kwargs"
        )
    first_word = text(kwargs, "first_word").lower()

    def follows(response: str) -> bool:
        paragraphs = response.split("\n\n")
        if sum(bool(paragraph.strip()) for paragraph in paragraphs) != wanted:
            return False
        # Blank paragraphs are not counted and yet take a place, as in IFEval.
        words = paragraphs[position - 1].split(maxsplit=1)
        return bool(words) and _lower_word(words[0]) == first_word

    return follows


def _first_word_progress(response: str, kwargs: Arguments) -> float:
    """Half for the number of paragraphs, half for the word: less where it is in a wrong place."""
    wanted, position = count(kwargs, "num_paragraphs"), count(kwargs, "nth_paragraph")
    first_word = text(kwargs, "first_word").lower()
    paragraphs = [part for part in response.split("\n\n") if part.strip()]
    starts = [_lower_word(part.split(maxsplit=1)[0]) == first_word for part in paragraphs]
    if len(starts) >= position and starts[position - 1]:
        word = 1.0
    elif any(starts):
        word = 0.6
    else:
        word = 0.3 if first_word in response.lower() else 0.0
    return 0.5 * closeness(len(paragraphs), wanted) + 0.5 * word


def _lower_word(word: str) -> str:
    """A word in lowercase without marks before it and without all after a mark."""
    stem = _WORD_END.split(word.lstrip("'").lstrip('"'), maxsplit=1)[0]
    return "".join(map(str.lower, stem))  # letter by letter: a last sigma is no other one


CHECKERS = (
    Checker(
        "length_constraints:number_words",
        {"relation": "relation", "num_words": "count"},
        _words,
        _words_progress,
    ),
    Checker(
        "length_constraints:number_sentences",
        {"relation": "relation", "num_sentences": "count"},
        _sentences,
        _sentences_progress,
    ),
    Checker(
        "length_constraints:number_paragraphs",
        {"num_paragraphs": "count"},
        _paragraphs,
        _paragraphs_progress,
    ),
    Checker(
        _FIRST_WORD,
        {"num_paragraphs": "count", "nth_paragraph": "count", "first_word": "text"},
        _first_word,
        _first_word_progress,
    ),
)
