"""What the pool runs as a Ray actor around an `Evaluator`: one engine, one chunk at a time."""

import os
import time
from collections.abc import Sequence
from typing import NamedTuple

from workers.allocator import keep_from_children
from workers.evaluator import Evaluator
from workers.footprint import Footprint, footprint, peak_rss_bytes, rss_bytes
from workers.layers import PerturbedLayer
from workers.members import Members
from workers.protocol import Chunk, ChunkResult, Move, Moved, Prompt, WorkerInfo
from workers.starting import WorkerSpec, import_engine


class Place(NamedTuple):
    """Where a worker's process runs."""

    host: str
    pid: int


class Worker:
    """Holds an engine; loading happens in `load`, under the caller's deadline."""

    def __init__(self, index: int) -> None:
        keep_from_children()
        self.index = index
        self.evaluator: Evaluator | None = None
        self.imports_rss_bytes = 0

    def place(self) -> Place:
        """Where this worker is; the first thing it says."""
        return Place(os.uname().nodename, os.getpid())

    def load(
        self,
        spec: WorkerSpec,
        factors: Sequence[PerturbedLayer],
        prompts: Sequence[Prompt],
        moves: Sequence[Move],
    ) -> WorkerInfo:
        """Load the model and make the run's moves so far; only once."""
        started = time.perf_counter()
        import_engine(spec)
        self.imports_rss_bytes = rss_bytes()
        self.evaluator = Evaluator(spec, factors, prompts)
        self.evaluator.catch_up(moves)
        means = self.evaluator.means
        return WorkerInfo(
            worker=self.index,
            pid=os.getpid(),
            engine=spec.engine,
            load_s=time.perf_counter() - started,
            peak_rss_bytes=peak_rss_bytes(),
            num_hooked_layers=self.evaluator.engine.num_hooked_layers,
            moved=None if means is None else means.moved,
        )

    def evaluate(self, chunk: Chunk) -> ChunkResult:
        """Complete and score a chunk."""
        return self._loaded().evaluate(chunk)

    def move(self, move: Move) -> Moved:
        """Take a step with the mean."""
        return self._loaded().move(move)

    def store_mean(self) -> str | None:
        """See `Evaluator.store_mean`."""
        return self._loaded().store_mean()

    def canary(self, members: Members, prompt_id: str) -> list[str]:
        """Names of hooked modules that these members leave unchanged."""
        return self._loaded().canary(members, prompt_id)

    def footprint(self) -> Footprint:
        """What this worker took of its machine so far."""
        return footprint(self.imports_rss_bytes)

    def _loaded(self) -> Evaluator:
        assert self.evaluator is not None, "load comes first"
        return self.evaluator
