"""Reward and held-out score over generations and over time, as PNG files.

Upper panel: training reward of the population, its spread and its best member, and the held-out
reward on the same scale. Lower panel: the strict pass rate on held-out prompts, 95 % interval.
Colours are Okabe and Ito's (2008), told apart by colour-blind readers; lines also differ in marker
or dashes. Figures are made without pyplot: no global state, no display.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from es_align.report.metrics import column, read_metrics

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

BLUE, SKY, ORANGE, GREEN, GREY = "#0072B2", "#56B4E9", "#D55E00", "#009E73", "#4D4D4D"
SECONDS_PER_MINUTE = 60
DPI = 160

STYLE: "dict[RcKeyType, Any]" = {
    "font.size": 10.5,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.8,
}


def write_plots(metrics: Path, folder: Path, *, title: str) -> tuple[Path, Path]:
    """Draw reward_over_generations.png and reward_over_time.png into `folder`; returns their paths.

    Raises RunFolderError if the metrics file is missing or damaged.
    """
    rows = read_metrics(metrics)
    folder.mkdir(parents=True, exist_ok=True)
    over_generations = folder / "reward_over_generations.png"
    over_time = folder / "reward_over_time.png"
    minutes = [
        {**row, "minutes": row["wall_s"] / SECONDS_PER_MINUTE} for row in rows if "wall_s" in row
    ]
    with matplotlib.rc_context(STYLE):
        _draw(rows, "generation", "generations", title).savefig(over_generations, dpi=DPI)
        _draw(minutes, "minutes", "wall-clock time (minutes)", title).savefig(over_time, dpi=DPI)
    return over_generations, over_time


def _draw(rows: Sequence[Mapping[str, float]], x: str, label: str, title: str) -> Figure:
    figure = Figure(figsize=(7.2, 6.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    _draw_reward(upper, rows, x)
    _draw_pass_rate(lower, rows, x)
    upper.set_title(title)
    lower.set_xlabel(label)
    lower.xaxis.set_major_locator(MaxNLocator(integer=x == "generation", steps=[1, 2, 5, 10]))
    figure.align_ylabels()
    return figure


def _draw_reward(axes: Axes, rows: Sequence[Mapping[str, float]], x: str) -> None:
    mean, spread = column(rows, x, ["reward/mean", "reward/std"])
    (best,) = column(rows, x, ["reward/best"])
    (heldout,) = column(rows, x, ["eval/reward"])
    axes.fill_between(
        mean.x, mean.y - spread.y, mean.y + spread.y, color=SKY, alpha=0.25, linewidth=0
    )
    axes.plot(best.x, best.y, color=GREEN, linestyle=":", label="training, best member")
    axes.plot(mean.x, mean.y, color=BLUE, label="training, population mean ± std")
    axes.plot(heldout.x, heldout.y, color=ORANGE, marker="o", markersize=5, label="held out, mean")
    axes.set_ylabel("reward per completion")
    axes.legend(loc="best")


def _draw_pass_rate(axes: Axes, rows: Sequence[Mapping[str, float]], x: str) -> None:
    (rate,) = column(rows, x, ["eval/pass_rate"])
    at_bounds, low, high = column(
        rows, x, ["eval/pass_rate", "eval/pass_rate_low", "eval/pass_rate_high"]
    )
    if at_bounds.x.size:
        below, above = at_bounds.y - low.y, high.y - at_bounds.y
        axes.errorbar(
            at_bounds.x,
            100 * at_bounds.y,
            yerr=100 * np.stack([below, above]).clip(min=0),
            fmt="none",
            ecolor=ORANGE,
            elinewidth=1.1,
            capsize=3,
            label="95 % interval",
        )
    # Not clipped: a marker at 0 % would be cut in half.
    axes.plot(
        rate.x,
        100 * rate.y,
        color=ORANGE,
        marker="o",
        markersize=5,
        clip_on=False,
        label="held out, strict",
    )
    axes.set_ylabel("pass rate (%)")
    axes.set_ylim(bottom=0)
    if rate.x.size:
        axes.legend(loc="best")
