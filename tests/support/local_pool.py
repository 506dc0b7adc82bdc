"""A pool without Ray."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from es_align import pooling
from workers.evaluator import Evaluator
from workers.footprint import NO_FOOTPRINT, Footprint
from workers.members import Members
from workers.pool import Pool
from workers.protocol import Chunk, ChunkResult, Move, Moved, WorkerInfo
from workers.usage import Usage


class LocalPool(Pool):
    """One worker, in this process: what a run is without Ray."""

    def start(self, moves: Sequence[Move] = ()) -> list[WorkerInfo]:
        self.evaluator = Evaluator(self.spec, *self._payload)
        self.evaluator.catch_up(moves)
        means = self.evaluator.means
        moved = None if means is None else means.moved
        return [WorkerInfo(0, 0, "torch", 0.0, 0, self.evaluator.engine.num_hooked_layers, moved)]

    def evaluate(self, chunks: Sequence[Chunk], drop_slowest: float = 0.0) -> list[ChunkResult]:
        return [self.evaluator.evaluate(chunk) for chunk in chunks]

    def usage(self) -> Usage:
        return Usage((), 0, 0, 0, 0, 0)

    def move(self, move: Move) -> Moved:
        return self.evaluator.move(move)

    def canary(self, members: Members, prompt_id: str) -> list[str]:
        return self.evaluator.canary(members, prompt_id)

    def store_mean(self) -> None:
        assert self.evaluator.store_mean() is None

    def footprint(self) -> Footprint:
        return NO_FOOTPRINT


@contextmanager
def workers_in_this_process() -> Iterator[None]:
    """Runs within have one worker, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pooling, "Pool", LocalPool)
        yield
