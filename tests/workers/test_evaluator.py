"""What a worker does with completions: rewards that raise, are not finite,
or are missing stay unscored.
"""

import functools

import numpy as np
import pytest

from es_align.config import TaskConfig
from es_align.fitness import centre_prompts
from es_align.pooling import engine_path
from es_align.tasks import make_task
from rewards import registry
from rewards.base import Columns, Score
from workers.engines.base import Request
from workers.evaluator import Evaluator, request_seed
from workers.protocol import BASE_MEMBER, LOG_LIKELIHOOD, Chunk, Sampling
from workers.starting import WorkerSpec

TASK = make_task(
    TaskConfig(name="letters", num_train=8, num_heldout=1), seed=0, prompts_per_generation=4
)
SPEC = WorkerSpec(
    "torch", functools.partial(engine_path, "tiny", "fp32"), "fp32", "letters", 4, 256, 8, 1.0, 1
)
CALLS = iter(range(1000))


def faulty_reward(completion: str, columns: Columns) -> Score:
    """The first member loses everything, the second one completion, by three kinds of fault."""
    del completion, columns
    call = next(CALLS)
    if call in (0, 4):
        raise KeyError("answer")
    if call == 1:
        return Score(float("nan"), False, {}, "ok")
    if call in (2, 3):
        return Score(None, False, {}, "no_answer")
    return Score(1.0, True, {}, "ok")


def test_a_completion_without_score_is_counted_and_a_member_without_any_excluded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rewards.scoring.get_reward", lambda name: faulty_reward)
    worker = Evaluator(SPEC, [], TASK.train)
    prompts = tuple(prompt.prompt_id for prompt in TASK.batch(0))
    result = worker.evaluate(Chunk(0, 0, (0, 1, 2), None, prompts, Sampling(2), (1,)))
    assert np.isnan(result.rewards_MP[0]).all()
    assert np.isnan(result.rewards_MP[1]).tolist() == [True, False, False, False]
    assert (result.num_completions, result.num_unscored) == (12, 5)
    assert result.reasons == {"error:KeyError": 2, "error:not_finite": 1, "no_answer": 2, "ok": 7}
    fitness_M = centre_prompts(result.rewards_MP)
    assert np.isnan(fitness_M[0]) and np.isfinite(fitness_M[1:]).all()
    assert [sample.reason for sample in result.samples] == ["error:KeyError", "ok", "ok", "ok"]
    assert registry.get_reward("letters") is not faulty_reward


def test_a_prompt_s_seed_is_its_own_and_common_to_all_members() -> None:
    assert request_seed(1, "train/1") == request_seed(1, "train/1")
    seeds = {request_seed(seed, f"train/{index}") for seed in range(20) for index in range(20)}
    assert len(seeds) == 400
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_every_sample_has_its_own_seed_and_the_first_one_s_is_the_prompt_s() -> None:
    assert request_seed(1, "train/1", 0) == request_seed(1, "train/1") == 5471604306723862616
    seeds = {request_seed(1, f"train/{i}", sample) for i in range(20) for sample in range(20)}
    assert len(seeds) == 400


def test_samples_of_a_prompt_are_taken_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three samples: two members, two prompts, rewards by the order of the calls."""
    rewards = iter([1.0, 0.0, None, None, None, None, 0.0, 0.0, 1.0, 1.0, 1.0, None])

    def in_order(completion: str, columns: Columns) -> Score:
        del columns
        reward = next(rewards)
        return Score(reward, reward == 1.0, {"length": len(completion)}, "ok")

    monkeypatch.setattr("rewards.scoring.get_reward", lambda name: in_order)
    worker = Evaluator(SPEC, [], TASK.train)
    prompts = tuple(prompt.prompt_id for prompt in TASK.batch(0)[:2])
    sampling = Sampling(4, temperature=1.0, seed=3, with_log_likelihood=True)
    chunk = Chunk(0, 0, (0, 1), None, prompts, sampling, (1,), num_samples=3, pass_k=2)
    result = worker.evaluate(chunk)
    assert np.array_equal(result.rewards_MP, [[1.0, np.nan], [2 / 3, 1.0]], equal_nan=True)
    assert result.passed_MP.tolist() == [[1 / 3, 0.0], [1 / 3, 2 / 3]]
    assert (result.num_completions, result.num_unscored) == (12, 5)
    assert [sample.reward for sample in result.samples] == [0.0, 1.0]  # calls 7 and 10

    asked = [
        Request(worker.tokens[prompt], BASE_MEMBER, request_seed(3, prompt, sample))
        for prompt in prompts
        for sample in range(3)
    ]
    alone = worker.engine.generate(asked, sampling)
    assert len({completion.token_ids for completion in alone[:3]}) == 3
    assert [sample.completion for sample in result.samples] == [alone[0].text, alone[3].text]
    assert result.num_generated_tokens == 2 * sum(len(one.token_ids) for one in alone)
    assert result.num_prompt_tokens == 2 * sum(len(one.token_ids) for one in asked)
    lengths = [np.mean([len(one.text) for one in alone[i : i + 3]]) for i in (0, 3)]
    assert result.metrics_MP["length"] == pytest.approx(np.array([lengths] * 2), rel=1e-15)
    per_token = [(one.log_likelihood or 0.0) / len(one.token_ids) for one in alone]
    likelihoods = [np.mean(per_token[i : i + 3]) for i in (0, 3)]
    assert result.metrics_MP[LOG_LIKELIHOOD] == pytest.approx(np.array([likelihoods] * 2))


def test_one_greedy_sample_is_asked_for_nothing_more() -> None:
    worker = Evaluator(SPEC, [], TASK.train)
    prompts = tuple(prompt.prompt_id for prompt in TASK.batch(0))
    result = worker.evaluate(Chunk(0, 0, (0,), None, prompts, Sampling(4)))
    assert result.metrics_MP == {}
    assert result.num_completions == 4
