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
from workers import evaluator
from workers.evaluator import Evaluator, WorkerSpec, request_seed
from workers.protocol import Chunk, Sampling

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
    monkeypatch.setattr(evaluator, "get_reward", lambda name: faulty_reward)
    worker = Evaluator(SPEC, [], TASK.train)
    prompts = tuple(prompt.prompt_id for prompt in TASK.batch(0))
    result = worker.evaluate(Chunk(0, 0, (0, 1, 2), None, prompts, Sampling(2), (1,)))
    assert np.isnan(result.rewards_MP[0]).all()
    assert np.isnan(result.rewards_MP[1]).tolist() == [True, False, False, False]
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
