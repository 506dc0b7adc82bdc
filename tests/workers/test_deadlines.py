"""What a worker has to do has its time: scoring, moves that it missed, storing a mean."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from es_align.config import Config, RewardConfig
from es_align.models import ModelPaths
from es_align.pooling import make_pool
from kernels.errors import WorkerError
from workers.dispatch import Dispatcher
from workers.fleet import Fleet
from workers.lives import FleetSettings, State
from workers.pool import Pool
from workers.protocol import Chunk, Move, Prompt, Sampling
from workers.simulated_engine import EngineModel, MadeUpAnswers
from workers.simulation import Durations, Fault, FaultKind, SimulatedTransport

READY_S = 21.0  # of a worker: placed in 1 s, loaded in 20
CHUNK_S = 1.0  # so the learned deadline is the least there is, 30 s
LOOPING = 5  # the chunk in which completions make the reward loop
MOVE_S = 20.0


class Answers(MadeUpAnswers):
    """Chunks that take a worker a second, and one that it scores as long as it may."""

    def __init__(self, scoring_limit_s: float = CHUNK_S) -> None:
        super().__init__(EngineModel(0.01, 0.0, 0.0), [100])
        self.scoring_limit_s = scoring_limit_s

    def seconds(self, chunk: Chunk) -> float:
        return self.scoring_limit_s if chunk.chunk_id == LOOPING else CHUNK_S


StartPool = Callable[..., tuple[Pool, SimulatedTransport, list[str]]]


@pytest.fixture
def start_pool(monkeypatch: pytest.MonkeyPatch, tiny_config: Config) -> StartPool:
    """Starts the pool of a run with one simulated worker and these rewards: configured ones, else
    the task's own, and that of another task's held-out prompts.
    """
    monkeypatch.setattr("workers.pool.ray.is_initialized", lambda: True)
    monkeypatch.setattr("workers.pool.ray.put", lambda value: value)
    monkeypatch.setattr("workers.pool.check_capacity", lambda *needs: None)

    def start(
        *rewards: RewardConfig,
        own: str = "letters",
        heldout: str | None = None,
        faults: Sequence[Fault] = (),
    ) -> tuple[Pool, SimulatedTransport, list[str]]:
        told: list[str] = []
        config = tiny_config.model_copy(update={"reward": rewards})
        prompts = [Prompt("train/0", (), {}), Prompt("heldout/0", (), {}, heldout)]
        model = ModelPaths("tiny", Path(), Path())
        pool = make_pool(config, model, own, [], prompts, tell=told.append)
        answers = Answers(pool.spec.scoring_limit_s)
        transport = SimulatedTransport(answers, [1.0], faults=faults)
        monkeypatch.setattr("workers.pool.RayTransport", lambda *needs: transport)
        pool.start()
        return pool, transport, told

    return start


def make_chunks(num_chunks: int) -> list[Chunk]:
    prompts, sampling = ("train/0", "train/1"), Sampling(320)
    return [Chunk(n, 0, (2 * n, 2 * n + 1), None, prompts, sampling) for n in range(num_chunks)]


@pytest.mark.parametrize("where", ["configured", "own", "heldout"])
def test_a_worker_that_scores_to_its_limit_answers_before_the_driver_s(
    start_pool: StartPool, tmp_path: Path, where: str
) -> None:
    """Some completions that loop take a reward in a process through all of the time it has."""
    if where == "configured":
        (tmp_path / "mine.py").write_text("def score(prompts, completions): return [1.0]")
        mine = RewardConfig(name=f"{tmp_path}/mine.py:score")
        pool, transport, told = start_pool(RewardConfig(name="letters"), mine)
    else:
        pool, transport, told = start_pool(**{where: "math"})
    assert len(pool.evaluate(make_chunks(8))) == 8
    assert transport.now() == READY_S + 7 * CHUNK_S + 540.0
    assert (pool.num_retries, told) == (0, [])


def test_where_no_reward_has_a_limit_of_its_own_a_hung_worker_is_found_soon(
    start_pool: StartPool,
) -> None:
    pool, _, told = start_pool(RewardConfig(name="letters"), own="math")
    with pytest.raises(WorkerError, match=r"members 10 to 11, failed 3 times"):
        pool.evaluate(make_chunks(8))
    assert told[0] == "worker 0 on machine-0: TookTooLong: no answer after 30 s; made again"


def test_a_worker_may_store_a_mean_as_long_as_it_may_load(start_pool: StartPool) -> None:
    pool, transport, told = start_pool(faults=[Fault(READY_S + 0.25, 0, FaultKind.HUNG)])
    pool._started.fleet.step(READY_S + 0.25)
    pool.store_mean()
    assert told == ["worker 0 on machine-0: TookTooLong: no answer after 900 s; made again"]
    assert transport.now() == READY_S + 0.25 + 900


def make_dispatcher(
    told: list[str],
    faults: Sequence[Fault] = (),
    *,
    load_s: float = 20.0,
    looping_s: float = CHUNK_S,
    call_deadline_s: float = 600.0,
) -> Dispatcher:
    """Three workers that are ready; two moves take them longer than a chunk's deadline."""
    durations = Durations(place_s=1, load_s=load_s, move_s=MOVE_S)
    transport = SimulatedTransport(Answers(looping_s), [1.0] * 3, durations, faults)
    settings = FleetSettings(3, 3, 300, call_deadline_s, max_retries=2)
    fleet = Fleet(transport, settings, told.append)
    fleet.start((), [])
    return Dispatcher(fleet)


def a_move(generation: int) -> Move:
    return Move(generation, generation, np.ones(2), sigma=0.1, learning_rate=0.5)


def test_a_worker_that_rejoins_makes_the_moves_it_missed_before_it_has_work() -> None:
    told: list[str] = []
    # It loads again from 102 to 202 s, while three moves are made, and joins in a long evaluation.
    killed = Fault(101.5, 2, FaultKind.KILLED)
    dispatcher = make_dispatcher(told, [killed], load_s=100, call_deadline_s=MOVE_S + 5)
    fleet = dispatcher.fleet
    for generation in range(8):
        dispatcher.evaluate(make_chunks(80 if generation == 3 else 12))
        before = fleet.now()
        fleet.move(a_move(generation))
        assert fleet.now() - before < 2 * MOVE_S  # nor do the others wait for all of its moves
    dispatcher.evaluate(make_chunks(12))
    late = fleet.workers[2]
    assert (late.state, late.num_moves, dispatcher.num_retries) == (State.READY, 8, 1)
    assert late.num_chunks == 4
    assert told == [
        "worker 2 on machine-2: SimulatedDeath: its process is gone; made again",
        "worker 2 joins on machine-2",
    ]


def test_a_straggler_makes_the_moves_behind_its_chunk_before_it_has_another() -> None:
    told: list[str] = []
    dispatcher = make_dispatcher(told, looping_s=60.0)
    fleet, chunks = dispatcher.fleet, make_chunks(80)
    first = [chunks[LOOPING], *chunks[:LOOPING], *chunks[LOOPING + 1 : 11]]
    dispatcher.evaluate(first, drop_slowest=0.1)  # worker 0 has the first until 81 s
    for generation, asked in enumerate([chunks[6:12], chunks[6:], chunks[6:12]]):
        fleet.move(a_move(generation))
        dispatcher.evaluate(asked)
    late = fleet.workers[0]
    assert (late.state, late.num_moves, late.num_chunks, told) == (State.READY, 3, 3, [])
