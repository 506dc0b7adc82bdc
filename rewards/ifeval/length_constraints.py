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
    count,
    holds,
    text,
)
from rewards.ifeval.sentences import num_sentences

__all__ = ["AT_LEAST", "CHECKERS", "LESS_THAN"]

_FIRST_WORD = "length_constraints:nth_paragraph_first_word"
_WORD = regex.compile(r"\w+")
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


def _paragraphs(kwargs: Arguments) -> Follows:
    wanted = count(kwargs, "num_paragraphs")
    return lambda response: _num_paragraphs(response) == wanted


def _num_paragraphs(response: str) -> int | None:
    """Those between `***`; the first and the last may be blank, and another makes it None."""
    is_blank = [not paragraph.strip() for paragraph in response.split("***")]
    num_outer = is_blank[0] + is_blank[-1] if len(is_blank) > 1 else is_blank[0]
    return None if any(is_blank[1:-1]) else len(is_blank) - num_outer


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
    ),
    Checker("length_constraints:number_paragraphs", {"num_paragraphs": "count"}, _paragraphs),
    Checker(
        _FIRST_WORD,
        {"num_paragraphs": "count", "nth_paragraph": "count", "first_word": "text"},
        _first_word,
    ),
)
