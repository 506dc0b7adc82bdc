"""Held-out score of every arm against seconds, completions and tokens, and what memory it took.

One colour an arm (Okabe and Ito 2008), GRPO dashed; seeds are averaged, the band is 95 %.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from es_align.compare.config import HeldoutScore
from es_align.compare.curves import Axis, band
from es_align.compare.jobs import Job
from es_align.compare.records import Result
from es_align.report.plots import (
    BLUE,
    DPI,
    GREEN,
    GREY,
    ORANGE,
    SECONDS_PER_MINUTE,
    SKY,
    STYLE,
)

COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", SKY, "#000000")
LEGEND_COLUMNS = 3  # above the panels, where it hides no curve
GIB = 2**30


class Line(NamedTuple):
    """The results of one arm and one choice of its swept settings."""

    label: str
    kind: str
    results: list[Result]


def write_plots(done: Sequence[tuple[Job, Result]], folder: Path, score: HeldoutScore) -> Path:
    """Draw comparison.png into a folder; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = _lines(done)
    file = folder / "comparison.png"
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 8), layout="constrained")
        (time, completions), (tokens, memory) = figure.subplots(2, 2)
        _curves(time, lines, score, lambda point: point.spent.seconds / SECONDS_PER_MINUTE)
        time.set_xlabel("training (minutes)")
        _curves(completions, lines, score, lambda point: point.spent.completions, is_log=True)
        completions.set_xlabel("completions")
        _curves(tokens, lines, score, lambda point: point.spent.tokens, is_log=True)
        tokens.set_xlabel("generated tokens")
        arms = time.get_legend_handles_labels()
        figure.legend(*arms, loc="outside upper center", ncols=LEGEND_COLUMNS)
        _memory(memory, lines)
        figure.savefig(file, dpi=DPI)
    return file


def _lines(done: Sequence[tuple[Job, Result]]) -> list[Line]:
    found: dict[str, Line] = {}
    for job, result in done:
        found.setdefault(job.label, Line(job.label, job.kind, [])).results.append(result)
    return list(found.values())


def _curves(
    axes: Axes, lines: Sequence[Line], score: HeldoutScore, axis: Axis, *, is_log: bool = False
) -> None:
    """One panel; logarithmic, without the start, for what methods need in numbers far apart."""
    is_rate = score == "pass_rate"
    scale, lowest = 100 if is_rate else 1, 0.0
    for number, line in enumerate(lines):
        colour, dashes = _look(number, line)
        drawn = band(line.results, axis, score)
        x_X, mean_X, low_X, high_X = (values_X[is_log:] for values_X in drawn)
        axes.fill_between(x_X, scale * low_X, scale * high_X, color=colour, alpha=0.15, linewidth=0)
        axes.plot(x_X, scale * mean_X, color=colour, linestyle=dashes, label=line.label)
        lowest = np.nanmin([lowest, *low_X])
    axes.set_ylabel(f"held-out {score.replace('_', ' ')}{' (%)' if is_rate else ''}")
    axes.set_ylim(bottom=0 if lowest >= 0 else None)
    if is_log:
        axes.set_xscale("log")
    else:
        axes.set_xlim(left=0)


def _memory(axes: Axes, lines: Sequence[Line]) -> None:
    """Peak resident memory; the part that imports alone take is grey."""
    for number, line in enumerate(lines):
        colour, _ = _look(number, line)
        peak = float(np.mean([result.footprint.peak_rss_bytes for result in line.results])) / GIB
        imports = np.mean([result.footprint.imports_rss_bytes for result in line.results]) / GIB
        axes.barh(number, imports, color=GREY, alpha=0.5)
        axes.barh(number, peak - imports, left=imports, color=colour)
        axes.text(peak, number, f" {peak:.1f}", va="center")
    axes.set_yticks(range(len(lines)), [line.label.replace(" ", "\n", 1) for line in lines])
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel("peak memory (GiB), of it imports in grey")


def _look(number: int, line: Line) -> tuple[str, str]:
    return COLOURS[number % len(COLOURS)], "--" if line.kind == "grpo" else "-"
