"""Tokens per second against members: population, unmodified vLLM and its multi-LoRA, in one figure.

    python benchmarks/population_sweep.py --precisions bf16 int8 int4 --out docs/population_sweep

Writes OUT.json, OUT.png, and after every point what is known so far; with --add to what OUT.json
already holds. Each precision and space has
one process an arm, alive over all member counts: the population engine has room for the largest
count from the start. Multi-LoRA is measured up to --stock-members: it is slow, and a slot for each
adapter takes memory.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from es_align.bench.arms import open_arms
from es_align.bench.hardware import find_hardware
from es_align.bench.population import measure
from es_align.bench.settings import BenchSettings, check_settings
from es_align.report.plots import BLUE, DPI, GREEN, GREY, ORANGE, SKY, STYLE
from es_align.terminal import quiet_libraries, to_json

LEAST_REQUESTS = 256  # so that few members have a full batch, too
RANKS = {"singular_values": 8, "core": 8, "weights": 1}
LABELS = {
    "singular_values": "singular values, rank 8",
    "core": "core, rank 8",
    "weights": "rank-1 noise on every weight",
}
COLOURS = {"singular_values": BLUE, "core": GREEN, "weights": SKY}
Point = dict[str, object]


def sweep(options: argparse.Namespace) -> Iterator[Point]:
    """Measure every point, each as the fields of a `BenchResult`."""
    for settings in cells(options):
        counts = [count for count in options.members if count <= options.stock_members]
        stock_members = max(counts, default=0)
        opened = replace(settings, has_stock=stock_members > 0)
        with open_arms(opened, note, stock_members=stock_members) as arms:
            for count in options.members:
                note(f"{settings.precision}, {settings.space}: {count} members")
                point = replace(
                    settings,
                    members=count,
                    requests=max(LEAST_REQUESTS, count),
                    has_stock=count <= stock_members,
                )
                yield asdict(measure(arms, point, note=note))


def cells(options: argparse.Namespace) -> list[BenchSettings]:
    """One a precision and space, for the largest count; ConfigError if one cannot run."""
    largest = max(options.members)
    settings = [
        BenchSettings(
            model=options.model,
            precision=precision,
            space=space,
            rank=RANKS[space],
            members=largest,
            requests=max(LEAST_REQUESTS, largest),
            new_tokens=options.new_tokens,
            repeats=options.repeats,
            threads=options.threads,
            is_eager=options.eager,
        )
        for precision in options.precisions
        for space in options.spaces
    ]
    for one in settings:
        check_settings(one)
    return settings


def note(line: str) -> None:
    """Progress, to stderr."""
    print(line, file=sys.stderr, flush=True)


def draw(points: Sequence[Point], path: Path) -> None:
    """One panel a precision, tokens per second over members."""
    precisions = list(dict.fromkeys(_setting(point, "precision") for point in points))
    with matplotlib.rc_context(STYLE):
        width = 1.6 + 3.4 * len(precisions)
        figure = Figure(figsize=(max(width, 5.6), 4.4), layout="constrained")
        panels = figure.subplots(1, len(precisions), sharey=True, squeeze=False)[0]
        for panel, precision in zip(panels, precisions, strict=True):
            mine = [point for point in points if _setting(point, "precision") == precision]
            _draw_panel(panel, mine)
            panel.set_title(precision)
            panel.set_xlabel("members")
        panels[0].set_ylim(bottom=0)  # of all panels, once all their lines are there
        panels[0].set_ylabel("generated tokens per second")
        named = {
            label: line
            for panel in panels
            for line, label in zip(*panel.get_legend_handles_labels(), strict=True)
        }
        figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=2)
        first = points[0]
        figure.suptitle(
            f"{_setting(first, 'model')}, {_setting(first, 'new_tokens')} new tokens of "
            f"{_setting(first, 'requests')} requests\n{find_hardware()}, {first['date']}",
            fontsize=9.5,
        )
        figure.savefig(path, dpi=DPI)


def _draw_panel(axes: Axes, points: Sequence[Point]) -> None:
    spaces = list(dict.fromkeys(str(_setting(point, "space")) for point in points))
    base = [(_members(point), float(str(point["base_tok_s"]))) for point in points]
    by_count = {count: [y for x, y in base if x == count] for count in sorted({x for x, _ in base})}
    axes.plot(
        list(by_count),
        [sum(found) / len(found) for found in by_count.values()],
        color=GREY,
        linestyle="--",
        label="vLLM, unmodified",
    )
    for space in spaces:
        mine = [point for point in points if _setting(point, "space") == space]
        x, y = _line(mine, "population_tok_s")
        axes.plot(x, y, color=COLOURS[space], marker="o", markersize=5, label=LABELS[space])
        x, y = _line(mine, "stock_lora_tok_s")
        if x:
            label = f"vLLM, multi-LoRA of rank {RANKS[space]}"
            marker = "s" if RANKS[space] == 1 else "^"
            axes.plot(x, y, color=ORANGE, linestyle=":", marker=marker, markersize=5, label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(by_count), [str(count) for count in by_count])
    axes.xaxis.set_minor_locator(NullLocator())


def _line(points: Sequence[Point], figure: str) -> tuple[list[int], list[float]]:
    known = [point for point in points if point[figure] is not None]
    return [_members(point) for point in known], [float(str(point[figure])) for point in known]


def _members(point: Point) -> int:
    return int(str(_setting(point, "members")))


def _setting(point: Point, name: str) -> object:
    settings = point["settings"]
    assert isinstance(settings, Mapping)
    return settings[name]


def main() -> None:
    """Measure, write, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=BenchSettings().model)
    parser.add_argument("--precisions", nargs="+", default=["bf16", "int8", "int4"])
    parser.add_argument(
        "--spaces", nargs="+", default=["singular_values", "weights"], choices=RANKS
    )
    parser.add_argument("--members", type=int, nargs="+", default=[1, 4, 16, 64, 256])
    parser.add_argument("--stock-members", type=int, default=64, help="0: without multi-LoRA")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--add", action="store_true", help="to the points OUT.json already has")
    parser.add_argument("--out", type=Path, default=Path("population_sweep"))
    options = parser.parse_args()
    quiet_libraries()
    kept = options.out.with_suffix(".json")
    points: list[Point] = json.loads(kept.read_text())["points"] if options.add else []
    for point in sweep(options):
        points.append(point)
        text = json.dumps({"points": to_json(points)}, allow_nan=False, indent=1)
        kept.write_text(text + "\n", encoding="utf-8")
        draw(points, options.out.with_suffix(".png"))
    note(f"{kept}, {options.out.with_suffix('.png')}")


if __name__ == "__main__":
    main()
