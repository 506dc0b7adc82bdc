"""A simulated cluster: a transport with a clock of its own, and workers that only say they worked.

What a day of a thousand workers would show takes seconds: `es-align plan`, benchmarks/scale.py and
the tests of the dispatcher run the real `workers.dispatch.Dispatcher` and `workers.fleet.Fleet`
over it. Time passes in `wait` alone, and by `message_s` a message, which is the driver's own work.
"""

import hashlib
import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from workers.footprint import NO_FOOTPRINT
from workers.protocol import Chunk, Move, Moved, WorkerInfo
from workers.simulated_engine import MadeUpAnswers
from workers.transport import PLACED, Event

FOREVER = float("inf")

Breaks = Callable[[int, Chunk], Exception | None]


class FaultKind(Enum):
    """What happens to a worker."""

    KILLED = "killed"  # its process is gone; its machine too, until the fault's `until_s`
    HUNG = "hung"  # it answers no more
    SLOWED = "slowed"  # it takes `factor` times as long, from here on
    OTHER_MEAN = "other mean"  # what it holds differs


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong with a worker at a time."""

    at_s: float
    worker: int
    kind: FaultKind
    factor: float = 1.0
    until_s: float = 0.0
    is_lasting: bool = False  # meets every later process of that worker too


@dataclass(frozen=True, slots=True)
class Durations:
    """What takes how long, in seconds, beside evaluating."""

    place_s: float = 1.0
    load_s: float = 20.0
    move_s: float = 0.5
    message_s: float = 0.0  # the driver's own, to send a call or to take an answer


class SimulatedDeath(Exception):
    """A call to a process that is no more."""


class _Job(NamedTuple):
    call: int
    method: str
    arguments: tuple[object, ...]


@dataclass(slots=True)
class _Process:
    """One life of a worker."""

    serial: int
    queue: deque[_Job] = field(default_factory=deque)  # the first is being worked on
    ends: float = FOREVER  # when it is done
    round: int = 0  # of the end that was foretold last
    moves: str = ""  # digest of what it has moved by
    is_dead: bool = False
    is_hung: bool = False
    is_foreign: bool = False

    @property
    def digest(self) -> str:
        return _sha256(f"another {self.moves}") if self.is_foreign else _sha256(self.moves)


class SimulatedTransport:
    """A `workers.transport.Transport` without machines."""

    def __init__(
        self,
        answers: MadeUpAnswers,
        speeds: Sequence[float],
        durations: Durations | None = None,
        faults: Sequence[Fault] = (),
        breaks: Breaks = lambda worker, chunk: None,
    ) -> None:
        """A worker of speed 2 takes half as long as the engine's model says; there are as many as
        speeds. `breaks` is asked what a worker raises in place of a chunk's answer.
        """
        self.answers = answers
        self.busy_s = [0.0] * len(speeds)  # with chunks that were answered
        self._durations = durations or Durations()
        self._speeds = list(speeds)
        self._faults, self._breaks = faults, breaks
        self._absent_until = [0.0] * len(speeds)
        self._now = 0.0
        self._numbers = itertools.count()
        self._processes: dict[int, _Process] = {}
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._over: list[Event] = []
        for fault in faults:
            self._at(fault.at_s, lambda fault=fault: self._strike(fault))

    def now(self) -> float:
        """Virtual seconds."""
        return self._now

    def place(self, worker: int) -> int:
        """A fresh process, once its machine is there."""
        self._now += self._durations.message_s
        number, process = next(self._numbers), _Process(next(self._numbers))
        self._processes[worker] = process
        process.queue.append(_Job(number, "place", ()))
        self._begin(worker, process)
        return number

    def call(self, worker: int, method: str, *arguments: object) -> int:
        """Queue a call at a worker's process."""
        self._now += self._durations.message_s
        number, process = next(self._numbers), self._processes[worker]
        process.queue.append(_Job(number, method, arguments))
        if process.is_dead:
            self._at(self._now, lambda: self._bury(worker, process))
        elif len(process.queue) == 1:
            self._begin(worker, process)
        return number

    def wait(self, timeout_s: float) -> Sequence[Event]:
        """Let time pass until something is over; raises RuntimeError if nothing ever will be."""
        until = self._now + timeout_s
        if timeout_s > 0:  # a clock that stands still would be asked for ever
            until = max(until, math.nextafter(self._now, FOREVER))
        while not self._over and self._heap and self._heap[0][0] <= until:
            self._now = max(self._now, self._heap[0][0])
            while self._heap and self._heap[0][0] <= self._now:
                heapq.heappop(self._heap)[2]()
        if not self._over:
            if until == FOREVER:
                raise RuntimeError("nothing is left to happen, and somebody waits without an end")
            self._now = until
        over, self._over = self._over, []
        self._now += len(over) * self._durations.message_s
        return over

    def kill(self, worker: int) -> None:
        """End a worker's process."""
        self._processes.pop(worker, None)
        self._over = [event for event in self._over if event.worker != worker]

    def where(self, worker: int) -> str:
        """A machine for each worker."""
        return f"machine-{worker}"

    def describe(self, problem: Exception) -> str:
        """Its kind and its message."""
        return f"{type(problem).__name__}: {problem}"

    def close(self) -> None:
        """End all processes."""
        self._processes.clear()

    def _at(self, time: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (time, next(self._numbers), act))

    def _begin(self, worker: int, process: _Process) -> None:
        """Foretell the end of the job that is first in the queue."""
        if process.is_hung or process.is_dead or not process.queue:
            return
        job, start = process.queue[0], self._now
        if job.method == "place":
            start = max(start, self._absent_until[worker])
            if start == FOREVER:
                return
        self._foretell(worker, process, start + self._seconds(worker, job))

    def _foretell(self, worker: int, process: _Process, ends: float) -> None:
        process.ends, process.round = ends, process.round + 1
        told = process.round
        self._at(ends, lambda: self._end(worker, process, told))

    def _end(self, worker: int, process: _Process, told: int) -> None:
        is_current = self._processes.get(worker) is process and process.round == told
        if not is_current or process.is_hung or process.is_dead:
            return
        job = process.queue[0]
        if job.method == "place" and self._absent_until[worker] > self._now:
            self._begin(worker, process)
            return
        process.queue.popleft()
        self._over.append(Event(job.call, worker, self._outcome(worker, process, job)))
        if job.method == "place":
            for fault in self._faults:
                if fault.is_lasting and fault.worker == worker and fault.at_s <= self._now:
                    self._strike(fault)
        self._begin(worker, process)

    def _seconds(self, worker: int, job: _Job) -> float:
        durations, speed = self._durations, self._speeds[worker]
        match job.method, job.arguments:
            case "place", _:
                return durations.place_s
            case "load", (*_, list(moves)):
                return durations.load_s + durations.move_s * len(moves) / speed
            case "move", _:
                return durations.move_s / speed
            case "evaluate", (Chunk() as chunk,):
                return self.answers.seconds(chunk) / speed
        return 0.0

    def _outcome(self, worker: int, process: _Process, job: _Job) -> object:
        match job.method, job.arguments:
            case "place", _:
                return PLACED
            case "load", (*_, list(moves)):
                for move in moves:
                    process.moves = _moved(process.moves, move)
                moved = Moved(process.digest, 1.0)
                return WorkerInfo(
                    worker, worker, "simulated", self._seconds(worker, job), 0, 1, moved
                )
            case "move", (Move() as move,):
                process.moves = _moved(process.moves, move)
                return Moved(process.digest, 1.0)
            case "evaluate", (Chunk() as chunk,):
                problem = self._breaks(worker, chunk)
                if problem is not None:
                    return problem
                seconds = self._seconds(worker, job)
                self.busy_s[worker] += seconds
                return self.answers.result(chunk, process.digest, seconds)
            case "canary", _:
                return []
            case "store_mean", _:
                return None
            case "footprint", _:
                return NO_FOOTPRINT
        raise ValueError(f"a simulated worker has no method {job.method}")

    def _strike(self, fault: Fault) -> None:
        worker = fault.worker
        process = self._processes.get(worker)
        if fault.kind is FaultKind.SLOWED:
            self._speeds[worker] /= fault.factor
            if process is not None and process.queue and process.ends != FOREVER:
                left_s = max(0.0, process.ends - self._now)
                self._foretell(worker, process, self._now + fault.factor * left_s)
        if fault.kind is FaultKind.KILLED:
            self._absent_until[worker] = max(self._absent_until[worker], fault.until_s)
        if process is None or (process.queue and process.queue[0].method == "place"):
            return
        if fault.kind is FaultKind.KILLED:
            process.is_dead = True
            self._bury(worker, process)
        elif fault.kind is FaultKind.HUNG:
            process.is_hung = True
        elif fault.kind is FaultKind.OTHER_MEAN:
            process.is_foreign = True

    def _bury(self, worker: int, process: _Process) -> None:
        if self._processes.get(worker) is process:
            dead = SimulatedDeath("its process is gone")
            self._over += [Event(job.call, worker, dead) for job in process.queue]
            process.queue.clear()


def _moved(before: str, move: Move) -> str:
    return _sha256(f"{before}|{move.generation}|{move.sigma!r}|{move.weight_N.tobytes().hex()}")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
