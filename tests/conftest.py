"""What every test shares: no network, no hypothesis deadlines, and a config to bend."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import ray
from hypothesis import settings

# Before huggingface_hub is imported: its client waits and retries where the hub is out of reach.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from es_align import pooling
from es_align.config import Config
from workers.evaluator import Evaluator
from workers.members import Members
from workers.pool import Pool, start_cluster
from workers.protocol import Chunk, ChunkResult, Move, Moved, WorkerInfo

settings.register_profile("shared-machine", deadline=None, print_blob=True)
settings.load_profile("shared-machine")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture
def repository() -> Path:
    """The folder that holds pyproject.toml."""
    return REPOSITORY


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[[str], Path]:
    """Writes YAML text to a file and returns its path."""

    def write(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def tiny_config() -> Config:
    """A run of the random tiny model on the torch engine, small enough for a test."""
    return Config.model_validate(
        {
            "model": "tiny",
            "precision": "fp32",
            "generations": 2,
            "population": 4,
            "prompts_per_generation": 2,
            "max_new_tokens": 4,
            "task": {"name": "instructions", "num_train": 16, "num_heldout": 4},
            "space": {"rank": 2},
            "workers": {"engine": "torch", "cpus": 1, "max_model_len": 256},
        }
    )


class LocalPool(Pool):
    """One worker, in this process: what a run is without Ray."""

    def start(self, moves: Sequence[Move] = ()) -> list[WorkerInfo]:
        self.evaluator = Evaluator(self.spec, *self._payload)
        self.evaluator.catch_up(moves)
        means = self.evaluator.means
        moved = None if means is None else means.moved
        return [WorkerInfo(0, 0, "torch", 0.0, 0, self.evaluator.engine.num_hooked_layers, moved)]

    def evaluate(self, chunks: Sequence[Chunk]) -> list[ChunkResult]:
        return [self.evaluator.evaluate(chunk) for chunk in chunks]

    def move(self, move: Move) -> Moved:
        return self.evaluator.move(move)

    def canary(self, members: Members, prompt_id: str) -> list[str]:
        return self.evaluator.canary(members, prompt_id)

    def peak_rss_bytes(self) -> int:
        return 0


@contextmanager
def in_this_process() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pooling, "Pool", LocalPool)
        yield


@pytest.fixture(scope="session")
def workers_here() -> Callable[[], AbstractContextManager[None]]:
    """`with workers_here():` runs have one worker, in this process, which saves ten seconds each.

    What Ray adds is tested in test_run.py, test_seeded_runs.py and workers/test_pool.py.
    """
    return in_this_process


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One Ray cluster for all pools of a module; four seconds less for each but the first."""
    start_cluster(4)
    yield
    ray.shutdown()
