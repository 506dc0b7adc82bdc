"""The benchmark of a whole model's decode step, at a toy's size on this processor."""

import json
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

sys.path.append(str(Path(__file__).parents[2]))  # benchmarks are scripts, no package

from benchmarks import gpu_decode
from benchmarks.gpu_decode_parts import SPACES, Step

SCRIPT = "gpu_decode.py"


@pytest.fixture
def arguments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The command line; where its JSON goes."""
    file = tmp_path / "report.json"
    monkeypatch.setattr(
        sys, "argv", [SCRIPT, "--device", "cpu", "--rounds", "2", "--json", str(file)]
    )
    return file


def test_every_space_is_right_and_timed(
    arguments: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        gpu_decode.main()
    printed = capsys.readouterr().out
    assert ended.value.code == 0, printed
    rows = json.loads(arguments.read_text())["rows"]
    assert [row["work"] for row in rows] == [gpu_decode.PLAIN, *SPACES]
    for row in rows:
        assert row["median_ms"] > 0 and row["tokens_per_s"] > 0
        assert 0 < row["error"] < 0.1
    for row in rows[1:]:
        assert row["ratio"] > 0 and row["bytes_per_member"] > 0
        assert row["change"] > gpu_decode.LEAST_CHANGE * row["error"]
        assert f"| {row['work']} |" in printed
    assert "no goal was measured" in printed


@pytest.mark.parametrize(
    ("slots", "told"),
    [(torch.full((16,), -1), "relative error"), (torch.arange(16).flip(0), "relative error")],
)
def test_rows_of_somebody_else_are_not_timed(
    arguments: Path, monkeypatch: pytest.MonkeyPatch, slots: torch.Tensor, told: str
) -> None:
    """Those of nobody, or of other members."""
    begin = Step.__init__

    def wrong(step: Step, engine, context, tokens_B) -> None:
        begin(step, engine, context, tokens_B)
        if len(tokens_B) == len(slots):  # the timed one, not the reference
            engine.rows.set(slots.to(torch.int32))

    monkeypatch.setattr(Step, "__init__", wrong)
    with pytest.raises(SystemExit) as ended:
        gpu_decode.main()
    assert ended.value.code == 1
    plain, *others = json.loads(arguments.read_text())["rows"]
    assert plain["median_ms"] > 0
    for row in others:
        assert row["has_failed"] and row["median_ms"] is None
        assert row["note"].startswith(f"WrongResult: {told}")


def test_a_checkpoint_takes_the_place_of_the_sizes(
    arguments: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpu_decode.save_random(gpu_decode.SIZES["toy"], tmp_path / "mine", seed=1)
    more = ["--model", str(tmp_path / "mine"), "--spaces", "weights, rank 1"]
    monkeypatch.setattr(sys, "argv", [*sys.argv, *more])
    with pytest.raises(SystemExit) as ended:
        gpu_decode.main()
    assert ended.value.code == 0
    rows = json.loads(arguments.read_text())["rows"]
    assert [row["model"] for row in rows] == ["mine", "mine"]


def test_a_model_that_is_not_there_is_a_row(
    arguments: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--model", str(tmp_path / "nobody")])
    with pytest.raises(SystemExit) as ended:
        gpu_decode.main()
    assert ended.value.code == 1
    (row,) = json.loads(arguments.read_text())["rows"]
    assert row["has_failed"] and "nobody" in row["note"]


def test_too_few_rows_are_refused(
    arguments: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--rows", "6"])
    with pytest.raises(SystemExit):
        gpu_decode.main()
    assert "--rows 6: use an even number from 8 on" in capsys.readouterr().err


def test_the_goal_is_told() -> None:
    row = gpu_decode.Row("toy", 1, 1024, 4, "weights, rank 1", ratio=0.9)
    worse = gpu_decode.Row("toy", 1, 1024, 4, "weights, rank 1", ratio=0.89)
    assert [line.split(":")[0] for line in gpu_decode.goal_lines([row, worse])] == [
        "reached",
        "missed",
    ]
