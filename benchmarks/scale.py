"""Scaling: efficiency on 16 to 1,024 simulated workers, the driver's cost, bytes on the wire.

    python benchmarks/scale.py --json scale.json --plot scale.png

The dispatcher, the fleet and the driver's loop are the real ones; workers are simulated
(`workers.simulation`): an 8B model in INT8 on H100s by its data sheet, lengths of answers as
measured. `--parts ray` sends the same generation through a real Ray cluster on this machine, to
actors that answer at once. Takes some minutes of one core.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from es_align.bench.hardware import find_hardware
from es_align.bench.scaling import (
    GENERATIONS,
    GPU,
    LIMIT_TOKENS,
    POPULATION,
    PROMPTS,
    Efficiency,
    Wire,
    chunk_sizes,
    deaths,
    make_answers,
    make_config,
    measure,
    speeds,
    wire,
)
from es_align.report.plots import BLUE, DPI, GREY, ORANGE, SKY, STYLE
from es_align.terminal import to_json

PARTS = ("efficiency", "wire", "driver", "ray")
DRIVER_WORKERS, RAY_PROCESSES = 256, 3
MESSAGE_S = 300e-6  # of the driver, to send one or to take one: what Ray's take one at a time
EQUAL, MIXED, DYING = "equal", "mixed", "mixed, 1 in 100 dies"


@dataclass
class Report:
    """Everything that was measured."""

    date: str
    hardware: str
    settings: dict[str, object]
    efficiency: list[Efficiency] = field(default_factory=list)
    wire: list[Wire] = field(default_factory=list)
    driver: dict[str, object] = field(default_factory=dict)
    ray: dict[str, object] = field(default_factory=dict)


def measure_efficiency(report: Report, counts: Sequence[int]) -> None:
    """Every cluster of every size."""
    answers = make_answers()
    for count in counts:
        mixed = speeds(count, is_mixed=True)
        for cluster, worker_speeds in ((EQUAL, [1.0] * count), (MIXED, mixed)):
            note(f"{count} workers, {cluster}")
            report.efficiency.append(
                measure(answers, worker_speeds, cluster=cluster, message_s=MESSAGE_S)
            )
        faults = deaths(count, report.efficiency[-1].seconds)
        note(f"{count} workers, {DYING}")
        report.efficiency.append(
            measure(answers, mixed, cluster=DYING, message_s=MESSAGE_S, faults=faults)
        )


def measure_driver(report: Report) -> None:
    """Over simulated workers; imported here, since it takes torch."""
    from es_align.bench.driver_cost import simulated_cost

    cost = simulated_cost(DRIVER_WORKERS, make_config(*chunk_sizes(DRIVER_WORKERS)))
    report.driver = {**asdict(cost), "median_s": cost.median_s}


def measure_ray(report: Report) -> None:
    """Over Ray's messages."""
    from es_align.bench.driver_cost import ray_cost

    note("Ray's messages")
    cost = ray_cost(DRIVER_WORKERS, RAY_PROCESSES, make_config(*chunk_sizes(DRIVER_WORKERS)))
    report.ray = {**asdict(cost), "median_s": cost.median_s}


def tell(report: Report) -> None:
    """The tables of docs/benchmarks.md."""
    names = (
        "workers, cluster, members a chunk, places filled, dispatcher, static waves, s, s static"
    )
    columns = [*names.split(", "), "s, one batch each"]
    print(f"| {' | '.join(columns)} |")
    print("|---" * len(columns) + "|")
    for row in report.efficiency:
        shares = (row.occupancy, row.efficiency, row.static)
        seconds = (row.seconds, row.static_seconds, row.one_batch_seconds)
        told = " | ".join([*(_figure(s, 3) for s in shares), *(_figure(s, 1) for s in seconds)])
        print(f"| {row.workers:,} | {row.cluster} | {row.largest} to {row.smallest} | {told} |")
    for row in report.wire:
        print(
            f"{row.workers:,} workers: {row.num_chunks:,} chunks of {row.a_chunk:.0f} bytes, and "
            f"{row.prompt_ids:.0f} for prompt ids; {row.a_member:.1f} bytes a member, "
            f"{row.a_score:.1f} a score"
        )
    print(f"driver: {report.driver}")
    print(f"ray: {report.ray}")


def _figure(value: float, digits: int) -> str:
    """Nothing for what there is not."""
    return f"{value:,.{digits}f}" if math.isfinite(value) else ""


def draw(report: Report, path: Path) -> None:
    """Efficiency over workers, dispatcher and static waves."""
    lines = (
        (EQUAL, "efficiency", BLUE, "-", "o", "dispatcher, equal workers"),
        (EQUAL, "static", SKY, "--", "s", "static waves, equal workers"),
        (MIXED, "efficiency", ORANGE, "-", "o", "dispatcher, mixed workers"),
        (DYING, "efficiency", ORANGE, ":", "^", "dispatcher, mixed workers, 1 in 100 dies"),
        (MIXED, "static", GREY, "--", "s", "static waves, mixed workers"),
    )
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.6), layout="constrained")
        axes = figure.subplots()
        for cluster, value, colour, dashes, marker, label in lines:
            rows = [row for row in report.efficiency if row.cluster == cluster]
            axes.plot(
                [row.workers for row in rows],
                [getattr(row, value) for row in rows],
                color=colour,
                linestyle=dashes,
                marker=marker,
                markersize=5,
                clip_on=False,
                label=label,
            )
        counts = sorted({row.workers for row in report.efficiency})
        axes.set_xscale("log", base=2)
        axes.set_xticks(counts, [f"{count:,}" for count in counts])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(0, 1)
        axes.set_xlabel("simulated workers")
        axes.set_ylabel("efficiency: useful seconds over workers x makespan")
        axes.set_title(f"{POPULATION:,} members x {PROMPTS} prompts")
        axes.legend(loc="lower left")
        figure.savefig(path, dpi=DPI)


def note(line: str) -> None:
    """Progress, to stderr."""
    print(line, file=sys.stderr, flush=True)


def write(report: Report, path: Path) -> None:
    """The whole report as JSON."""
    text = json.dumps(to_json(asdict(report)), allow_nan=False, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Measure, tell, write, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--workers", type=int, nargs="+", default=[16, 32, 64, 128, 256, 512, 1024])
    parser.add_argument("--json", type=Path, default=None, help="write everything to this file")
    parser.add_argument("--plot", type=Path, default=None, help="draw efficiency into this file")
    options = parser.parse_args()
    report = Report(
        date=date.today().isoformat(),
        hardware=str(find_hardware()),
        settings={
            "population": POPULATION,
            "prompts": PROMPTS,
            "limit_tokens": LIMIT_TOKENS,
            "generations": GENERATIONS,
            "gpu": GPU,
            "engine": asdict(make_answers().engine),
            "message_s": MESSAGE_S,
        },
    )
    if "wire" in options.parts:
        report.wire = [wire(count) for count in options.workers]
    if "driver" in options.parts:
        measure_driver(report)
    if "ray" in options.parts:
        measure_ray(report)
    if "efficiency" in options.parts:
        measure_efficiency(report, options.workers)
    tell(report)
    if options.json is not None:
        write(report, options.json)
    if options.plot is not None and report.efficiency:
        draw(report, options.plot)


if __name__ == "__main__":
    main()
