"""Held-out evaluation: what was scored, kept by prompt,
so that two evaluations can be compared in pairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from es_align.bootstrap import Gain, paired_gain
from es_align.config import Config
from es_align.rollout import Rollout
from rewards.base import JsonValue

Z95 = 1.959964  # two-sided 95 % of a normal


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
        num = int(np.isfinite(self.passed_P).sum())
        if num == 0:
            return float("nan"), float("nan")
        centre = (self.pass_rate + Z95**2 / (2 * num)) / (1 + Z95**2 / num)
        inside = self.pass_rate * (1 - self.pass_rate) / num + Z95**2 / (4 * num**2)
        half = Z95 * inside**0.5 / (1 + Z95**2 / num)
        return centre - half, centre + half

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


def gains(before: Evaluation, after: Evaluation, config: Config) -> tuple[Gain, Gain]:
    """Gain in reward and in pass rate, each with its paired bootstrap interval."""
    samples = config.evaluation.bootstrap_samples
    return (
        paired_gain(before.rewards_P, after.rewards_P, samples=samples, seed=config.seed),
        paired_gain(before.passed_P, after.passed_P, samples=samples, seed=config.seed),
    )


def best_of(evaluations: Sequence[Evaluation]) -> Evaluation:
    """The one with the highest held-out reward, the earliest of equals."""
    return max(evaluations, key=lambda evaluation: (evaluation.reward, -evaluation.generation))


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def _with_nulls(values: np.ndarray) -> list[JsonValue]:
    return [value if np.isfinite(value) else None for value in values.tolist()]
