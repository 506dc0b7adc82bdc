"""The table at the end of a run: what was gained, how sure that is, what it cost, where it lies."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The model on the held-out prompts, greedy."""

    reward: float  # mean over prompts
    pass_rate: float  # share that passes strictly, 0 to 1
    num_prompts: int
    metrics: Mapping[str, float]  # further means from 0 to 1, e.g. {"strict": 0.1, "flexible": 0.2}


@dataclass(frozen=True, slots=True)
class Gain:
    """Final less baseline on the same prompts, with its paired bootstrap interval."""

    metric: Literal["reward", "pass rate"]
    value: float
    low: float  # 95 % interval
    high: float

    def __str__(self) -> str:
        if self.metric == "pass rate":
            points = [100 * x for x in (self.value, self.low, self.high)]
            return "{:+.1f} points  [{:+.1f}, {:+.1f}]".format(*points)
        return f"{self.value:+.3f}  [{self.low:+.3f}, {self.high:+.3f}]"


@dataclass(frozen=True, slots=True)
class Summary:
    """A finished run."""

    baseline: HeldOut
    final: HeldOut
    best: HeldOut
    best_generation: int  # generations done when it was evaluated; 0: the baseline
    gains: tuple[Gain, ...]
    noise_floor_std: float | None  # spread of the unperturbed model; None: not measured
    population_std: float  # spread of fitness over the members, mean over generations
    generations: int
    num_completions: int
    num_failed: int
    num_tokens: int  # generated
    wall_s: float
    peak_rss_bytes: int
    files: Mapping[str, Path]  # what lies where: {"adapter": ..., "plots": ...}


def summary_table(summary: Summary) -> RenderableType:
    """The summary as rich renders it: scores, then costs and files."""
    scores = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    scores.add_column(f"held out, n={summary.final.num_prompts}", no_wrap=True)
    scores.add_column("reward", justify="right")
    scores.add_column("pass rate", justify="right")
    names = sorted(summary.final.metrics)
    for name in names:
        scores.add_column(name, justify="right")
    for name, score in (
        ("baseline", summary.baseline),
        ("final", summary.final),
        (f"best, gen {summary.best_generation}", summary.best),
    ):
        shares = [score.pass_rate, *(score.metrics.get(metric, math.nan) for metric in names)]
        scores.add_row(name, f"{score.reward:.3f}", *map(_percent, shares))
    facts = Table(box=None, show_header=False)
    facts.add_column()
    facts.add_column(overflow="fold")
    for name, value in _facts(summary):
        facts.add_row(name, Text(value))
    return Group(scores, facts)


def _facts(summary: Summary) -> list[tuple[str, str]]:
    floor = summary.noise_floor_std
    return [
        *((f"gain in {gain.metric}, 95 % interval", str(gain)) for gain in summary.gains),
        (
            "spread of fitness",
            f"population {summary.population_std:.4f}, noise floor "
            + ("not measured" if floor is None else f"{floor:.4f}"),
        ),
        (
            "completions",
            f"{summary.num_completions:,} in {summary.generations:,} generations, "
            f"{summary.num_failed:,} without a score",
        ),
        ("tokens generated", f"{summary.num_tokens:,}"),
        ("wall time", duration(summary.wall_s)),
        ("peak memory", f"{summary.peak_rss_bytes / 2**30:.2f} GiB"),
        *((name, str(path)) for name, path in summary.files.items()),
    ]


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f} %"


def amount(number: float) -> str:
    """A count to three digits: 940, 5.2k, 1.3M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 41.3 s, 12 min 05 s, 3 h 07 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
