"""From a configuration to a pool of workers."""

import functools
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from es_align.config import Config, Precision, heldout_new_tokens
from es_align.models import ModelPaths, reference_path, resolve_model
from es_align.reward_checks import reward_specs
from workers.fleet import Tell
from workers.layers import PerturbedLayer
from workers.means import MeanSettings
from workers.pool import Pool, PoolSettings
from workers.protocol import Prompt
from workers.starting import WorkerSpec

CORES_OF_A_REMOTE_WORKER = 1
MEMBERS_OF_A_CANARY = 2  # a member and the mean
# Of a chunk's deadline, for generation and scoring together: what is not scored by then has no
# score. Without an answer at the deadline itself the worker counts as hung.
SHARE_TO_SCORES = 0.9


def make_pool(
    config: Config,
    model: ModelPaths,
    reward_name: str | None,
    factors: Sequence[PerturbedLayer],
    prompts: Sequence[Prompt],
    means: MeanSettings | None = None,
    tell: Tell = lambda message: None,
    mean_folder: Path | None = None,
) -> Pool:
    """The configured pool, not started yet; without factors its workers hold the base model only,
    without `means` no mean of their own. `tell` hears what happens to workers; means are stored in
    `mean_folder`.
    """
    workers = config.workers
    settings = PoolSettings(
        num_workers=workers.count,
        num_cpus=worker_cores(config),
        num_gpus=workers.gpus,
        address=workers.address,
        load_deadline_s=workers.load_deadline_s,
        chunk_deadline_s=workers.chunk_deadline_s,
        max_retries=workers.max_retries,
        num_needed=workers.min_count,
        resources=workers.resources,
        label_selector=workers.label_selector,
    )
    spec = replace(worker_spec(config, model, reward_name, means), mean_folder=mean_folder)
    return Pool(settings, spec, factors, prompts, tell)


def worker_spec(
    config: Config, model: ModelPaths, reward_name: str | None, means: MeanSettings | None = None
) -> WorkerSpec:
    """What each worker is told at its start."""
    workers = config.workers
    return WorkerSpec(
        engine=workers.engine,
        locate_model=functools.partial(engine_path, model.name, config.precision),
        precision=config.precision,
        reward_name=reward_name,
        max_members=max(MEMBERS_OF_A_CANARY, workers.members_per_chunk or config.population),
        max_model_len=workers.max_model_len,
        max_new_tokens=max(config.max_new_tokens, heldout_new_tokens(config)),
        kv_cache_gb=workers.kv_cache_gb,
        num_threads=worker_cores(config),
        means=means,
        locate_reference=(
            functools.partial(reference_path, model.name)
            if config.space.kind == "weights" and means is not None
            else None
        ),
        rewards=reward_specs(config),
        scoring_limit_s=workers.chunk_deadline_s * SHARE_TO_SCORES,
        is_compiled=workers.gpus > 0 if workers.compile is None else workers.compile,
        device="cuda" if workers.gpus > 0 else "cpu",
    )


def worker_cores(config: Config) -> int:
    """Cores of each worker: as configured, else this machine's, shared out, or one on a cluster."""
    workers = config.workers
    if workers.cpus is not None:
        return workers.cpus
    if workers.address is not None:
        return CORES_OF_A_REMOTE_WORKER
    return max(1, len(os.sched_getaffinity(0)) // workers.count)


def engine_path(name: str, precision: Precision) -> Path:
    """Where the model lies on the machine this runs on;
    a worker calls it, and converts or fetches if need be.
    """
    return resolve_model(name, precision).engine
