"""Lines, tables and plots of a run, from literal numbers."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from es_align.errors import RunFolderError
from es_align.progress import ConsoleReporter, GenerationLine, Header, header_lines
from es_align.report.metrics import column, read_metrics
from es_align.report.plots import write_plots
from es_align.report.summary import Gain, HeldOut, Summary, amount, duration, summary_table
from es_align.terminal import to_json

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
LINE = GenerationLine(
    generation=12,
    generations=200,
    wall_s=38.12,
    fitness_mean=0.4123,
    fitness_std=0.0312,
    noise_floor_std=0.0061,
    eval_score=0.4372,
    num_failed=0,
    num_completions=1024,
    tokens_per_s=5210.0,
)
HEADER = Header(
    model="tiny",
    precision="fp32",
    engine="torch",
    task="instructions",
    space="singular_values (weight)",
    strategy="openai_es",
    dimension=1680,
    generations=20,
    first_generation=5,
    population=32,
    prompts_per_generation=8,
    workers=2,
    run_dir=Path("runs/[tiny]-0"),
    details={"basis": "14 layers"},
)
SUMMARY = Summary(
    baseline=HeldOut(0.231, 0.031, 64, {"flexible": 0.05, "strict": 0.031}),
    final=HeldOut(0.61, 0.344, 64, {"flexible": 0.4, "strict": 0.344}),
    best=HeldOut(0.63, 0.359, 64, {"flexible": 0.41, "strict": 0.359}),
    best_generation=15,
    gains=(Gain("reward", 0.379, 0.3, 0.45), Gain("pass rate", 0.313, 0.203, 0.42)),
    noise_floor_std=0.006,
    population_std=0.031,
    generations=20,
    num_completions=5120,
    num_failed=3,
    num_tokens=204_800,
    wall_s=745.2,
    peak_rss_bytes=3 * 2**30,
    files={"adapter": Path("runs/tiny-0/adapter")},
)
ROWS = [
    {"generation": 0, "wall_s": 12.0, "eval/reward": 0.2, "eval/pass_rate": 0.0},
    {"generation": 1, "wall_s": 30.0, "reward/mean": 0.3, "reward/std": 0.1, "reward/best": 0.5},
    {
        "generation": 2,
        "wall_s": 60.0,
        "reward/mean": 0.4,
        "reward/std": 0.1,
        "reward/best": 0.6,
        "eval/reward": 0.35,
        "eval/pass_rate": 0.25,
        "eval/pass_rate_low": 0.1,
        "eval/pass_rate_high": 0.4,
    },
]


def write_metrics(path: Path, *, tail: str = "") -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS) + tail)
    return path


def test_generation_line_is_dense() -> None:
    assert str(LINE) == (
        "gen  12/200 | 38.1s | fitness 0.412 +-0.031 | noise 0.006 | eval 0.437 | "
        "failed 0/1024 | 5.2k tok/s"
    )


def test_generation_line_leaves_out_what_was_not_measured() -> None:
    line = GenerationLine(1, 9, 0.51, -2.0, 0.0, None, None, 3, 8, 940.4)
    assert str(line) == "gen 1/9 | 0.5s | fitness -2.000 +-0.000 | failed 3/8 | 940 tok/s"


def test_header_gives_the_totals() -> None:
    lines = header_lines(HEADER)
    assert lines[0] == "model  tiny, fp32, torch x 2"
    assert lines[3] == (
        "work   32 members x 8 prompts = 256 completions a generation, "
        "3,840 in 15 generations (from 6)"
    )
    assert lines[-1] == "run    runs/[tiny]-0"


def test_header_counts_every_sample() -> None:
    assert header_lines(replace(HEADER, samples_per_prompt=4))[3] == (
        "work   32 members x 8 prompts x 4 samples = 1,024 completions a generation, "
        "15,360 in 15 generations (from 6)"
    )


def test_reporter_prints_plain_lines_to_the_asked_stream(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for to_stderr in (False, True):
        reporter = ConsoleReporter(to_stderr=to_stderr)
        reporter.start(HEADER)
        reporter.note("loaded [in brackets]")
        reporter.generation(LINE)
        reporter.finish(SUMMARY)
        reporter.close()
        out, err = capsys.readouterr()
        said, silent = (err, out) if to_stderr else (out, err)
        assert silent == ""
        assert "runs/[tiny]-0\nloaded [in brackets]\ngen  12/200 | 38.1s" in said
        assert "\x1b" not in said


def test_summary_shows_gain_interval_noise_and_files() -> None:
    console = Console(width=100)
    with console.capture() as captured:
        console.print(summary_table(SUMMARY))
    text = captured.get()
    for shown in (
        "held out, n=64",
        "0.231",
        "34.4 %",
        "flexible",
        "40.0 %",
        "best, gen 15",
        "+0.379  [+0.300, +0.450]",
        "+31.3 points  [+20.3, +42.0]",
        "population 0.0310, noise floor 0.0060",
        "5,120 in 20 generations, 3 without a score",
        "204,800",
        "12 min 25 s",
        "3.00 GiB",
        "runs/tiny-0/adapter",
    ):
        assert shown in text, shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (60, "1 min 00 s"),
        (3599.6, "1 h 00 min"),
        (11240, "3 h 07 min"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (940.4, "940"), (5210, "5.2k"), (1.26e6, "1.3M")]
)
def test_amount(number: float, text: str) -> None:
    assert amount(number) == text


def test_columns_take_only_whole_rows(tmp_path: Path) -> None:
    rows = read_metrics(write_metrics(tmp_path / "metrics.jsonl"))
    mean, best = column(rows, "generation", ["reward/mean", "reward/best"])
    np.testing.assert_array_equal(mean.x, [1, 2])
    np.testing.assert_array_equal(best.y, [0.5, 0.6])
    (rate,) = column(rows, "generation", ["eval/pass_rate"])
    np.testing.assert_array_equal(rate.x, [0, 2])


def test_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = write_metrics(tmp_path / "metrics.jsonl", tail='{"generation": 3, "wal')
    assert len(read_metrics(path)) == 3


def test_damaged_or_missing_metrics_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no metrics at"):
        read_metrics(tmp_path / "metrics.jsonl")
    path = write_metrics(tmp_path / "metrics.jsonl", tail="nonsense\n[1]\n")
    with pytest.raises(RunFolderError, match="line 4 is not JSON"):
        read_metrics(path)
    path = write_metrics(path, tail="[1]\n")
    with pytest.raises(RunFolderError, match="line 4 is no JSON object"):
        read_metrics(path)


def test_plots_are_drawn(tmp_path: Path) -> None:
    metrics = write_metrics(tmp_path / "metrics.jsonl")
    paths = write_plots(metrics, tmp_path / "plots", title="tiny")
    assert [path.name for path in paths] == ["reward_over_generations.png", "reward_over_time.png"]
    for path in paths:
        assert path.read_bytes().startswith(PNG_SIGNATURE)
        assert path.stat().st_size > 10_000


def test_plots_of_a_run_that_has_no_rows_yet(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("")
    for path in write_plots(metrics, tmp_path / "plots", title="tiny"):
        assert path.read_bytes().startswith(PNG_SIGNATURE)


def test_results_become_strict_json() -> None:
    result = {
        "path": Path("a/b"),
        "nan": float("nan"),
        "count": np.int64(3),
        "array": np.array([0.5, np.inf]),
        "pair": (1, None, True),
    }
    expected = {
        "path": "a/b",
        "nan": None,
        "count": 3,
        "array": [0.5, None],
        "pair": [1, None, True],
    }
    assert to_json(result) == expected
    with pytest.raises(TypeError, match="set, which has no JSON form"):
        to_json({"bad": {1}})
