"""The benchmark of a population's linear layer at toy sizes, natively or in the interpreter.

See conftest.py for how the tests marked `gpu` run where there is no accelerator.
"""

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

sys.path.append(str(Path(__file__).parents[2]))  # benchmarks are scripts, no package

from benchmarks.gpu_linear import (
    Bench,
    Candidate,
    Report,
    layer_candidate,
    make_jobs,
    measure,
    measure_cell,
    run,
)
from benchmarks.gpu_linear_bases import _rescale
from benchmarks.gpu_linear_layers import LayerWork, Problem, Variant, WrongResult, check
from benchmarks.gpu_linear_rows import (
    COLUMNS,
    ERROR_LIMIT,
    Cost,
    Errors,
    Row,
    Setting,
    error_limit,
    goal_lines,
    table_line,
    timed_row,
)
from benchmarks.gpu_linear_sizes import (
    QUICK,
    TOY,
    Cell,
    Sizes,
    choose_sizes,
    make_cell,
    make_cells,
    parse,
)
from benchmarks.gpu_linear_timing import (
    DeviceClock,
    Machine,
    Peaks,
    Times,
    WallClock,
    find_machine,
    measure_peaks,
    take_turns,
)
from benchmarks.gpu_linear_variants import BEFORE, NotAvailable, made_noise, stored_noise

PEAKS = Peaks(2e12, {"bf16": 5e14, "int8": 1e15, "float64": 5e13, "instructions": 0.0}, None)
CELL = Cell(width=256, batch=4, rank=1, members=4, order="mixed")
FORMS = ("", ", prefill form")
NOISE = ("stored noise", "made noise, binomial", "made noise, +-1")
ROWS = {
    "bf16": [
        "plain",
        *(f"{name}{form}" for form in FORMS for name in (*NOISE, "directions")),
        *(f"{name}{BEFORE}" for name in NOISE),
        "naive",
        "vLLM's LoRA",
    ],
    "int8": ["plain", *(f"{name}, prefill form" for name in NOISE)],
    "int4": ["plain", *(f"{name}, prefill form" for name in NOISE)],
    "update": ["float64 GEMM", "bf16 GEMM", "update from seeds"],
    "weight": [
        "copy",
        "update added to an fp32 master",
        "INT8 codes of the master",
        "INT4 codes of the master",
    ],
    "noise": [
        "fill with one byte",
        "torch, uniform int8",
        "torch, normals in bf16",
        "Philox, binomial",
        "Philox, +-1",
        "Philox, gaussian in fp32",
    ],
}


def make_bench(device: str, sizes: Sizes = TOY) -> Bench:
    clock = WallClock() if device == "cpu" else DeviceClock(find_machine(device))
    return Bench(device, clock, PEAKS, sizes, seed=3)


def make_report(bench: Bench) -> Report:
    return Report(
        date="2026-01-02",
        machine=find_machine(bench.device),
        hardware="",
        versions={},
        unit=bench.clock.unit,
        peaks=bench.peaks,
        sizes=bench.sizes,
        seed=bench.seed,
        error_limit=error_limit(),
    )


def test_in_the_interpreter(run_in_interpreter: Callable[[str], None]) -> None:
    run_in_interpreter(__file__)


def test_the_rescaling_compiles_for_cuda(
    compile_for_cuda: Callable[[object, Mapping[str, str], Mapping[str, object]], str],
) -> None:
    pointers = {"y_ptr": "*bf16", "sums_ptr": "*i32", "x_scale_ptr": "*fp32", "scale_ptr": "*fp32"}
    ptx = compile_for_cuda(_rescale, pointers | {"width": "i32"}, {"BLOCK": 1024})
    assert "cvt.rn.bf16" in ptx


@pytest.mark.parametrize("rank", [1, 3])
def test_noise_before_the_product_compiles_for_hopper(
    hopper_ptx: dict[str, str], rank: int
) -> None:
    cell = Cell(width=512, batch=4, rank=rank, members=4, order="mixed")
    problem = Problem(cell, 1, "cpu", seed=1)
    y_TO = problem.outputs_TO[0]
    for variant, has_popcount in (
        (stored_noise(problem, None, is_before=True), False),
        (made_noise(problem, "binomial", None, is_before=True), True),
        (made_noise(problem, "rademacher", None, is_before=True), False),
    ):
        variant.add_(0, y_TO)
        assert list(hopper_ptx) == ["_write_rows"]
        assert ("popc.b32" in hopper_ptx["_write_rows"]) == has_popcount


@pytest.mark.gpu
def test_every_row_is_right_and_timed(
    triton_device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = make_bench(triton_device)
    report = make_report(bench)
    run(report, bench, seconds=1000, path=tmp_path / "report.json")
    for part, variants in ROWS.items():
        assert [row.variant for row in report.rows if row.part == part] == variants
    assert len(report.rows) == sum(map(len, ROWS.values()))
    for row in report.rows:
        assert not row.has_failed, row.note
        if row.variant == "vLLM's LoRA" and row.median_us is None:
            assert row.note.startswith("not available: vLLM")
            continue
        assert row.low_us is not None and row.median_us is not None and row.high_us is not None
        assert 0 < row.low_us <= row.median_us <= row.high_us
        assert row.bytes_share == pytest.approx(row.bytes_floor_us / row.median_us)
        is_plain = row.variant == ROWS[row.part][0]
        assert (row.ratio is None) == (row.added_us is None) == is_plain
        assert (row.values_per_s is not None) == (row.part == "noise")
        if row.part in ("bf16", "int8", "int4"):
            assert row.error is not None and row.worst_row_error is not None
            assert 0 < row.error <= row.worst_row_error < error_limit()
            cuts_twice = row.part == "int8" or BEFORE in row.variant  # the interpreter
            assert cuts_twice or row.worst_row_error < ERROR_LIMIT

    written = json.loads((tmp_path / "report.json").read_text())
    assert set(written) == {spec.name for spec in dataclasses.fields(Report)}
    assert written["rows"] == [dataclasses.asdict(row) for row in report.rows]
    assert written["sizes"]["widths"] == [256] and written["seed"] == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines == [table_line(row) for row in report.rows]
    assert all(line.count("|") == len(COLUMNS) + 1 for line in lines)


@pytest.mark.gpu
def test_segments_and_more_ranks_are_right_too(triton_device: str) -> None:
    cell = Cell(width=256, batch=80, rank=3, members=4, order="segments")
    rows = measure_cell(make_bench(triton_device), cell, "bf16", seed=5, forms=("prefill",))
    assert [row.note for row in rows if row.has_failed] == []
    assert len(rows) == 10 and {row.order for row in rows} == {"segments"}


@pytest.mark.gpu
def test_poisoned_outputs_are_overwritten_and_added_to(triton_device: str) -> None:
    problem = Problem(CELL, 2, triton_device, seed=1)
    problem.poison_()
    assert all(bool(y_TO.isnan().all()) for y_TO in problem.outputs_TO)
    work = LayerWork(problem, stored_noise(problem, None))
    assert check(problem, work).worst_row < ERROR_LIMIT
    assert all(bool(y_TO.isfinite().all()) for y_TO in problem.outputs_TO)
    assert problem.is_guard_intact()
    assert sorted(problem.member_T.tolist()) == [0, 1, 2, 3]  # rows of nobody were put back

    problem.poison_()
    layer_candidate(WallClock(), problem, lambda: None).work()
    assert all(bool(y_TO.isfinite().all()) for y_TO in problem.outputs_TO)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("nothing added", "relative error [1-9]"),
        ("a row left out", "worst row [1-9]"),
        ("rows of nobody", "rows of nobody differ"),
        ("beyond the end", "rows beyond the last were written"),
        ("not written", "relative error nan"),
    ],
)
def test_wrong_works_are_not_timed(triton_device: str, fault: str, message: str) -> None:
    problem = Problem(CELL._replace(batch=16), 1, triton_device, seed=1)
    right = stored_noise(problem, "prefill")

    def add_(index: int, y_TO: torch.Tensor) -> None:
        if fault == "nothing added":
            return
        last_I, nobody = y_TO[-1].clone(), problem.member_T < 0
        right.add_(index, y_TO)
        if fault == "a row left out":
            y_TO[-1] = last_I
        elif fault == "rows of nobody":
            y_TO[nobody] += y_TO[nobody].abs() * 2**-7  # one step of bf16, within the error's limit
        elif fault == "beyond the end":
            torch.as_strided(y_TO, (1,), (1,), y_TO.numel()).fill_(0)
        elif fault == "not written":
            y_TO[3, 5] = torch.nan

    work = LayerWork(problem, Variant(add_, right.wanted, right.cost))
    with pytest.raises(WrongResult, match=message):
        check(problem, work)


def test_ratios_are_of_one_round() -> None:
    plain, noisy = Times([10.0, 20.0, 30.0]), Times([20.0, 25.0, 31.0])
    assert noisy.ratios(plain) == [0.5, 0.8, 30 / 31]
    assert noisy.differences(plain) == [10.0, 5.0, 1.0]
    setting = Setting("bf16", 8192, 1024, 1, 64, "mixed")
    cost = Cost(4_000_000, {"bf16": 1_000_000_000, "int8": 4_000_000_000, "instructions": 7})
    errors = Errors(1e-3, 2e-3)
    row = timed_row(setting, "noise", cost, PEAKS, times=noisy, plain=plain, errors=errors)
    assert (row.median_us, row.low_us, row.high_us) == (25.0, 20.0, 31.0)
    assert (row.ratio, row.ratio_low, row.ratio_high, row.added_us) == (0.8, 0.5, 30 / 31, 5.0)
    # 4 MB at 2 TB/s; int8 needs longer than bf16, and what has no known peak sets no floor.
    assert row.bytes_floor_us == pytest.approx(2.0) and row.bytes_share == pytest.approx(0.08)
    assert row.operations_floor_us == pytest.approx(4.0)
    assert row.operations_share == pytest.approx(0.16)
    assert (row.error, row.worst_row_error, row.values_per_s) == (1e-3, 2e-3, None)

    filled = timed_row(setting, "fill", Cost(8, {}), PEAKS, times=noisy, num_values=50)
    assert filled.values_per_s == pytest.approx(2e6)
    assert filled.ratio is None and filled.operations_floor_us is None


def test_costs_add_up_by_unit() -> None:
    total = Cost(3, {"bf16": 5}).plus(Cost(4, {"bf16": 6, "instructions": 7}))
    assert total == Cost(7, {"bf16": 11, "instructions": 7})


def test_works_take_turns() -> None:
    called: list[str] = []

    class Counting(WallClock):
        def microseconds(self, work: Callable[[], object]) -> float:
            work()
            return 6.0 * len(called)

    works = {name: lambda name=name: called.append(name) for name in ("a", "b")}
    times = take_turns(Counting(), works, num_rounds=3, num_layers=2)
    assert called == ["a", "b", "b", "a", "a", "b"]
    assert times == {"a": Times([3.0, 12.0, 15.0]), "b": Times([6.0, 9.0, 18.0])}


def test_goals_are_of_their_size_alone() -> None:
    row = Row("bf16", 8192, 1024, 1, 64, "mixed", "stored noise", ratio=0.97, added_us=5.25)
    row = dataclasses.replace(row, worst_row_error=2e-3)
    made = dataclasses.replace(row, variant="made noise, +-1, prefill form", ratio=0.9499)
    others = [
        dataclasses.replace(row, **change)
        for change in ({"width": 4096}, {"batch": 256}, {"rank": 16}, {"variant": "naive"})
    ]
    assert goal_lines([row, made, *others, dataclasses.replace(made, part="int8")]) == [
        "reached: stored noise, rank 1, 64 members mixed: 0.970 of plain "
        "(goal 0.97, published 0.91), +5.2 us, worst row's error 2.0e-03",
        "missed: made noise, +-1, prefill form, rank 1, 64 members mixed: 0.950 of plain "
        "(goal 0.95, published 0.69), +5.2 us, worst row's error 2.0e-03",
    ]
    assert goal_lines([dataclasses.replace(row, rank=4, ratio=0.9)])[0].startswith("reached")
    assert goal_lines(others) == ["no goal was measured: goals are of width 8192, batch 1024"]


def test_what_fails_is_a_row_and_the_others_count() -> None:
    def missing() -> Candidate:
        raise NotAvailable("not available: it is not here")

    def broken() -> Candidate:
        raise RuntimeError("a | b\n c")

    def wrong() -> Errors:
        raise WrongResult("it changed")

    def right() -> Candidate:
        return Candidate(lambda: None, Cost(1, {}), lambda: Errors(0.0, 0.0))

    candidates = {
        "missing": missing,
        "plain": right,
        "broken": broken,
        "wrong afterwards": lambda: right()._replace(judge=wrong),
        "right": right,
    }
    rows = measure(make_bench("cpu"), Setting("bf16", 8), candidates, "plain")
    assert [row.variant for row in rows] == list(candidates)
    assert [row.has_failed for row in rows] == [False, False, True, True, False]
    assert [row.median_us is None for row in rows] == [True, False, True, True, False]
    notes = [row.note for row in rows]
    assert notes[0] == "not available: it is not here"
    assert notes[2:4] == ["RuntimeError: a / b c", "WrongResult: it changed"]
    assert rows[4].ratio is not None and rows[4].ratio > 0


def test_no_size_begins_when_time_is_up(tmp_path: Path) -> None:
    bench = make_bench("cpu")
    report = make_report(bench)
    run(report, bench, seconds=-1, path=tmp_path / "report.json")
    assert report.rows == []
    assert report.skipped == [job.setting._asdict() for job in make_jobs(bench)]
    assert [skipped["part"] for skipped in report.skipped] == list(ROWS)
    kept = json.loads((tmp_path / "report.json").read_text())
    assert kept["skipped"] == json.loads(json.dumps(report.skipped))


def test_the_goals_sizes_come_first() -> None:
    cells = list(make_cells(Sizes(), 8192))
    assert cells[0] == Cell(8192, 1024, 1, 64, "mixed")
    assert {cell.batch for cell in cells[:9]} == {1024}
    assert len(cells) == 27  # 3 ranks x (3 + 1 + 2 + 3) counts of members that have rows
    assert {cell.order for cell in cells if cell.batch == 4096} == {"segments"}
    assert max(cell.members for cell in cells if cell.batch == 64) == 64
    quick = list(make_cells(QUICK, 8192))
    assert [cell.order for cell in quick] == ["mixed", "segments"] * 6  # 2 ranks x 3 counts


def test_the_command_line_replaces_a_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    given = "--quick --device cuda --batches 96 128 --members 32 --forms chosen prefill --rounds 3"
    monkeypatch.setattr(sys, "argv", ["gpu_linear.py", *given.split(), "--parts", "int8", "noise"])
    wanted = dataclasses.replace(
        QUICK,
        parts=("int8", "noise"),
        batches=(96, 128),
        members=(32,),
        forms=(None, "prefill"),
        quantised_batches=(128,),
        num_rounds=3,
    )
    sizes = choose_sizes(parse(""))
    jobs = list(make_jobs(make_bench("cpu", sizes)))
    assert [(job.setting.part, job.setting.batch) for job in jobs] == [
        ("int8", 128),
        ("noise", None),
    ]
    assert sizes == wanted
    monkeypatch.setattr(sys, "argv", ["gpu_linear.py", "--batches", "20", "--members", "16"])
    with pytest.raises(ValueError, match="16 members and 20 rows do not fit"):
        choose_sizes(parse(""))


@pytest.mark.parametrize("members", [3, 6])
def test_members_that_do_not_fit_are_refused(members: int) -> None:
    with pytest.raises(ValueError, match=f"{members} members and 16 rows do not fit"):
        make_cell(64, 16, 1, members)


def test_peaks_are_measured() -> None:
    clock, machine = WallClock(), Machine("NVIDIA H200", multiprocessors=132, clock_mhz=1980)
    peaks = measure_peaks(clock, machine, "cpu", copy_bytes=2**16, product=64)
    assert set(peaks.operations_per_s) == {"bf16", "int8", "float64", "instructions"}
    assert all(math.isfinite(rate) and rate > 0 for rate in peaks.operations_per_s.values())
    assert peaks.operations_per_s["instructions"] == pytest.approx(3.345e13, rel=1e-3)
    assert peaks.sheet == {"bytes": 4.8e12, "bf16": 989e12, "int8": 1979e12, "float64": 67e12}
    assert measure_peaks(clock, Machine("CPU"), "cpu", 2**16, 64).sheet is None
