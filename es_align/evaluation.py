"""Held-out evaluation: what was scored, kept by prompt,
so that two evaluations can be compared in pairs.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from es_align.bootstrap import Gain, paired_gain
from es_align.config import Config
from es_align.intervals import wilson_interval
from es_align.rollout import Rollout
from rewards.base import JsonValue
from workers.objectives import pass_at_k


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One model on the held-out prompts."""

    generation: int  # generations done; 0 is the baseline
    rewards_P: np.ndarray  # float64, NaN: no score
    passed_P: np.ndarray  # float64 0 or 1, NaN: no score
    metrics: Mapping[str, float]  # means, e.g. {"strict": 0.12, "flexible": 0.2}
    reasons: Mapping[str, int]

    @property
    def reward(self) -> float:
        """Mean reward over scored prompts; NaN if there are none."""
        return _mean(self.rewards_P)

    @property
    def pass_rate(self) -> float:
        """Share of scored prompts that pass strictly."""
        return _mean(self.passed_P)

    @property
    def pass_rate_ci95(self) -> tuple[float, float]:
        """95 % interval of the pass rate (Wilson 1927), over the choice of prompts."""
        return wilson_interval(self.pass_rate, int(np.isfinite(self.passed_P).sum()))

    @property
    def num_prompts(self) -> int:
        """Prompts asked."""
        return len(self.rewards_P)

    def to_row(self) -> dict[str, JsonValue]:
        """As a row of evaluations.jsonl."""
        return {
            "generation": self.generation,
            "rewards": _with_nulls(self.rewards_P),
            "passed": _with_nulls(self.passed_P),
            "metrics": dict(self.metrics),
            "reasons": dict(self.reasons),
        }

    @classmethod
    def from_row(cls, row: Mapping[str, JsonValue]) -> "Evaluation":
        """Read what `to_row` wrote."""
        generation, metrics, reasons = row["generation"], row["metrics"], row["reasons"]
        assert (
            isinstance(generation, int) and isinstance(metrics, dict) and isinstance(reasons, dict)
        )
        return cls(
            generation,
            np.array(row["rewards"], dtype=np.float64),
            np.array(row["passed"], dtype=np.float64),
            {name: float(str(value)) for name, value in metrics.items()},
            {name: int(str(value)) for name, value in reasons.items()},
        )


def evaluation_of(rollout: Rollout, generation: int) -> Evaluation:
    """The evaluation that a rollout of one model is."""
    rewards_P = rollout.rewards_MP[0]
    is_scored_P = np.isfinite(rewards_P)
    means = {name: _mean(table[0]) for name, table in rollout.metrics_MP.items()}
    return Evaluation(
        generation,
        rewards_P,
        np.where(is_scored_P, rollout.passed_MP[0].astype(np.float64), np.nan),
        {name: value for name, value in means.items() if np.isfinite(value)},
        dict(rollout.reasons),
    )


def mean_evaluation(samples: Sequence[Evaluation]) -> Evaluation:
    """One evaluation of several samples of each prompt: means over those that have a score."""
    first = samples[0]
    if len(samples) == 1:
        return first
    names = {name for sample in samples for name in sample.metrics}
    return Evaluation(
        first.generation,
        np.array([_mean(values_S) for values_S in np.stack([s.rewards_P for s in samples], 1)]),
        np.array([_mean(values_S) for values_S in np.stack([s.passed_P for s in samples], 1)]),
        {name: _mean(np.array([s.metrics.get(name, np.nan) for s in samples])) for name in names},
        dict(sum((Counter(sample.reasons) for sample in samples), Counter())),
    )


def pass_rates_at(samples: Sequence[Evaluation]) -> dict[str, float]:
    """pass@k for k = 1, 2, 4, ... up to the number of samples, mean over the prompts that have k
    with a score; none of one sample.
    """
    if len(samples) == 1:
        return {}
    passed_PS = np.stack([sample.passed_P for sample in samples], axis=1)
    num_scored_P = np.isfinite(passed_PS).sum(axis=1).tolist()
    num_passed_P = np.nansum(passed_PS, axis=1).astype(int).tolist()
    counts = list(zip(num_scored_P, num_passed_P, strict=True))
    powers = [2**power for power in range(len(samples).bit_length())]
    return {f"pass@{k}": _mean(np.array([pass_at_k(*c, k) for c in counts])) for k in powers}


def gains(before: Evaluation, after: Evaluation, config: Config) -> tuple[Gain, Gain]:
    """Gain in reward and in pass rate, each with its paired bootstrap interval."""
    samples = config.evaluation.bootstrap_samples
    return (
        paired_gain(before.rewards_P, after.rewards_P, samples=samples, seed=config.seed),
        paired_gain(before.passed_P, after.passed_P, samples=samples, seed=config.seed),
    )


def best_of(evaluations: Sequence[Evaluation]) -> Evaluation:
    """The one with the highest held-out reward, the earliest of equals; one without a score only
    where none has one.
    """

    return max(evaluations, key=lambda e: (or_least(e.reward), -e.generation))


def or_least(reward: float) -> float:
    """A reward to rank by: one that is missing (NaN) is below all others."""
    return reward if np.isfinite(reward) else -np.inf


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def _with_nulls(values: np.ndarray) -> list[JsonValue]:
    return [value if np.isfinite(value) else None for value in values.tolist()]
