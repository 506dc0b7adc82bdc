"""Workers as Ray actors: calls go out as actor calls, answers come back by reference."""

import itertools
import os
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError

from kernels.errors import EsAlignError
from workers.allocator import allocator_settings
from workers.cluster import Needs
from workers.labels import as_ray_reads
from workers.transport import PLACED, Event
from workers.worker import Place, Worker

FETCH_DEADLINE_S = 60.0  # of an answer that is said to be there
LONGEST_WAIT_S = 1.0  # with nothing to wait for


class _Pending(NamedTuple):
    call: int
    worker: int
    is_placing: bool


class RayTransport:
    """A `workers.transport.Transport` over a connected Ray cluster."""

    def __init__(self, needs: Needs, label_selector: Mapping[str, str]) -> None:
        self._needs = needs
        self._label_selector = as_ray_reads(label_selector)
        self._actors: dict[int, ActorHandle] = {}
        self._places: dict[int, Place] = {}
        self._pending: dict[ray.ObjectRef, _Pending] = {}
        self._numbers = itertools.count()

    def now(self) -> float:
        """Seconds of the monotonic clock."""
        return time.monotonic()

    def place(self, worker: int) -> int:
        """Start an actor; it has no model yet."""
        threads = str(self._needs.num_cpus)
        # OpenMP, the allocator and oneDNN read theirs as the process starts.
        environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        environment |= allocator_settings(has_gpu=self._needs.num_gpus > 0)
        made = ray.remote(Worker).options(
            num_cpus=self._needs.num_cpus,
            num_gpus=self._needs.num_gpus,
            resources=dict(self._needs.resources) or None,
            label_selector=self._label_selector or None,
            max_restarts=0,  # a fresh actor has no model; the fleet starts and loads it itself
            runtime_env={"env_vars": environment},
        )
        self._places.pop(worker, None)
        self._actors[worker] = cast(ActorHandle, made.remote(worker))
        return self._call(worker, "place", (), is_placing=True)

    def call(self, worker: int, method: str, *arguments: object) -> int:
        """Call a method of the actor."""
        return self._call(worker, method, arguments, is_placing=False)

    def wait(self, timeout_s: float) -> Sequence[Event]:
        """Everything that is over, once something is."""
        if not self._pending:
            time.sleep(min(timeout_s, LONGEST_WAIT_S))
            return []
        limit_s = None if timeout_s == float("inf") else timeout_s
        refs = list(self._pending)
        ready, others = ray.wait(refs, timeout=limit_s)
        if ready and others:
            ready += ray.wait(others, num_returns=len(others), timeout=0)[0]
        return [self._over(ref) for ref in ready]

    def kill(self, worker: int) -> None:
        """Kill the actor's process."""
        actor = self._actors.pop(worker, None)
        if actor is not None:
            ray.kill(actor)
        self._pending = {r: p for r, p in self._pending.items() if p.worker != worker}

    def where(self, worker: int) -> str:
        """The machine's name, unless it is the driver's own."""
        place = self._places.get(worker)
        return "" if place is None or place.host == os.uname().nodename else place.host

    def describe(self, problem: Exception) -> str:
        """Its kind and the last line of its message."""
        lines = str(problem).strip().splitlines()
        return f"{type(problem).__name__}: {lines[-1] if lines else 'no message'}"

    def close(self) -> None:
        """Kill all actors."""
        for worker in list(self._actors):
            self.kill(worker)

    def _call(
        self, worker: int, method: str, arguments: Sequence[object], *, is_placing: bool
    ) -> int:
        number = next(self._numbers)
        ref = getattr(self._actors[worker], method).remote(*arguments)
        self._pending[ref] = _Pending(number, worker, is_placing)
        return number

    def _over(self, ref: ray.ObjectRef) -> Event:
        pending = self._pending.pop(ref)
        outcome = self._fetch(ref, pending.worker)
        if pending.is_placing and isinstance(outcome, Place):
            self._places[pending.worker] = outcome
            outcome = PLACED
        return Event(pending.call, pending.worker, outcome)

    def _fetch(self, ref: ray.ObjectRef, worker: int) -> object:
        """The boundary around one worker's call: what went wrong is returned, and recorded by the
        fleet; an error a user can mend as it was raised, with the machine's name.
        """
        try:
            return ray.get(ref, timeout=FETCH_DEADLINE_S)
        except RayError as error:
            cause = error.cause if isinstance(error, RayTaskError) else None
            if not isinstance(cause, EsAlignError):
                return error
            where = self.where(worker)
            return type(cause)(f"{where}: {cause}") if where else cause
