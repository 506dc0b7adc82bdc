"""What a run may spend on training, and what it has spent.

Counted is what the population does: seconds of its generations and of the updates, completions and
generated tokens. Loading and held-out evaluation are not, so that runs which are evaluated more or
less often, and other methods, can be compared at an equal budget.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from es_align.config_search import Count, Positive, Section


class BudgetConfig(Section):
    """The run ends with the generation in which the first of these is used up; none: no limit."""

    seconds: Positive | None = None
    """Of generations and updates; loading and evaluation are not counted."""
    completions: Count | None = None
    tokens: Count | None = None
    """Generated ones."""

    @property
    def is_limited(self) -> bool:
        """Whether anything is limited."""
        return self != BudgetConfig()


class Spent(NamedTuple):
    """What training took so far."""

    seconds: float
    completions: int
    tokens: int  # generated


NOTHING = Spent(0.0, 0, 0)


def add(spent: Spent, row: Mapping[str, object]) -> Spent:
    """With what the generation of a row of metrics.jsonl took; a row of an evaluation took none."""
    seconds = _number(row, "time/evaluate_s") + _number(row, "time/move_s")
    return Spent(
        spent.seconds + seconds,
        spent.completions + int(_number(row, "completions")),
        spent.tokens + int(_number(row, "tokens/total")),
    )


def spent_in(rows: Iterable[Mapping[str, object]]) -> Spent:
    """What all generations of metrics.jsonl took."""
    spent = NOTHING
    for row in rows:
        spent = add(spent, row)
    return spent


def is_spent(budget: BudgetConfig, spent: Spent) -> bool:
    """Whether one of the limits is reached."""
    return share_spent(budget, spent) >= 1


def share_spent(budget: BudgetConfig, spent: Spent) -> float:
    """Share of the limit that is nearest, 0 without limits."""
    limits = (budget.seconds, budget.completions, budget.tokens)
    pairs = zip(limits, spent, strict=True)
    return max((used / limit for limit, used in pairs if limit is not None), default=0.0)


def _number(row: Mapping[str, object], name: str) -> float:
    return float(str(row.get(name, 0)))
