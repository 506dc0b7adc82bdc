"""A comparison as a table in Markdown, with a line for each arm's seeds, each difference and what
else a reader must know.
"""

from collections.abc import Mapping
from math import isnan

from es_align.compare.comparison import Comparison, Difference, JobReport, Score
from es_align.compare.config import HeldoutScore
from es_align.compare.plots import GIB

TOLD: Mapping[HeldoutScore, str] = {"pass_rate": "pass rate", "reward": "reward"}
OTHER: Mapping[HeldoutScore, HeldoutScore] = {"pass_rate": "reward", "reward": "pass_rate"}


def table(comparison: Comparison) -> str:
    """In Markdown."""
    head = (
        "arm",
        "seed",
        "before",
        "final",
        "best",
        "gain",
        "updates",
        "evaluations",
        "completions",
        "tokens",
        "training, min",
        "device, min",
        "peak memory, GiB",
        "beyond imports, GiB",
        "KL, nats a token",
        "untouched",
    )
    score, other = comparison.score, OTHER[comparison.score]
    head = (*head, f"{TOLD[other]} at best")
    rows = [head, tuple("---" for _ in head), *(_row(job, score) for job in comparison.arms)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    seeds = [
        f"{s.label}, {s.num_seeds} seeds: final {told(s.final, score)} "
        f"({_range(s.final_range, score)}), best {told(s.best, score)} "
        f"({_range(s.best_range, score)})."
        for s in comparison.over_seeds
        if s.num_seeds > 1
    ]
    differences = [
        f"{d.es} less {d.grpo}: best {_change(d.best, d.best_ci95, score)}, final "
        f"{_change(d.final, d.final_ci95, score)}, memory beyond imports {d.memory_ratio:.2f} of "
        f"it; {_seeds(d, score)}."
        for d in comparison.differences
    ]
    failed = [f"Failed: {reason}" for reason in comparison.failed.values()]
    num_left = comparison.num_left - len(failed)
    left = [f"{num_left} job(s) are still to come."] if num_left else []
    by = f"Before, final and best are held-out {TOLD[score]}s; settings were chosen by best."
    told_below = [by, *seeds, *differences, *comparison.notes, *failed, *left]
    return "\n".join([*lines, "", *told_below, ""])


def told(value: float, score: HeldoutScore) -> str:
    """A score to people: pass rates in percent, rewards as they are."""
    return f"{100 * value:.1f} %" if score == "pass_rate" else f"{value:.3f}"


def _range(bounds: tuple[float, float], score: HeldoutScore) -> str:
    return " to ".join(told(bound, score) for bound in bounds)


def _change(value: float, bounds: tuple[float, float], score: HeldoutScore) -> str:
    """A difference with its interval: of pass rates in points."""
    low, high = (_signed(bound, score) for bound in bounds)
    unit = " points" if score == "pass_rate" else ""
    return f"{_signed(value, score)}{unit} [{low}, {high}]"


def _seeds(difference: Difference, score: HeldoutScore) -> str:
    """Over what an interval goes, and the seeds one by one, of which three say little."""
    if difference.num_seeds == 1:
        return "over prompts, 1 seed"
    each = ", ".join(_signed(value, score) for value in difference.best_by_seed.values())
    return f"over prompts and {difference.num_seeds} seeds, best seed by seed {each}"


def _signed(value: float, score: HeldoutScore) -> str:
    return f"{100 * value:+.1f}" if score == "pass_rate" else f"{value:+.3f}"


def _row(job: JobReport, score: HeldoutScore) -> tuple[str, ...]:
    drift, other = job.drift, _headline(job.best, OTHER[score])
    before, after = drift.untouched_before, drift.untouched_after
    return (
        job.label,
        str(job.seed),
        *(told(_headline(at, score), score) for at in (job.before, job.final, job.best)),
        _change(job.gain, job.gain_ci95, score),
        f"{job.num_updates:,}",
        f"{job.num_evaluations:,}",
        f"{job.completions:,}",
        f"{job.tokens:,}",
        f"{job.train_s / 60:.1f}",
        f"{job.device_s / 60:.1f}",
        f"{job.peak_rss_bytes / GIB:.2f}",
        f"{job.beyond_imports_bytes / GIB:.2f}",
        f"{drift.kl_per_token:.3f}",
        "" if before is None or after is None else f"{100 * before:.1f} to {100 * after:.1f} %",
        "" if isnan(other) else told(other, OTHER[score]),
    )


def _headline(found: Score, score: HeldoutScore) -> float:
    return found.pass_rate if score == "pass_rate" else found.reward
