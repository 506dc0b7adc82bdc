"""What a generation costs the driver itself, in processor time: for benchmarks/scale.py.

The loop is the run's own (`es_align.driver.run_generations`): ask, cut, dispatch, join, fitness,
tell, the rows for people and the ledger's record, synced. Only the workers are missing: simulated
ones in this process, whose own time is taken off, or actors of a real Ray cluster on this machine
that answer at once.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import ray
from ray.actor import ActorHandle

from es_align.bench.scaling import make_answers
from es_align.chunking import configured_chunks
from es_align.config import Config
from es_align.driver import run_generations
from es_align.models import resolve_model
from es_align.progress import GenerationLine, SilentReporter
from es_align.run_folder import RunFolder
from es_align.session import begin_run
from es_align.tasks import make_task
from workers.cluster import Needs, start_cluster
from workers.dispatch import Dispatcher
from workers.fleet import Fleet, FleetSettings
from workers.members import Members
from workers.pool import Pool, PoolSettings
from workers.protocol import Chunk, ChunkResult, Move, Moved, WorkerInfo
from workers.ray_transport import RayTransport
from workers.simulated_engine import MadeUpAnswers
from workers.simulation import SimulatedTransport
from workers.transport import Event, Transport
from workers.worker import Place

DEADLINE_S = 600.0
NUM_DISTINCT = 64  # members whose answers an actor makes up


@dataclass(frozen=True, slots=True)
class DriverCost:
    """Processor seconds of the driver, one entry a generation; the first one warms up."""

    workers: int
    num_chunks: int
    cpu_s: tuple[float, ...]
    wall_s: tuple[float, ...]  # of Ray's actors; nothing where workers are simulated

    @property
    def median_s(self) -> float:
        """Without the first."""
        later = sorted(self.cpu_s[1:])
        return later[len(later) // 2]


class MeteredTransport(SimulatedTransport):
    """Counts the processor time that the simulation itself takes."""

    spent_s = 0.0

    def call(self, worker: int, method: str, *arguments: object) -> int:
        """See `SimulatedTransport`: how long it will take is worked out here."""
        started = time.process_time()
        number = super().call(worker, method, *arguments)
        self.spent_s += time.process_time() - started
        return number

    def wait(self, timeout_s: float) -> Sequence[Event]:
        """See `SimulatedTransport`: answers are made here."""
        started = time.process_time()
        events = super().wait(timeout_s)
        self.spent_s += time.process_time() - started
        return events


class StandIn:
    """A Ray actor in workers' places: no model, made-up answers."""

    def __init__(self) -> None:
        self.answers = MadeUpAnswers(make_answers().engine, num_distinct=NUM_DISTINCT)
        self.moved = Moved(hashlib.sha256().hexdigest(), 0.0)

    def place(self) -> Place:
        """See `workers.worker.Worker`."""
        return Place(os.uname().nodename, os.getpid())

    def load(self, moves: Sequence[Move]) -> WorkerInfo:
        """See `workers.worker.Worker`."""
        assert not moves
        return WorkerInfo(0, os.getpid(), "none", 0.0, 0, 1, self.moved)

    def evaluate(self, chunk: Chunk) -> ChunkResult:
        """See `workers.worker.Worker`."""
        return self.answers.result(chunk, self.moved.digest, 0.001)

    def move(self, move: Move) -> Moved:
        """See `workers.worker.Worker`."""
        self.moved = Moved(hashlib.sha256(f"{move.generation}".encode()).hexdigest(), 1.0)
        return self.moved

    def store_mean(self) -> None:
        """See `workers.worker.Worker`."""

    def canary(self, members: Members, prompt_id: str) -> list[str]:
        """See `workers.worker.Worker`."""
        del members, prompt_id
        return []


class StandInTransport(RayTransport):
    """Ray's messages, and at their other end a few stand-ins, each in the place of many workers."""

    def __init__(self, num_processes: int) -> None:
        super().__init__(Needs(0, 0.0, {}), {})
        made = [ray.remote(StandIn).options(num_cpus=0).remote() for _ in range(num_processes)]
        self._processes = [cast(ActorHandle, actor) for actor in made]

    def place(self, worker: int) -> int:
        """Give the worker one of the stand-ins."""
        self._actors[worker] = self._processes[worker % len(self._processes)]
        return self._call(worker, "place", (), is_placing=True)


class GivenPool(Pool):
    """A pool over a transport that is given."""

    def __init__(self, transport: Transport, num_workers: int) -> None:
        self.settings = PoolSettings(num_workers, 1, 0.0, None, DEADLINE_S, DEADLINE_S, 2)
        fleet_settings = FleetSettings(num_workers, num_workers, DEADLINE_S, DEADLINE_S, 2)
        self._fleet = Fleet(transport, fleet_settings, lambda message: None)
        self._dispatcher = Dispatcher(self._fleet)

    def start(self, moves: Sequence[Move] = ()) -> list[WorkerInfo]:
        """Make and load all workers."""
        return self._fleet.start((), moves)


class Stopwatch(SilentReporter):
    """Notes the processor time at the end of each generation."""

    def __init__(self, transport: MeteredTransport | None = None) -> None:
        self.transport = transport
        self.cpu_s: list[float] = []
        self.wall_s: list[float] = []
        self._last = self._now()

    def _now(self) -> tuple[float, float]:
        simulated_s = 0.0 if self.transport is None else self.transport.spent_s
        return time.process_time() - simulated_s, time.perf_counter()

    def start_here(self) -> None:
        """What was before does not count."""
        self._last = self._now()

    def generation(self, line: GenerationLine) -> None:
        """One is over."""
        now = self._now()
        self.cpu_s.append(now[0] - self._last[0])
        self.wall_s.append(now[1] - self._last[1])
        self._last = now


def simulated_cost(num_workers: int, config: Config) -> DriverCost:
    """Over simulated workers."""
    transport = MeteredTransport(make_answers(), [1.0] * num_workers)
    return _cost(transport, num_workers, config, Stopwatch(transport))


def ray_cost(num_workers: int, num_processes: int, config: Config) -> DriverCost:
    """Over some actors of a private Ray cluster on this machine, which stand for all workers."""
    start_cluster(num_cpus=1)
    try:
        transport = StandInTransport(num_processes)
        return _cost(transport, num_workers, config, Stopwatch())
    finally:
        ray.shutdown()


def _cost(
    transport: Transport, num_workers: int, config: Config, stopwatch: Stopwatch
) -> DriverCost:
    prompts = config.prompts_per_generation
    task = make_task(config.task, seed=config.seed, prompts_per_generation=prompts)
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(Path(place) / "run")
        run = begin_run(folder, config, resolve_model(config.model, config.precision), task)
        pool = GivenPool(transport, num_workers)
        pool.start()
        stopwatch.start_here()
        run_generations(run, task, pool, config, stopwatch)
        run.close()
        transport.close()
    return DriverCost(
        num_workers,
        len(configured_chunks(config)),
        tuple(stopwatch.cpu_s),
        tuple(stopwatch.wall_s) if stopwatch.transport is None else (),
    )
