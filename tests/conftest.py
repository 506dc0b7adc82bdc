"""What every test shares: no network, no hypothesis deadlines, and a config to bend."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hypothesis import settings

# Before huggingface_hub is imported: its client waits and retries where the hub is out of reach.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from es_align.config import Config

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


@pytest.fixture(scope="session")
def workers_here() -> Callable[[], AbstractContextManager[None]]:
    """`with workers_here():` runs have one worker, in this process, which saves ten seconds each.

    What Ray adds is tested in test_run.py, test_seeded_runs.py and workers/test_pool.py.
    """
    from local_pool import workers_in_this_process  # imports what most tests do without

    return workers_in_this_process


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One Ray cluster for all pools of a module; four seconds less for each but the first."""
    import ray

    from workers.pool import start_cluster

    start_cluster(4)
    yield
    ray.shutdown()


@pytest.fixture(scope="module", autouse=True)
def own_preload() -> Iterator[None]:
    """vLLM for CPUs sets LD_PRELOAD for what it starts; what other tests start is not to get it."""
    before = os.environ.get("LD_PRELOAD")
    yield
    if before is None:
        os.environ.pop("LD_PRELOAD", None)
    else:
        os.environ["LD_PRELOAD"] = before
