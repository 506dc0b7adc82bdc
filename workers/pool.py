"""The pool of workers: starts Ray, hands chunks out as workers become free,
and outlives a worker that does not.

A chunk's composition is decided by the caller from the configuration alone, results are put back in
the caller's order, so which worker ran what, or how often, never changes a number. Every remote
call has a deadline. A worker that dies, hangs or raises is killed and started again, its chunk goes
back to the front of the queue, and a chunk that fails more than `max_retries` times stops the run
with the worker, the members and the reason named.
"""

import logging
import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from kernels.errors import ConfigError, EsAlignError, WorkerError
from workers.layers import PerturbedLayer
from workers.members import Members
from workers.protocol import Chunk, ChunkResult, Move, Moved, Prompt, WorkerInfo
from workers.starting import WorkerSpec
from workers.worker import Worker

RAY_OBJECT_STORE_BYTES = 256 * 2**20  # prompts and factors; a private cluster needs no more
SHUTDOWN_DEADLINE_S = 10.0
SHORT_CALL_DEADLINE_S = 60.0
# glibc's: one heap that keeps what a generation frees. Otherwise a move of whole weights finds its
# memory given back and takes some 30,000 page faults, .2 to .3 s.
ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),  # its largest
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """How many workers, where, and how long they may take."""

    num_workers: int
    num_cpus: int  # of each worker
    num_gpus: float
    address: str | None  # None: a private cluster on this machine, gone with the driver
    load_deadline_s: float
    chunk_deadline_s: float
    max_retries: int


@dataclass(slots=True)
class _Running:
    chunk: Chunk
    worker: int
    started: float


def start_cluster(num_cpus: int) -> None:
    """Start a private Ray cluster on this machine, which ends with this process; pools find it."""
    _prepare_ray()
    # Ray's own, 15, yields to whatever else the machine runs: deadlines would lie.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # What a killed driver leaves waits so long for its cluster to come back: it never does.
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "15")
    ray.init(
        num_cpus=num_cpus,
        include_dashboard=False,
        object_store_memory=RAY_OBJECT_STORE_BYTES,
        log_to_driver=False,
        configure_logging=False,
    )


def _prepare_ray() -> None:
    logging.getLogger("ray").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


class Pool:
    """Workers that evaluate chunks; use as a context manager."""

    def __init__(
        self,
        settings: PoolSettings,
        spec: WorkerSpec,
        factors: Sequence[PerturbedLayer],
        prompts: Sequence[Prompt],
    ) -> None:
        self.settings = settings
        self.spec = spec
        self.num_retries = 0
        self._payload = (list(factors), list(prompts))
        self._moves: list[Move] = []
        self._moved: Moved | None = None  # what every worker's mean is, once one has said so
        self._failed_moves: dict[int, int] = {}  # in a row
        self._actors: list[ActorHandle] = []
        self._own_cluster = False

    def __enter__(self) -> "Pool":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self, moves: Sequence[Move] = ()) -> list[WorkerInfo]:
        """Start Ray and all workers, and wait until every model is loaded and has made `moves`.

        Raises ConfigError if the cluster is too small, WorkerError if a worker does not load in
        time; errors of the model itself come through as they were raised.
        """
        self._connect()
        self._check_capacity()
        self._moves = list(moves)
        factors, prompts = self._payload
        self._refs = (ray.put(self.spec), ray.put(factors), ray.put(prompts))
        self._actors = [self._start_actor(index) for index in range(self.settings.num_workers)]
        loading = [self._load(index) for index in range(self.settings.num_workers)]
        infos = self._get(loading, self._load_deadline_s, self._loading)
        self._moved = infos[0].moved
        return infos

    def evaluate(self, chunks: Sequence[Chunk]) -> list[ChunkResult]:
        """Evaluate all chunks; results come back in the order of `chunks`."""
        queue = deque(chunks)
        idle = deque(range(len(self._actors)))
        failures: dict[int, int] = {}
        running: dict[ray.ObjectRef, _Running] = {}
        results: dict[int, ChunkResult] = {}
        while queue or running:
            while queue and idle:
                worker, chunk = idle.popleft(), queue.popleft()
                ref = self._actors[worker].evaluate.remote(chunk)
                running[ref] = _Running(chunk, worker, time.monotonic())
            ref, problem = self._next_finished(running)
            done = running.pop(ref)
            outcome = problem or self._fetch(ref)
            if isinstance(outcome, ChunkResult):
                results[done.chunk.chunk_id] = outcome
            else:
                assert isinstance(outcome, Exception)
                failures[done.chunk.chunk_id] = failures.get(done.chunk.chunk_id, 0) + 1
                self._give_up_or_retry(done, outcome, failures[done.chunk.chunk_id])
                queue.appendleft(done.chunk)
            idle.append(done.worker)
        return [results[chunk.chunk_id] for chunk in chunks]

    def move(self, move: Move) -> Moved:
        """Let every worker take a step with its mean; a worker that fails is started again and
        makes all moves anew.

        Raises WorkerError if two workers hold different means afterwards.
        """
        self._moves.append(move)
        refs = [actor.move.remote(move) for actor in self._actors]
        outcomes = [self._fetch(ref, self.settings.chunk_deadline_s) for ref in refs]
        self._moved = next((moved for moved in outcomes if isinstance(moved, Moved)), None)
        for worker, outcome in enumerate(outcomes):
            if isinstance(outcome, Exception):
                self._count_failed_move(worker, move, outcome)
                self._restart(worker, outcome)
                continue
            self._failed_moves.pop(worker, None)
            assert isinstance(outcome, Moved)
            self._check_mean(worker, outcome)
        assert self._moved is not None
        return self._moved

    def canary(self, members: Members, prompt_id: str) -> list[str]:
        """Modules of any worker that the members leave unchanged (see `Evaluator.canary`)."""
        refs = [actor.canary.remote(members, prompt_id) for actor in self._actors]
        found = self._get(refs, self.settings.chunk_deadline_s, "the canary")
        return sorted({name for names in found for name in names})

    def peak_rss_bytes(self) -> int:
        """Sum over workers of their largest resident size."""
        refs = [actor.peak_rss_bytes.remote() for actor in self._actors]
        return sum(self._get(refs, SHORT_CALL_DEADLINE_S, "a memory reading"))

    def close(self) -> None:
        """End every worker, and the private cluster if there is one."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
        if self._own_cluster and ray.is_initialized():
            ray.shutdown()

    def _connect(self) -> None:
        if ray.is_initialized():
            return
        if self.settings.address is None:
            start_cluster(self.settings.num_workers * self.settings.num_cpus)
        else:
            _prepare_ray()
            ray.init(address=self.settings.address, log_to_driver=False, configure_logging=False)
        self._own_cluster = True

    def _check_capacity(self) -> None:
        have, want = ray.cluster_resources(), self.settings
        for name, each in (("CPU", want.num_cpus), ("GPU", want.num_gpus)):
            needed = each * want.num_workers
            if needed > have.get(name, 0):
                fitting = int(have.get(name, 0) // each)
                raise ConfigError(
                    f"{want.num_workers} workers need {needed:g} {name}s, the cluster has "
                    f"{have.get(name, 0):g}; set workers.count to {fitting} or add nodes"
                )

    def _start_actor(self, index: int) -> ActorHandle:
        threads = str(self.settings.num_cpus)
        # OpenMP and glibc read theirs as the process starts.
        environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        environment |= {name: os.environ.get(name, value) for name, value in ALLOCATOR.items()}
        actor = ray.remote(Worker).options(
            num_cpus=self.settings.num_cpus,
            num_gpus=self.settings.num_gpus,
            max_restarts=0,  # a fresh actor has no model; the pool starts and loads it itself
            runtime_env={"env_vars": environment},
        )
        return cast(ActorHandle, actor.remote(index))

    def _load(self, index: int) -> ray.ObjectRef:
        return self._actors[index].load.remote(*self._refs, self._moves)

    def _get(self, refs: Sequence[ray.ObjectRef], deadline_s: float, what: str) -> list:
        try:
            return ray.get(list(refs), timeout=deadline_s)
        except GetTimeoutError as error:
            raise WorkerError(
                f"{what} took longer than {deadline_s:g} s; raise workers.load_deadline_s or "
                "workers.chunk_deadline_s, or look at the worker's log under "
                "/tmp/ray/session_latest/logs"
            ) from error
        except RayError as error:
            raise _as_user_error(error, what) from error

    def _next_finished(
        self, running: dict[ray.ObjectRef, _Running]
    ) -> tuple[ray.ObjectRef, WorkerError | None]:
        """A finished call, or the oldest one if it is past its deadline."""
        oldest = min(running, key=lambda ref: running[ref].started)
        deadline = running[oldest].started + self.settings.chunk_deadline_s
        ready, _ = ray.wait(list(running), timeout=max(0.0, deadline - time.monotonic()))
        if ready:
            return ready[0], None
        elapsed = time.monotonic() - running[oldest].started
        return oldest, WorkerError(f"no answer after {elapsed:.0f} s")

    def _fetch(
        self, ref: ray.ObjectRef, deadline_s: float = SHORT_CALL_DEADLINE_S
    ) -> ChunkResult | Moved | Exception:
        """The boundary around one worker's call: what went wrong is returned,
        and recorded by the caller.
        """
        try:
            return ray.get(ref, timeout=deadline_s)
        except RayError as error:
            return error

    def _give_up_or_retry(self, done: _Running, problem: Exception, num_failures: int) -> None:
        members = done.chunk.members
        what = (
            f"worker {done.worker}, generation {done.chunk.generation}, "
            f"members {members[0]} to {members[-1]}"
        )
        if num_failures > self.settings.max_retries:
            raise _as_user_error(
                problem,
                f"{what}, failed {num_failures} times "
                f"(workers.max_retries={self.settings.max_retries})",
            ) from problem
        self._restart(done.worker, problem)

    def _restart(self, worker: int, problem: Exception) -> None:
        """Kill a worker and start it again; raises the problem if a retry would not help, and
        WorkerError if the mean that it then holds is another than that of the others.
        """
        if isinstance(problem, RayTaskError) and isinstance(problem.cause, EsAlignError):
            raise problem.cause
        self.num_retries += 1
        ray.kill(self._actors[worker])
        self._actors[worker] = self._start_actor(worker)
        what = f"worker {worker}, started again after {_told(problem)}, {self._loading}"
        [info] = self._get([self._load(worker)], self._load_deadline_s, what)
        if info.moved is not None:
            self._moved = self._moved or info.moved
            self._check_mean(worker, info.moved)

    @property
    def _loading(self) -> str:
        moves = f" and making {len(self._moves)} moves" if self._moves else ""
        return f"loading the model{moves}"

    @property
    def _load_deadline_s(self) -> float:
        """A move that is made anew may take as long as it could the first time."""
        return self.settings.load_deadline_s + len(self._moves) * self.settings.chunk_deadline_s

    def _count_failed_move(self, worker: int, move: Move, problem: Exception) -> None:
        """Raise WorkerError if this worker fails in one generation after the other."""
        failures = self._failed_moves[worker] = self._failed_moves.get(worker, 0) + 1
        if failures <= self.settings.max_retries:
            return
        raise _as_user_error(
            problem,
            f"worker {worker}, moving its mean after generation {move.generation}, failed in "
            f"{failures} generations in a row (workers.max_retries={self.settings.max_retries}, "
            f"workers.chunk_deadline_s={self.settings.chunk_deadline_s:g})",
        ) from problem

    def _check_mean(self, worker: int, moved: Moved) -> None:
        assert self._moved is not None
        if moved.digest != self._moved.digest:
            raise WorkerError(
                f"after {len(self._moves)} moves worker {worker} holds a mean with digest "
                f"{moved.digest[:12]}, others one with {self._moved.digest[:12]}; their machines "
                "or versions differ: use one kind, then go on with --resume"
            )


def _as_user_error(problem: Exception, what: str) -> EsAlignError:
    if isinstance(problem, RayTaskError) and isinstance(problem.cause, EsAlignError):
        return problem.cause
    return WorkerError(
        f"{what}: {_told(problem)}; finished generations are in the ledger, repair the cause and "
        "go on with --resume"
    )


def _told(problem: Exception) -> str:
    lines = str(problem).strip().splitlines()
    return f"{type(problem).__name__}: {lines[-1] if lines else 'no message'}"
