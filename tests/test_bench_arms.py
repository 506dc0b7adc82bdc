"""The arms of the bench: stock adapters, members, and real engines on a random model."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from es_align.adapters import load_adapter
from es_align.bench.hardware import find_hardware
from es_align.bench.population import BenchResult, bench_population
from es_align.bench.settings import BenchSettings
from es_align.bench.stock import slot_rank, write_adapters
from es_align.bundled import build_tiny
from es_align.models import linear_shapes, resolve_model
from workers.engines.vllm_arms import make_members
from workers.layers import NoiseLayer
from workers.members import NoiseMembers


def test_hardware_is_read_from_the_processor_s_own_list(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text(
        "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 avx512f avx512_vnni\n\n"
        "processor\t: 1\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 avx512f avx512_vnni\n"
    )
    found = find_hardware(info)
    assert found.cpu == "Some CPU"
    assert found.flags == ("avx2", "avx512f", "avx512_vnni")


def test_stock_adapters_are_peft_folders_of_the_space_s_rank(tmp_path: Path) -> None:
    reference = resolve_model("tiny", "bf16").reference
    shapes = {
        n: s for n, s in linear_shapes(reference).items() if n.endswith(("q_proj", "up_proj"))
    }
    write_adapters(tmp_path, shapes, rank=3, members=2, seed=0, sigma=0.05)
    first, second = (load_adapter(tmp_path / name, reference) for name in "01")
    assert set(first.layers) == set(shapes)
    assert first.scaling == 1.0
    down_RI, up_OR = first.layers["model.layers.0.mlp.up_proj"]
    assert (tuple(down_RI.shape), tuple(up_OR.shape)) == ((3, 32), (64, 3))
    assert not torch.equal(down_RI, second.layers["model.layers.0.mlp.up_proj"][0])
    config = json.loads((tmp_path / "0" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"]) == ("LORA", 3)


def test_vllm_s_slots_have_fixed_ranks() -> None:
    assert [slot_rank(rank) for rank in (1, 2, 8, 9, 300, 512)] == [1, 8, 8, 16, 320, 512]
    assert slot_rank(513) is None


def test_seeded_spaces_get_seeds_of_antithetic_pairs() -> None:
    layers = [NoiseLayer("a", 4, 4, 1, 1.0, 0)]
    assert make_members(layers, 3, seed=5, sigma=0.5, generation=7) == NoiseMembers(
        seed=5, generation=7, pairs=(0, 0, 1), signs=(1, -1, 1), sigma=0.5
    )


@pytest.fixture
def model_for_vllm(tmp_path: Path) -> Path:
    """The bundled tiny model with heads as wide as vLLM's smallest on a processor."""
    folder = tmp_path / "model"
    folder.mkdir()
    build_tiny(folder)
    config = LlamaConfig.from_pretrained(
        folder, hidden_size=64, num_attention_heads=2, num_key_value_heads=1, head_dim=32
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_the_real_arms_on_a_random_model(model_for_vllm: Path) -> None:
    settings = BenchSettings(
        model=str(model_for_vllm),
        rank=4,
        members=4,
        requests=8,
        new_tokens=8,
        prompt_tokens=8,
        repeats=2,
        is_eager=True,
        kv_cache_gb=0.1,
    )
    result: BenchResult = bench_population(settings)
    assert result.stock_reason is None
    assert result.ratio > 0 and result.stock_ratio is not None and result.stock_ratio > 0
    assert result.is_compiled == {"base": False, "population": False, "stock": False}
    assert result.changed_answers > 0
    assert 0 < result.bytes_per_member < 10_000
    assert set(result.load_s) == {"base", "population", "stock"}
    assert [list(repeat) for repeat in result.repeats] == [
        ["base", "population", "stock"],
        ["stock", "population", "base"],
    ]
