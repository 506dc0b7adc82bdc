"""Adapters in and out: ESSA's space starts as exactly the adapter, and what is wrong is named."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from es_align import load_config, replay, train
from es_align.adapters import load_adapter, save_adapter
from es_align.config_search import SpaceConfig
from es_align.errors import ConfigError, ModelError
from es_align.exporting import peft_logits
from es_align.models import linear_weights, resolve_model
from es_align.spaces import make_space
from workers.engines.base import EngineSpec, Request
from workers.engines.torch_engine import TorchEngine
from workers.layers import LoraLayer, save_factors
from workers.rendering import Renderer

TINY = Path(__file__).parent.parent / "configs" / "tiny.yaml"
RANK = 4
Q_PROJ = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def model_path() -> Path:
    return resolve_model("tiny", "fp32").reference


@pytest.fixture(scope="module")
def adapter(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA on attention, both factors random, as a warm start leaves it."""
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    config = LoraConfig(r=RANK, lora_alpha=8, target_modules=["q_proj", "v_proj", "o_proj"])
    wrapped = get_peft_model(model, config)
    random = torch.Generator().manual_seed(3)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=random)
    folder = tmp_path_factory.mktemp("adapter")
    wrapped.save_pretrained(str(folder))
    return folder


def adapter_config(adapter: Path, **changes: object) -> SpaceConfig:
    return SpaceConfig.model_validate({"basis": "adapter", "adapter": str(adapter), **changes})


def test_at_zero_the_space_is_the_adapter(model_path: Path, adapter: Path, tmp_path: Path) -> None:
    space = make_space(adapter_config(adapter), model_path)
    assert space.dimension == 2 * 3 * 2 * RANK  # layers, matrices, factors
    save_factors(space.factors, tmp_path / "factors.safetensors")
    renderer = Renderer(model_path)
    engine = TorchEngine(
        EngineSpec("torch", model_path, "fp32", tmp_path / "factors.safetensors", 1, 256, 1.0, 1),
        renderer,
    )
    engine.set_members(np.zeros((1, space.dimension), dtype=np.float32))
    tokens = [renderer.render([{"role": "user", "content": text}]) for text in ("ab", "xyz")]
    own = torch.cat([engine.logits([Request(ids, 0, 0)]) for ids in tokens])
    base = torch.cat([engine.logits([Request(ids, -1, 0)]) for ids in tokens])
    wanted = peft_logits(model_path, adapter, tokens)
    torch.testing.assert_close(own, wanted, atol=1e-4, rtol=1e-4)
    assert float((own - base).abs().max()) > 0.1


def test_offsets_move_the_leading_values_of_both_factors(model_path: Path, adapter: Path) -> None:
    """Against the decomposition written out: B A with shifted singular values."""
    space = make_space(adapter_config(adapter, alpha=0.5), model_path)
    assert space.dimension == 2 * 3 * 2 * (RANK // 2)
    vector_D = np.random.Generator(np.random.Philox(5)).normal(size=space.dimension) * 0.3
    got = space.lora(vector_D)
    loaded = load_adapter(adapter, model_path)
    start = 0
    for layer in space.factors:
        down_RI, up_OR = loaded.layers[layer.name]
        moved = []
        for matrix, offset in ((down_RI, start), (up_OR, start + RANK // 2)):
            left, values, right = torch.linalg.svd(matrix, full_matrices=False)
            shift = torch.tensor(vector_D[offset : offset + RANK // 2], dtype=torch.float32)
            values[: RANK // 2] *= 1 + shift
            moved.append(left @ torch.diag(values) @ right)
        wanted = loaded.scaling * moved[1] @ moved[0]
        product = got[layer.name].up_OR @ got[layer.name].down_RI
        torch.testing.assert_close(product, wanted, atol=1e-4, rtol=1e-3)
        start += layer.num_numbers


def wide_adapter(folder: Path, rank: int) -> Path:
    """A LoRA wider than k_proj has outputs, than q_proj has both."""
    random = torch.Generator().manual_seed(4)
    shapes = {"self_attn.k_proj": (16, 32), "self_attn.q_proj": (32, 32), "mlp.up_proj": (64, 32)}
    layers = {
        f"model.layers.1.{name}": (
            torch.randn(rank, num_in, generator=random),
            torch.randn(num_out, rank, generator=random),
        )
        for name, (num_out, num_in) in shapes.items()
    }
    save_adapter(folder, layers, "tiny")
    return folder


@pytest.mark.parametrize("rank", [20, 40, 80])
def test_an_adapter_wider_than_a_layer_is_that_adapter(
    model_path: Path, tmp_path: Path, rank: int
) -> None:
    """Rank above the outputs of k_proj, of q_proj, of all: the product PEFT computes, moved too."""
    folder = wide_adapter(tmp_path / "wide", rank)
    space = make_space(adapter_config(folder), model_path)
    loaded = load_adapter(folder, model_path)
    zeros = space.lora(np.zeros(space.dimension))
    half = space.lora(np.full(space.dimension, 0.5))  # A and B each times 1.5
    for name, (down_RI, up_OR) in loaded.layers.items():
        wanted = loaded.scaling * up_OR @ down_RI
        for factor, got in ((1, zeros[name]), (1.5**2, half[name])):
            product = got.up_OR @ got.down_RI
            torch.testing.assert_close(product, factor * wanted, atol=2e-4, rtol=1e-3)


def test_offsets_of_a_wide_adapter_move_both_factors_own_values(
    model_path: Path, tmp_path: Path
) -> None:
    folder = wide_adapter(tmp_path / "wide", 20)
    space = make_space(adapter_config(folder), model_path)
    name, start = "model.layers.1.self_attn.k_proj", 2 * 20  # after up_proj's
    assert [layer.name for layer in space.factors].index(name) == 1
    assert space.factors[1].num_numbers == 2 * 20  # of B 16 values, and 4 that stand for zeros
    vector_D = np.random.Generator(np.random.Philox(6)).normal(size=space.dimension) * 0.3
    down_RI, up_OR = load_adapter(folder, model_path).layers[name]
    moved = []
    for matrix, offset in ((down_RI, start), (up_OR, start + 20)):
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        values *= 1 + torch.from_numpy(vector_D[offset : offset + len(values)]).float()
        moved.append(left @ torch.diag(values) @ right)
    got = space.lora(vector_D)[name]
    torch.testing.assert_close(got.up_OR @ got.down_RI, moved[1] @ moved[0], atol=2e-4, rtol=1e-3)


def untrained(folder: Path, zero: str) -> Path:
    """One layer, as PEFT makes it (B zero) or the other way round; scaling 1."""
    random = torch.Generator().manual_seed(5)
    down_RI = torch.randn(RANK, 32, generator=random)
    up_OR = torch.randn(32, RANK, generator=random)
    layers = {Q_PROJ: (down_RI * (zero != "A"), up_OR * (zero != "B"))}
    save_adapter(folder, layers, "tiny")
    return folder


def test_noise_on_an_untrained_adapter_is_that_of_a_fresh_lora(
    model_path: Path, tmp_path: Path
) -> None:
    folder = broken(untrained(tmp_path / "own", "B"), tmp_path / "scaled", lora_alpha=2 * RANK)
    for which in ("both", "b"):
        config = adapter_config(folder, kind="lora", lora_factors=which)
        (layer,) = make_space(config, model_path).factors
        assert isinstance(layer, LoraLayer) and layer.scaling == 2
        weight_OI = dict(linear_weights(model_path, ["q_proj"]))[Q_PROJ]
        # scaling * sqrt(rank) * unit * RMS(A): the RMS of scaling * B A with that B.
        rms_a, rms_w = (float(m.square().mean().sqrt()) for m in (layer.down_RI, weight_OI))
        assert 2 * RANK**0.5 * layer.unit_b * rms_a == pytest.approx(rms_w)
        assert (layer.unit_a > 0) == (which == "both")
    with pytest.raises(ConfigError, match=r"factors=a moves nothing in \S+q_proj, .* both or b"):
        make_space(adapter_config(folder, kind="lora", lora_factors="a"), model_path)


@pytest.mark.parametrize("zero", ["A", "B"])
def test_a_factor_that_is_zero_has_no_values_to_scale(
    model_path: Path, tmp_path: Path, zero: str
) -> None:
    config = adapter_config(untrained(tmp_path / "own", zero))
    with pytest.raises(ConfigError, match=rf"{zero} of \S+q_proj is zero, .* space.kind=lora"):
        make_space(config, model_path)


def test_noise_on_an_adapter_without_a_changes_nothing(model_path: Path, tmp_path: Path) -> None:
    config = adapter_config(untrained(tmp_path / "own", "A"), kind="lora")
    with pytest.raises(ConfigError, match=r"A of the adapter's layer \S+q_proj is zero"):
        make_space(config, model_path)


@pytest.mark.slow
def test_essa_by_cma_es_runs_and_replays(
    adapter: Path, tmp_path: Path, workers_here: Callable[[], AbstractContextManager[None]]
) -> None:
    overrides = [
        "generations=3",
        "strategy.kind=cma_es",
        "space.basis=adapter",
        f"space.adapter={adapter}",
    ]
    with workers_here():
        result = train(load_config(TINY, overrides), run_dir=tmp_path / "run")
    assert result.generations == 3
    assert replay(tmp_path / "run").matches and replay(tmp_path / "run", generation=2).matches


def broken(adapter: Path, folder: Path, **changes: object) -> Path:
    """A copy of the adapter with its configuration changed."""
    folder.mkdir(exist_ok=True)
    config = json.loads((adapter / "adapter_config.json").read_text()) | changes
    (folder / "adapter_config.json").write_text(json.dumps(config))
    weights = "adapter_model.safetensors"
    save_file(load_file(adapter / weights), folder / weights)
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "sets use_dora=True"),
        ({"peft_type": "IA3"}, "peft_type=IA3; only LORA"),
        ({"bias": "all"}, "trains biases"),
        ({"lora_alpha": 0}, "lora_alpha=0, with which it changes nothing"),
    ],
)
def test_an_adapter_that_is_no_plain_lora_is_refused(
    adapter: Path, model_path: Path, tmp_path: Path, changes: dict, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        load_adapter(broken(adapter, tmp_path / "broken", **changes), model_path)


def test_an_adapter_of_another_model_is_refused(model_path: Path, tmp_path: Path) -> None:
    layers = {"model.layers.0.self_attn.q_proj": (torch.ones(2, 64), torch.ones(32, 2))}
    save_adapter(tmp_path / "other", layers, "other")
    with pytest.raises(ModelError, match=r"another model: .*q_proj is \(32, 64\), .* a \(32, 32\)"):
        load_adapter(tmp_path / "other", model_path)


def test_alpha_that_moves_nothing_names_one_that_does(adapter: Path, model_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"alpha=0.1 of rank 4 rounds to no .* at least 0.25"):
        make_space(adapter_config(adapter, alpha=0.1), model_path)


def test_layers_of_different_rank_reload_in_peft(model_path: Path, tmp_path: Path) -> None:
    layers = {
        "model.layers.0.self_attn.q_proj": (torch.ones(2, 32), 0.1 * torch.ones(32, 2)),
        "model.layers.1.mlp.down_proj": (torch.ones(3, 64), 0.1 * torch.ones(32, 3)),
    }
    save_adapter(tmp_path / "mixed", layers, "tiny")
    renderer = Renderer(model_path)
    ids = renderer.render([{"role": "user", "content": "ab"}])
    got = peft_logits(model_path, tmp_path / "mixed", [ids])
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    with torch.inference_mode():
        for name, (down_RI, up_OR) in layers.items():
            model.get_submodule(name).weight += up_OR @ down_RI
        wanted = model(input_ids=torch.tensor([ids])).logits[:, -1]
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


def test_a_target_that_matches_nothing_lists_the_layers(model_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'c_attn', which matches no layer .* q_proj"):
        make_space(SpaceConfig(targets=("c_attn",)), model_path)


def test_a_rank_above_the_width_names_the_limit(model_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rank=64 is larger .* use at most 32"):
        make_space(SpaceConfig(rank=64, targets=("q_proj",)), model_path)
