"""What the pool runs as a Ray actor around an `Evaluator`: one engine, one chunk at a time."""

import os
import time
from collections.abc import Sequence

import numpy as np

from workers.evaluator import Evaluator, WorkerSpec, peak_rss_bytes
from workers.layers import PerturbedLayer
from workers.protocol import Chunk, ChunkResult, Prompt, WorkerInfo


class Worker:
    """Holds an engine; loading happens in `load`, under the caller's deadline."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.evaluator: Evaluator | None = None

    def load(
        self, spec: WorkerSpec, factors: Sequence[PerturbedLayer], prompts: Sequence[Prompt]
    ) -> WorkerInfo:
        """Load the model; a second call is a mistake of the pool."""
        started = time.perf_counter()
        self.evaluator = Evaluator(spec, factors, prompts)
        return WorkerInfo(
            worker=self.index,
            pid=os.getpid(),
            engine=spec.engine,
            load_s=time.perf_counter() - started,
            peak_rss_bytes=peak_rss_bytes(),
            num_hooked_layers=self.evaluator.engine.num_hooked_layers,
        )

    def evaluate(self, chunk: Chunk) -> ChunkResult:
        """Complete and score a chunk."""
        return self._loaded().evaluate(chunk)

    def canary(self, vectors_MD: np.ndarray, prompt_id: str) -> list[str]:
        """Names of hooked modules that these members leave unchanged."""
        return self._loaded().canary(vectors_MD, prompt_id)

    def peak_rss_bytes(self) -> int:
        """Largest resident size of this worker so far."""
        return peak_rss_bytes()

    def _loaded(self) -> Evaluator:
        assert self.evaluator is not None, "load comes first"
        return self.evaluator
