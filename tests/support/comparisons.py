"""A comparison of two tiny arms, and results of jobs with known scores."""

from es_align.budget import NOTHING, Spent
from es_align.compare.config import CompareConfig
from es_align.compare.records import Drift, Machine, Point, Result, best_step
from es_align.config_loading import validated
from workers.footprint import Footprint

GIB = 2**30


def comparison(**changes) -> CompareConfig:
    tree = {
        "shared": {
            "model": "tiny",
            "max_new_tokens": 4,
            "task": {"name": "instructions", "num_train": 16, "num_heldout": 4},
            "workers": {"engine": "torch", "cpus": 1, "max_model_len": 256},
        },
        "budget": {"completions": 16},
        "arms": {
            "es": {
                "kind": "es",
                "settings": {"precision": "fp32", "population": 4, "prompts_per_generation": 2},
            },
            "grpo": {
                "kind": "grpo",
                "settings": {"num_generations": 4, "prompts_per_step": 2, "lora_r": 2},
            },
        },
    }
    return validated(CompareConfig, tree | changes, "comparison")


def point(step: int, passed: list[float], seconds: float = 0.0) -> Point:
    spent = Spent(seconds, 8 * step, 100 * step) if step else NOTHING
    return Point(step, spent, tuple(value / 2 for value in passed), tuple(passed))


def result(*passed: list[float], seconds: float = 60.0, peak: int = 3, kl: float = 0.1) -> Result:
    points = tuple(point(step, rates, seconds * step) for step, rates in enumerate(passed))
    return Result(
        points=points,
        footprint=Footprint(peak * GIB, GIB, 42.0, 0),
        wall_s=500.0,
        machine=Machine("2026-11-30", "a machine", {"trl": "1.16.0"}, 2.0),
        best_step=best_step(points, "pass_rate"),
        drift=Drift(kl, 0.25, 0.5),
    )
