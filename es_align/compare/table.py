"""A comparison as a table in Markdown, with a line for each arm's seeds and each difference."""

from es_align.compare.comparison import Comparison, JobReport, Score
from es_align.compare.config import HeldoutScore
from es_align.compare.plots import GIB


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
    score = comparison.score
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
        f"it; {_seeds(d.num_seeds)}."
        for d in comparison.differences
    ]
    failed = [f"Failed: {reason}" for reason in comparison.failed.values()]
    num_left = comparison.num_left - len(failed)
    left = [f"{num_left} job(s) are still to come."] if num_left else []
    return "\n".join([*lines, "", *seeds, *differences, *failed, *left, ""])


def told(value: float, score: HeldoutScore) -> str:
    """A score to people: pass rates in percent, rewards as they are."""
    return f"{100 * value:.1f} %" if score == "pass_rate" else f"{value:.3f}"


def _range(bounds: tuple[float, float], score: HeldoutScore) -> str:
    return " to ".join(told(bound, score) for bound in bounds)


def _change(value: float, bounds: tuple[float, float], score: HeldoutScore) -> str:
    """A difference with its interval: of pass rates in points."""
    if score == "pass_rate":
        return f"{100 * value:+.1f} points [{100 * bounds[0]:+.1f}, {100 * bounds[1]:+.1f}]"
    return f"{value:+.3f} [{bounds[0]:+.3f}, {bounds[1]:+.3f}]"


def _seeds(num_seeds: int) -> str:
    return "over prompts, 1 seed" if num_seeds == 1 else f"over prompts and {num_seeds} seeds"


def _row(job: JobReport, score: HeldoutScore) -> tuple[str, ...]:
    drift = job.drift
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
    )


def _headline(found: Score, score: HeldoutScore) -> float:
    return found.pass_rate if score == "pass_rate" else found.reward
