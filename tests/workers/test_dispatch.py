"""The real dispatcher and fleet over a simulated cluster: faults cost time, never a number."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from kernels.errors import ConfigError, WorkerError
from workers.dispatch import DROPPED, Dispatcher
from workers.fleet import Fleet
from workers.footprint import NO_FOOTPRINT
from workers.lives import FleetSettings, State
from workers.protocol import Chunk, ChunkResult, Move, Sampling
from workers.simulated_engine import EngineModel, MadeUpAnswers
from workers.simulation import Breaks, Durations, Fault, FaultKind, SimulatedTransport

CHUNK_S = 10.0  # every chunk, on a worker of speed 1
READY_S = 21.0  # of a worker: placed in 1 s, loaded in 20
AFTER_START_S = READY_S + 0.25
SETTINGS = FleetSettings(
    num_workers=3, num_needed=3, load_deadline_s=300, call_deadline_s=600, max_retries=2
)
DURATIONS = Durations(place_s=1, load_s=20, move_s=0.5)
ANSWERS = MadeUpAnswers(EngineModel(0.1, 0.0, 0.0), [100])
PROPORTIONAL = MadeUpAnswers(EngineModel(0.0, 0.001, 0.0), [100])
VARIED = MadeUpAnswers(EngineModel(0.1, 0.001, 0.0))


@dataclass
class Cluster:
    """A dispatcher whose workers are ready."""

    dispatcher: Dispatcher
    transport: SimulatedTransport
    told: list[str]

    @property
    def fleet(self) -> Fleet:
        return self.dispatcher.fleet

    @property
    def seconds(self) -> float:
        return self.transport.now()


def make_cluster(
    speeds: Sequence[float] = (1.0, 1.0, 1.0),
    faults: Sequence[Fault] = (),
    *,
    answers: MadeUpAnswers = ANSWERS,
    settings: FleetSettings = SETTINGS,
    breaks: Breaks = lambda worker, chunk: None,
    num_needed: int | None = None,
) -> Cluster:
    transport = SimulatedTransport(answers, speeds, DURATIONS, faults, breaks)
    told: list[str] = []
    num_workers = len(speeds)
    settings = replace(settings, num_workers=num_workers, num_needed=num_needed or num_workers)
    fleet = Fleet(transport, settings, told.append)
    fleet.start((), [])
    return Cluster(Dispatcher(fleet), transport, told)


def make_chunks(num_chunks: int = 12, generation: int = 0) -> list[Chunk]:
    return [
        Chunk(
            chunk_id=index,
            generation=generation,
            members=(2 * index, 2 * index + 1),
            perturbed=None,
            prompt_ids=("train/0", "train/1", "train/2"),
            sampling=Sampling(320),
        )
        for index in range(num_chunks)
    ]


def a_move(generation: int = 0) -> Move:
    return Move(generation, generation, np.ones(2), sigma=0.1, learning_rate=0.5)


def rewards(results: Sequence[ChunkResult]) -> np.ndarray:
    return np.concatenate([result.rewards_MP for result in results])


WANTED = rewards([VARIED.result(chunk, None, 0.0) for chunk in make_chunks()])


@pytest.mark.parametrize("num_workers", [1, 3, 8, 20])
def test_results_are_in_order_and_equal_whatever_the_number_of_workers(num_workers: int) -> None:
    cluster = make_cluster([1.0 + worker / 7 for worker in range(num_workers)], answers=VARIED)
    results = cluster.dispatcher.evaluate(make_chunks())
    assert [result.members[0] for result in results] == list(range(0, 24, 2))
    np.testing.assert_array_equal(rewards(results), WANTED)
    assert len(np.unique(WANTED)) == 2


@pytest.mark.parametrize(
    "faults",
    [
        [Fault(30, 0, FaultKind.KILLED)],
        [Fault(30, 0, FaultKind.KILLED, until_s=500), Fault(45, 1, FaultKind.KILLED)],
        [Fault(30, 0, FaultKind.HUNG)],
        [Fault(30, 0, FaultKind.SLOWED, factor=50)],
        [Fault(30, 2, FaultKind.OTHER_MEAN)],
        [Fault(30 + w, w, kind) for w, kind in enumerate(list(FaultKind)[:3])],
    ],
    ids=["killed", "two killed", "hung", "slowed", "other mean", "all at once"],
)
def test_faults_change_no_number(faults: list[Fault]) -> None:
    cluster = make_cluster(faults=faults, answers=VARIED)
    np.testing.assert_array_equal(rewards(cluster.dispatcher.evaluate(make_chunks())), WANTED)
    cluster.fleet.move(a_move())
    again = cluster.dispatcher.evaluate(make_chunks())
    np.testing.assert_array_equal(rewards(again), WANTED)


def test_a_killed_workers_chunk_is_the_next_one_given_out_and_the_worker_comes_back() -> None:
    cluster = make_cluster(faults=[Fault(READY_S + 25, 0, FaultKind.KILLED)])
    cluster.dispatcher.evaluate(make_chunks())
    assert cluster.dispatcher.num_retries == 1
    # It had two done; its third is the first that another one takes up; it joins at 46, too late.
    assert cluster.transport.busy_s == [20.0, 50.0, 50.0]
    assert cluster.seconds == READY_S + 50
    assert cluster.told == [
        "worker 0 on machine-0: SimulatedDeath: its process is gone; made again",
        "worker 0 joins on machine-0",
    ]


def test_a_hung_worker_is_killed_at_the_deadline_and_its_chunk_given_again() -> None:
    hung = Fault(READY_S + 1, 1, FaultKind.HUNG)
    cluster = make_cluster(faults=[hung], settings=replace(SETTINGS, call_deadline_s=40))
    cluster.dispatcher.evaluate(make_chunks(3))
    assert cluster.seconds == READY_S + 40 + CHUNK_S
    assert cluster.told[0] == (
        "worker 1 on machine-1: TookTooLong: no answer after 40 s; made again"
    )


def test_a_late_chunk_is_given_to_an_idle_worker_and_the_first_answer_counts() -> None:
    slowed = Fault(READY_S + 29.5, 0, FaultKind.SLOWED, factor=1000)
    cluster = make_cluster(faults=[slowed])
    results = cluster.dispatcher.evaluate(make_chunks(11))
    # Worker 0 has its third chunk from 20 on; it is overdue at 40 and comes from another at 50.
    assert cluster.seconds == READY_S + 50
    assert (cluster.dispatcher.num_copies, cluster.dispatcher.num_retries) == (1, 0)
    assert len(results) == 11 and all(result.num_unscored == 0 for result in results)


def test_an_idle_worker_takes_what_a_slow_one_would_have_later() -> None:
    cluster = make_cluster(speeds=[0.25, 1.0, 1.0])
    cluster.dispatcher.evaluate(make_chunks(9))  # it has one chunk, the others four each
    assert (cluster.seconds, cluster.dispatcher.num_copies) == (READY_S + 40, 0)
    cluster.dispatcher.evaluate(make_chunks(7))
    # It is done 40 s after it began; another worker, idle after 30 s, would be no earlier.
    assert (cluster.seconds, cluster.dispatcher.num_copies) == (READY_S + 80, 0)
    cluster.dispatcher.evaluate(make_chunks(3))
    assert (cluster.seconds, cluster.dispatcher.num_copies) == (READY_S + 100, 1)


def test_a_slow_worker_takes_no_chunk_that_would_outlast_the_others() -> None:
    # A worker's share is 32 members; the slow one would need twice as long for a chunk of 32.
    sizes = [32, 32, 16, 8, 8]
    starts = [0, 32, 64, 80, 88]
    chunks = [
        replace(make_chunks(1)[0], chunk_id=index, members=tuple(range(start, start + size)))
        for index, (start, size) in enumerate(zip(starts, sizes, strict=True))
    ]
    cluster = make_cluster([0.5, 1.0, 1.0], answers=PROPORTIONAL)
    makespans = []
    for _ in range(6):
        before = cluster.seconds
        results = cluster.dispatcher.evaluate(chunks)
        assert [len(result.members) for result in results] == sizes
        makespans.append(cluster.seconds - before)
    share_s = PROPORTIONAL.seconds(chunks[0])
    assert makespans[0] > 1.9 * share_s  # nothing is known of its speed yet
    assert makespans[-1] < 1.6 * share_s


def test_workers_of_one_speed_copy_nothing() -> None:
    cluster = make_cluster([1.0] * 4)
    for generation in range(3):
        cluster.dispatcher.evaluate(make_chunks(7, generation))
    assert cluster.dispatcher.num_copies == 0


def test_the_slowest_are_dropped_once_few_enough_are_missing() -> None:
    slowed = Fault(AFTER_START_S, 0, FaultKind.SLOWED, factor=50)
    cluster = make_cluster(faults=[slowed])
    results = cluster.dispatcher.evaluate(make_chunks(11), drop_slowest=0.1)
    assert cluster.seconds == READY_S + 50
    dropped = results[0]
    assert dropped.reasons == {DROPPED: 6} and dropped.num_unscored == 6
    assert np.isnan(dropped.rewards_MP).all() and dropped.rewards_MP.shape == (2, 3)
    assert all(result.num_unscored == 0 for result in results[1:])
    # The share is of the members: nobody is dropped where one chunk is more than that.
    results = make_cluster(faults=[slowed]).dispatcher.evaluate(make_chunks(11), drop_slowest=0.09)
    assert all(result.num_unscored == 0 for result in results)


def test_a_chunk_that_always_fails_stops_the_run_and_is_named() -> None:
    cluster = make_cluster(
        breaks=lambda worker, chunk: OSError("no room") if chunk.chunk_id == 4 else None
    )
    with pytest.raises(
        WorkerError,
        match=r"worker \d, generation 0, members 8 to 9, failed 3 times .*: OSError: no room;"
        r" finished generations are in the ledger",
    ):
        cluster.dispatcher.evaluate(make_chunks())


def test_a_member_for_which_every_chunk_fails_is_named() -> None:
    cluster = make_cluster(
        breaks=lambda worker, chunk: OSError("no room") if 9 in chunk.members else None
    )
    with pytest.raises(WorkerError, match=r"members 8 to 9, failed 3 .*of them member 9 fails alo"):
        cluster.dispatcher.evaluate(make_chunks())


def test_what_a_user_can_mend_comes_through_as_it_was() -> None:
    problem = ConfigError("mend me")
    cluster = make_cluster(breaks=lambda worker, chunk: problem if worker == 1 else None)
    with pytest.raises(ConfigError, match="mend me"):
        cluster.dispatcher.evaluate(make_chunks())


def test_a_worker_with_another_mean_is_fenced_made_anew_and_comes_back() -> None:
    cluster = make_cluster(faults=[Fault(READY_S + 12, 1, FaultKind.OTHER_MEAN)])
    cluster.dispatcher.evaluate(make_chunks())
    assert "Fenced: it answered with a mean of digest" in cluster.told[0]
    assert cluster.told[1] == "worker 1 joins on machine-1"
    moved = cluster.fleet.move(a_move())
    results = cluster.dispatcher.evaluate(make_chunks(generation=1))
    assert {result.mean_digest for result in results} == {moved.digest}
    assert cluster.fleet.states() == {State.READY: 3}


def test_a_worker_that_moves_to_another_mean_is_fenced_before_it_has_work() -> None:
    cluster = make_cluster(faults=[Fault(AFTER_START_S, 1, FaultKind.OTHER_MEAN)])
    moved = cluster.fleet.move(a_move())
    assert cluster.told[0].startswith("worker 1 on machine-1: WorkerError: after 1 moves worker 1")
    results = cluster.dispatcher.evaluate(make_chunks())
    assert {result.mean_digest for result in results} == {moved.digest}
    assert cluster.dispatcher.num_retries == 0


def test_a_worker_that_always_moves_to_another_mean_is_given_up() -> None:
    lasting = Fault(AFTER_START_S, 1, FaultKind.OTHER_MEAN, is_lasting=True)
    cluster = make_cluster(faults=[lasting])
    for generation in range(4):
        cluster.fleet.move(a_move(generation))
        cluster.dispatcher.evaluate(make_chunks(generation=generation))
    assert cluster.fleet.workers[1].state is State.GIVEN_UP
    assert cluster.fleet.workers[1].failures == 3
    assert cluster.told[-1].startswith("worker 1 is given up: WorkerError: after ")


def test_a_worker_too_slow_for_every_move_is_given_up() -> None:
    # Its moves take 5 s, the others' 2.5: it loads in time each time, and never catches up.
    settings = replace(SETTINGS, call_deadline_s=3)
    cluster = make_cluster((0.2, 0.1, 0.2), settings=settings)
    digests = [cluster.fleet.move(a_move(generation)).digest for generation in range(100)]
    assert len(set(digests)) == 100
    assert cluster.fleet.states() == {State.READY: 2, State.GIVEN_UP: 1}
    assert cluster.told[-1].startswith("worker 1 is given up: TookTooLong: no answer after ")


def test_a_worker_lost_with_what_a_run_can_do_without_ends_no_run() -> None:
    cluster = make_cluster([1.0], [Fault(AFTER_START_S, 0, FaultKind.KILLED)])
    assert cluster.fleet.try_one("footprint", deadline_s=60) == NO_FOOTPRINT
    cluster.fleet.step(AFTER_START_S)
    assert cluster.fleet.try_one("footprint", deadline_s=60) is None
    assert cluster.told[0].startswith("worker 0 on machine-0: SimulatedDeath: its process is gone")
    assert cluster.fleet.try_one("footprint", deadline_s=60) is None  # it is not back yet
    assert len(cluster.dispatcher.evaluate(make_chunks(2))) == 2


def test_two_workers_that_differ_are_both_made_anew_once() -> None:
    cluster = make_cluster([1.0, 1.0], [Fault(AFTER_START_S, 1, FaultKind.OTHER_MEAN)])
    moved = cluster.fleet.move(a_move())
    assert [told for told in cluster.told if "joins" in told] == [
        "worker 0 joins on machine-0",
        "worker 1 joins on machine-1",
    ]
    results = cluster.dispatcher.evaluate(make_chunks())
    assert {result.mean_digest for result in results} == {moved.digest}


def test_two_workers_that_differ_again_end_the_run() -> None:
    lasting = Fault(AFTER_START_S, 1, FaultKind.OTHER_MEAN, is_lasting=True)
    cluster = make_cluster([1.0, 1.0], [lasting])
    with pytest.raises(WorkerError, match=r"after 1 moves .*; their machines or versions differ"):
        cluster.fleet.move(a_move())


def test_a_run_whose_workers_are_all_gone_ends_in_time() -> None:
    faults = [Fault(READY_S + 15, worker, FaultKind.KILLED, until_s=1e9) for worker in range(3)]
    cluster = make_cluster(faults=faults)
    with pytest.raises(
        WorkerError, match=r"no worker was ready for 600 s \(3 placing\): worker 0: SimulatedDeath"
    ):
        cluster.dispatcher.evaluate(make_chunks())
    assert cluster.seconds == READY_S + 15 + 600


def test_a_worker_that_hangs_while_it_loads_is_made_anew_before_the_run_begins() -> None:
    cluster = make_cluster(faults=[Fault(READY_S - 10, 1, FaultKind.HUNG)], answers=VARIED)
    assert cluster.seconds == 1 + 300 + READY_S  # its load's deadline, and another load
    assert (
        cluster.told[0] == "worker 1 on machine-1: TookTooLong: no answer after 300 s; made again"
    )
    np.testing.assert_array_equal(rewards(cluster.dispatcher.evaluate(make_chunks())), WANTED)


def test_a_run_goes_on_when_the_last_machine_comes_back_in_time() -> None:
    faults = [Fault(READY_S + 15, worker, FaultKind.KILLED, until_s=200) for worker in range(3)]
    cluster = make_cluster(faults=faults, answers=VARIED)
    np.testing.assert_array_equal(rewards(cluster.dispatcher.evaluate(make_chunks())), WANTED)


def test_a_worker_that_joins_late_makes_the_moves_it_missed() -> None:
    # Its machine comes after three moves; two more are made while it loads.
    cluster = make_cluster(
        faults=[Fault(0, 2, FaultKind.KILLED, until_s=READY_S + 25)], num_needed=2
    )
    digests = []
    for generation in range(6):
        digests.append(cluster.fleet.move(a_move(generation)).digest)
        cluster.dispatcher.evaluate(make_chunks(2 if generation < 5 else 12, generation))
    assert len(set(digests)) == 6
    assert cluster.told == ["worker 2 joins on machine-2"]
    late = cluster.fleet.workers[2]
    assert (late.state, late.num_moves, late.failures) == (State.READY, 6, 0)
    assert late.num_chunks > 0


def test_a_worker_is_made_again_later_after_each_failure_in_a_row() -> None:
    # Worker 0 dies with every chunk that it takes up.
    cluster = make_cluster(
        breaks=lambda worker, chunk: OSError("x") if worker == 0 else None,
        settings=replace(SETTINGS, max_retries=100),
    )
    cluster.dispatcher.evaluate(make_chunks(40))
    assert [told.rpartition("; ")[2] for told in cluster.told if "joins" not in told] == [
        "made again",
        "made again in 2 s",
        "made again in 4 s",
        "made again in 8 s",
        "made again in 16 s",
        "made again in 32 s",
    ]


def test_what_a_straggler_answers_during_a_move_sets_it_free() -> None:
    cluster = make_cluster((1.0, 1.0, 0.1), answers=ANSWERS)
    cluster.dispatcher.evaluate(make_chunks())
    assert sum(worker.working_on is not None for worker in cluster.fleet.workers) == 1
    while cluster.seconds < AFTER_START_S + 110:  # the slow one ends within one of these moves
        cluster.fleet.move(a_move(len(cluster.fleet._moves)))
    cluster.dispatcher.evaluate(make_chunks(3))
    assert sum(worker.working_on is not None for worker in cluster.fleet.workers) <= 1
    assert cluster.fleet.workers[2].num_chunks == 1


def test_a_straggler_at_work_does_not_hold_up_a_move_and_takes_it_later() -> None:
    slowed = Fault(READY_S + 1, 0, FaultKind.SLOWED, factor=15)
    cluster = make_cluster(faults=[slowed])
    cluster.dispatcher.evaluate(make_chunks(6))
    before = cluster.seconds
    cluster.fleet.move(a_move(0))
    moved = cluster.fleet.move(a_move(1))
    assert cluster.fleet.workers[0].working_on is not None
    assert cluster.seconds - before == 1.0
    for _ in range(20):
        results = cluster.dispatcher.evaluate(make_chunks(6, generation=2))
        assert {result.mean_digest for result in results} == {moved.digest}
    late = cluster.fleet.workers[0]
    assert (late.num_chunks, late.num_moves, late.failures, cluster.told) == (4, 2, 0, [])
