"""Constraint checkers under IFEval's own instruction ids (Zhou et al. 2023, arXiv 2311.07911).

All 25 kinds of its data set, one family a file. A new one adds its module to `_FAMILIES`, and
nothing else changes. Nothing is loaded at import and nothing is fetched, ever: language profiles
and sentence parameters come out of installed packages when a check first needs them.
"""

import difflib
from collections.abc import Mapping

from kernels.errors import ConfigError
from rewards.ifeval import (
    change_case,
    combination,
    detectable_content,
    detectable_format,
    keywords,
    language,
    length_constraints,
    punctuation,
    startend,
)
from rewards.ifeval.base import Checker

__all__ = ["CHECKERS", "Checker", "get_checker"]

_FAMILIES = (
    change_case.CHECKERS,
    startend.CHECKERS,
    punctuation.CHECKERS,
    detectable_format.CHECKERS,
    keywords.CHECKERS,
    length_constraints.CHECKERS,
    detectable_content.CHECKERS,
    combination.CHECKERS,
    language.CHECKERS,
)

CHECKERS: Mapping[str, Checker] = {
    checker.instruction_id: checker for family in _FAMILIES for checker in family
}


def get_checker(instruction_id: str) -> Checker:
    """The checker of an id such as "startend:quotation"; ConfigError if there is none."""
    checker = CHECKERS.get(instruction_id)
    if checker is None:
        near = difflib.get_close_matches(instruction_id, CHECKERS, n=1)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"unknown instruction id {instruction_id!r}.{guess} "
            f"There are: {', '.join(sorted(CHECKERS))}"
        )
    return checker
