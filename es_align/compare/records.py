"""What a job leaves: the curve of its held-out evaluations and what it took, as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from es_align.budget import NOTHING, Spent
from es_align.evaluation import or_least
from es_align.sealed import replace_file
from workers.footprint import Footprint


@dataclass(frozen=True, slots=True)
class Point:
    """The model on the held-out prompts, greedy, after so many updates."""

    step: int  # generations or optimiser steps; 0: the start
    spent: Spent  # on training until then
    rewards_P: tuple[float | None, ...]  # None: no score
    passed_P: tuple[float | None, ...]  # 0 or 1; None: no score or no verdict

    @property
    def reward(self) -> float:
        """Mean over the prompts that have a score; NaN without any."""
        return float(np.nanmean(as_array(self.rewards_P)))

    @property
    def pass_rate(self) -> float:
        """Share that passes; NaN where the reward has no verdict."""
        passed_P = as_array(self.passed_P)
        return float(np.nanmean(passed_P)) if np.isfinite(passed_P).any() else float("nan")


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept in a file of its own."""

    def write(self, file: Path) -> None:
        """As JSON."""
        replace_file(file, (json.dumps(asdict(self)) + "\n").encode())


@dataclass(frozen=True, slots=True)
class Trained(Record):
    """A job whose training is over."""

    steps: tuple[tuple[int, Spent], ...]  # of each evaluation
    points: tuple[Point, ...]  # es: evaluated as it went; grpo: none yet
    footprint: Footprint
    wall_s: float  # with loading, evaluation and all
    num_gpus: float

    @classmethod
    def read(cls, file: Path) -> "Trained":
        """What `write` wrote."""
        tree = json.loads(file.read_text(encoding="utf-8"))
        return cls(
            steps=tuple((step, Spent(*spent)) for step, spent in tree["steps"]),
            points=points_of(tree["points"]),
            footprint=Footprint(*tree["footprint"]),
            wall_s=tree["wall_s"],
            num_gpus=tree["num_gpus"],
        )


@dataclass(frozen=True, slots=True)
class Drift:
    """What else became of a model."""

    kl_per_token: float  # KL(base || model) on unrelated text, nats
    untouched_before: float | None  # pass rate on a task that was not trained on, else its reward
    untouched_after: float | None


@dataclass(frozen=True, slots=True)
class Result(Record):
    """A job that is done."""

    points: tuple[Point, ...]
    footprint: Footprint
    wall_s: float
    num_gpus: float
    best_step: int
    drift: Drift

    @property
    def first(self) -> Point:
        """Before training."""
        return self.points[0]

    @property
    def last(self) -> Point:
        """When the budget was spent."""
        return self.points[-1]

    @property
    def best(self) -> Point:
        """The best one after the start."""
        return next(point for point in self.points if point.step == self.best_step)

    @property
    def device_s(self) -> float:
        """GPU seconds, or without a GPU those of processor cores."""
        return self.num_gpus * self.wall_s if self.num_gpus else self.footprint.cpu_s

    @classmethod
    def read(cls, file: Path) -> "Result":
        """What `write` wrote."""
        tree = json.loads(file.read_text(encoding="utf-8"))
        return cls(
            points=points_of(tree["points"]),
            footprint=Footprint(*tree["footprint"]),
            wall_s=tree["wall_s"],
            num_gpus=tree["num_gpus"],
            best_step=tree["best_step"],
            drift=Drift(**tree["drift"]),
        )


def adapter_folder(folder: Path, step: int) -> Path:
    """Where a GRPO job's LoRA after so many steps is."""
    return folder / f"step-{step:06d}"


def best_step(points: Sequence[Point]) -> int:
    """The step after the start with the highest held-out reward, the earliest of equals."""
    later = [point for point in points if point.step > 0]
    return max(later, key=lambda point: (or_least(point.reward), -point.step)).step


def points_of(rows: Sequence[dict]) -> tuple[Point, ...]:
    """Points from their JSON."""
    return tuple(
        Point(row["step"], Spent(*row["spent"]), tuple(row["rewards_P"]), tuple(row["passed_P"]))
        for row in rows
    )


def as_array(values: Sequence[float | None]) -> np.ndarray:
    """float64, NaN for None."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def as_optional(values: np.ndarray) -> tuple[float | None, ...]:
    """None for NaN."""
    return tuple(value if np.isfinite(value) else None for value in values.tolist())


START = (0, NOTHING)
