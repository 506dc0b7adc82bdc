"""What a fleet keeps of its workers and of the calls that are under way."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

FOREVER = float("inf")


class State(Enum):
    """Where a worker is in its life."""

    PAUSED = "paused"  # dead, made again at `not_before`
    PLACING = "placing"  # asked for, not running yet: perhaps no machine has room
    LOADING = "loading"
    READY = "ready"
    GIVEN_UP = "given up"


@dataclass(slots=True)
class Worker:
    """One of the run's workers; the process behind it changes."""

    number: int
    state: State = State.PAUSED
    not_before: float = 0.0
    num_moves: int = 0  # of the run's moves, those it was sent
    num_made: int = 0  # and those it is known to have made
    failures: int = 0  # in a row
    failed_moves: int = 0  # in a row
    working_on: "Call | None" = None  # its chunk
    ready_since: float | None = None  # None: it is not
    ready_s: float = 0.0  # before that, since the fleet began
    busy_s: float = 0.0  # with chunks that are over, since the fleet began
    num_chunks: int = 0
    num_tokens: int = 0
    num_started: int = 0
    problem: str = ""  # the last one


def count_states(workers: Iterable[Worker]) -> Counter[State]:
    """How many are in each state."""
    return Counter(worker.state for worker in workers)


def told_states(workers: Iterable[Worker]) -> str:
    """`2 ready, 1 loading`."""
    return ", ".join(f"{count} {state.value}" for state, count in count_states(workers).items())


def told_problems(workers: Iterable[Worker]) -> str:
    """What went wrong last with each that something went wrong with."""
    failed = (worker for worker in workers if worker.problem)
    return "; ".join(f"worker {worker.number}: {worker.problem}" for worker in failed)


class Call(NamedTuple):
    """A call that is not over."""

    number: int
    worker: int
    method: str
    started: float
    deadline_s: float
    subject: object  # what the caller wants to find again


class Over(NamedTuple):
    """A call that is, and how it ended."""

    call: Call
    outcome: object  # the answer, or an Exception


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """How many workers, and how long they may take."""

    num_workers: int
    num_needed: int  # ready before the run begins; the others join when they are
    load_deadline_s: float
    call_deadline_s: float  # of a move or a chunk
    max_retries: int


class TookTooLong(Exception):
    """A call that was not over at its deadline."""
