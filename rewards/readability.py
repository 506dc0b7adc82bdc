"""Whether a text reads as a short English answer, so that rubbish earns nothing.

Evolution finds every gap: keyword lists, one word over and over, the prompt said back, two words
and a stop. Each has a measure in [0, 1] here that is 1.0 only if the text is clear of it; the
worst one counts. They are cheap surface measures, not a judge of truth: their job is to make the
cheats poorer than a plain answer.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

MIN_WORDS = 6
MIN_OWN_WORDS = 4  # beside what is copied from the prompt
MIN_DISTINCT_SHARE = 0.55
MIN_ORDINARY_SHARE = 0.8
MIN_FUNCTION_SHARE = 0.15
LONG_ANSWER_WORDS = 8  # from here on three different function words are expected, below it two
REPEATED_WORDS = 6  # a run of this many words may stand in an answer only once
COPIED_WORDS = 4  # a run of this many words shared with the prompt counts as copied
MAX_COPIED_SHARE = 0.6

_MAX_KEPT_CHARACTERS = 40
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")  # noqa: RUF001
_TOKEN = re.compile(r"\S+")
_ORDINARY = re.compile(
    r"(?=.*[aeiouyà-ü])[a-zà-ÿ]{1,18}(?:['’-][a-zà-ÿ]{1,14}){0,3}|"  # noqa: RUF001
    r"\d{1,4}|p\.?p?\.?s?"
)
# Across the end of a sentence a repeated word is ordinary: "... creating it. It is ..."
_STUTTER = re.compile(r"\b([^\W\d_]+)[\s,]+\1\b")
_CONTRACTION = re.compile(r"['’](?:s|re|ve|ll|d|m|t)$")  # noqa: RUF001
_TRIPLE = re.compile(r"([^\W\d_])\1\1")
_PUNCTUATION = " \t.,;:!?\"'()[]{}<>*-_“”‘’«»…/\\#`~"  # noqa: RUF001

_FUNCTION_WORD_LIST = """
a about after against all also although am among an and another any are around as at be because
been before being between both but by can can't cannot could did do does don't down during each
even every few for from had has have he her here him his how however i i'm if in into is isn't
it it's its just many may me more most much must my no not of often on one only or other our out
over per she should since so some such than that that's the their them then there these they
they're this those though through to too under until up upon us very was we were what when where
which while who why will with within without would yet you you're your
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORD_LIST.split())
# What also joins a bare list of nouns; a sentence has some other function word too.
_LIST_WORDS = frozenset(("a", "also", "an", "and", "both", "of", "or", "plus", "the"))


class Readability(NamedTuple):
    """How far a text is from each kind of rubbish, in [0, 1]; 1.0 is clear of it."""

    length: float
    own_words: float  # below 1.0: mostly the prompt said back
    variety: float  # below 1.0: words or phrases repeat
    ordinary: float  # below 1.0: not made of English sentences

    @property
    def score(self) -> float:
        """The worst of the measures."""
        return min(self)


def readability(response: str, own_text: str) -> Readability:
    """Measure a response; `own_text` is the prompt's text, which must not be said back."""
    words = split_words(response)
    if not words:
        return Readability(0.0, 0.0, 0.0, 0.0)
    return Readability(
        length=min(1.0, len(words) / MIN_WORDS),
        own_words=_own_words(words, own_text),
        variety=_variety(response, words),
        ordinary=_ordinary(response, words),
    )


def split_words(text: str) -> list[str]:
    """The words of a text in small letters, without digits and punctuation."""
    return _WORD.findall(text.lower())


@lru_cache(4096)
def _words_of_prompt(prompt: str) -> frozenset[str]:
    return frozenset(split_words(prompt))


@lru_cache(4096)
def _runs_of_prompt(prompt: str) -> frozenset[tuple[str, ...]]:
    return frozenset(_runs(split_words(prompt), COPIED_WORDS))


def _runs(words: Sequence[str], length: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + length]) for i in range(len(words) - length + 1)]


def num_own_content_words(response: str, prompt: str) -> int:
    """How many different words the response adds to its prompt, function words aside."""
    return len(own_content_words(response, prompt))


def own_content_words(response: str, prompt: str) -> set[str]:
    """The different words that the response adds to its prompt, function words aside."""
    return set(split_words(response)) - FUNCTION_WORDS - _words_of_prompt(prompt)


def _own_words(words: Sequence[str], prompt: str) -> float:
    copied: set[int] = set()
    prompt_runs = _runs_of_prompt(prompt)
    for start, run in enumerate(_runs(words, COPIED_WORDS)):
        if run in prompt_runs:
            copied.update(range(start, start + COPIED_WORDS))
    if not copied:
        return 1.0
    num_own = len(words) - len(copied)
    enough = num_own / MIN_OWN_WORDS
    share = num_own / len(words) / (1 - MAX_COPIED_SHARE)
    return min(1.0, enough, share)


def _variety(response: str, words: Sequence[str]) -> float:
    distinct = len(set(words)) / len(words) / MIN_DISTINCT_SHARE
    num_stutters = len(_STUTTER.findall(response.lower()))
    runs = _runs(words, REPEATED_WORDS)
    fresh = len(set(runs)) / len(runs) if runs else 1.0
    return min(1.0, distinct, 1 / (1 + num_stutters), fresh)


def _ordinary(response: str, words: Sequence[str]) -> float:
    tokens = [token.strip(_PUNCTUATION) for token in _TOKEN.findall(response.lower())]
    tokens = [token for token in tokens if token]
    num_ordinary = sum(_is_ordinary(token) for token in tokens)
    ordinary = num_ordinary / len(tokens) / MIN_ORDINARY_SHARE if tokens else 0.0
    function_words = [word for word in words if word in FUNCTION_WORDS]
    share = len(function_words) / len(words) / MIN_FUNCTION_SHARE
    wanted = 3 if len(words) >= LONG_ANSWER_WORDS else 2
    kinds = len(set(function_words)) / wanted
    is_sentence = set(function_words) - _LIST_WORDS or any(_CONTRACTION.search(w) for w in words)
    sentence = 1.0 if is_sentence else 0.5
    return min(1.0, ordinary, share, kinds, sentence)


def _is_ordinary(token: str) -> bool:
    return _kept_ordinary(token) if len(token) <= _MAX_KEPT_CHARACTERS else _looks_ordinary(token)


@lru_cache(1 << 16)
def _kept_ordinary(token: str) -> bool:
    return _looks_ordinary(token)


def _looks_ordinary(token: str) -> bool:
    parts = [part for part in re.split(r"[/,;:.!?—–*]+", token) if part]  # noqa: RUF001
    return bool(parts) and all(
        _ORDINARY.fullmatch(part.strip(_PUNCTUATION)) and not _TRIPLE.search(part) for part in parts
    )
