"""length_constraints: fewer words than a number, or at least so many.

Words are runs of letters, digits and underscores, as IFEval's tokeniser `\\w+` counts them.
"""

import re

from kernels.errors import DataError
from rewards.ifeval.base import Arguments, Checker, count, text

LESS_THAN, AT_LEAST = "less than", "at least"

_WORD = re.compile(r"\w+")


def _has_right_length(response: str, kwargs: Arguments) -> bool:
    num_words, limit = len(_WORD.findall(response)), count(kwargs, "num_words")
    return num_words < limit if _is_upper(kwargs) else num_words >= limit


def _length_progress(response: str, kwargs: Arguments) -> float:
    num_words, limit = len(_WORD.findall(response)), count(kwargs, "num_words")
    return (limit - 1) / max(num_words, 1) if _is_upper(kwargs) else num_words / limit


def _is_upper(kwargs: Arguments) -> bool:
    relation = text(kwargs, "relation")
    if relation not in (LESS_THAN, AT_LEAST):
        raise DataError(
            f"length_constraints:number_words: relation={relation!r} must be {LESS_THAN!r} or "
            f"{AT_LEAST!r}; correct the row's kwargs"
        )
    return relation == LESS_THAN


CHECKERS = (
    Checker(
        "length_constraints:number_words",
        {"relation": "text", "num_words": "count"},
        _has_right_length,
        _length_progress,
    ),
)
