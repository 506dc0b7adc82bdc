"""The pool on real Ray workers: killed, hung and broken ones cost time, never a number."""

import functools
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from es_align.config import TaskConfig
from es_align.config_search import SpaceConfig
from es_align.models import resolve_model
from es_align.pooling import engine_path
from es_align.spaces import make_space
from es_align.tasks import make_task
from kernels.errors import ConfigError, ModelError, WorkerError
from workers.allocator import allocator_settings
from workers.pool import Pool, PoolSettings
from workers.protocol import Chunk, ChunkResult, Sampling, WorkerInfo
from workers.starting import WorkerSpec

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]

SETTINGS = PoolSettings(
    num_workers=2,
    num_cpus=1,
    num_gpus=0,
    address=None,
    load_deadline_s=120,
    chunk_deadline_s=20,
    max_retries=2,
)
SPEC = WorkerSpec(
    engine="torch",
    locate_model=functools.partial(engine_path, "tiny", "fp32"),
    precision="fp32",
    reward_name="letters",
    max_members=4,
    max_model_len=256,
    max_new_tokens=64,
    kv_cache_gb=1,
    num_threads=1,
)
TASK = make_task(
    TaskConfig(name="letters", num_train=16, num_heldout=4), seed=0, prompts_per_generation=4
)
SPACE = make_space(SpaceConfig(rank=2), resolve_model("tiny", "fp32").reference)


def make_pool(settings: PoolSettings = SETTINGS, spec: WorkerSpec = SPEC) -> Pool:
    return Pool(settings, spec, SPACE.factors, TASK.train)


def make_chunks(num_tokens: int = 64) -> list[Chunk]:
    random = np.random.Generator(np.random.Philox(1))
    return [
        Chunk(
            chunk_id=index,
            generation=0,
            members=tuple(range(4 * index, 4 * index + 4)),
            perturbed=(0.3 * random.normal(size=(4, SPACE.dimension))).astype(np.float32),
            prompt_ids=tuple(prompt.prompt_id for prompt in TASK.batch(0)),
            sampling=Sampling(num_tokens),
        )
        for index in range(6)
    ]


def rewards(results: list[ChunkResult]) -> np.ndarray:
    return np.concatenate([result.rewards_MP for result in results])


@pytest.fixture(scope="module")
def wanted(cluster: None) -> np.ndarray:
    with make_pool(replace(SETTINGS, num_workers=1)) as pool:
        pool.start()
        return rewards(pool.evaluate(make_chunks()))


@pytest.fixture
def started() -> Iterator[tuple[Pool, list[WorkerInfo]]]:
    with make_pool() as pool:
        yield pool, pool.start()


def test_two_workers_give_the_numbers_of_one_in_order(
    started: tuple[Pool, list[WorkerInfo]], wanted: np.ndarray
) -> None:
    pool, infos = started
    assert [info.num_hooked_layers for info in infos] == [14, 14]
    results = pool.evaluate(make_chunks())
    assert [result.members[0] for result in results] == [0, 4, 8, 12, 16, 20]
    np.testing.assert_array_equal(rewards(results), wanted)
    assert pool.num_retries == 0


def test_workers_allocate_with_jemalloc_where_ray_brings_it(
    started: tuple[Pool, list[WorkerInfo]],
) -> None:
    library = allocator_settings(has_gpu=False, set_already={}).get("LD_PRELOAD")
    for info in started[1]:
        maps = Path(f"/proc/{info.pid}/maps").read_text()
        assert library is None or library in maps


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_a_killed_or_hung_worker_changes_no_number(
    fault: signal.Signals, wanted: np.ndarray
) -> None:
    with make_pool(replace(SETTINGS, chunk_deadline_s=6)) as pool:
        infos = pool.start()
        threading.Timer(0.1, os.kill, (infos[0].pid, fault)).start()
        results = pool.evaluate(make_chunks())
        time.sleep(0.2)
        again = pool.evaluate(make_chunks())
        np.testing.assert_array_equal(rewards(results), wanted)
        np.testing.assert_array_equal(rewards(again), wanted)
        # A dead one's chunk is given out again, a hung one's is late and given to the other, too.
        assert pool.num_retries + pool.num_copies >= 1


def test_a_chunk_that_never_ends_stops_the_run_and_is_named() -> None:
    with make_pool(replace(SETTINGS, num_workers=1, chunk_deadline_s=1e-3, max_retries=0)) as pool:
        pool.start()
        with pytest.raises(WorkerError, match=r"worker 0, generation 0, members 0 to 3, failed 1"):
            pool.evaluate(make_chunks()[:1])


def test_an_error_a_user_can_mend_comes_through_as_it_was(
    started: tuple[Pool, list[WorkerInfo]],
) -> None:
    pool, _ = started
    chunk = replace(make_chunks()[0], perturbed=np.zeros((4, 3), np.float32))
    with pytest.raises(WorkerError, match="do not fit 4 slots"):
        pool.evaluate([chunk])


def test_a_model_that_is_not_there_comes_through_as_it_was() -> None:
    spec = replace(SPEC, locate_model=functools.partial(engine_path, "nobody/nothing", "fp32"))
    with make_pool(spec=spec) as pool, pytest.raises(ModelError, match="could not be fetched"):
        pool.start()


def test_too_small_a_cluster_is_refused_before_anything_loads() -> None:
    with (
        make_pool(replace(SETTINGS, num_gpus=1)) as pool,
        pytest.raises(
            ConfigError, match=r"2 workers of 1 CPU, 1 GPU do not fit the cluster, .* 0 GPU"
        ),
    ):
        pool.start()


def test_a_prompt_that_does_not_fit_names_the_length_to_set() -> None:
    spec = replace(SPEC, max_model_len=70)
    with (
        make_pool(spec=spec) as pool,
        pytest.raises(WorkerError, match=r"workers.max_model_len is 70: set it to \d+ or more"),
    ):
        pool.start()
