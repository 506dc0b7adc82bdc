"""The reference engine: each member in a mixed batch is the model with that member's weights."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from es_align.config_search import SpaceConfig
from es_align.exporting import _reference_engine
from es_align.models import resolve_model
from es_align.spaces import Space, layers_for, make_space
from kernels.matrix_noise import NoiseStream, factor_noise
from workers.engines.base import EngineSpec, Request
from workers.engines.torch_engine import TorchEngine
from workers.evaluator import request_seed
from workers.layers import CoreLayer, LoraLayer, NoiseLayer, PerturbedLayer, save_factors
from workers.members import NoiseMembers
from workers.protocol import BASE_MEMBER, Sampling
from workers.rendering import Renderer

MEMBERS = 16
SIGMA = 0.3
TEXTS = ("ab", "a longer prompt", "x", "twenty-one letters ok")


@pytest.fixture(scope="module")
def model_path() -> Path:
    return resolve_model("tiny", "fp32").reference


@pytest.fixture(scope="module")
def space(model_path: Path) -> Space:
    return make_space(SpaceConfig(rank=4), model_path)


@pytest.fixture(scope="module")
def renderer(model_path: Path) -> Renderer:
    return Renderer(model_path)


@pytest.fixture(scope="module")
def engine(
    model_path: Path, space: Space, renderer: Renderer, tmp_path_factory: pytest.TempPathFactory
) -> TorchEngine:
    factors = tmp_path_factory.mktemp("factors") / "factors.safetensors"
    save_factors(space.factors, factors)
    return TorchEngine(
        EngineSpec("torch", model_path, "fp32", factors, MEMBERS, 512, 1.0, 1), renderer
    )


@pytest.fixture(scope="module")
def vectors_MD(space: Space) -> np.ndarray:
    vectors = np.random.Generator(np.random.Philox(3)).normal(size=(MEMBERS, space.dimension))
    return (SIGMA * vectors).astype(np.float32)


@pytest.fixture(scope="module")
def tokens(renderer: Renderer) -> list[tuple[int, ...]]:
    return [renderer.render([{"role": "user", "content": text}]) for text in TEXTS]


def materialised(model_path: Path, space: Space, vector_D: np.ndarray) -> torch.nn.Module:
    """The model with the member's change written into its weights."""
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, (down_RI, up_OR) in space.lora(vector_D).items():
            model.get_submodule(name).weight += up_OR @ down_RI
    return model


def test_a_worker_without_a_gpu_and_an_export_leave_the_machine_s_alone(
    model_path: Path, renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    spec = EngineSpec("torch", model_path, "fp32", None, 1, 512, 1.0, 1, device="cpu")
    for engine in (TorchEngine(spec, renderer), _reference_engine(model_path, None)):
        assert {parameter.device.type for parameter in engine.model.parameters()} == {"cpu"}
        assert engine.device == engine.rows.member_T.device == torch.device("cpu")


def test_every_target_is_hooked(engine: TorchEngine) -> None:
    assert engine.num_hooked_layers == 14


def test_members_of_a_mixed_batch_are_their_materialised_models(
    engine: TorchEngine,
    model_path: Path,
    space: Space,
    vectors_MD: np.ndarray,
    tokens: list[tuple[int, ...]],
) -> None:
    engine.set_members(vectors_MD)
    requests = [Request(tokens[m % len(tokens)], m, 0) for m in range(MEMBERS)]
    mixed = engine.logits(requests)
    answers = engine.generate(requests, Sampling(8))
    for member, request in enumerate(requests):
        model = materialised(model_path, space, vectors_MD[member])
        ids = torch.tensor([request.token_ids])
        with torch.inference_mode():
            alone = model(input_ids=ids).logits[0, -1]
            torch.testing.assert_close(mixed[member], alone, atol=2e-4, rtol=1e-4)
            for token in answers[member].token_ids:
                logits = model(input_ids=ids).logits[0, -1]
                assert int(logits.argmax()) == token
                ids = torch.cat([ids, torch.tensor([[token]])], dim=1)


@pytest.mark.parametrize("kind", ["core", "lora", "weights"])
def test_seeded_members_of_a_mixed_batch_are_their_materialised_models(
    kind: Literal["core", "lora", "weights"],
    model_path: Path,
    renderer: Renderer,
    tokens: list[tuple[int, ...]],
    tmp_path: Path,
) -> None:
    layers = layers_for(kind, 2, model_path)
    save_factors(layers, tmp_path / "layers.safetensors")
    spec = EngineSpec("torch", model_path, "fp32", tmp_path / "layers.safetensors", 16, 512, 1.0, 1)
    engine = TorchEngine(spec, renderer)
    dimension = sum(layer.num_numbers for layer in layers)
    mean_D = np.random.Generator(np.random.Philox(5)).normal(size=dimension).astype(np.float32)
    pairs, signs = tuple(m // 2 for m in range(MEMBERS)), (1, -1) * (MEMBERS // 2)
    engine.set_members(NoiseMembers(11, 4, pairs, signs, SIGMA, mean_D=0.1 * mean_D))
    requests = [Request(tokens[m % len(tokens)], m, 0) for m in range(MEMBERS)]
    mixed = engine.logits(requests)
    answers = engine.generate(requests, Sampling(4))
    for member in range(MEMBERS):
        model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()
        start = 0
        for layer in layers:
            numbers = 0.1 * mean_D[start : start + layer.num_numbers]
            start += layer.num_numbers
            with torch.no_grad():
                change_OI = written_out(layer, member // 2, signs[member], numbers)
                model.get_submodule(layer.name).weight += change_OI
        ids = torch.tensor([requests[member].token_ids])
        with torch.inference_mode():
            alone = model(input_ids=ids).logits[0, -1]
            torch.testing.assert_close(mixed[member], alone, atol=3e-4, rtol=1e-4)
            for token in answers[member].token_ids:
                assert int(model(input_ids=ids).logits[0, -1].argmax()) == token
                ids = torch.cat([ids, torch.tensor([[token]])], dim=1)


def written_out(layer: PerturbedLayer, pair: int, sign: int, numbers: np.ndarray) -> torch.Tensor:
    """The member's change of the weight, from the formula and the reference noise alone."""
    assert isinstance(layer, CoreLayer | LoraLayer | NoiseLayer)
    rank = layer.noise_rank

    def noise(parameter: int, unit: float, rows: int, columns: int) -> np.ndarray:
        left_KO, right_KI = (
            factor_noise(NoiseStream(11, 4), [pair], 2 * parameter + side, rank, width)[0]
            for side, width in enumerate((rows, columns))
        )
        size = sign * SIGMA * unit / (8 * rank**0.5)
        return size * left_KO.T.astype(float) @ right_KI.astype(float)

    if isinstance(layer, NoiseLayer):
        return torch.from_numpy(noise(layer.parameter, layer.unit, *layer.shape)).float()
    if isinstance(layer, LoraLayer):
        (out_features, in_features), width = layer.shape, layer.rank
        down, up = numbers[: width * in_features], numbers[width * in_features :]
        noise_a = noise(layer.parameter, layer.unit_a, width, in_features)
        noise_b = noise(layer.parameter + 1, layer.unit_b, out_features, width)
        down_RI, up_OR = down.reshape(width, -1) + noise_a, up.reshape(-1, width) + noise_b
        return torch.from_numpy(layer.scaling * up_OR @ down_RI).float()
    rows = layer.basis.right_IR.shape[1]
    core = torch.from_numpy(
        numbers.reshape(rows, rows) + noise(layer.parameter, layer.unit, rows, rows).T
    )
    return (layer.basis.left_OR.double() @ core.T @ layer.basis.right_IR.T.double()).float()


def test_zero_offsets_and_the_base_row_are_the_model_bit_for_bit(
    engine: TorchEngine, space: Space, tokens: list[tuple[int, ...]]
) -> None:
    engine.set_members(np.zeros((2, space.dimension), dtype=np.float32))
    base = engine.generate([Request(ids, BASE_MEMBER, 0) for ids in tokens], Sampling(8))
    zero = engine.generate([Request(ids, 1, 0) for ids in tokens], Sampling(8))
    assert base == zero


def test_the_order_of_the_batch_changes_no_answer(
    engine: TorchEngine, vectors_MD: np.ndarray, tokens: list[tuple[int, ...]]
) -> None:
    engine.set_members(vectors_MD)
    requests = [Request(tokens[m % len(tokens)], m, 0) for m in range(MEMBERS)]
    forward = engine.generate(requests, Sampling(8))
    backward = engine.generate(requests[::-1], Sampling(8))
    assert forward == backward[::-1]


def test_the_canary_sees_a_lost_perturbation(
    engine: TorchEngine, vectors_MD: np.ndarray, tokens: list[tuple[int, ...]]
) -> None:
    requests = [Request(tokens[0], 0, 0), Request(tokens[0], 1, 0)]
    engine.set_members(vectors_MD[:2])
    assert engine.canary(requests) == []
    engine.set_members(np.zeros_like(vectors_MD[:2]))
    assert len(engine.canary(requests)) == engine.num_hooked_layers


def test_the_canary_compares_with_the_member_it_is_told(
    engine: TorchEngine, vectors_MD: np.ndarray, tokens: list[tuple[int, ...]]
) -> None:
    """A member that is the mean is found, however far the mean is from the base."""
    request = [Request(tokens[0], 0, 0)]
    engine.set_members(vectors_MD[[0, 1]])
    assert engine.canary(request, reference=1) == []
    engine.set_members(vectors_MD[[1, 1]])
    assert engine.canary(request) == []
    assert len(engine.canary(request, reference=1)) == engine.num_hooked_layers


def test_sampling_is_common_to_members_and_changes_with_the_seed(
    engine: TorchEngine, space: Space, tokens: list[tuple[int, ...]]
) -> None:
    engine.set_members(np.zeros((2, space.dimension), dtype=np.float32))
    hot = Sampling(12, temperature=1.0)
    same = engine.generate([Request(tokens[0], 0, 5), Request(tokens[0], 1, 5)], hot)
    other = engine.generate([Request(tokens[0], 0, 6), Request(tokens[0], 1, 5)], hot)
    assert same[0] == same[1] == other[1]
    assert other[0] != same[0]


def test_generation_ends_at_the_stop_token(
    engine: TorchEngine, renderer: Renderer, tokens: list[tuple[int, ...]]
) -> None:
    hot = Sampling(400, temperature=1.0)
    answers = engine.generate([Request(tokens[0], BASE_MEMBER, seed) for seed in range(8)], hot)
    stop = renderer.stop_token_ids[0]
    ended = [answer.token_ids for answer in answers if answer.token_ids[-1] == stop]
    assert ended
    assert all(stop not in ids[:-1] for ids in ended)
    assert all("</s>" not in answer.text for answer in answers)


def test_samples_differ_and_are_common_to_members_of_one_model(
    engine: TorchEngine, space: Space, tokens: list[tuple[int, ...]]
) -> None:
    engine.set_members(np.zeros((2, space.dimension), dtype=np.float32))
    seeds = [request_seed(9, "train/0", sample) for sample in range(6)]
    requests = [Request(tokens[0], slot, seed) for slot in (0, 1) for seed in seeds]
    answers = engine.generate(requests, Sampling(12, temperature=1.0))
    assert answers[:6] == answers[6:]
    assert len({answer.token_ids for answer in answers}) == 6


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_log_likelihood_is_that_of_the_member_s_own_model(
    temperature: float,
    engine: TorchEngine,
    model_path: Path,
    space: Space,
    vectors_MD: np.ndarray,
    tokens: list[tuple[int, ...]],
) -> None:
    """Of the tokens up to the first stop token, at temperature 1 whatever they were drawn at."""
    engine.set_members(vectors_MD)
    requests = [Request(tokens[m % len(tokens)], m, m) for m in range(4)]
    asked = Sampling(40, temperature, with_log_likelihood=True)
    answers = engine.generate(requests, asked)
    assert len({len(answer.token_ids) for answer in answers}) > 1 or temperature == 0
    for member, (request, answer) in enumerate(zip(requests, answers, strict=True)):
        model = materialised(model_path, space, vectors_MD[member])
        ids = torch.tensor([[*request.token_ids, *answer.token_ids]])
        with torch.inference_mode():
            logits_TV = model(input_ids=ids).logits[0, len(request.token_ids) - 1 : -1]
        chosen = torch.tensor(answer.token_ids)[:, None]
        expected = logits_TV.double().log_softmax(-1).gather(1, chosen).sum().item()
        assert answer.log_likelihood == pytest.approx(expected, abs=2e-3)
        assert expected < -1
    plain = engine.generate(requests, Sampling(40, temperature))
    assert [answer.token_ids for answer in plain] == [answer.token_ids for answer in answers]
    assert [answer.log_likelihood for answer in plain] == [None] * 4
