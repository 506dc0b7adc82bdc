"""A decode step of a whole model for as many members as rows, beside the model alone.

    python benchmarks/gpu_decode.py --json gpu_decode.json
    python benchmarks/gpu_decode.py --model FOLDER      # a Llama's checkpoint in place of the sizes
    python benchmarks/gpu_decode.py --device cpu        # a toy

The torch engine in bf16 with every linear layer of every block perturbed, each row of the batch
another member. A step is one token of every row behind a context of --context tokens; on a GPU it
is one CUDA graph, as engines replay them, between device events, and the works take turns. Nothing
is timed before the first rows' logits were right: no further from the fp32 engine on the host
than the model alone is from its own, twice over. Prints a Markdown table, then the goal; with
--json one object goes to that file, anew after every model, without it to the last line. The exit
status is 1 if a work was wrong or failed.

Needs torch, triton, numpy, safetensors and transformers.
"""

import argparse
import datetime
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoConfig
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where nothing is installed

from benchmarks.gpu_decode_parts import (
    SIZES,
    SPACES,
    Context,
    Size,
    Step,
    parameters_of,
    save_random,
    start_engine,
    write_spaces,
)
from benchmarks.gpu_linear_layers import WrongResult
from benchmarks.gpu_linear_rows import figure, head, line, span, to_json, told, write
from benchmarks.gpu_linear_timing import (
    Clock,
    Machine,
    Times,
    Work,
    find_machine,
    find_versions,
    make_clock,
    take_turns,
)
from es_align.bench.hardware import find_hardware
from workers.engines.torch_engine import TorchEngine
from workers.members import SIGNS, some_members

PLAIN = "the model alone"
PACKAGES = ("torch", "triton", "numpy", "transformers")
GOAL_SPACE, GOAL_ROWS, GOAL = "weights, rank 1", 1024, 0.90
CHECKED_ROWS = 8
MOST_ERROR = 2.0  # of a population's logits, in those of the model alone
LEAST_CHANGE = 3.0  # what the members change, in errors: or the check would see nothing


@dataclass(frozen=True, slots=True)
class Row:
    """One work on one model; without a time `note` says why."""

    model: str
    parameters: int
    rows: int
    context: int
    work: str
    median_ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    tokens_per_s: float | None = None
    ratio: float | None = None  # the model alone over this one, median of the rounds' ratios
    ratio_low: float | None = None
    ratio_high: float | None = None
    bytes_per_member: float | None = None
    error: float | None = None  # of the logits, relative to the fp32 engine's
    change: float | None = None  # by the members, relative as well
    note: str = ""
    has_failed: bool = False


@dataclass(slots=True)
class Report:
    """Everything that was measured, and on what."""

    date: str
    machine: Machine
    hardware: str
    versions: dict[str, str]
    unit: str
    seed: int
    rounds: int
    rows: list[Row] = field(default_factory=list)
    goals: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Bench:
    """What every measurement needs."""

    device: str
    clock: Clock
    rows: int
    context: int
    rounds: int
    spaces: tuple[str, ...]
    seed: int
    num_threads: int


@dataclass(slots=True)
class Ready:
    """A step that was right and may be timed."""

    work: Work
    error: float
    change: float | None
    bytes_per_member: float | None


def measure(bench: Bench, name: str, size: Size, path: Path, folder: Path) -> list[Row]:
    """A row for the model alone and one for each space.

    What one of them raises becomes its row: on a machine lent for minutes the others still count.
    """
    torch.manual_seed(bench.seed)
    plain = start_engine(path, "bf16", None, 0, bench.device, bench.num_threads)
    context = Context.random(size, bench.rows, bench.context, plain.device)
    tokens_B = torch.randint(size.vocab_size, (bench.rows,))
    spaces = write_spaces(plain.model, bench.spaces, folder, bench.rows, bench.seed)

    def reference(space: str | None) -> torch.Tensor:
        """The first rows' logits, fp32, on the host."""
        file = None if space is None else spaces.files[space]
        engine = start_engine(path, "fp32", file, CHECKED_ROWS, "cpu", bench.num_threads)
        if space is not None:
            engine.set_members(some_members(spaces.members[space], 0, CHECKED_ROWS))
        step = Step(engine, context.first_rows(CHECKED_ROWS), tokens_B[:CHECKED_ROWS])
        step()
        return step.logits_BV

    wanted = reference(None)
    facts = (name, parameters_of(plain.model), bench.rows, bench.context)
    ready = {PLAIN: prepare(bench.clock, Step(plain, context, tokens_B), wanted)}
    rows: dict[str, Row] = {}
    for space in bench.spaces:
        try:
            file = spaces.files[space]
            arguments = ("bf16", file, bench.rows, bench.device, bench.num_threads)
            engine = start_engine(path, *arguments)
            engine.set_members(spaces.members[space])
            step = Step(engine, context, tokens_B)
            found = prepare(bench.clock, step, reference(space), wanted, ready[PLAIN].error)
            found.bytes_per_member = member_bytes(engine) / bench.rows
            ready[space] = found
        except Exception as error:
            rows[space] = Row(*facts, space, note=told(error), has_failed=True)
    times = take_turns(bench.clock, {name: r.work for name, r in ready.items()}, bench.rounds)
    for work, found in ready.items():
        rows[work] = timed_row(facts, work, found, times[work], times[PLAIN])
    return [rows[work] for work in (PLAIN, *bench.spaces)]


def prepare(
    clock: Clock,
    step: Step,
    wanted_BV: torch.Tensor,
    plain_BV: torch.Tensor | None = None,
    plain_error: float | None = None,
) -> Ready:
    """Capture the step, and judge what the captured work itself writes on poisoned memory.

    Raises WrongResult.
    """
    work = clock.prepare(step)
    step.logits_BV.fill_(torch.nan)
    work()
    logits_BV = step.logits_BV[:CHECKED_ROWS].float().cpu()
    error = distance(logits_BV, wanted_BV)
    change = None if plain_BV is None else distance(plain_BV, wanted_BV)
    limit = 0.1 if plain_error is None else MOST_ERROR * plain_error
    if not error < limit:  # NaN too
        raise WrongResult(
            f"relative error {error:.1e} of the logits; less than {limit:.1e} is right"
        )
    if change is not None and change < LEAST_CHANGE * error:
        raise WrongResult(
            f"members change the logits by {change:.1e}, an error of {error:.1e} hides it"
        )
    return Ready(work, error, change, None)


def distance(found_BV: torch.Tensor, wanted_BV: torch.Tensor) -> float:
    """Norm of the difference over the norm of what is wanted."""
    return float((found_BV - wanted_BV).norm() / wanted_BV.norm())


def member_bytes(engine: TorchEngine) -> int:
    """What all members' state takes."""
    return 0 if engine.population is None else engine.population.member_bytes


def timed_row(
    facts: tuple[str, int, int, int], work: str, ready: Ready, times: Times, plain: Times
) -> Row:
    """A work that was timed, and what follows from its times."""
    is_plain = times is plain
    ratios = [] if is_plain else times.ratios(plain)
    seconds = times.median / 1e6
    return Row(
        *facts,
        work,
        median_ms=times.median / 1e3,
        low_ms=min(times.rounds) / 1e3,
        high_ms=max(times.rounds) / 1e3,
        tokens_per_s=facts[2] / seconds,
        ratio=statistics.median(ratios) if ratios else None,
        ratio_low=min(ratios, default=None),
        ratio_high=max(ratios, default=None),
        bytes_per_member=ready.bytes_per_member,
        error=ready.error,
        change=ready.change,
    )


COLUMNS = (
    *("model", "parameters", "rows", "context", "work", "ms a step", "range", "tokens/s"),
    *("of the model alone", "range", "bytes a member", "error", "change", "note"),
)


def table_line(row: Row) -> str:
    """One line of the Markdown table."""
    cells = (
        row.model,
        f"{row.parameters / 1e6:,.1f} million",
        str(row.rows),
        str(row.context),
        row.work,
        figure(row.median_ms, ".2f"),
        span(row.low_ms, row.high_ms, ".2f"),
        figure(row.tokens_per_s, ",.0f"),
        figure(row.ratio, ".3f"),
        span(row.ratio_low, row.ratio_high, ".2f"),
        figure(row.bytes_per_member, ",.0f"),
        figure(row.error, ".1e"),
        figure(row.change, ".1e"),
        row.note,
    )
    return line(cells)


def goal_lines(rows: list[Row]) -> list[str]:
    """Whether the goal was reached, a line a model."""
    lines = []
    for row in rows:
        if row.ratio is None or (row.work, row.rows) != (GOAL_SPACE, GOAL_ROWS):
            continue
        word = "reached" if row.ratio >= GOAL else "missed"
        lines.append(
            f"{word}: {row.model}, {row.rows} members of {row.work}: {row.ratio:.3f} of the model "
            f"alone (goal {GOAL:.2f})"
        )
    return lines or [f"no goal was measured: it is of {GOAL_ROWS} rows, {GOAL_SPACE}"]


def models(options: argparse.Namespace) -> Iterator[tuple[str, Size | None, Path | None]]:
    """Name, size and checkpoint of each model; one of the two is there."""
    if options.model is not None:
        yield options.model.name, None, options.model
        return
    for name in options.sizes:
        yield name, SIZES[name], None


def run(report: Report, bench: Bench, options: argparse.Namespace) -> None:
    """Measure everything, printing rows as they come; a model that cannot be set up is a row."""
    for name, size, path in models(options):
        with tempfile.TemporaryDirectory(prefix="es-align-decode-") as temporary:
            folder = Path(temporary)
            try:
                if size is None:
                    given = AutoConfig.from_pretrained(path)
                    size = Size(*(getattr(given, field) for field in Size._fields))
                if path is None:
                    path = folder / "model"
                    save_random(size, path, bench.seed)
                rows = measure(bench, name, size, path, folder)
            except Exception as error:
                facts = (name, 0, bench.rows, bench.context)
                rows = [Row(*facts, "all", note=told(error), has_failed=True)]
        print(*map(table_line, rows), sep="\n", flush=True)
        report.rows.extend(rows)
        report.goals = goal_lines(report.rows)
        write(report, options.json)
        if bench.device == "cuda":
            torch.cuda.empty_cache()


def parse(description: str) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cuda", "cpu"), default=default)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=None)
    parser.add_argument("--model", type=Path, default=None, help="folder of a Llama's checkpoint")
    parser.add_argument("--spaces", nargs="+", choices=SPACES, default=list(SPACES))
    parser.add_argument("--rows", type=int, default=None, help="of a step: as many members")
    parser.add_argument("--context", type=int, default=None, help="tokens behind it")
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=None, help="write everything to this file")
    options = parser.parse_args()
    is_toy = options.device == "cpu"
    options.sizes = options.sizes or (["toy"] if is_toy else [n for n in SIZES if n != "toy"])
    options.rows = options.rows or (16 if is_toy else GOAL_ROWS)
    options.context = options.context or (4 if is_toy else 256)
    options.rounds = options.rounds or (3 if is_toy else 21)
    if options.rows < CHECKED_ROWS or options.rows % len(SIGNS):
        parser.error(f"--rows {options.rows}: use an even number from {CHECKED_ROWS} on")
    return options


def main() -> None:
    """Measure and print."""
    logging.disable_progress_bar()
    options = parse(str(__doc__))
    machine = find_machine(options.device)
    clock = make_clock(options.device, machine)
    report = Report(
        date=datetime.date.today().isoformat(),
        machine=machine,
        hardware=str(find_hardware()),
        versions=find_versions(PACKAGES),
        unit=clock.unit,
        seed=options.seed,
        rounds=options.rounds,
    )
    print(f"{report.date}, {report.hardware}, {report.versions}")
    print(f"{report.machine}, seed {report.seed}; {report.unit}, of {report.rounds} rounds")
    print(head(COLUMNS), flush=True)
    bench = Bench(
        device=options.device,
        clock=clock,
        rows=options.rows,
        context=options.context,
        rounds=options.rounds,
        spaces=tuple(options.spaces),
        seed=options.seed,
        num_threads=len(os.sched_getaffinity(0)),
    )
    run(report, bench, options)
    print(*report.goals, sep="\n")
    if options.json is None:
        print(to_json(report))
    sys.exit(1 if any(row.has_failed for row in report.rows) else 0)


if __name__ == "__main__":
    main()
