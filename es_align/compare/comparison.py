"""What a comparison came to.

Per job the scores before, at the end and at the best evaluation, what it took, and its drift at the
best. Per arm and swept choice their means over seeds. Of each ES arm against each GRPO arm the
differences of final and best scores, with a bootstrap interval over seeds and held-out prompts; an
arm with a sweep is represented by the choice with the best evaluation, in its final score as well.
Best is the maximum over an arm's evaluations, which flatters an arm the more, the more of them it
has: their number is told. A bootstrap over three seeds is too narrow for what other seeds would do:
each seed's difference is told beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from es_align.compare.config import HeldoutScore
from es_align.compare.records import Drift, Machine


@dataclass(frozen=True, slots=True)
class Score:
    """On the held-out prompts, greedy."""

    step: int
    reward: float
    pass_rate: float
    seconds: float  # of training until then
    completions: int
    tokens: int
    num_unscored: int  # prompts without a score, left out of both
    metrics: Mapping[str, float]  # means of what else the reward tells
    reasons: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class JobReport:
    """One arm with one seed."""

    name: str
    label: str
    arm: str
    kind: str
    seed: int
    choice: Mapping[str, object]
    before: Score
    final: Score
    best: Score
    gain: float  # best less before
    gain_ci95: tuple[float, float]
    completions: int
    tokens: int
    train_s: float
    wall_s: float
    device_s: float  # of training, times GPUs or else cores held
    budget_share: float  # of what it might spend; below 1 it ended by itself
    num_updates: int
    num_evaluations: int  # after the start: what best is the best of
    peak_rss_bytes: int
    imports_rss_bytes: int
    beyond_imports_bytes: int
    peak_gpu_bytes: int  # that torch reserved, with the engine's cache
    drift: Drift
    machine: Machine
    curve: tuple[Score, ...]


@dataclass(frozen=True, slots=True)
class SeedsReport:
    """One arm and swept choice over its seeds."""

    label: str
    arm: str
    num_seeds: int
    final: float  # of the score, means over seeds
    final_range: tuple[float, float]  # lowest and highest seed
    best: float
    best_range: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Difference:
    """An ES arm less a GRPO arm, over the seeds that both have. With one seed an interval covers
    the choice of prompts alone.
    """

    es: str
    grpo: str
    best: float  # of the scores, means over seeds
    best_ci95: tuple[float, float]
    best_by_seed: Mapping[int, float]
    final: float
    final_ci95: tuple[float, float]
    memory_ratio: float  # of peak memory beyond imports
    num_seeds: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """All of it."""

    config: Mapping[str, object]
    score: HeldoutScore
    num_left: int  # jobs still to come, or to be tried again
    failed: Mapping[str, str]  # why, by the job's name
    arms: tuple[JobReport, ...]
    over_seeds: tuple[SeedsReport, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]  # what a reader must know beside them
