"""The dispatcher: which worker works on which chunk, and what becomes of what a lost one had.

Chunks are pulled: a worker that is done gets the next one, so fast workers do more. When none are
left, one that takes too long is given to an idle worker as well, and the first answer counts. The
chunk of a worker that dies, hangs or holds another mean goes back to the front of the queue. What
is in a chunk, and where its result stands, depends on none of this, and so neither do the numbers.

Everything here is bookkeeping over a `Transport`: Ray in production (`workers.pool`), a simulated
cluster in `es-align plan` and benchmarks/scale.py.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from kernels.errors import EsAlignError
from workers.estimates import LATE, Estimates
from workers.fleet import FOREVER, Call, Fleet, State, Worker
from workers.protocol import Chunk, ChunkResult
from workers.usage import Meter, Usage

DROPPED = "dropped"  # reason of completions that nobody waited for


class Fenced(Exception):
    """An answer that was made with another mean."""


@dataclass(slots=True)
class Work:
    """The chunks of one call of `evaluate`."""

    chunks: Sequence[Chunk]
    num_droppable: int  # members that need not be waited for
    queue: deque[int] = field(default_factory=deque)  # places in `chunks`
    results: dict[int, ChunkResult] = field(default_factory=dict)
    running: dict[int, list[Call]] = field(default_factory=dict)  # by place; two if one is late
    failures: dict[int, int] = field(default_factory=dict)
    num_missing: int = 0  # members whose scores are not there
    num_copies: int = 0


class Dispatcher:
    """Hands chunks to the workers of a fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.estimates = Estimates()
        self.num_retries = 0
        self.num_copies = 0
        self._meter = Meter(fleet)

    def evaluate(self, chunks: Sequence[Chunk], drop_slowest: float = 0.0) -> list[ChunkResult]:
        """Evaluate all chunks; results come back in their order.

        Once no more than the share `drop_slowest` of the members is missing, they are not waited
        for and have no score (reason "dropped"). Raises WorkerError naming worker and members if a
        chunk fails more than `max_retries` times, and what a worker raised if a user can mend it.
        """
        num_members = sum(len(chunk.members) for chunk in chunks)
        work = Work(chunks, int(drop_slowest * num_members), deque(range(len(chunks))))
        work.num_missing = num_members
        meter = self._meter = Meter(self.fleet)
        while work.num_missing > work.num_droppable:
            self._hand_out(work)
            meter.queue_max = max(meter.queue_max, len(work.queue))
            until = self._next_late(work)
            for call, outcome in self.fleet.step(until):
                self._take(work, call, outcome)
        self.num_copies += work.num_copies
        meter.num_retries = sum(work.failures.values())
        meter.num_copies, meter.num_dropped = work.num_copies, work.num_missing
        return [
            work.results[place] if place in work.results else _dropped(chunk)
            for place, chunk in enumerate(chunks)
        ]

    def usage(self) -> Usage:
        """What the workers did in the last call of `evaluate`."""
        return self._meter.usage()

    def _hand_out(self, work: Work) -> None:
        """Give idle workers what is left, then what is late."""
        for worker in self.fleet.idle():
            place = work.queue.popleft() if work.queue else self._latest(work, worker)
            if place is None:
                return
            self._give(work, place, worker)

    def _give(self, work: Work, place: int, worker: Worker) -> None:
        chunk, failures = work.chunks[place], work.failures.get(place, 0)
        longest_s = self.fleet.settings.call_deadline_s
        deadline_s = self.estimates.deadline_s(chunk, longest_s, failures)
        call = self.fleet.call(
            worker.number, "evaluate", chunk, deadline_s=deadline_s, subject=(work, place)
        )
        worker.working_on = call
        work.running.setdefault(place, []).append(call)

    def _latest(self, work: Work, worker: Worker) -> int | None:
        """The chunk that is most overdue and that one worker alone has."""
        now = self.fleet.now()
        overdue = {
            place: now - self._late_at(work, place)
            for place, calls in work.running.items()
            if place not in work.results and len(calls) == 1 and calls[0].worker != worker.number
        }
        place = max(overdue, key=lambda place: overdue[place], default=None)
        if place is None or overdue[place] < 0:
            return None
        work.num_copies += 1
        return place

    def _late_at(self, work: Work, place: int) -> float:
        expected_s = self.estimates.expected_s(work.chunks[place])
        return FOREVER if expected_s is None else work.running[place][0].started + LATE * expected_s

    def _next_late(self, work: Work) -> float:
        """When a chunk becomes late that an idle worker could take."""
        if work.queue or next(self.fleet.idle(), None) is None:
            return FOREVER
        alone = (
            place
            for place, calls in work.running.items()
            if place not in work.results and len(calls) == 1
        )
        return min((self._late_at(work, place) for place in alone), default=FOREVER)

    def _take(self, work: Work, call: Call, outcome: object) -> None:
        """See to a chunk's answer, or to what went wrong with it."""
        if call.method != "evaluate":
            return
        worker = self.fleet.workers[call.worker]
        worker.working_on = None
        seconds = self.fleet.now() - call.started
        worker.busy_s += seconds
        asked, place = call.subject  # pyright: ignore[reportGeneralTypeIssues]
        is_asked = asked is work  # else of an earlier generation, answered by somebody else
        if is_asked and isinstance(outcome, ChunkResult):
            outcome = self._unless_foreign(outcome)
        if isinstance(outcome, ChunkResult):
            worker.failures = 0
            worker.num_chunks += 1
            worker.num_tokens += outcome.num_generated_tokens
        if isinstance(outcome, Exception) and worker.state is State.READY:
            if isinstance(outcome, EsAlignError):
                raise outcome  # what a user can mend fails everywhere
            self.fleet.fail(worker, outcome)
        if not is_asked:
            return
        calls = work.running[place]
        calls.remove(call)
        if not calls:
            del work.running[place]
        if isinstance(outcome, ChunkResult):
            self.estimates.learn(work.chunks[place], seconds)
            if place not in work.results:
                work.results[place] = outcome
                work.num_missing -= len(outcome.members)
        elif place not in work.results:
            assert isinstance(outcome, Exception)
            self._retry(work, place, worker, outcome)

    def _unless_foreign(self, result: ChunkResult) -> ChunkResult | Fenced:
        if result.mean_digest == self.fleet.digest:
            return result
        return Fenced(
            f"it answered with a mean of digest {str(result.mean_digest)[:12]}, not "
            f"{str(self.fleet.digest)[:12]}"
        )

    def _retry(self, work: Work, place: int, worker: Worker, problem: Exception) -> None:
        """Put a chunk back, or end the run if it failed too often."""
        work.failures[place] = failures = work.failures.get(place, 0) + 1
        chunk, most = work.chunks[place], self.fleet.settings.max_retries
        if failures > most:
            raise self.fleet.as_user_error(
                problem,
                f"worker {worker.number}, generation {chunk.generation}, members "
                f"{chunk.members[0]} to {chunk.members[-1]}, failed {failures} times "
                f"(workers.max_retries={most})",
            ) from problem
        self.num_retries += 1
        if place not in work.running:
            work.queue.appendleft(place)


def _dropped(chunk: Chunk) -> ChunkResult:
    """What stands for a chunk that was not waited for: no scores."""
    shape = (len(chunk.members), len(chunk.prompt_ids))
    num_completions = shape[0] * shape[1] * chunk.num_samples
    return ChunkResult(
        chunk_id=chunk.chunk_id,
        members=chunk.members,
        rewards_MP=np.full(shape, np.nan),
        passed_MP=np.full(shape, np.nan),
        metrics_MP={},
        reasons={DROPPED: num_completions},
        num_completions=num_completions,
        num_unscored=num_completions,
        num_generated_tokens=0,
        num_prompt_tokens=0,
        generate_s=0.0,
        score_s=0.0,
    )
