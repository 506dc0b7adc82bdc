"""The dispatcher: which worker works on which chunk, and what becomes of what a lost one had.

Chunks are pulled: a worker that is done gets the next one, so fast workers do more. When none are
left, one that takes too long, or that an idle worker would have done before the one that has it,
is given to the idle one as well, and the first answer counts. The chunk of a worker that dies,
hangs or holds another mean goes back to the front of the queue. What is in a chunk, and where its
result stands, depends on none of this, and so neither do the numbers.

Everything here is bookkeeping over a `Transport`: Ray in production (`workers.pool`), a simulated
cluster in `es-align plan` and benchmarks/scale.py.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from kernels.errors import EsAlignError
from workers.blame import smallest_failing
from workers.estimates import LATE, Estimates, cost_of
from workers.fleet import FOREVER, Fleet
from workers.lives import Call, State, Worker
from workers.protocol import Chunk, ChunkResult
from workers.usage import Meter, Usage

LEAST_GAIN = 0.25  # of a chunk's time: a copy has to be that much earlier
TOLERANCE = 0.05  # machines of one kind differ by so much
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
    open_cost: int = 0  # of the chunks without an answer, see `workers.estimates.cost_of`
    next_late: float = FOREVER  # when the next chunk is overdue, if a worker is there to take it


class Dispatcher:
    """Hands chunks to the workers of a fleet."""

    def __init__(self, fleet: Fleet, *, is_deadline_learned: bool = True) -> None:
        """`is_deadline_learned`: whether a chunk that takes far longer than those before means that
        its worker hangs. Where rewards have time limits of their own it does not: a few completions
        that loop take them to the end of the chunk's.
        """
        self.fleet = fleet
        self.estimates = Estimates()
        self.is_deadline_learned = is_deadline_learned
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
        work.open_cost = sum(map(cost_of, chunks))
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
        """Give idle workers what is left, then what they would have done first."""
        work.next_late = FOREVER
        idle = self.fleet.idle
        num_given = min(len(idle), len(work.queue))
        for worker in idle[:num_given]:
            self._give(work, self._next(work, worker), worker)
        spare = idle[num_given:]
        while spare:
            fastest = min(spare, key=lambda worker: self.estimates.slowness(worker.number))
            place = self._to_copy(work, fastest)
            if place is None:
                return
            work.num_copies += 1
            self._give(work, place, fastest)
            spare.remove(fastest)

    def _next(self, work: Work, worker: Worker) -> int:
        """The first chunk in the queue, unless this worker would still have it when the others have
        done all the rest: then the last, since chunks grow small.
        """
        first = work.queue[0]
        slowness = self.estimates.slowness(worker.number)
        left = work.open_cost / max(1, self.fleet.roster.num_ready)
        is_fitting = slowness * cost_of(work.chunks[first]) <= left * (1 + TOLERANCE)
        return work.queue.popleft() if is_fitting or first in work.failures else work.queue.pop()

    def _give(self, work: Work, place: int, worker: Worker) -> None:
        chunk, failures = work.chunks[place], work.failures.get(place, 0)
        deadline_s = self.fleet.settings.call_deadline_s
        if self.is_deadline_learned:
            deadline_s = self.estimates.deadline_s(chunk, deadline_s, failures)
        call = self.fleet.call(
            worker.number, "evaluate", chunk, deadline_s=deadline_s, subject=(work, place)
        )
        self.fleet.roster.occupy(worker, call)
        work.running.setdefault(place, []).append(call)

    def _to_copy(self, work: Work, worker: Worker) -> int | None:
        """Of the chunks that one worker alone has the most overdue, else the one that is expected
        last if `worker` would have it clearly earlier; notes when the next one becomes overdue.
        """
        now, estimates = self.fleet.now(), self.estimates
        work.next_late = FOREVER
        most_overdue, last = (0.0, -1), (0.0, -1)  # seconds, place
        for place, calls in work.running.items():
            expected_s = estimates.expected_s(work.chunks[place])
            if len(calls) > 1 or place in work.results or expected_s is None:
                continue
            (call,) = calls
            slowness = estimates.slowness(call.worker)
            late_at = call.started + LATE * expected_s * max(1.0, slowness)
            if late_at <= now:
                most_overdue = max(most_overdue, (now - late_at, place))
                continue
            work.next_late = min(work.next_late, late_at)
            gained_s = (
                call.started
                - now
                + expected_s * (slowness - estimates.slowness(worker.number) - LEAST_GAIN)
            )
            last = max(last, (gained_s, place))
        place = last[1] if most_overdue[1] < 0 else most_overdue[1]
        return None if place < 0 else place

    def _next_late(self, work: Work) -> float:
        """When a chunk becomes late that an idle worker could take."""
        return work.next_late

    def _take(self, work: Work, call: Call, outcome: object) -> None:
        """See to a chunk's answer, or to what went wrong with it."""
        if call.method != "evaluate":
            return
        worker = self.fleet.workers[call.worker]
        self.fleet.roster.release(worker, call)
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
            self.estimates.learn(work.chunks[place], seconds, call.worker)
            if place not in work.results:
                work.results[place] = outcome
                work.num_missing -= len(outcome.members)
                work.open_cost -= cost_of(work.chunks[place])
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
            guilty = smallest_failing(chunk, self._works).members
            alone = f"; of them member {guilty[0]} fails alone" if len(guilty) == 1 else ""
            raise self.fleet.as_user_error(
                problem,
                f"worker {worker.number}, generation {chunk.generation}, members "
                f"{chunk.members[0]} to {chunk.members[-1]}, failed {failures} times "
                f"(workers.max_retries={most}{alone})",
            ) from problem
        self.num_retries += 1
        if place not in work.running:
            work.queue.appendleft(place)

    def _works(self, part: Chunk) -> bool:
        """Whether a worker answers a part of a chunk, asked once; the run is over, so whatever else
        comes back meanwhile is of no use.
        """
        asked: Call | None = None
        while True:
            worker = next(iter(self.fleet.idle), None)
            if asked is None and worker is not None:
                deadline_s = self.fleet.settings.call_deadline_s
                asked = self.fleet.call(worker.number, "evaluate", part, deadline_s=deadline_s)
                self.fleet.roster.occupy(worker, asked)
            for call, outcome in self.fleet.step(FOREVER):
                if call.method != "evaluate":
                    continue
                worker = self.fleet.workers[call.worker]
                self.fleet.roster.release(worker, call)
                if isinstance(outcome, Exception) and worker.state is State.READY:
                    self.fleet.fail(worker, outcome)
                if asked is not None and call.number == asked.number:
                    return not isinstance(outcome, Exception)


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
