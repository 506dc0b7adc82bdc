"""Where an export is put."""

from pathlib import Path

import pytest
from begun import begin

from es_align.config import Config
from es_align.exporting import export_run
from es_align.models import resolve_model
from es_align.run_folder import RunFolder


@pytest.mark.parametrize("out", [".", "../out"])
def test_an_export_fills_the_empty_folder_that_one_stands_in(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    model, folder = resolve_model("tiny", "fp32"), RunFolder(tmp_path / "run")
    begin(folder, tiny_config, model)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    result = export_run(folder, tiny_config, model, 0, Path(out), is_replaced=True)
    assert result.path == out
    names = {file.name for file in Path().iterdir()}  # of the working folder as it was entered
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= names
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "run"]


@pytest.mark.parametrize("is_replaced", [True, False])
def test_an_export_takes_the_place_of_another_only_if_asked(
    tiny_config: Config, tmp_path: Path, is_replaced: bool
) -> None:
    model, folder = resolve_model("tiny", "fp32"), RunFolder(tmp_path / "run")
    begin(folder, tiny_config, model)
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("")
    if is_replaced:
        export_run(folder, tiny_config, model, 0, out, is_replaced=True)
    else:
        with pytest.raises(OSError, match="not empty"):
            export_run(folder, tiny_config, model, 0, out)
    assert (out / "old").exists() is not is_replaced
