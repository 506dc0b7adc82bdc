"""What `gpu_linear.py` prints: one row a work, its two floors beside it, and the goals.

A floor is what the work cannot be quicker than: the bytes it has to move, each once, over memory
bandwidth, and the operations it has to do over the peak of the unit that does them. Its share is
the floor over the time, so 100 % is a work that does nothing else.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from triton import knobs

from benchmarks.gpu_linear_timing import MICROSECONDS_PER_S, Peaks, Times

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

PLAIN = "plain"
LONGEST_REASON = 300  # characters of a cell
ERROR_LIMIT = 5e-3  # of bf16 results against float64, whole and row by row
INTERPRETED_ERROR_LIMIT = 1e-2  # Triton's interpreter cuts off what a GPU rounds to bf16
GOAL_WIDTH, GOAL_BATCH = 8192, 1024
# The least share of plain inference's speed, by the noise's rank and how it comes about.
GOALS = {("stored", 1): 0.97, ("made", 1): 0.95, ("stored", 4): 0.90, ("made", 4): 0.90}
# EGGROLL (arXiv 2511.16652): one linear layer of 8192, bf16, batch <= 1024, one GH200.
PUBLISHED = {"stored": 0.91, "made": 0.69}


def error_limit() -> float:
    """Where kernels run now."""
    return INTERPRETED_ERROR_LIMIT if knobs.runtime.interpret else ERROR_LIMIT


class Cost(NamedTuple):
    """What a work cannot do without."""

    bytes: int
    operations: Mapping[str, int]  # by unit of `Peaks.operations_per_s`; they may overlap

    def plus(self, other: "Cost") -> "Cost":
        """Of both works."""
        units = {**self.operations, **other.operations}
        counts = {u: self.operations.get(u, 0) + other.operations.get(u, 0) for u in units}
        return Cost(self.bytes + other.bytes, counts)


class Setting(NamedTuple):
    """What a row is about; None where it does not apply."""

    part: str
    width: int
    batch: int | None = None
    rank: int | None = None
    members: int | None = None
    order: str | None = None  # of the rows: "mixed" members or "segments" of one member each


@dataclass(frozen=True, slots=True)
class Row:
    """One work in one setting; without a time `note` says why."""

    part: str
    width: int
    batch: int | None
    rank: int | None
    members: int | None
    order: str | None
    variant: str
    median_us: float | None = None
    low_us: float | None = None
    high_us: float | None = None
    ratio: float | None = None  # the plain work over this one, median of the rounds' ratios
    ratio_low: float | None = None
    ratio_high: float | None = None
    added_us: float | None = None  # to the plain work, median of the rounds' differences
    values_per_s: float | None = None  # of noise
    bytes_floor_us: float | None = None
    bytes_share: float | None = None
    operations_floor_us: float | None = None
    operations_share: float | None = None
    error: float | None = None  # relative to float64, the whole result
    worst_row_error: float | None = None
    has_failed: bool = False
    note: str = ""


class Errors(NamedTuple):
    """How far a result is from float64."""

    whole: float
    worst_row: float


def missing_row(setting: Setting, variant: str, note: str, *, has_failed: bool = False) -> Row:
    """A work that was not timed."""
    return Row(*setting, variant, has_failed=has_failed, note=note)


def timed_row(
    setting: Setting,
    variant: str,
    cost: Cost,
    peaks: Peaks,
    *,
    times: Times,
    plain: Times | None = None,
    errors: Errors | None = None,
    num_values: int | None = None,
    note: str = "",
) -> Row:
    """A work that was timed, and what follows from its times; `num_values` is of noise made."""
    ratios = [] if plain is None else times.ratios(plain)
    differences = [] if plain is None else times.differences(plain)
    bytes_floor = MICROSECONDS_PER_S * cost.bytes / peaks.bytes_per_s
    operations_floor = operations_floor_us(cost, peaks)
    return Row(
        *setting,
        variant,
        median_us=times.median,
        low_us=min(times.rounds),
        high_us=max(times.rounds),
        ratio=statistics.median(ratios) if ratios else None,
        ratio_low=min(ratios, default=None),
        ratio_high=max(ratios, default=None),
        added_us=statistics.median(differences) if differences else None,
        values_per_s=None if num_values is None else MICROSECONDS_PER_S * num_values / times.median,
        bytes_floor_us=bytes_floor,
        bytes_share=bytes_floor / times.median,
        operations_floor_us=operations_floor,
        operations_share=None if operations_floor is None else operations_floor / times.median,
        error=None if errors is None else errors.whole,
        worst_row_error=None if errors is None else errors.worst_row,
        note=note,
    )


def operations_floor_us(cost: Cost, peaks: Peaks) -> float | None:
    """Of the slowest unit, since units work side by side; None without a known peak."""
    known = [
        count / peaks.operations_per_s[unit]
        for unit, count in cost.operations.items()
        if peaks.operations_per_s[unit] > 0
    ]
    return MICROSECONDS_PER_S * max(known) if known else None


COLUMNS = (
    *("part", "width", "batch", "rank", "members", "order", "work", "us", "range"),
    *("of plain", "range", "added us", "values/s", "bytes us", "share"),
    *("operations us", "share", "error", "worst row", "note"),
)


def head(columns: Sequence[str]) -> str:
    """The first two lines of a Markdown table."""
    return f"{line(columns)}\n{'|---' * len(columns)}|"


def line(cells: Sequence[str]) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def table_line(row: Row) -> str:
    """One line of the Markdown table."""
    settings = (row.part, row.width, row.batch, row.rank, row.members, row.order, row.variant)
    cells = [
        *("" if value is None else str(value) for value in settings),
        figure(row.median_us, ".1f"),
        span(row.low_us, row.high_us, ".1f"),
        figure(row.ratio, ".3f"),
        span(row.ratio_low, row.ratio_high, ".2f"),
        figure(row.added_us, "+.1f"),
        figure(row.values_per_s, ".2e"),
        figure(row.bytes_floor_us, ".1f"),
        figure(row.bytes_share, ".0%"),
        figure(row.operations_floor_us, ".1f"),
        figure(row.operations_share, ".0%"),
        figure(row.error, ".1e"),
        figure(row.worst_row_error, ".1e"),
        row.note,
    ]
    return line(cells)


def goal_lines(rows: Sequence[Row]) -> list[str]:
    """Whether the goals were reached, a line a row that has one; what the paper has beside it."""
    lines = []
    for row in rows:
        kind = row.variant.partition(" ")[0]
        goal = GOALS.get((kind, row.rank or 0))
        place = (row.part, row.width, row.batch)
        if goal is None or row.ratio is None or place != ("bf16", GOAL_WIDTH, GOAL_BATCH):
            continue
        word = "reached" if row.ratio >= goal else "missed"
        published = f", published {PUBLISHED[kind]:.2f}" if row.rank == 1 else ""
        lines.append(
            f"{word}: {row.variant}, rank {row.rank}, {row.members} members {row.order}: "
            f"{row.ratio:.3f} of plain (goal {goal:.2f}{published}), {row.added_us:+.1f} us, "
            f"worst row's error {row.worst_row_error:.1e}"
        )
    return lines or [f"no goal was measured: goals are of width {GOAL_WIDTH}, batch {GOAL_BATCH}"]


def told(error: Exception) -> str:
    """What a work raised, for a cell of the table."""
    words = " ".join(f"{type(error).__name__}: {error}".split())
    return words.replace("|", "/")[:LONGEST_REASON]


def figure(value: float | None, form: str) -> str:
    """Nothing for what there is not."""
    return "" if value is None else format(value, form)


def span(low: float | None, high: float | None, form: str) -> str:
    """Nothing for what there is not."""
    return "" if low is None or high is None else f"{low:{form}} to {high:{form}}"


def write(report: "DataclassInstance", path: Path | None) -> None:
    """The report so far, over what was there."""
    if path is not None:
        path.write_text(to_json(report) + "\n", encoding="utf-8")


def to_json(report: "DataclassInstance") -> str:
    """The whole report as one object."""
    return json.dumps(asdict(report), allow_nan=False)
