"""detectable_content: the answer has a postscript.

IFEval's patterns surround the marker with `\\s*` and `.*$`, which change nothing about whether it
is found and cost quadratic time on blanks: they are left out here. As in IFEval the two usual
markers allow a blank after each dot, and any other marker is a regular expression.
"""

import re
from functools import lru_cache

from kernels.errors import DataError
from rewards.ifeval.base import Arguments, Checker, text

_PS = re.compile(r"p\.\s?s\.")
_PPS = re.compile(r"p\.\s?p\.\s?s")
_NEAR = re.compile(r"\bp\.?\s?(?:p\.?\s?)?s\b|\bpost\s?script\b|\bnote:")
_NEAR_CREDIT = 0.5


@lru_cache(256)
def _pattern(marker: str) -> re.Pattern[str]:
    if marker == "P.S.":
        return _PS
    if marker == "P.P.S":
        return _PPS
    try:
        return re.compile(marker.lower())
    except re.error as error:
        raise DataError(
            f"detectable_content:postscript: postscript_marker {marker!r} is not a valid regular "
            f"expression ({error}); use P.S. or P.P.S"
        ) from error


def _has_postscript(response: str, kwargs: Arguments) -> bool:
    marker = text(kwargs, "postscript_marker").strip()
    return bool(_pattern(marker).search(response.lower()))


def _postscript_progress(response: str, _: Arguments) -> float:
    return _NEAR_CREDIT if _NEAR.search(response.lower()) else 0.0


CHECKERS = (
    Checker(
        "detectable_content:postscript",
        {"postscript_marker": "text"},
        _has_postscript,
        _postscript_progress,
    ),
)
