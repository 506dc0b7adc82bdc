"""detectable_content: the answer has a postscript, or so many placeholders in square brackets.

IFEval's patterns for a postscript surround the marker with `\\s*` and `.*$`, which change nothing
about whether it is found and cost quadratic time on blanks: they are left out here. As in IFEval
the two usual markers allow a blank after each dot, and any other marker is a regular expression.
Its pattern for placeholders is quadratic on opening brackets; the one here finds as many.
"""

import re

from rewards.ifeval.base import Arguments, Checker, Follows, count, expression, text

_POSTSCRIPT = "detectable_content:postscript"
_PS = re.compile(r"p\.\s?s\.")
_PPS = re.compile(r"p\.\s?p\.\s?s")
_NEAR = re.compile(r"\bp\.?\s?(?:p\.?\s?)?s\b|\bpost\s?script\b|\bnote:")
_NEAR_CREDIT = 0.5
_NEAR_PLACEHOLDER = re.compile(r"\{[^{}\n]*\}|<[^<>\n]*>|\([^()\n]*\)|_{3,}")
_NEAR_PLACEHOLDER_CREDIT = 0.3
_PLACEHOLDER = re.compile(r"\[[^\[\]\n]*\]")


def _pattern(marker: str) -> re.Pattern[str]:
    if marker == "P.S.":
        return _PS
    if marker == "P.P.S":
        return _PPS
    return expression(_POSTSCRIPT, "postscript_marker", marker.lower())


def _postscript(kwargs: Arguments) -> Follows:
    pattern = _pattern(text(kwargs, "postscript_marker").strip())
    return lambda response: pattern.search(response.lower()) is not None


def _postscript_progress(response: str, _: Arguments) -> float:
    return _NEAR_CREDIT if _NEAR.search(response.lower()) else 0.0


def _placeholders(kwargs: Arguments) -> Follows:
    wanted = count(kwargs, "num_placeholders")
    return lambda response: len(_PLACEHOLDER.findall(response)) >= wanted


def _placeholders_progress(response: str, kwargs: Arguments) -> float:
    found = len(_PLACEHOLDER.findall(response))
    near = len(_NEAR_PLACEHOLDER.findall(response))
    wanted = count(kwargs, "num_placeholders")
    return (found + _NEAR_PLACEHOLDER_CREDIT * min(near, wanted - found)) / wanted


CHECKERS = (
    Checker(_POSTSCRIPT, {"postscript_marker": "text"}, _postscript, _postscript_progress),
    Checker(
        "detectable_content:number_placeholders",
        {"num_placeholders": "count"},
        _placeholders,
        _placeholders_progress,
    ),
)
