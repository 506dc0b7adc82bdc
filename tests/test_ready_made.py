"""Ready-made quantised checkpoints: packed here by other code than reads them, then taken apart,
resolved, trained on and, where vLLM is installed, run.
"""

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from begun import begin
from compressed_tensors.compressors import ModelCompressor
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from es_align import api
from es_align.adapters import load_adapter
from es_align.config import Config, Precision
from es_align.config_loading import apply_overrides
from es_align.config_search import SpaceConfig
from es_align.errors import ConfigError, ModelError
from es_align.exporting import export_run
from es_align.layouts import StoredScheme, copy_tokenizer, stored_scheme
from es_align.models import ModelPaths, linear_shapes, linear_weights, resolve_model
from es_align.preflight import validate
from es_align.quantizing import quantize_model
from es_align.run_folder import RunFolder
from es_align.space_checks import check_writable
from es_align.spaces import make_space
from es_align.stored_weights import StoredWeights
from workers.engines.base import EngineSpec, Request
from workers.layers import save_factors
from workers.rendering import Renderer

GROUP = 32
# Which of eight neighbouring columns each 4-bit field of an AWQ word holds, lowest bits first.
AWQ_COLUMNS = (0, 2, 4, 6, 1, 3, 5, 7)
GPTQ_SETTINGS = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": True}
GPTQ_SETTINGS |= {"desc_act": False, "checkpoint_format": "gptq"}
AWQ_SETTINGS = {"quant_method": "awq", "bits": 4, "group_size": GROUP}
AWQ_SETTINGS |= {"zero_point": True, "version": "gemm"}
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Codes(NamedTuple):
    """A weight in groups along its inputs: `scale_OG * (codes_OI - zeros_OG)`."""

    codes_OI: np.ndarray
    zeros_OG: np.ndarray
    scale_OG: np.ndarray  # float16

    @property
    def weight(self) -> torch.Tensor:
        """The matrix these stand for, rounded once to the scales' float16."""
        offsets = self.codes_OI - self.zeros_OG.repeat(GROUP, axis=1)
        exact = offsets * self.scale_OG.astype(np.float64).repeat(GROUP, axis=1)
        return torch.from_numpy(exact.astype(np.float16))


def coded(weight_OI: torch.Tensor, *, is_symmetric: bool) -> Codes:
    groups = weight_OI.double().numpy().reshape(len(weight_OI), -1, GROUP)
    low, high = groups.min(-1), groups.max(-1)
    if is_symmetric:
        scale = (np.maximum(-low, high) / 7).astype(np.float16)
        zeros = np.full(scale.shape, 8)
    else:
        scale = ((high - low) / 15).astype(np.float16)
        zeros = np.clip(np.rint(-low / scale), 0, 15).astype(np.int64)
    codes = np.rint(groups / scale[..., None]) + zeros[..., None]
    codes = np.clip(codes, 0, 15).astype(np.int64).reshape(len(weight_OI), -1)
    return Codes(codes, zeros, scale)


def words(rows: list[list[int]]) -> torch.Tensor:
    """Each row of eight 4-bit numbers as one int32, the first in the lowest bits."""
    packed = [sum(code << (4 * field) for field, code in enumerate(row)) for row in rows]
    return torch.from_numpy(np.array(packed, dtype=np.uint32).view(np.int32).copy())


def packed_down(codes: np.ndarray) -> torch.Tensor:
    """Eight rows to a word."""
    columns = [
        [int(code) for code in codes[i : i + 8, j]]
        for i in range(0, len(codes), 8)
        for j in range(codes.shape[1])
    ]
    return words(columns).view(len(codes) // 8, -1)


def packed_across(codes: np.ndarray, order: tuple[int, ...] = tuple(range(8))) -> torch.Tensor:
    """Eight columns to a word, in this order."""
    rows = [
        [int(row[j + column]) for column in order]
        for row in codes
        for j in range(0, codes.shape[1], 8)
    ]
    return words(rows).view(len(codes), -1)


def gptq_parts(weight_OI: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    code = coded(weight_OI, is_symmetric=True)
    parts = {
        "qweight": packed_down(code.codes_OI.T),
        "qzeros": packed_across(code.zeros_OG.T - 1),
        "scales": torch.from_numpy(code.scale_OG.T.copy()),
        "g_idx": torch.arange(weight_OI.shape[1], dtype=torch.int32) // GROUP,
    }
    return parts, code.weight


def awq_parts(weight_OI: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    code = coded(weight_OI, is_symmetric=False)
    parts = {
        "qweight": packed_across(code.codes_OI.T, AWQ_COLUMNS),
        "qzeros": packed_across(code.zeros_OG.T, AWQ_COLUMNS),
        "scales": torch.from_numpy(code.scale_OG.T.copy()),
    }
    return parts, code.weight


PACKERS: Mapping[str, tuple[Callable, dict]] = {
    "gptq": (gptq_parts, GPTQ_SETTINGS),
    "awq": (awq_parts, AWQ_SETTINGS),
}


class ReadyMade(NamedTuple):
    """A tiny checkpoint and what its layers stand for."""

    path: Path
    weights: dict[str, torch.Tensor]


def write_ready_made(folder: Path, layout: str, source: Path) -> ReadyMade:
    """Pack the attention and MLP matrices of the checkpoint `source`, the rest as float16."""
    pack, settings = PACKERS[layout]
    tensors, weights = {}, {}
    for key, tensor in load_file(source / "model.safetensors").items():
        name = key.removesuffix(".weight")
        if name.rpartition(".")[2] in TARGETS:
            parts, weights[name] = pack(tensor)
            tensors |= {f"{name}.{part}": value for part, value in parts.items()}
        else:
            tensors[key] = tensor.half()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    config |= {"dtype": "float16", "quantization_config": settings}
    (folder / "config.json").write_text(json.dumps(config))
    copy_tokenizer(source, folder)
    return ReadyMade(folder, weights)


@pytest.fixture(scope="module", params=["gptq", "awq"])
def ready_made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("ready") / request.param
    return write_ready_made(folder, request.param, resolve_model("tiny", "fp32").source)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dequantised copies of these throw-away checkpoints do not pile up in the user's cache."""
    resolve_model("tiny", "fp32")
    monkeypatch.setenv("ES_ALIGN_CACHE", str(tmp_path / "cache"))


def test_weights_come_dequantised_under_the_layers_own_names(ready_made: ReadyMade) -> None:
    shapes = linear_shapes(ready_made.path)
    assert shapes["model.layers.0.self_attn.k_proj"] == (16, 32)
    assert shapes["model.layers.1.mlp.down_proj"] == (32, 64)
    assert shapes["lm_head"] == (258, 32)
    found = dict(linear_weights(ready_made.path, TARGETS))
    assert found.keys() == ready_made.weights.keys() and len(found) == 14
    for name, weight in found.items():
        assert torch.equal(weight, ready_made.weights[name]), name


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_our_own_checkpoints_are_taken_apart_like_the_library_s(
    tmp_path: Path, precision: Precision
) -> None:
    assert precision in ("int8", "int4")
    quantize_model(resolve_model("tiny", "fp32").source, tmp_path / "own", precision)
    scheme = stored_scheme(tmp_path / "own")
    assert scheme is not None and scheme.precision == precision
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "own", dtype=torch.bfloat16)
    compressor = ModelCompressor.from_pretrained_model(loaded)
    assert compressor is not None
    compressor.decompress_model(loaded)
    found = dict(linear_weights(tmp_path / "own", TARGETS))
    assert len(found) == 14
    for name, weight in found.items():
        assert torch.equal(weight, loaded.get_submodule(name).weight.data), name


def test_a_model_is_resolved_as_it_is_and_its_reference_is_dequantised(
    ready_made: ReadyMade,
) -> None:
    paths = resolve_model(str(ready_made.path), "int4")
    assert paths.engine == paths.source == ready_made.path
    assert paths.name == str(ready_made.path)
    assert paths.reference != ready_made.path and paths.reference == paths.reference
    assert stored_scheme(paths.reference) is None
    model = AutoModelForCausalLM.from_pretrained(paths.reference, dtype=torch.float32)
    for name, weight in ready_made.weights.items():
        assert torch.equal(model.get_submodule(name).weight, weight.float()), name
    assert Renderer(paths.reference).render([{"role": "user", "content": "a"}])


@pytest.mark.parametrize("precision", ["bf16", "fp32", "int8"])
def test_another_precision_is_told_which_one_to_write(
    ready_made: ReadyMade, precision: Precision
) -> None:
    with pytest.raises(ConfigError, match=r"quantised already .* set precision=int4"):
        resolve_model(str(ready_made.path), precision)
    engine = {"engine": "torch" if precision == "fp32" else "vllm"}
    config = Config.model_validate(
        {"model": str(ready_made.path), "precision": precision, "workers": engine}
    )
    with pytest.raises(ConfigError, match=r"quantised already .* set precision=int4"):
        validate(config)


@pytest.mark.parametrize(
    ("scheme", "told"),
    [
        (StoredScheme("gptq", "int4"), "is stored as gptq, which space.kind=weights cannot write"),
        (StoredScheme("awq", "int4"), "is stored as awq, which space.kind=weights cannot write"),
        (
            StoredScheme("int-quantized", "int8", has_zero_points=True),
            "is stored as codes with zero points, which space.kind=weights cannot write",
        ),
        (
            StoredScheme("pack-quantized", "int4"),
            "ready-made INT4 checkpoint, .* original with precision=int4",
        ),
    ],
)
def test_whole_weights_of_a_form_that_cannot_take_them_are_refused(
    scheme: StoredScheme, told: str
) -> None:
    config = Config.model_validate({"model": "owner/name", "space": {"kind": "weights"}})
    check_writable(config, StoredScheme("int-quantized", "int8"))
    check_writable(config, None)
    check_writable(Config(model="owner/name"), scheme)
    with pytest.raises(ConfigError, match=f"model=owner/name .*{told}"):
        check_writable(config, scheme)


def test_a_hub_model_s_form_is_looked_at_before_a_worker_starts(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only its name is known to preflight."""
    original = resolve_model("tiny", "fp32").source
    made = write_ready_made(tmp_path / "gptq", "gptq", original).path
    paths = ModelPaths("owner/name", made, made)
    monkeypatch.setattr(api, "resolve_model", lambda name, precision: paths)
    monkeypatch.setattr(api, "begin_run", lambda *_: pytest.fail("begins"))
    overrides = ["model=owner/name", "precision=int4", "workers.engine=vllm", "space.rank=8"]
    overrides += ["space.kind=weights", "strategy.kind=eggroll"]
    with pytest.raises(ConfigError, match="owner/name is stored as gptq"):
        api.train(apply_overrides(tiny_config, overrides), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_export_names_the_quantised_model_as_base(
    ready_made: ReadyMade, tiny_config: Config, tmp_path: Path
) -> None:
    model = resolve_model(str(ready_made.path), "int4")
    config = tiny_config.model_copy(update={"model": model.name, "precision": "int4"})

    folder = RunFolder(tmp_path / "run")
    begin(folder, config, model)
    result = export_run(folder, config, model, 0, tmp_path / "adapter")
    assert result.max_difference < 1e-3 * result.logit_scale
    saved = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == str(ready_made.path)
    assert len(load_adapter(tmp_path / "adapter", ready_made.path).layers) == 14


def test_quantised_tensors_without_settings_are_refused(
    ready_made: ReadyMade, tmp_path: Path
) -> None:
    save_file(load_file(ready_made.path / "model.safetensors"), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"q\w+ is I32\), but its config.json has no"):
        resolve_model(str(tmp_path), "bf16")


def test_settings_without_quantised_tensors_are_refused(tmp_path: Path) -> None:
    source = resolve_model("tiny", "fp32").source
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = GPTQ_SETTINGS
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    with pytest.raises(ModelError, match=r"no layer quantised as its config.json says \(gptq\)"):
        resolve_model(str(tmp_path), "int4")


def with_tensor(made: ReadyMade, folder: Path, key: str, tensor: torch.Tensor) -> Path:
    """A copy of the checkpoint with one tensor replaced."""
    folder.mkdir()
    tensors = load_file(made.path / "model.safetensors") | {key: tensor}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_bytes((made.path / "config.json").read_bytes())
    return folder


def test_a_layer_of_another_width_is_named(ready_made: ReadyMade, tmp_path: Path) -> None:
    key = "model.layers.1.mlp.up_proj"
    path = with_tensor(ready_made, tmp_path / "x", f"{key}.scales", torch.ones(3, 64).half())
    with pytest.raises(ModelError, match=rf"layer {key} is not quantised as .* scales \[3, 64\]"):
        resolve_model(str(path), "int4")


@pytest.mark.parametrize(
    ("part", "value", "told"),
    [
        ("qzeros", torch.full((1, 4), 0x77777778), "zero points other than 8 .8 to 9"),
        ("g_idx", torch.arange(32).flip(0) // 16, "inputs reordered .* desc_act=false"),
    ],
)
def test_gptq_layers_the_engine_would_read_otherwise_are_named(
    tmp_path: Path, part: str, value: torch.Tensor, told: str
) -> None:
    made = write_ready_made(tmp_path / "gptq", "gptq", resolve_model("tiny", "fp32").source)
    key = "model.layers.0.self_attn.q_proj"
    path = with_tensor(made, tmp_path / "x", f"{key}.{part}", value.int())
    with pytest.raises(ModelError, match=rf"layer {key} .*{told}"):
        list(linear_weights(path, ["q_proj"]))


def test_several_files_become_several_files_and_an_index(tmp_path: Path) -> None:
    made = write_ready_made(tmp_path / "gptq", "gptq", resolve_model("tiny", "fp32").source)
    tensors = load_file(made.path / "model.safetensors")
    (made.path / "model.safetensors").unlink()
    # A layer's own parts may lie in different files.
    halves = ({k for k in tensors if "scales" in k}, {k for k in tensors if "scales" not in k})
    for number, keys in enumerate(halves):
        save_file({key: tensors[key] for key in keys}, made.path / f"part-{number}.safetensors")
    (tmp_path / "plain").mkdir()
    StoredWeights(made.path).write_plain(tmp_path / "plain")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", dtype=torch.float32)
    for name, weight in made.weights.items():
        assert torch.equal(model.get_submodule(name).weight, weight.float()), name


def build_wide(folder: Path) -> Path:
    """The tiny model with one head width that vLLM's attention has on a CPU."""
    source = resolve_model("tiny", "fp32").source
    sizes = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 32}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1}
    torch.manual_seed(6)
    LlamaForCausalLM(LlamaConfig.from_pretrained(source, **sizes)).save_pretrained(folder)
    copy_tokenizer(source, folder)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
@pytest.mark.parametrize("layout", ["gptq", "awq"])
def test_vllm_computes_with_the_weights_the_basis_is_made_of(layout: str, tmp_path: Path) -> None:
    from workers.engines.vllm_engine import VllmEngine
    from workers.engines.vllm_scoring import log_probabilities

    original = build_wide(tmp_path / "wide")
    made = write_ready_made(tmp_path / layout, layout, original)
    paths = resolve_model(str(made.path), "int4")
    space = make_space(SpaceConfig(rank=2), paths.source)
    save_factors(space.factors, tmp_path / "factors.safetensors")
    renderer = Renderer(paths.engine)
    factors = tmp_path / "factors.safetensors"
    spec = EngineSpec("vllm", paths.engine, "int4", factors, 2, 128, 0.05, 1)
    engine = VllmEngine(spec, renderer)
    assert engine.num_hooked_layers == 2 * 4  # qkv, o, gate_up, down
    half = np.random.Generator(np.random.Philox(4)).normal(size=space.dimension)
    engine.set_members(np.stack([0.1 * half, -0.1 * half]).astype(np.float32))
    windows = [renderer.render([{"role": "user", "content": text}]) for text in ("abc", "xyz 123")]
    for slot in (0, 1):
        assert engine.canary([Request(windows[0], slot, 0)]) == []

    got = np.concatenate(log_probabilities(engine.llm, windows))
    wanted = plain_scores(paths.reference, windows)
    rounding = np.abs(plain_scores(original, windows) - wanted).mean()
    # bf16 arithmetic, far below what four bits themselves did to the model.
    assert np.abs(got - wanted).mean() < 0.1 * rounding


@torch.inference_mode()
def plain_scores(path: Path, windows: list[tuple[int, ...]]) -> np.ndarray:
    """Log probabilities of the windows' tokens by transformers in fp32."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    scores = []
    for window in windows:
        logits = model(input_ids=torch.tensor([window])).logits[0, :-1]
        chosen = torch.tensor(window[1:])[:, None]
        scores.append(logits.log_softmax(-1).gather(1, chosen)[:, 0].double().numpy())
    return np.concatenate(scores)
