"""What the dispatch of a generation did: who worked how long, what waited, what went out again.

Seconds are the transport's and count from the beginning of `Dispatcher.evaluate`. A worker is busy
while it has a chunk and idle while it could have one; being loaded or dead is neither.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple

from workers.fleet import Fleet
from workers.lives import State, Worker

DIGITS = 3  # of seconds in a row: milliseconds
LONGEST_PROBLEM = 200  # characters in a row; Ray's are paragraphs, and stand in every later row


@dataclass(frozen=True, slots=True)
class WorkerUsage:
    """One worker in one generation."""

    worker: int
    host: str  # where it runs, or ran last; empty while it has no machine
    state: str  # at the end, see `fleet.State`
    num_chunks: int  # answered
    num_tokens: int  # generated in them
    busy_s: float
    idle_s: float  # ready, but without a chunk
    num_starts: int  # since the run's workers were made, 1 for one that never failed
    problem: str  # the last one; empty if there was none

    @property
    def busy_share(self) -> float:
        """Of the seconds it was ready; NaN if it never was."""
        return _share(self.busy_s, self.busy_s + self.idle_s)

    @property
    def tokens_per_s(self) -> float:
        """While busy: how fast it is, not how much it had to do; NaN if it never was."""
        return _share(self.num_tokens, self.busy_s)


@dataclass(frozen=True, slots=True)
class Usage:
    """All workers in one generation."""

    workers: tuple[WorkerUsage, ...]
    num_ready: int  # at the end
    queue_max: int  # most chunks that waited for a worker at once
    num_retries: int  # chunks given out again after a failure
    num_copies: int  # late chunks given to a second worker
    num_dropped: int  # members that were not waited for

    @property
    def efficiency(self) -> float:
        """Busy seconds over ready seconds, of all workers; NaN if none was ready."""
        busy_s = sum(worker.busy_s for worker in self.workers)
        return _share(busy_s, busy_s + sum(worker.idle_s for worker in self.workers))

    @property
    def metrics(self) -> dict[str, float]:
        """Of a row of metrics.jsonl, what the workers did."""
        return {
            "workers/ready": self.num_ready,
            "workers/idle_share": 1.0 - self.efficiency,
            "workers/num_retries": self.num_retries,
            "workers/num_copies": self.num_copies,
            "workers/num_dropped": self.num_dropped,
            "workers/queue_max": self.queue_max,
        }

    @property
    def row(self) -> Mapping[str, object]:
        """Of a row of workers.jsonl, all but its generation."""
        workers = [
            asdict(worker)
            | {
                "busy_s": round(worker.busy_s, DIGITS),
                "idle_s": round(worker.idle_s, DIGITS),
                "problem": worker.problem[:LONGEST_PROBLEM],
            }
            for worker in self.workers
        ]
        return {"driver": os.uname().nodename, "workers": workers}


class Meter:
    """Counts from its making on; what only the dispatcher knows it writes here itself."""

    def __init__(self, fleet: Fleet) -> None:
        now = fleet.now()
        self.queue_max = 0
        self.num_retries = 0
        self.num_copies = 0
        self.num_dropped = 0
        self._fleet = fleet
        self._before = {worker.number: _reading(worker, now) for worker in fleet.workers}

    def usage(self) -> Usage:
        """What happened until now."""
        now = self._fleet.now()
        return Usage(
            workers=tuple(self._of(worker, now) for worker in self._fleet.workers),
            num_ready=self._fleet.states()[State.READY],
            queue_max=self.queue_max,
            num_retries=self.num_retries,
            num_copies=self.num_copies,
            num_dropped=self.num_dropped,
        )

    def _of(self, worker: Worker, now: float) -> WorkerUsage:
        before, after = self._before[worker.number], _reading(worker, now)
        busy_s, ready_s = after.busy_s - before.busy_s, after.ready_s - before.ready_s
        has_machine = worker.state is not State.PLACING
        host = self._fleet.where(worker.number) or os.uname().nodename
        return WorkerUsage(
            worker=worker.number,
            host=host if has_machine else "",
            state=worker.state.value,
            num_chunks=after.num_chunks - before.num_chunks,
            num_tokens=after.num_tokens - before.num_tokens,
            busy_s=busy_s,
            # A lost chunk is seen to a moment after its worker stopped to be ready.
            idle_s=max(0.0, ready_s - busy_s),
            num_starts=worker.num_started,
            problem=worker.problem,
        )


class _Reading(NamedTuple):
    """A worker's counters, with what is going on counted until now."""

    ready_s: float
    busy_s: float
    num_chunks: int
    num_tokens: int


def _reading(worker: Worker, now: float) -> _Reading:
    ready_s, busy_s = worker.ready_s, worker.busy_s
    if worker.ready_since is not None:
        ready_s += now - worker.ready_since
    if worker.working_on is not None:
        busy_s += now - worker.working_on.started
    return _Reading(ready_s, busy_s, worker.num_chunks, worker.num_tokens)


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan
