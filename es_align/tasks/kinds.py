"""The 25 kinds of instructions of IFEval: how often each is drawn, and which exclude each other.

Weights follow how often IFEval asks for a kind (in its 541 prompts: no commas 66 times, three fixed
answers 10 times), so that a run trains on what it is tested on. Two kinds exclude each other if no
answer can follow both whatever their arguments are, or if asking for both would be unclear ("all in
small letters, with SECTION 1").
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from es_align.tasks.base import did_you_mean
from kernels.errors import ConfigError

ALL = "all"

LOWERCASE = "change_case:english_lowercase"
CAPITAL = "change_case:english_capital"
CAPITAL_WORDS = "change_case:capital_word_frequency"
QUOTATION = "startend:quotation"
END = "startend:end_checker"
NO_COMMA = "punctuation:no_comma"
TITLE = "detectable_format:title"
BULLETS = "detectable_format:number_bullet_lists"
HIGHLIGHTS = "detectable_format:number_highlighted_sections"
SECTIONS = "detectable_format:multiple_sections"
JSON = "detectable_format:json_format"
ANSWER = "detectable_format:constrained_response"
KEYWORDS = "keywords:existence"
FREQUENCY = "keywords:frequency"
FORBIDDEN = "keywords:forbidden_words"
LETTER = "keywords:letter_frequency"
WORDS = "length_constraints:number_words"
SENTENCES = "length_constraints:number_sentences"
PARAGRAPHS = "length_constraints:number_paragraphs"
FIRST_WORD = "length_constraints:nth_paragraph_first_word"
POSTSCRIPT = "detectable_content:postscript"
PLACEHOLDERS = "detectable_content:number_placeholders"
TWO_RESPONSES = "combination:two_responses"
REPEAT = "combination:repeat_prompt"
LANGUAGE = "language:response_language"

WEIGHTS: Mapping[str, int] = {
    NO_COMMA: 7,
    WORDS: 5,
    SENTENCES: 5,
    FORBIDDEN: 5,
    HIGHLIGHTS: 5,
    FREQUENCY: 4,
    REPEAT: 4,
    QUOTATION: 4,
    LOWERCASE: 4,
    KEYWORDS: 4,
    TITLE: 4,
    LETTER: 3,
    BULLETS: 3,
    LANGUAGE: 3,
    PLACEHOLDERS: 3,
    PARAGRAPHS: 3,
    END: 3,
    POSTSCRIPT: 3,
    CAPITAL: 3,
    CAPITAL_WORDS: 3,
    TWO_RESPONSES: 2,
    JSON: 2,
    SECTIONS: 2,
    FIRST_WORD: 1,
    ANSWER: 1,
}

# Each pair stands once, at the kind that comes first; a kind also excludes itself.
_EXCLUDED: Mapping[str, frozenset[str]] = {
    ANSWER: frozenset(WEIGHTS) - {NO_COMMA},
    JSON: frozenset(WEIGHTS) - {KEYWORDS, FREQUENCY, FORBIDDEN, LETTER, WORDS, LANGUAGE},
    REPEAT: frozenset(WEIGHTS)
    - {NO_COMMA, TITLE, BULLETS, HIGHLIGHTS, SECTIONS, KEYWORDS, POSTSCRIPT, PLACEHOLDERS, END},
    LANGUAGE: frozenset(WEIGHTS)
    - {JSON, NO_COMMA, QUOTATION, TITLE, BULLETS, HIGHLIGHTS, PARAGRAPHS, PLACEHOLDERS}
    - {TWO_RESPONSES},
    TWO_RESPONSES: frozenset(
        (QUOTATION, BULLETS, HIGHLIGHTS, SECTIONS, PARAGRAPHS, FIRST_WORD, POSTSCRIPT)
    ),
    LOWERCASE: frozenset((CAPITAL, CAPITAL_WORDS, END, SECTIONS, POSTSCRIPT, FIRST_WORD)),
    CAPITAL: frozenset((CAPITAL_WORDS, END, SECTIONS, POSTSCRIPT, FIRST_WORD)),
    CAPITAL_WORDS: frozenset((SECTIONS, POSTSCRIPT)),
    QUOTATION: frozenset((END,)),
    END: frozenset((POSTSCRIPT, LETTER)),
    BULLETS: frozenset((HIGHLIGHTS, SECTIONS, FIRST_WORD)),
    HIGHLIGHTS: frozenset((PARAGRAPHS,)),
    SECTIONS: frozenset((PARAGRAPHS, FIRST_WORD, SENTENCES, LETTER)),
    PARAGRAPHS: frozenset((FIRST_WORD, SENTENCES)),
    FIRST_WORD: frozenset((TITLE, POSTSCRIPT, LETTER)),
    WORDS: frozenset((SENTENCES,)),
    LETTER: frozenset((KEYWORDS, FREQUENCY)),
}


class Deck(NamedTuple):
    """What kinds are dealt from: each as often as its weight says."""

    kinds: tuple[str, ...]
    cards: tuple[str, ...]


def make_deck(names: Sequence[str]) -> Deck:
    """Of these instruction ids, or of all for `all`; ConfigError if one is unknown or doubled."""
    if tuple(names) == (ALL,):
        names = tuple(WEIGHTS)
    for name in names:
        if name not in WEIGHTS:
            raise ConfigError(
                f"task.kinds: unknown kind {name!r}.{did_you_mean(name, (*WEIGHTS, ALL))}"
                if name != ALL
                else f"task.kinds={list(names)} has 'all' and more; write all, or list kinds"
            )
    if len(set(names)) < len(names):
        raise ConfigError(f"task.kinds={list(names)} names a kind twice; name each one once")
    cards = tuple(name for name in names for _ in range(WEIGHTS[name]))
    return Deck(tuple(names), cards)


def are_compatible(one: str, other: str) -> bool:
    """Whether one prompt may ask for both."""
    return not (one == other or other in _EXCLUDED.get(one, ()) or one in _EXCLUDED.get(other, ()))
