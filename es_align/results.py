"""What the public functions return; the command line prints these as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # scoring responses does without torch and Ray
    from es_align.evaluation import Evaluation

FLAT = "is_flat"  # metadata of a field whose entries stand beside the other fields


@dataclass(frozen=True, slots=True)
class Scored:
    """A model on the held-out prompts, greedy."""

    reward: float  # mean over prompts
    pass_rate: float  # share that passes strictly, 0 to 1
    n: int
    metrics: Mapping[str, float]  # e.g. {"strict": 0.12, "flexible": 0.2}


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run came to."""

    run_dir: str
    generations: int
    baseline: Scored
    final: Scored
    best: Scored
    best_generation: int
    gain: float  # final less baseline, reward
    gain_ci95: tuple[float, float]
    pass_rate_gain: float
    pass_rate_gain_ci95: tuple[float, float]
    noise_floor_std: float | None  # spread of fitness over copies of the unperturbed model
    population_std: float  # spread of fitness over members, mean over generations
    wall_s: float  # of the whole run, all resumes together
    driver_share: float  # of this call's loop, spent outside the workers, 0 to 1
    completions: int
    failed: int  # completions without a score
    tokens: int  # generated
    peak_rss_bytes: int  # driver and workers together
    imports_rss_bytes: int  # of that, what they hold once everything is imported and nothing loaded
    cpu_s: float  # of driver and workers, in this call
    peak_gpu_bytes: int  # that the workers held of GPUs
    exported: str


@dataclass(frozen=True, slots=True)
class EvalResult:
    """A model, an adapter or a run on a task's held-out prompts."""

    target: str
    task: str
    precision: str
    generation: int | None  # of a run; None for a model or an adapter
    temperature: float  # 0: greedy
    samples: int  # completions of each prompt; means below are over these too (mean@n)
    reward: float
    pass_rate: float
    pass_rate_ci95: tuple[float, float]
    n: int  # prompts
    figures: Mapping[str, float] = field(metadata={FLAT: True})  # as `es-align score` has them
    intervals: Mapping[str, tuple[float, float]]  # 95 %, of the figures that count prompts
    pass_at: Mapping[str, float]  # "pass@4": a prompt passes if one of 4 samples does
    metrics: Mapping[str, float]
    reasons: Mapping[str, int]
    wall_s: float
    tokens: int


def scored(evaluation: "Evaluation") -> Scored:
    """The public form of an evaluation."""
    return Scored(
        evaluation.reward, evaluation.pass_rate, evaluation.num_prompts, evaluation.metrics
    )
