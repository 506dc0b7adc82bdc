"""Reward log_likelihood: what the engine says of given answers is what transformers says."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from es_align import train
from es_align.config import Config
from es_align.config_search import SpaceConfig
from es_align.models import resolve_model
from es_align.pooling import engine_path
from es_align.run_folder import RunFolder
from es_align.spaces import Space, make_space
from kernels.errors import DataError, WorkerError
from rewards.specs import RewardSpec
from workers.engines.base import EngineSpec, Forced, Request
from workers.engines.torch_engine import TorchEngine
from workers.evaluator import Evaluator
from workers.layers import save_factors
from workers.protocol import BASE_MEMBER, Chunk, Prompt, Sampling
from workers.rendering import Renderer
from workers.starting import WorkerSpec

MEMBERS, SIGMA = 3, 0.3
TEXTS = ("a", "Name a colour, please.", "xyz " * 9)
ANSWERS = ("Blue.", "b", "It is as long as the others are short.")
SUM_TOLERANCE = 2e-3  # of a sum over some dozens of tokens, fp32 against fp32 in other batches


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
    spec = EngineSpec("torch", model_path, "fp32", factors, MEMBERS, 512, 1.0, 1)
    return TorchEngine(spec, renderer)


def forced(renderer: Renderer, slots: list[int]) -> list[Forced]:
    return [
        Forced(renderer.render([{"role": "user", "content": text}]), ids(renderer, answer), slot)
        for slot in slots
        for text, answer in zip(TEXTS, ANSWERS, strict=True)
    ]


def ids(renderer: Renderer, answer: str) -> tuple[int, ...]:
    written = renderer.tokenizer.encode(answer, add_special_tokens=False)
    return (*written, renderer.stop_token_ids[0])


def plain(
    model_path: Path, sequence: Forced, changes: dict[str, tuple[torch.Tensor, torch.Tensor]]
) -> float:
    """One forward of one sequence by the model with a member's change in its weights."""
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()
    tokens = torch.tensor([sequence.prompt_ids + sequence.answer_ids])
    with torch.inference_mode():
        for name, (down_RI, up_OR) in changes.items():
            model.get_submodule(name).weight += up_OR @ down_RI
        logits_TV = model(input_ids=tokens).logits[0, :-1].double()
    chosen = logits_TV.log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0]
    return float(chosen[-len(sequence.answer_ids) :].sum())


def test_a_mixed_batch_is_scored_as_transformers_scores_each_alone(
    engine: TorchEngine, model_path: Path, space: Space, renderer: Renderer
) -> None:
    random = np.random.Generator(np.random.Philox(3))
    vectors_MD = (SIGMA * random.normal(size=(MEMBERS, space.dimension))).astype(np.float32)
    engine.set_members(vectors_MD)
    slots = [BASE_MEMBER, *range(MEMBERS)]
    sequences = forced(renderer, slots)
    got = np.array([likelihood.total for likelihood in engine.score(sequences)])
    changes = [{}, *(dict(space.lora(vector_D)) for vector_D in vectors_MD)]
    expected = [plain(model_path, s, changes[s.slot + 1]) for s in sequences]
    assert got == pytest.approx(expected, abs=SUM_TOLERANCE)
    per_slot = got.reshape(len(slots), -1)
    assert (np.abs(np.diff(per_slot, axis=0)) > 10 * SUM_TOLERANCE).all()


def test_a_member_of_zeros_is_the_base_bit_for_bit(
    engine: TorchEngine, space: Space, renderer: Renderer
) -> None:
    engine.set_members(np.zeros((2, space.dimension), dtype=np.float32))
    assert engine.score(forced(renderer, [1])) == engine.score(forced(renderer, [BASE_MEMBER]))


def test_sequences_beyond_one_batch_keep_their_order(
    engine: TorchEngine, space: Space, renderer: Renderer
) -> None:
    engine.set_members(np.zeros((1, space.dimension), dtype=np.float32))
    three = forced(renderer, [0])
    many, few = ([found.total for found in engine.score(s)] for s in (three * 14, three))
    assert many == pytest.approx(few * 14, abs=SUM_TOLERANCE)


def test_what_greedy_decoding_writes_is_greedy(
    engine: TorchEngine, space: Space, renderer: Renderer
) -> None:
    engine.set_members(np.zeros((1, space.dimension), dtype=np.float32))
    given = forced(renderer, [0])
    requests = [Request(sequence.prompt_ids, 0, 0) for sequence in given]
    written = engine.generate(requests, Sampling(4, ignore_eos=True))
    own = [Forced(s.prompt_ids, a.token_ids, 0) for s, a in zip(given, written, strict=True)]
    assert [found.is_greedy for found in engine.score(own)] == [True] * len(own)
    spoilt = [s._replace(answer_ids=(*s.answer_ids[:-1], s.answer_ids[-1] ^ 1)) for s in own]
    # Answers of different lengths share a batch: what is padding counts for neither.
    shorter = [s._replace(answer_ids=s.answer_ids[: n + 1]) for n, s in enumerate(own)]
    found = [likelihood.is_greedy for likelihood in engine.score([*spoilt, *shorter])]
    assert found == [False] * len(own) + [True] * len(own)


PROMPTS = [
    Prompt(f"train/{n}", ({"role": "user", "content": text},), {"gold": answer})
    for n, (text, answer) in enumerate(zip(TEXTS, ANSWERS, strict=True))
]


def spec_of(reward: RewardSpec, max_model_len: int = 512) -> WorkerSpec:
    rewards = (reward,)
    return WorkerSpec(
        "torch", tiny_path, "fp32", "letters", 4, max_model_len, 8, 1.0, 1, rewards=rewards
    )


def tiny_path() -> Path:
    return engine_path("tiny", "fp32")


@pytest.mark.parametrize("pass_at", [None, -5.7])
def test_a_chunk_has_the_mean_of_the_answer_s_tokens_and_its_end(
    pass_at: float | None, model_path: Path, renderer: Renderer
) -> None:
    reward = RewardSpec("log_likelihood", {"column": "gold"}, weight=0.5, pass_at=pass_at)
    worker = Evaluator(spec_of(reward), [], PROMPTS)
    names = tuple(prompt.prompt_id for prompt in PROMPTS)
    result = worker.evaluate(Chunk(0, 0, (0, 1), None, names, Sampling(8), (1,)))
    sequences = forced(renderer, [BASE_MEMBER])
    means = [plain(model_path, s, {}) / len(s.answer_ids) for s in sequences]
    assert [len(s.answer_ids) for s in sequences] == [6, 2, 39]
    expected = np.array([means] * 2)
    assert result.rewards_MP == pytest.approx(0.5 * expected, abs=SUM_TOLERANCE)
    if pass_at is None:
        assert np.isnan(result.passed_MP).all()
    else:
        assert (result.passed_MP == (expected >= pass_at)).all()
        assert 0 < result.passed_MP.mean() < 1
    assert [sample.completion for sample in result.samples] == list(ANSWERS)
    assert (result.num_generated_tokens, result.num_completions) == (0, 6)
    assert result.num_prompt_tokens == 2 * sum(len(s.prompt_ids + s.answer_ids) for s in sequences)


def test_a_beginning_is_scored_without_an_end(model_path: Path, renderer: Renderer) -> None:
    reward = RewardSpec("log_likelihood", {"column": "gold", "end": False})
    worker = Evaluator(spec_of(reward), [], PROMPTS)
    names = tuple(prompt.prompt_id for prompt in PROMPTS)
    result = worker.evaluate(Chunk(0, 0, (0,), None, names, Sampling(8)))
    beginnings = [
        sequence._replace(answer_ids=sequence.answer_ids[:-1])
        for sequence in forced(renderer, [BASE_MEMBER])
    ]
    means = [plain(model_path, s, {}) / len(s.answer_ids) for s in beginnings]
    assert [len(s.answer_ids) for s in beginnings] == [5, 1, 38]
    assert result.rewards_MP == pytest.approx(np.array([means]), abs=SUM_TOLERANCE)


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({}, "prompt train/3: the reward needs the column 'reference' and the row has none"),
        ({"reference": 18}, "prompt train/3: column reference=18 must be a text"),
        ({"reference": " \n"}, "must say something"),
    ],
)
def test_a_prompt_without_reference_is_named(columns: dict, told: str) -> None:
    prompt = Prompt("train/3", ({"role": "user", "content": "a"},), columns)
    with pytest.raises(DataError) as caught:
        Evaluator(spec_of(RewardSpec("log_likelihood")), [], [prompt])
    assert told in str(caught.value)


def test_a_reference_that_is_too_long_is_named(renderer: Renderer) -> None:
    reward = RewardSpec("log_likelihood", {"column": "gold"})
    needed = max(len(s.prompt_ids + s.answer_ids) for s in forced(renderer, [0])) + 1
    Evaluator(spec_of(reward, needed), [], PROMPTS)
    with pytest.raises(WorkerError, match=f"prompt train/2 and its reference need {needed} tokens"):
        Evaluator(spec_of(reward, needed - 1), [], PROMPTS)


def test_a_run_makes_references_likelier(
    tmp_path: Path,
    tiny_config: Config,
    workers_here: Callable[[], AbstractContextManager[None]],
) -> None:
    for name, first in (("train.jsonl", 0), ("test.jsonl", 50)):
        rows = [
            {"question": f"{n} + 1?", "answer": f"Add.\n#### {n + 1}"}
            for n in range(first, first + 16)
        ]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"name": "gsm8k", "path": str(tmp_path), "num_train": 16, "num_heldout": 8}
    changes = {
        "task": task,
        "reward": "log_likelihood",
        "generations": 6,
        "population": 16,
        "prompts_per_generation": 4,
        "workers": {"engine": "torch", "cpus": 1, "max_model_len": 512},
        "strategy": {"sigma": 0.1, "learning_rate": 0.5},
    }
    config = Config.model_validate(tiny_config.model_dump(exclude={"strategy"}) | changes)
    with workers_here():
        result = train(config, run_dir=tmp_path / "run")
    assert result.gain > 0.1
    assert result.gain_ci95[0] > 0
    assert -8 < result.baseline.reward < -3  # ln 258 = 5.55 for a model that knows nothing
    assert np.isnan(result.final.pass_rate)
    folder = RunFolder(tmp_path / "run")
    rows = [row for row in folder.read_rows(folder.metrics) if "reward/mean" in row]
    assert all("reward/pass_rate" not in row for row in rows)
    assert result.tokens == 0
