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
    """One round of an engine."""

    seconds: float  # of its generate
    change_s: float  # before that, until the round's own members were ready
    num_tokens: int  # generated
    answers: tuple[str, ...]  # digest of each answer

    @property
    def tok_s(self) -> float:
        """Generated tokens per second, the members' change left out."""
        return self.num_tokens / self.seconds

    @property
    def total_s(self) -> float:
        """Of a whole generation, its new members included."""
        return self.change_s + self.seconds


class Arm(Protocol):
    """One engine under measurement."""

    @property
    def name(self) -> ArmName:
        """Which of the three."""
        ...

    def run(self, requests: Sequence[BenchRequest], new_tokens: int, generation: int) -> Timing:
        """Answer all requests with exactly `new_tokens` tokens by the members of a generation;
        WorkerError if it cannot.
        """
        ...


class Repeat(NamedTuple):
    """One turn of every arm."""

    timings: Mapping[ArmName, Timing]  # in the order in which they ran
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
        found = [timing.tok_s for timing in self._timings(arm)]
        return statistics.median(found) if found else None

    def ratio(self, arm: ArmName) -> Spread | None:
        """Tokens per second over the base's of the same repeat."""
        pairs = zip(self._timings(arm), self._timings(BASE), strict=False)
        return _spread([mine.tok_s / base.tok_s for mine, base in pairs])

    def change_s(self, arm: ArmName) -> float | None:
        """Median of the seconds until a generation's members are ready; None as `tok_s`."""
        found = [timing.change_s for timing in self._timings(arm)]
        return statistics.median(found) if found else None

    def over_stock(self) -> Spread | None:
        """How often the population has a whole generation, its new members included, in the time
        of one of the stock arm's in the same repeat.
        """
        pairs = zip(self._timings(STOCK), self._timings(POPULATION), strict=False)
        return _spread([stock.total_s / mine.total_s for stock, mine in pairs])

    def changed(self, arm: ArmName) -> int | None:
        """Fewest answers of a repeat that differ from the base's."""
        return min((r.changed[arm] for r in self.repeats if arm in r.changed), default=None)

    def _timings(self, arm: ArmName) -> list[Timing]:
        """One a repeat; none if the arm failed or did not take part."""
        return [repeat.timings[arm] for repeat in self.repeats if arm in repeat.timings]


def _spread(found: Sequence[float]) -> Spread | None:
    return Spread(statistics.median(found), min(found), max(found)) if found else None


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
    _take_turns(arms, warm_up, min(new_tokens, WARM_UP_TOKENS), 0, failures)
    repeats = []
    for index, requests in enumerate(rounds):
        order = arms if index % 2 == 0 else list(reversed(arms))
        repeats.append(_take_turns(order, requests, new_tokens, index + 1, failures))
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
    generation: int,
    failures: dict[ArmName, str],
) -> Repeat:
    timings: dict[ArmName, Timing] = {}
    for arm in arms:
        if arm.name in failures:
            continue
        try:
            timings[arm.name] = _checked(arm, requests, new_tokens, generation)
        except WorkerError as error:
            if arm.name != STOCK:
                raise
            failures[arm.name] = str(error)
    base = timings[BASE].answers
    return Repeat(
        timings,
        {
            name: sum(mine != theirs for mine, theirs in zip(timing.answers, base, strict=True))
            for name, timing in timings.items()
            if name != BASE
        },
    )


def _checked(
    arm: Arm, requests: Sequence[BenchRequest], new_tokens: int, generation: int
) -> Timing:
    timing = arm.run(requests, new_tokens, generation)
    expected = len(requests) * new_tokens
    if timing.num_tokens != expected or len(timing.answers) != len(requests):
        raise WorkerError(
            f"arm {arm.name} generated {timing.num_tokens} tokens for {len(requests)} requests of "
            f"{new_tokens}, not {expected}; its figure would not be comparable"
        )
    return timing


def _without(repeat: Repeat, failures: Mapping[ArmName, str]) -> Repeat:
    return Repeat(
        {name: timing for name, timing in repeat.timings.items() if name not in failures},
        {name: count for name, count in repeat.changed.items() if name not in failures},
    )
