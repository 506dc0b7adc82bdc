"""The simulated cluster: its clock, its engine's arithmetic, answers that depend on no place."""

import numpy as np
import pytest

from workers.protocol import MEAN_MEMBER, Chunk, ChunkResult, Move, Moved, Sampling, WorkerInfo
from workers.simulated_engine import EngineModel, MadeUpAnswers, measured_lengths, num_steps
from workers.simulation import (
    FOREVER,
    Durations,
    Fault,
    FaultKind,
    SimulatedDeath,
    SimulatedTransport,
)
from workers.transport import PLACED

ENGINE = EngineModel(step_s=0.5, sequence_s=0.01, prefill_s=0.001, max_sequences=2)
TEN_TOKENS = MadeUpAnswers(EngineModel(1.0, 0.0, 0.0), [10])  # any chunk takes 10 s
MOVE = Move(0, 0, np.ones(2), sigma=0.1, learning_rate=0.5)


def make_chunk(members: tuple[int, ...] = (0, 1), generation: int = 0, limit: int = 64) -> Chunk:
    return Chunk(0, generation, members, None, ("train/3", "train/7"), Sampling(limit))


def loaded(transport: SimulatedTransport, worker: int = 0) -> None:
    transport.place(worker)
    transport.wait(FOREVER)
    transport.call(worker, "load", [])
    transport.wait(FOREVER)


@pytest.mark.parametrize(
    ("lengths", "max_sequences", "steps"),
    [([], 4, 0), ([3, 5, 4], 4, 5), ([3, 5, 4], 2, 7), ([3, 5, 4, 1], 2, 7), ([2, 2, 2], 1, 6)],
)
def test_the_next_sequence_begins_where_one_ends(
    lengths: list[int], max_sequences: int, steps: int
) -> None:
    assert num_steps(np.array(lengths, dtype=np.int64), max_sequences) == steps


def test_a_batch_takes_its_steps_its_sequences_and_its_prompts() -> None:
    tokens_Q = np.array([3, 5, 4])
    assert ENGINE.seconds(tokens_Q, num_prompt_tokens=30) == 7 * 0.5 + 12 * 0.01 + 30 * 0.001
    assert ENGINE.occupancy(tokens_Q) == 12 / 14


def test_measured_lengths_are_of_541_answers_of_which_285_ran_into_the_limit() -> None:
    lengths = measured_lengths()
    assert (len(lengths), lengths.min(), lengths.max()) == (541, 4, 320)
    assert int((lengths == 320).sum()) == 285


def test_a_completion_has_its_length_wherever_it_runs() -> None:
    answers = MadeUpAnswers(ENGINE)
    one_by_one = [answers.tokens_MPS(make_chunk((member,)))[0] for member in (5, 900, 0)]
    together = MadeUpAnswers(ENGINE).tokens_MPS(make_chunk((0, 5, 900)))
    np.testing.assert_array_equal(np.stack(one_by_one), together[[1, 2, 0]])
    swapped = Chunk(9, 0, (5,), None, ("train/7", "train/3"), Sampling(64))
    np.testing.assert_array_equal(answers.tokens_MPS(swapped)[0], together[1, ::-1])


def test_lengths_differ_between_generations_members_and_seeds() -> None:
    answers, many = MadeUpAnswers(ENGINE), tuple(range(64))
    drawn = answers.tokens_MPS(make_chunk(many, limit=320))
    for other in (
        answers.tokens_MPS(make_chunk(many, generation=1, limit=320)),
        MadeUpAnswers(ENGINE, seed=1).tokens_MPS(make_chunk(many, limit=320)),
        np.roll(drawn, 1, axis=0),
    ):
        assert (other != drawn).mean() > 0.3


def test_an_answer_passes_if_it_ends_before_the_limit() -> None:
    answers = MadeUpAnswers(ENGINE, [10, 64], prompt_tokens=20)
    chunk = make_chunk((MEAN_MEMBER, 0, 1))
    result, tokens = answers.result(chunk, "ab", 1.5), answers.tokens_MPS(chunk)
    np.testing.assert_array_equal(result.rewards_MP, tokens[:, :, 0] < 64)
    assert result.rewards_MP.shape == (3, 2) and np.isfinite(result.rewards_MP).all()
    assert (result.num_completions, result.num_unscored, result.num_prompt_tokens) == (6, 0, 120)
    assert result.num_generated_tokens == tokens.sum()
    assert (result.mean_digest, result.generate_s) == ("ab", 1.5)


def test_time_passes_only_while_somebody_waits() -> None:
    transport = SimulatedTransport(TEN_TOKENS, [1.0], Durations(place_s=2, load_s=3))
    number = transport.place(0)
    assert list(transport.wait(1.5)) == [] and transport.now() == 1.5
    (event,) = transport.wait(FOREVER)
    assert (event.call, event.worker, event.outcome, transport.now()) == (number, 0, PLACED, 2.0)
    transport.call(0, "load", [MOVE])
    (event,) = transport.wait(FOREVER)
    assert isinstance(event.outcome, WorkerInfo) and transport.now() == 2 + 3 + 0.5
    with pytest.raises(RuntimeError, match="nothing is left to happen"):
        transport.wait(FOREVER)


def test_calls_of_a_worker_run_one_after_the_other() -> None:
    transport = SimulatedTransport(TEN_TOKENS, [2.0])
    loaded(transport)
    start = transport.now()
    transport.call(0, "evaluate", make_chunk())
    transport.call(0, "move", MOVE)
    (first,) = transport.wait(FOREVER)
    assert isinstance(first.outcome, ChunkResult) and transport.now() - start == 5
    (second,) = transport.wait(FOREVER)
    assert isinstance(second.outcome, Moved) and transport.now() - start == 5.25
    assert transport.busy_s == [5.0]


def test_every_message_takes_the_driver_its_time() -> None:
    transport = SimulatedTransport(TEN_TOKENS, [1.0], Durations(2, 3, message_s=0.25))
    loaded(transport)
    assert transport.now() == 2 + 3 + 4 * 0.25


def test_workers_that_moved_alike_hold_the_same_mean() -> None:
    transport = SimulatedTransport(TEN_TOKENS, [1.0, 1.0])
    for worker in (0, 1):
        transport.place(worker)
    transport.wait(FOREVER)
    transport.call(0, "load", [MOVE])
    transport.call(1, "load", [])
    transport.call(1, "move", MOVE)
    found = []
    while len(found) < 3:
        found += [event.outcome for event in transport.wait(FOREVER)]
    digests = {
        outcome.digest if isinstance(outcome, Moved) else outcome.moved.digest for outcome in found
    }
    assert len(digests) == 2


def test_a_killed_process_answers_at_once_that_it_is_gone() -> None:
    fault = Fault(at_s=24, worker=0, kind=FaultKind.KILLED)
    transport = SimulatedTransport(TEN_TOKENS, [1.0], Durations(1, 20), [fault])
    loaded(transport)
    transport.call(0, "evaluate", make_chunk())
    transport.call(0, "move", MOVE)
    events = transport.wait(FOREVER)
    assert [type(event.outcome) for event in events] == [SimulatedDeath] * 2
    assert transport.now() == 24
    transport.call(0, "move", MOVE)
    assert [type(event.outcome) for event in transport.wait(FOREVER)] == [SimulatedDeath]
    transport.kill(0)
    transport.place(0)
    (event,) = transport.wait(FOREVER)
    assert (event.outcome, transport.now()) == (PLACED, 25)


def test_a_machine_that_is_gone_takes_no_process_until_it_is_back() -> None:
    fault = Fault(at_s=0, worker=0, kind=FaultKind.KILLED, until_s=100)
    transport = SimulatedTransport(TEN_TOKENS, [1.0], Durations(place_s=2), [fault])
    transport.place(0)
    transport.wait(FOREVER)
    assert transport.now() == 102


def test_a_hung_process_answers_nothing_until_it_is_made_anew() -> None:
    transport = SimulatedTransport(
        TEN_TOKENS, [1.0], Durations(1, 20), [Fault(25, 0, FaultKind.HUNG)]
    )
    loaded(transport)
    transport.call(0, "evaluate", make_chunk())
    assert list(transport.wait(1000)) == []
    transport.kill(0)
    loaded(transport)
    transport.call(0, "evaluate", make_chunk())
    assert len(transport.wait(FOREVER)) == 1


def test_a_worker_that_slows_down_takes_longer_for_what_is_left() -> None:
    fault = Fault(at_s=25, worker=0, kind=FaultKind.SLOWED, factor=3)
    transport = SimulatedTransport(TEN_TOKENS, [1.0], Durations(1, 20), [fault])
    loaded(transport)
    for _ in range(2):
        transport.call(0, "evaluate", make_chunk())
    transport.wait(FOREVER)
    assert transport.now() == 25 + 3 * 6
    transport.wait(FOREVER)
    assert transport.now() == 43 + 30


def test_a_lasting_fault_meets_the_next_process_too() -> None:
    fault = Fault(0, 0, FaultKind.OTHER_MEAN, is_lasting=True)
    transport = SimulatedTransport(TEN_TOKENS, [1.0, 1.0], faults=[fault])
    digests = []
    for worker in (0, 1, 0):
        transport.place(worker)
        transport.wait(FOREVER)
        transport.call(worker, "load", [])
        (event,) = transport.wait(FOREVER)
        assert isinstance(event.outcome, WorkerInfo) and event.outcome.moved is not None
        digests.append(event.outcome.moved.digest)
    assert digests[0] == digests[2] != digests[1]


def test_what_breaks_a_chunk_comes_in_its_answers_place() -> None:
    problem = ValueError("no")
    transport = SimulatedTransport(
        TEN_TOKENS, [1.0], breaks=lambda worker, chunk: problem if 1 in chunk.members else None
    )
    loaded(transport)
    for members in ((0, 1), (2, 3)):
        transport.call(0, "evaluate", make_chunk(members))
    outcomes = [event.outcome for _ in range(2) for event in transport.wait(FOREVER)]
    assert outcomes[0] is problem and isinstance(outcomes[1], ChunkResult)
