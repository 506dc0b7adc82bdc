"""Scoring beside generation: the same scores whatever finishes first, in near the longer time."""

import random
import time
from collections.abc import Sequence

import pytest

from es_align.pooling import engine_path
from rewards.base import Columns, Prompted, Score
from rewards.scoring import Scorer
from rewards.specs import RewardFile, RewardSpec, num_together
from workers.engines.base import Completion, OnDone, Request
from workers.evaluator import Evaluator
from workers.overlap import ScoringBeside
from workers.protocol import Chunk, Prompt, Sampling
from workers.starting import WorkerSpec

NUM_ITEMS = 20
STEP_S = 0.02
LONG_STEP_S = 0.1  # where sleeps are added up: a busy machine wakes up late
LIMIT_S = 60.0


def item(place: int) -> Prompted:
    return Prompted(f"text {place}", (), {"place": place})


def shuffled(seed: int) -> list[int]:
    return random.Random(seed).sample(range(NUM_ITEMS), NUM_ITEMS)


class Recorder:
    """Scores an item with its place, and remembers which shared a call."""

    def __init__(self, seconds_each: float = 0.0) -> None:
        self.seconds_each = seconds_each
        self.calls: list[list[int]] = []
        self.limits: list[float] = []

    def __call__(self, items: Sequence[Prompted], limit_s: float) -> list[Score]:
        time.sleep(self.seconds_each * len(items))
        self.calls.append([int(str(one.columns["place"])) for one in items])
        self.limits.append(limit_s)
        return [Score(float(place), True, {}, "ok") for place in self.calls[-1]]


@pytest.mark.parametrize("num_together", [1, 3, 5, 64])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_scores_land_at_their_place_and_calls_are_the_order_s_own(
    num_together: int, seed: int
) -> None:
    score = Recorder()
    with ScoringBeside(score, NUM_ITEMS, num_together, LIMIT_S) as scoring:
        for place in shuffled(seed):
            scoring.add(place, item(place))
        scores = scoring.scores()
    assert [one.reward for one in scores] == list(range(NUM_ITEMS))
    if num_together > 1:
        starts = range(0, NUM_ITEMS, num_together)
        groups = [list(range(s, min(s + num_together, NUM_ITEMS))) for s in starts]
        assert sorted(score.calls) == groups
    assert sorted(place for call in score.calls for place in call) == list(range(NUM_ITEMS))


def test_a_group_is_whole_calls_of_every_reward() -> None:
    mine = RewardSpec("a.py:f", batch_size=6, num_processes=2, file=RewardFile("a.py", "f", ""))
    other = RewardSpec("b.py:f", batch_size=8, file=RewardFile("b.py", "f", ""))
    judge = RewardSpec("reward_model", {"model": "a", "batch_size": 2})
    assert num_together([]) == num_together([RewardSpec("math")]) == 1
    assert num_together([mine, RewardSpec("math")]) == 12
    assert num_together([mine, other]) == 24
    assert num_together([judge]) == 8


def test_one_deadline_is_for_waiting_and_for_all_calls_together() -> None:
    score = Recorder(seconds_each=STEP_S)
    with ScoringBeside(score, 4, 2, 1.0) as scoring:
        time.sleep(0.5)
        for place in range(4):
            scoring.add(place, item(place))
        scoring.scores()
    assert score.limits[0] <= 0.5
    assert score.limits[1] <= 0.5 - 2 * STEP_S


def test_an_error_of_a_reward_s_start_is_raised_where_the_scores_are_asked_for() -> None:
    def failing(items: Sequence[Prompted], limit_s: float) -> list[Score]:
        raise KeyError("gone")

    with ScoringBeside(failing, 1, 1, LIMIT_S) as scoring:
        scoring.add(0, item(0))
        with pytest.raises(KeyError, match="gone"):
            scoring.scores()


def test_no_call_is_begun_when_generation_fails() -> None:
    score = Recorder(seconds_each=STEP_S)
    with (
        pytest.raises(RuntimeError, match="engine"),
        ScoringBeside(score, NUM_ITEMS, 2, LIMIT_S) as scoring,
    ):
        for place in range(NUM_ITEMS - 1):
            scoring.add(place, item(place))
        raise RuntimeError("engine")
    assert len(score.calls) <= 1


class FakeEngine:
    """One completion a step, in an order of its own."""

    def __init__(self, seed: int, seconds_each: float) -> None:
        self.seed = seed
        self.seconds_each = seconds_each

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, on_done: OnDone | None = None
    ) -> list[Completion]:
        assert on_done is not None
        completions = [Completion((n,), str(n)) for n in range(len(requests))]
        for place in shuffled(self.seed):
            time.sleep(self.seconds_each)
            on_done(place, completions[place])
        return completions


@pytest.fixture(scope="module")
def worker() -> Evaluator:
    prompts = [Prompt(f"train/{n}", ({"role": "user", "content": "a"},), {}) for n in range(5)]
    spec = WorkerSpec("torch", tiny, "fp32", "letters", 4, 256, 8, 1.0, 1)
    return Evaluator(spec, [], prompts)


def tiny():
    return engine_path("tiny", "fp32")


def evaluated(worker: Evaluator, monkeypatch: pytest.MonkeyPatch, seed: int, seconds_each: float):
    def slow(completion: str, columns: Columns) -> Score:
        time.sleep(seconds_each)
        return Score(float(completion), int(completion) % 3 == 0, {}, "ok")

    monkeypatch.setattr(worker, "engine", FakeEngine(seed, seconds_each))
    monkeypatch.setattr("rewards.scoring.get_reward", lambda name: slow)
    prompts = tuple(worker.prompts)
    return worker.evaluate(Chunk(0, 0, (0, 1, 2, 3), None, prompts, Sampling(4), (2,)))


def test_a_chunk_takes_the_longer_of_generation_and_scoring(
    worker: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = time.perf_counter()
    result = evaluated(worker, monkeypatch, 1, LONG_STEP_S)
    wall_s = time.perf_counter() - started
    alone_s = NUM_ITEMS * LONG_STEP_S  # of either
    assert alone_s < wall_s < 1.6 * alone_s
    assert result.generate_s > alone_s
    assert 0 < result.score_s < 0.5 * alone_s
    assert result.generate_s + result.score_s <= wall_s


def test_a_hung_reward_after_a_slow_generation_leaves_the_chunk_in_time(
    monkeypatch: pytest.MonkeyPatch, worker: Evaluator
) -> None:
    """Every call of the reward would take an hour."""
    source = "import time\ndef score(prompts, completions): time.sleep(3600)"
    spec = RewardSpec("a.py:score", time_limit_s=3600, file=RewardFile("a.py", "score", source))
    limit_s, generation_s = 6.0, 4.0
    with Scorer([spec], 1) as scorer:
        scorer.start()
        monkeypatch.setitem(worker.scorers, None, scorer)
        monkeypatch.setattr(worker, "num_together", NUM_ITEMS)  # scored when all are there
        monkeypatch.setattr(worker, "scoring_limit_s", limit_s)
        monkeypatch.setattr(worker, "engine", FakeEngine(1, generation_s / NUM_ITEMS))
        started = time.perf_counter()
        chunk = Chunk(0, 0, (0, 1, 2, 3), None, tuple(worker.prompts), Sampling(4))
        result = worker.evaluate(chunk)
        wall_s = time.perf_counter() - started
    assert result.reasons == {"error:out_of_time": NUM_ITEMS}
    assert wall_s < limit_s + 0.75 * generation_s


def test_the_order_of_finishing_changes_no_score(
    worker: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (evaluated(worker, monkeypatch, seed, 0.0) for seed in (1, 2))
    assert first.rewards_MP.tolist() == [[5.0 * m + p for p in range(5)] for m in range(4)]
    assert (first.rewards_MP == second.rewards_MP).all()
    assert (first.passed_MP == second.passed_MP).all()
    assert first.samples == second.samples
    assert [sample.completion for sample in first.samples] == ["10", "11", "12", "13", "14"]
