"""keywords: given words appear, so often, or not at all, and so does a letter.

As in IFEval a keyword is a regular expression, case ignored, and is found inside of longer words,
a forbidden word only as a whole one. Any character may be counted as the letter: IFEval replaces
one outside of a-z by a random letter at each check, which decides its keys 1122 ("#") and 1129
("!") by chance; here they count what their prompts ask for.
"""

import re

from rewards.ifeval.base import (
    Arguments,
    Checker,
    Follows,
    bound_progress,
    count,
    expression,
    holds,
    text,
    texts,
)

_EXISTENCE = "keywords:existence"
_FREQUENCY = "keywords:frequency"
_FORBIDDEN = "keywords:forbidden_words"


def _patterns(kwargs: Arguments) -> list[re.Pattern[str]]:
    return [
        expression(_EXISTENCE, "keyword", keyword, re.IGNORECASE)
        for keyword in texts(kwargs, "keywords")
    ]


def _existence(kwargs: Arguments) -> Follows:
    patterns = _patterns(kwargs)
    return lambda response: all(pattern.search(response) for pattern in patterns)


def _existence_progress(response: str, kwargs: Arguments) -> float:
    patterns = _patterns(kwargs)
    return sum(bool(pattern.search(response)) for pattern in patterns) / len(patterns)


def _frequency(kwargs: Arguments) -> Follows:
    is_right = holds(kwargs, "relation", "frequency")
    keyword = _keyword(kwargs)
    return lambda response: is_right(len(keyword.findall(response)))


def _frequency_progress(response: str, kwargs: Arguments) -> float:
    found = len(_keyword(kwargs).findall(response))
    return bound_progress(found, kwargs["relation"], count(kwargs, "frequency"))


def _keyword(kwargs: Arguments) -> re.Pattern[str]:
    return expression(_FREQUENCY, "keyword", text(kwargs, "keyword").strip(), re.IGNORECASE)


def _forbidden(kwargs: Arguments) -> Follows:
    words = _forbidden_patterns(kwargs)
    return lambda response: not any(word.search(response) for word in words)


def _forbidden_progress(response: str, kwargs: Arguments) -> float:
    return 1 / (1 + sum(len(word.findall(response)) for word in _forbidden_patterns(kwargs)))


def _forbidden_patterns(kwargs: Arguments) -> list[re.Pattern[str]]:
    return [
        expression(_FORBIDDEN, "forbidden word", rf"\b{word}\b", re.IGNORECASE)
        for word in texts(kwargs, "forbidden_words")
    ]


def _letter(kwargs: Arguments) -> Follows:
    is_right = holds(kwargs, "let_relation", "let_frequency")
    letter = text(kwargs, "letter").lower()
    return lambda response: is_right(response.lower().count(letter))


def _letter_progress(response: str, kwargs: Arguments) -> float:
    found = response.lower().count(text(kwargs, "letter").lower())
    return bound_progress(found, kwargs["let_relation"], count(kwargs, "let_frequency"))


CHECKERS = (
    Checker(_EXISTENCE, {"keywords": "texts"}, _existence, _existence_progress),
    Checker(
        _FREQUENCY,
        {"keyword": "text", "frequency": "count", "relation": "relation"},
        _frequency,
        _frequency_progress,
    ),
    Checker(_FORBIDDEN, {"forbidden_words": "texts"}, _forbidden, _forbidden_progress),
    Checker(
        "keywords:letter_frequency",
        {"letter": "character", "let_frequency": "count", "let_relation": "relation"},
        _letter,
        _letter_progress,
    ),
)
