"""The pool of workers as the run sees it: start, evaluate, move, close.

A chunk's composition is decided by the caller from the configuration alone, results are put back in
the caller's order, so which worker ran what, or how often, never changes a number. Who works on
what is `workers.dispatch`'s business, what becomes of a worker `workers.fleet`'s, and Ray that of
`workers.cluster` and `workers.ray_transport`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import cast

import ray

from rewards.specs import RewardSpec, specs_or_own
from workers.cluster import Needs, attach, check_capacity, start_cluster
from workers.dispatch import Dispatcher
from workers.fleet import Fleet, Tell
from workers.footprint import Footprint, total
from workers.layers import PerturbedLayer
from workers.lives import FleetSettings
from workers.members import Members
from workers.protocol import Chunk, ChunkResult, Move, Moved, Prompt, WorkerInfo
from workers.ray_transport import RayTransport
from workers.starting import WorkerSpec
from workers.usage import Usage

SHORT_CALL_DEADLINE_S = 60.0


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
    num_needed: int | None = None  # workers that the run begins with; None: all
    resources: Mapping[str, float] = field(default_factory=dict)  # Ray's custom ones, of each
    label_selector: Mapping[str, str] = field(default_factory=dict)  # of the nodes to use


class Pool:
    """Workers that evaluate chunks; use as a context manager."""

    def __init__(
        self,
        settings: PoolSettings,
        spec: WorkerSpec,
        factors: Sequence[PerturbedLayer],
        prompts: Sequence[Prompt],
        tell: Tell = lambda message: None,
    ) -> None:
        """`tell` hears, in a line each, what happens to workers while the run goes on."""
        self.settings = settings
        self.spec = spec
        self._payload = (list(factors), list(prompts))
        self._tell = tell
        self._own_cluster = False
        self._transport: RayTransport | None = None
        self._dispatcher: Dispatcher | None = None

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

        Raises ConfigError if the cluster does not answer or is too small, WorkerError if a worker
        does not load in time; errors of the model itself come through as they were raised.
        """
        settings = self.settings
        needs = Needs(
            settings.num_cpus, settings.num_gpus, settings.resources, settings.label_selector
        )
        num_needed = settings.num_needed or settings.num_workers
        self._connect()
        told = check_capacity(needs, settings.num_workers, num_needed)
        if told is not None:
            self._tell(told)
        self._transport = RayTransport(needs, settings.label_selector)
        fleet = Fleet(
            self._transport,
            FleetSettings(
                settings.num_workers,
                num_needed,
                settings.load_deadline_s,
                settings.chunk_deadline_s,
                settings.max_retries,
            ),
            self._tell,
        )
        factors, prompts = self._payload
        has_limits = any(reward.is_isolated for reward in _rewards(self.spec, prompts))
        self._dispatcher = Dispatcher(fleet, is_deadline_learned=not has_limits)
        return fleet.start((ray.put(self.spec), ray.put(factors), ray.put(prompts)), moves)

    @property
    def num_retries(self) -> int:
        """Chunks that had to be given out again."""
        return self._started.num_retries

    @property
    def num_copies(self) -> int:
        """Late chunks that were given to a second worker."""
        return self._started.num_copies

    def evaluate(self, chunks: Sequence[Chunk], drop_slowest: float = 0.0) -> list[ChunkResult]:
        """Evaluate all chunks; results come back in the order of `chunks`. See `Dispatcher`."""
        return self._started.evaluate(chunks, drop_slowest)

    def usage(self) -> Usage:
        """What the workers did in the last call of `evaluate`."""
        return self._started.usage()

    def move(self, move: Move) -> Moved:
        """Let every worker take a step with its mean. See `Fleet`."""
        return self._started.fleet.move(move)

    def canary(self, members: Members, prompt_id: str) -> list[str]:
        """Modules of any worker that the members leave unchanged (see `Evaluator.canary`)."""
        found = self._started.fleet.call_all(
            "canary", members, prompt_id, deadline_s=self.settings.chunk_deadline_s
        )
        return sorted({name for names in cast(list[list[str]], found) for name in names})

    def store_mean(self) -> None:
        """Let a worker store the mean that all hold, for those that join later; it may take as long
        as loading, which reads as much.
        """
        deadline_s = self.settings.load_deadline_s
        told = self._started.fleet.try_one("store_mean", deadline_s=deadline_s)
        if told is not None:
            self._tell(str(told))

    def footprint(self) -> Footprint:
        """What the workers took of their machines, together."""
        fleet = self._started.fleet
        found = fleet.call_all("footprint", deadline_s=SHORT_CALL_DEADLINE_S)
        return total(cast(list[Footprint], found))

    def close(self) -> None:
        """End every worker, and the private cluster if there is one."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None
        if self._own_cluster and ray.is_initialized():
            ray.shutdown()

    @property
    def _started(self) -> Dispatcher:
        assert self._dispatcher is not None, "start comes first"
        return self._dispatcher

    def _connect(self) -> None:
        if ray.is_initialized():
            return
        if self.settings.address is None:
            start_cluster(self.settings.num_workers * self.settings.num_cpus)
        else:
            attach(self.settings.address)
        self._own_cluster = True


def _rewards(spec: WorkerSpec, prompts: Sequence[Prompt]) -> list[RewardSpec]:
    """All that a worker scores with: its own, and those of another task's prompts."""
    others = {prompt.reward_name for prompt in prompts} - {None}
    return [*specs_or_own(spec.rewards, spec.reward_name), *map(RewardSpec, filter(None, others))]


__all__ = ["Pool", "PoolSettings", "start_cluster"]
