"""What a job leaves: the curve of its held-out evaluations and what it took, as JSON."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from es_align.budget import NOTHING, Spent
from es_align.compare.config import HeldoutScore
from es_align.errors import RunFolderError
from es_align.evaluation import Evaluation, or_least
from es_align.sealed import replace_file
from workers.footprint import Footprint


@dataclass(frozen=True, slots=True)
class Point:
    """The model on the held-out prompts, greedy, after so many updates."""

    step: int  # generations or optimiser steps; 0: the start
    spent: Spent  # on training until then
    rewards_P: tuple[float | None, ...]  # None: no score
    passed_P: tuple[float | None, ...]  # 0 or 1; None: no score or no verdict
    metrics: Mapping[str, float] = field(default_factory=dict)  # means, such as of "flexible"
    reasons: Mapping[str, int] = field(default_factory=dict)  # how many prompts ended how

    @classmethod
    def of(cls, evaluation: Evaluation, step: int, spent: Spent) -> "Point":
        """What an evaluation found."""
        return cls(
            step,
            spent,
            as_optional(evaluation.rewards_P),
            as_optional(evaluation.passed_P),
            evaluation.metrics,
            evaluation.reasons,
        )

    @property
    def reward(self) -> float:
        """Mean over the prompts that have a score; NaN without any."""
        return self.mean("reward")

    @property
    def pass_rate(self) -> float:
        """Share that passes; NaN where the reward has no verdict."""
        return self.mean("pass_rate")

    @property
    def num_unscored(self) -> int:
        """Prompts without a score."""
        return self.rewards_P.count(None)

    def scores(self, score: HeldoutScore) -> np.ndarray:
        """Of each prompt, the reward, or passed or not, float64 (P,); NaN: no such score."""
        return as_array(self.passed_P if score == "pass_rate" else self.rewards_P)

    def mean(self, score: HeldoutScore) -> float:
        """Over the prompts that have a score; NaN without any."""
        scores_P = self.scores(score)
        return float(np.nanmean(scores_P)) if np.isfinite(scores_P).any() else float("nan")


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept in a file of its own."""

    def write(self, file: Path) -> None:
        """As JSON."""
        replace_file(file, (json.dumps(asdict(self)) + "\n").encode())


@dataclass(frozen=True, slots=True)
class Machine:
    """What a job trained with, and when."""

    date: str
    hardware: str  # of the machine it was started on
    versions: Mapping[str, str]  # of the packages that decide its numbers
    num_devices: float  # GPUs that it asked for, or without one processor cores


@dataclass(frozen=True, slots=True)
class Trained(Record):
    """A job whose training is over."""

    steps: tuple[tuple[int, Spent], ...]  # of each evaluation
    points: tuple[Point, ...]  # es: evaluated as it went; grpo: none yet
    footprint: Footprint
    wall_s: float  # with loading, evaluation and all
    machine: Machine

    @classmethod
    def read(cls, file: Path) -> "Trained":
        """What `write` wrote; raises RunFolderError if an older release did."""
        tree = _tree(file)
        return cls(
            steps=tuple((step, Spent(*spent)) for step, spent in tree["steps"]),
            points=points_of(tree["points"]),
            footprint=Footprint(*tree["footprint"]),
            wall_s=tree["wall_s"],
            machine=Machine(**tree["machine"]),
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
    machine: Machine
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
        """Seconds of training times the GPUs, or without one the cores, that it asked for."""
        return self.machine.num_devices * self.last.spent.seconds

    @classmethod
    def read(cls, file: Path) -> "Result":
        """What `write` wrote; raises RunFolderError if an older release did."""
        tree = _tree(file)
        return cls(
            points=points_of(tree["points"]),
            footprint=Footprint(*tree["footprint"]),
            wall_s=tree["wall_s"],
            machine=Machine(**tree["machine"]),
            best_step=tree["best_step"],
            drift=Drift(**tree["drift"]),
        )


def adapter_folder(folder: Path, step: int) -> Path:
    """Where a GRPO job's LoRA after so many steps is."""
    return folder / f"step-{step:06d}"


def best_step(points: Sequence[Point], score: HeldoutScore) -> int:
    """The step after the start with the highest held-out score, of equals the one with the higher
    reward, then the earliest.
    """
    later = [point for point in points if point.step > 0]
    return max(later, key=lambda point: (*rank(point, score), -point.step)).step


def known_score(points: Iterable[Point], score: HeldoutScore) -> HeldoutScore:
    """The score that is asked for, or the reward where none of the points has a verdict."""
    return score if any(np.isfinite(point.pass_rate) for point in points) else "reward"


def rank(point: Point, score: HeldoutScore) -> tuple[float, float]:
    """What points are ordered by; without a score a point is the last."""
    return or_least(point.mean(score)), or_least(point.reward)


def points_of(rows: Sequence[dict]) -> tuple[Point, ...]:
    """Points from their JSON."""
    return tuple(
        Point(
            row["step"],
            Spent(*row["spent"]),
            tuple(row["rewards_P"]),
            tuple(row["passed_P"]),
            row.get("metrics", {}),  # none in older records
            row.get("reasons", {}),
        )
        for row in rows
    )


def _tree(file: Path) -> dict:
    tree = json.loads(file.read_text(encoding="utf-8"))
    if "machine" not in tree:
        raise RunFolderError(
            f"{file} was written by an older release of es-align, whose figures mean something "
            "else; name another --out"
        )
    return tree


def as_array(values: Sequence[float | None]) -> np.ndarray:
    """float64, NaN for None."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def as_optional(values: np.ndarray) -> tuple[float | None, ...]:
    """None for NaN."""
    return tuple(value if np.isfinite(value) else None for value in values.tolist())


START = (0, NOTHING)
