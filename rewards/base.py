"""What a reward is: a pure function from one completion and its prompt's columns to a score.

A reward never sees the model, the run or other members. It may raise: the caller records a
reason for that one completion and leaves it without a score (`score_batch`), it never becomes
a silent zero.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

JsonValue: TypeAlias = "str | int | float | bool | list[JsonValue] | dict[str, JsonValue] | None"
Columns: TypeAlias = Mapping[str, JsonValue]


class Score(NamedTuple):
    """The verdict on one completion."""

    reward: float | None  # what evolution maximises; None: no score
    passed: bool  # strict verdict, what held-out accuracy counts
    metrics: dict[str, float]  # further named numbers, e.g. {"flexible": 1.0}
    reason: str  # short code: "ok", "no_answer", "wrong", "off_topic", "error:ValueError", ...


class Prompted(NamedTuple):
    """A completion with all that a reward may want to know."""

    completion: str
    messages: tuple[Mapping[str, str], ...]  # the prompt: chat messages, role and content
    columns: Columns


Reward: TypeAlias = Callable[[str, Columns], Score]


def unscored(reason: str) -> Score:
    """A completion that has no score, and why."""
    return Score(None, False, {}, reason)


def score_batch(
    reward: Reward, completions: Sequence[str], columns: Sequence[Columns]
) -> list[Score]:
    """Score every completion; one that raises or yields a non-finite reward gets a reason instead.

    Raises ValueError if the two sequences differ in length.
    """
    return [
        _score_one(reward, completion, row)
        for completion, row in zip(completions, columns, strict=True)
    ]


def _score_one(reward: Reward, completion: str, row: Columns) -> Score:
    try:
        score = reward(completion, row)
    except Exception as error:  # the boundary named in the style guide: one completion's reward
        return unscored(f"error:{type(error).__name__}")
    if score.reward is not None and not math.isfinite(score.reward):
        return unscored("error:not_finite")
    return score
