"""Schedules of sigma and of the learning rate: a factor for each generation, known beforehand.

The factor goes from 1 in the first generation to `final` in the last one, as transformers'
schedulers go from their learning rate to `min_lr_rate` of it (`cosine_with_min_lr`), on a grid that
is this one run's length:

    progress t  = generation / (generations - 1), at most 1
    linear      = 1 + (final - 1) t
    cosine      = final + (1 - final) (1 + cos(pi t)) / 2
    exponential = final^t

A factor depends on configuration and generation alone, so a resumed or replayed run has the same.
Left out: warm-up, which a strategy without a gradient's early surge does not need, and restarts.
"""

import math
from collections.abc import Callable

from es_align.config_search import Schedule, StrategyConfig

# The last bit of cos and pow differs between C libraries; nine digits are the same with all of
# them, so a ledger replays on any machine.
SIGNIFICANT_DIGITS = 9


def schedule_factor(schedule: Schedule, final: float, generation: int, generations: int) -> float:
    """What the start value is multiplied by in a generation, counted from 0.

    Exactly 1 in the first generation and `final` (above 0) in the last of `generations` and after;
    a run of one generation is all start.
    """
    if generation <= 0 or generations <= 1:
        return 1.0
    if generation >= generations - 1:
        return 1.0 if schedule == "constant" else final
    factor = SCHEDULES[schedule](final, generation / (generations - 1))
    return float(f"{factor:.{SIGNIFICANT_DIGITS}g}")


def sigma_at(config: StrategyConfig, generation: int, generations: int) -> float:
    """Sigma of the schedule in a generation of a run of so many."""
    return config.sigma * schedule_factor(
        config.sigma_schedule, config.sigma_final, generation, generations
    )


def learning_rate_at(config: StrategyConfig, generation: int, generations: int) -> float:
    """The schedule's learning rate in a generation of a run of so many."""
    return config.learning_rate * schedule_factor(
        config.learning_rate_schedule, config.learning_rate_final, generation, generations
    )


def _constant(final: float, progress: float) -> float:
    return 1.0


def _linear(final: float, progress: float) -> float:
    return 1.0 + (final - 1.0) * progress


def _cosine(final: float, progress: float) -> float:
    return final + (1.0 - final) * (1.0 + math.cos(math.pi * progress)) / 2.0


def _exponential(final: float, progress: float) -> float:
    return final**progress


SCHEDULES: dict[Schedule, Callable[[float, float], float]] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "exponential": _exponential,
}
"""By name: from (final, progress in 0 to 1) to the factor."""
