"""`es-align quantize`: what it writes, what it prints, what it refuses."""

import re
import sys
from pathlib import Path

import pytest

from es_align.api import quantize
from es_align.cli import main
from es_align.errors import ConfigError, ModelError
from es_align.layouts import stored_scheme
from es_align.models import linear_weights, resolve_model
from es_align.quantizing import choose_group_size
from workers.rendering import Renderer

WIDTHS = {"model.layers.0.self_attn.q_proj": 576, "model.layers.0.mlp.down_proj": 1536}


@pytest.mark.parametrize(
    ("scheme", "asked", "group_size", "largest_error"),
    [("int8", None, None, 1 / 254), ("int4", None, 32, 1 / 15), ("int4", 32, 32, 1 / 15)],
)
def test_what_is_written_runs_and_holds_the_rounded_weights(
    tmp_path: Path, scheme, asked: int | None, group_size: int | None, largest_error: float
) -> None:
    result = quantize("tiny", tmp_path / "out", scheme, group_size=asked)
    assert (result.scheme, result.group_size, result.out) == (
        scheme,
        group_size,
        str(tmp_path / "out"),
    )
    source = resolve_model("tiny", "fp32").source
    assert result.bytes_before == (source / "model.safetensors").stat().st_size
    assert result.bytes_after == (tmp_path / "out" / "model.safetensors").stat().st_size
    assert result.bytes_after < result.bytes_before
    assert resolve_model(result.out, scheme).engine == tmp_path / "out"
    assert Renderer(tmp_path / "out").stop_token_ids == Renderer(source).stop_token_ids

    targets = ("q_proj", "down_proj")
    before = dict(linear_weights(source, targets))
    for name, rounded in linear_weights(tmp_path / "out", targets):
        weight = before.pop(name)
        size = group_size or weight.shape[1]
        largest = weight.view(len(weight), -1, size).abs().amax(-1, keepdim=True)
        difference = (rounded.float() - weight).abs().view(len(weight), -1, size)
        # Half a step of rounding, and what bf16 weights and scales (2^-9 each) add at the ends.
        assert bool((difference <= (largest_error + 2**-7) * largest).all()), name
        assert float(difference.max()) > 0
    assert not before


def test_the_largest_group_that_fits_is_taken() -> None:
    assert choose_group_size(WIDTHS, None) == 64
    assert choose_group_size(WIDTHS, 32) == 32
    assert choose_group_size({"x": 256}, None) == 128


@pytest.mark.parametrize(
    ("widths", "asked", "told"),
    [
        (WIDTHS, 128, r"groups of 128 .*q_proj has 576 inputs; use group size 64 or 32, or int8"),
        ({"a": 64, "b": 48}, None, r"groups of 32 .* but b has 48 inputs; use int8"),
        ({"a": 64, "b": 48}, 64, r"groups of 64 .* but b has 48 inputs; use int8"),
    ],
)
def test_a_width_no_group_fits_is_named_with_what_does(
    widths: dict[str, int], asked: int | None, told: str
) -> None:
    with pytest.raises(ModelError, match=told):
        choose_group_size(widths, asked)


def test_a_failure_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"groups of 128 .* has 32 inputs; use group size 32"):
        quantize("tiny", tmp_path / "out", "int4", group_size=128)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(ConfigError, match="exists and is not empty; name a new folder"):
        quantize("tiny", tmp_path, "int8")
    assert (tmp_path / "notes").read_text() == "mine"


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert quantize("tiny", tmp_path / "out", "int8").scheme == "int8"
    scheme = stored_scheme(tmp_path / "out")
    assert scheme is not None and scheme.layout == "int-quantized"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--scheme", "int8", "--group-size", "64"], "group_size=64 is for int4"),
        (["--scheme", "int4", "--group-size", "48"], "group_size=48 is not supported; use 128, 64"),
        (["--scheme", "int2"], "'int2' is not one of 'int8', 'int4'"),
        ([], "--scheme"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    told: str,
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["es-align", "quantize", "tiny", str(tmp_path / "x"), *arguments]
    )
    monkeypatch.setattr("es_align.api.quantize", never)
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == 2
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def never(*arguments: object, **options: object) -> None:
    raise AssertionError("called")


def test_the_command_prints_what_was_made(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "made"
    command = ["es-align", "quantize", "tiny", str(out), "--scheme", "int4"]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setenv("COLUMNS", "400")  # no line is wrapped, however long the path
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == 0
    lines = capfd.readouterr().out.splitlines()
    shown = dict(re.split(r"  +", line.strip(), maxsplit=1) for line in lines if "  " in line)
    assert shown["scheme"] == "int4" and shown["group size"] == "32"
    assert shown["bytes after"] == str((out / "model.safetensors").stat().st_size)


def test_a_quantised_model_is_not_quantised_again(tmp_path: Path) -> None:
    quantize("tiny", tmp_path / "once", "int8")
    with pytest.raises(ModelError, match=r"quantised already \(int-quantized\); .* precision=int8"):
        quantize(str(tmp_path / "once"), tmp_path / "twice", "int4")
    assert not (tmp_path / "twice").exists()
