"""Rounds in turn, and what their figures come to.

A machine drifts: it warms up, shares its cores, changes its clock. So the arms take turns within
each repeat, the order is reversed from one repeat to the next, and a ratio is taken between
neighbours in time before the median over repeats is.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from es_align.bench.prompts import BenchRequest
from es_align.errors import WorkerError

ArmName = Literal["base", "population", "stock"]
BASE: ArmName = "base"
POPULATION: ArmName = "population"
STOCK: ArmName = "stock"
WARM_UP_TOKENS = 8


class Timing(NamedTuple):
    """One call of an engine's generate."""

    seconds: float
    num_tokens: int  # generated
    answers: tuple[str, ...]  # digest of each answer


class Arm(Protocol):
    """One engine under measurement."""

    @property
    def name(self) -> ArmName:
        """Which of the three."""
        ...

    def run(self, requests: Sequence[BenchRequest], new_tokens: int) -> Timing:
        """Answer all requests with exactly `new_tokens` tokens; WorkerError if it cannot."""
        ...


class Repeat(NamedTuple):
    """One turn of every arm."""

    tok_s: Mapping[ArmName, float]  # in the order in which they ran
    changed: Mapping[ArmName, int]  # answers that differ from the base's


class Spread(NamedTuple):
    """A figure over the repeats."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Rounds:
    """All repeats; an optional arm that failed is in none of them."""

    repeats: tuple[Repeat, ...]
    failures: Mapping[ArmName, str]

    def tok_s(self, arm: ArmName) -> float | None:
        """Median of generated tokens per second; None if the arm failed or did not take part."""
        found = [repeat.tok_s[arm] for repeat in self.repeats if arm in repeat.tok_s]
        return statistics.median(found) if found else None

    def ratio(self, arm: ArmName) -> Spread | None:
        """Tokens per second over the base's of the same repeat."""
        found = [
            repeat.tok_s[arm] / repeat.tok_s[BASE] for repeat in self.repeats if arm in repeat.tok_s
        ]
        return Spread(statistics.median(found), min(found), max(found)) if found else None

    def changed(self, arm: ArmName) -> int | None:
        """Fewest answers of a repeat that differ from the base's."""
        return min((r.changed[arm] for r in self.repeats if arm in r.changed), default=None)


def run_rounds(
    arms: Sequence[Arm],
    warm_up: Sequence[BenchRequest],
    rounds: Sequence[Sequence[BenchRequest]],
    new_tokens: int,
    *,
    told: Callable[[int, Repeat], None] = lambda index, repeat: None,
) -> Rounds:
    """One short warm-up of every arm, then one repeat for each of `rounds`, each told when done.

    Only the stock arm may fail, which is recorded. Raises WorkerError if another does, if an answer
    is too short, or if the members change no answer: then the perturbation is not in the graph.
    """
    assert {BASE, POPULATION} <= {arm.name for arm in arms}
    failures: dict[ArmName, str] = {}
    _take_turns(arms, warm_up, min(new_tokens, WARM_UP_TOKENS), failures)
    repeats = []
    for index, requests in enumerate(rounds):
        order = arms if index % 2 == 0 else list(reversed(arms))
        repeats.append(_take_turns(order, requests, new_tokens, failures))
        told(index, repeats[-1])
    done = Rounds(tuple(_without(repeat, failures) for repeat in repeats), failures)
    if done.changed(POPULATION) == 0:
        raise WorkerError(
            f"all {len(rounds[0])} answers of the population are the base model's, so its figures "
            "mean nothing; ask for more new tokens or a larger sigma, and if that changes nothing, "
            "the perturbation is missing from the engine's graph"
        )
    return done


def _take_turns(
    arms: Sequence[Arm],
    requests: Sequence[BenchRequest],
    new_tokens: int,
    failures: dict[ArmName, str],
) -> Repeat:
    timings: dict[ArmName, Timing] = {}
    for arm in arms:
        if arm.name in failures:
            continue
        try:
            timings[arm.name] = _checked(arm, requests, new_tokens)
        except WorkerError as error:
            if arm.name != STOCK:
                raise
            failures[arm.name] = str(error)
    base = timings[BASE].answers
    return Repeat(
        {name: timing.num_tokens / timing.seconds for name, timing in timings.items()},
        {
            name: sum(mine != theirs for mine, theirs in zip(timing.answers, base, strict=True))
            for name, timing in timings.items()
            if name != BASE
        },
    )


def _checked(arm: Arm, requests: Sequence[BenchRequest], new_tokens: int) -> Timing:
    timing = arm.run(requests, new_tokens)
    expected = len(requests) * new_tokens
    if timing.num_tokens != expected or len(timing.answers) != len(requests):
        raise WorkerError(
            f"arm {arm.name} generated {timing.num_tokens} tokens for {len(requests)} requests of "
            f"{new_tokens}, not {expected}; its figure would not be comparable"
        )
    return timing


def _without(repeat: Repeat, failures: Mapping[ArmName, str]) -> Repeat:
    return Repeat(
        {name: value for name, value in repeat.tok_s.items() if name not in failures},
        {name: value for name, value in repeat.changed.items() if name not in failures},
    )
