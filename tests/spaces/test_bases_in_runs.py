"""Whole runs on the new bases, and what a run that repairs a quantised model exports."""

import importlib.util
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from begun import begin
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    CompressedTensorsConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from es_align import evaluate, export, load_config, replay, train
from es_align.config import Config
from es_align.config_loading import apply_overrides
from es_align.config_search import StrategyConfig
from es_align.errors import ConfigError
from es_align.exporting import export_run, peft_logits
from es_align.layouts import copy_tokenizer
from es_align.models import resolve_model
from es_align.preflight import validate
from es_align.quantizing import quantize_model
from es_align.results import TrainResult
from es_align.run_folder import RunFolder
from es_align.space_checks import check_run_settings
from workers.rendering import Renderer

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"


def run_and_check(folder: Path, overrides: list[str], *, is_resumed: bool = True) -> TrainResult:
    """Train, rebuild from the ledger, go on, and export what was evaluated."""
    if is_resumed:
        result = train(load_config(TINY, [*overrides, "generations=1"]), run_dir=folder)
        assert result.generations == 1 and result.failed == 0
        basis = (folder / "basis.safetensors").read_bytes()
    config = load_config(TINY, [*overrides, "generations=2"])
    result = train(config, run_dir=folder, resume=is_resumed)
    assert result.generations == 2 and result.failed == 0
    assert not is_resumed or (folder / "basis.safetensors").read_bytes() == basis
    assert replay(folder).matches and replay(folder, generation=0).matches
    exported = export(folder, folder.with_name("adapter"), generation=2)
    assert exported.max_difference < 1e-3 * exported.logit_scale < exported.max_change
    return result


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "basis"), [("core", "activations"), ("singular_values", "random")]
)
def test_a_run_on_a_basis_replays_resumes_and_exports(
    kind: str, basis: str, tmp_path: Path, workers_here: Callable[[], AbstractContextManager[None]]
) -> None:
    overrides = [f"space.kind={kind}", f"space.basis={basis}", "strategy.sigma=0.2"]
    with workers_here():
        run_and_check(tmp_path / "run", overrides)


def repairing(tiny_config: Config, kind: str = "singular_values") -> Config:
    """The tiny model in INT4, whose engine is not started here."""
    space = tiny_config.space.model_copy(update={"kind": kind, "basis": "quantisation_error"})
    strategy = StrategyConfig(kind="eggroll" if kind == "core" else "openai_es")
    update = {"precision": "int4", "space": space, "strategy": strategy}
    return tiny_config.model_copy(update=update)


@pytest.mark.parametrize("kind", ["singular_values", "core"])
def test_a_repair_exports_for_the_quantised_checkpoint(
    kind: str, tiny_config: Config, tmp_path: Path
) -> None:
    config, model = repairing(tiny_config, kind), resolve_model("tiny", "int4")
    folder = RunFolder(tmp_path / "run")
    begin(folder, config, model)
    result = export_run(folder, config, model, 0, tmp_path / "adapter")
    assert result.base == str(model.engine) != model.name
    assert result.max_difference < 1e-4 * result.logit_scale
    assert result.max_change > 100 * result.max_difference  # the repair, before any generation
    saved = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == result.base
    told = (tmp_path / "adapter" / "README.md").read_text()
    assert f"Base: {model.engine}" in told and "quantize tiny FOLDER --scheme int4" in told


def test_peft_puts_the_repair_on_the_checkpoint_that_the_adapter_names(
    tiny_config: Config, tmp_path: Path
) -> None:
    """As somebody who only has the adapter's folder would load it, by what its README says."""
    config, model = repairing(tiny_config), resolve_model("tiny", "int4")
    folder = RunFolder(tmp_path / "run")
    begin(folder, config, model)
    export_run(folder, config, model, 0, tmp_path / "adapter")
    base = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    path = base["base_model_name_or_path"]
    ids = Renderer(model.reference).render([{"role": "user", "content": "abc"}])
    with torch.inference_mode():
        settings = CompressedTensorsConfig(run_compressed=False)
        quantised = AutoModelForCausalLM.from_pretrained(path, quantization_config=settings)
        loaded = PeftModel.from_pretrained(quantised, str(tmp_path / "adapter")).eval()
        got = loaded(input_ids=torch.tensor([ids])).logits[:, -1].float()
    wanted = peft_logits(model.dequantised, tmp_path / "adapter", [ids])
    elsewhere = peft_logits(model.reference, tmp_path / "adapter", [ids])
    assert float((got - wanted).norm()) < 0.1 * float((elsewhere - wanted).norm())


def test_other_bases_export_for_the_model_as_named(tiny_config: Config, tmp_path: Path) -> None:
    model, folder = resolve_model("tiny", "fp32"), RunFolder(tmp_path / "run")
    begin(folder, tiny_config, model)
    result = export_run(folder, tiny_config, model, 0, tmp_path / "adapter")
    assert result.base == "tiny"
    told = (tmp_path / "adapter" / "README.md").read_text()
    assert "Base: tiny" in told and "repair" not in told


def test_a_repair_is_evaluated_on_no_other_model(tiny_config: Config) -> None:
    run = repairing(tiny_config)
    for name, value in (("precision", "int8"), ("model", "smollm2-135m-instruct")):
        with pytest.raises(ConfigError, match=rf"{name}={value}, but .* repairs tiny in int4"):
            check_run_settings(run, run.model_copy(update={name: value}))
    check_run_settings(run, run)
    check_run_settings(tiny_config, tiny_config.model_copy(update={"precision": "int8"}))


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("seed=5", "seed=5 belongs to the run, whose mean was made with seed=0"),
        ("strategy.sigma=0.2", r"strategy\.sigma=0\.2 belongs to the run"),
        ("space.rank=3", r"space\.rank=3 belongs to the run, whose .* with space\.rank=8"),
        (
            "model=smollm2-135m-instruct",
            "model=smollm2.* but the run's mean is the weights of",
        ),
    ],
)
def test_a_mean_is_evaluated_with_the_settings_it_was_made_with(override: str, told: str) -> None:
    run = load_config(TINY, ["space.kind=weights"])
    with pytest.raises(ConfigError, match=told):
        check_run_settings(run, apply_overrides(run, [override]))
    check_run_settings(run, apply_overrides(run, ["task.num_heldout=8", "precision=bf16"]))
    other = load_config(TINY, [])
    check_run_settings(other, apply_overrides(other, ["model=smollm2-135m-instruct"]))


def test_a_checkpoint_quantised_by_others_has_nothing_to_repair(
    tiny_config: Config, tmp_path: Path
) -> None:
    quantize_model(resolve_model("tiny", "fp32").source, tmp_path / "own", "int4")
    update = {"model": str(tmp_path / "own")}
    update["workers"] = tiny_config.workers.model_copy(update={"engine": "vllm"})
    config = repairing(tiny_config).model_copy(update=update)
    with pytest.raises(ConfigError, match=r"needs the full-precision original, and .* already"):
        validate(config)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_a_repairing_run_on_vllm_replays_and_exports(tmp_path: Path) -> None:
    """The tiny model with one head width that vLLM's attention has on a CPU, in INT4."""
    source = resolve_model("tiny", "fp32").source
    sizes = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 32}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1}
    torch.manual_seed(6)
    LlamaForCausalLM(LlamaConfig.from_pretrained(source, **sizes)).save_pretrained(tmp_path / "m")
    copy_tokenizer(source, tmp_path / "m")
    overrides = ["precision=int4", "space.basis=quantisation_error", f"model={tmp_path / 'm'}"]
    overrides += ["workers.engine=vllm", "workers.max_model_len=128", "workers.kv_cache_gb=0.05"]
    result = run_and_check(tmp_path / "run", overrides, is_resumed=False)
    again = evaluate(str(tmp_path / "run"), generation=2)
    assert (again.reward, again.pass_rate) == (result.final.reward, result.final.pass_rate)
