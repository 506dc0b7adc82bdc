"""`es-align plan`: what a run would take of N workers, before any of them is rented.

Memory and bytes are arithmetic. Seconds and efficiency are those of the real dispatcher over
simulated workers (`es_align.plan_simulation`), whose speed was measured or is estimated
(`es_align.plan_speed`); the result says which. No engine, no Ray and no torch.
"""

import math
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from es_align.config import Config
from es_align.config_search import is_seeded
from es_align.errors import ConfigError, RunFolderError
from es_align.model_sizes import ModelSizes, read_sizes
from es_align.plan_memory import BYTES_PER_GB, Memory, dimension, moving_layers, worker_memory
from es_align.plan_simulation import SPEED_SPREAD, Planned, Prediction
from es_align.plan_speed import (
    CPU_CORES,
    GPUS,
    PROMPT_TOKENS,
    Speed,
    check_same,
    cpu_engine,
    find_gpu,
    gpu_engine,
    lengths_for,
    move_seconds,
    read_run,
    scaled,
    with_room,
)
from es_align.preflight import check_settings
from es_align.run_folder import RunFolder
from es_align.wire_sizes import message_bytes
from workers.protocol import Move

LIKELIHOOD = "log_likelihood"  # the reward
ANY_DIGEST = "0" * 64


@dataclass(frozen=True, slots=True)
class WireBytes:
    """Bytes of a generation between the driver and all workers, as pickled."""

    chunks: int  # there and back, without what follows
    prompt_ids: int
    vectors: int  # of members that are no seeds
    scores: int
    moves: int  # of the means that workers hold


@dataclass(frozen=True, slots=True)
class PlanResult:
    """What a run would take."""

    model: str
    parameters: int
    precision: str
    space: str
    dimension: int
    workers: int
    population: int
    prompts_per_generation: int
    samples_per_prompt: int
    completions: int  # a generation
    memory_bytes: Memory  # a worker
    memory_bytes_total: int
    wire_bytes: WireBytes  # a generation
    speed_kind: Literal["measured", "estimated"]
    speed_origin: str
    tokens_per_s_worker: float  # generated, of one worker at work on such chunks
    configured: Prediction
    recommended: Prediction | None  # None: no chunks give all these workers something to do
    notes: tuple[str, ...]


def plan(
    config: Config,
    *,
    num_workers: int | None = None,
    gpu: str | None = None,
    run: str | Path | None = None,
    tokens_per_s: float | None = None,
) -> PlanResult:
    """Predict a generation of `num_workers` workers (None: as configured).

    A worker's speed is that of the `run` in a folder, or `tokens_per_s`, generated, or an estimate
    for the named `gpu` or the CPU. Raises ConfigError, ModelError or RunFolderError for what cannot
    be planned.
    """
    if run is not None and tokens_per_s is not None:
        raise ConfigError("--from and --tokens-per-s both say how fast a worker is; give one")
    num_workers = config.workers.count if num_workers is None else num_workers
    if num_workers < 1:
        raise ConfigError(f"--workers {num_workers} must be at least 1")
    check_settings(config)
    sizes = read_sizes(config.model)
    num_numbers = dimension(config.space, moving_layers(config.space, sizes))
    speed = _speed(config, sizes, gpu, run, tokens_per_s)
    planned = Planned(config, speed)
    smallest = config.workers.smallest_chunk
    configured = planned.predict(num_workers, planned.members_per_chunk, smallest)
    recommended = planned.recommend(num_workers, configured)
    memory = worker_memory(config, sizes, planned.members_per_chunk)
    num_prompts, num_samples = config.prompts_per_generation, config.samples_per_prompt
    return PlanResult(
        model=config.model,
        parameters=sizes.num_parameters,
        precision=config.precision,
        space=config.space.kind,
        dimension=num_numbers,
        workers=num_workers,
        population=config.population,
        prompts_per_generation=num_prompts,
        samples_per_prompt=num_samples,
        completions=config.population * num_prompts * num_samples,
        memory_bytes=memory,
        memory_bytes_total=memory.total,
        wire_bytes=_wire(planned, num_workers, num_numbers),
        speed_kind=speed.kind,
        speed_origin=speed.origin,
        tokens_per_s_worker=planned.tokens_per_s,
        configured=configured,
        recommended=recommended,
        notes=tuple(_notes(planned, memory, recommended, gpu)),
    )


def _speed(
    config: Config,
    sizes: ModelSizes,
    gpu: str | None,
    run: str | Path | None,
    tokens_per_s: float | None,
) -> Speed:
    """What is known of one worker, the most certain first."""
    if run is not None:
        return _of_run(_estimate(config, sizes, gpu), config, RunFolder(Path(run)))
    if tokens_per_s is not None:
        if not (tokens_per_s > 0 and math.isfinite(tokens_per_s)):
            raise ConfigError(f"--tokens-per-s {tokens_per_s:g} must be above 0")
        told = f"--tokens-per-s {tokens_per_s:g}, as you say"
        speed = replace(_estimate(config, sizes, gpu), kind="measured", origin=told)
        return scaled(speed, tokens_per_s / Planned(config, speed).tokens_per_s)
    if gpu is None and config.workers.gpus:
        raise ConfigError(
            f"workers.gpus={config.workers.gpus:g} does not say which GPU; name it (--gpu H100), "
            "or measure one: --from RUN, or --tokens-per-s"
        )
    return _estimate(config, sizes, gpu)


def _estimate(config: Config, sizes: ModelSizes, gpu: str | None) -> Speed:
    """By a data sheet or docs/benchmarks.md; of GPUs without a name, proportions of an H100."""
    num_cores, is_weights = config.workers.cpus or CPU_CORES, config.space.kind == "weights"
    lengths = lengths_for(config.max_new_tokens)
    if gpu is not None or config.workers.gpus:
        name = "H100" if gpu is None else find_gpu(gpu)
        context = PROMPT_TOKENS + float(lengths.mean()) / 2
        engine = gpu_engine(GPUS[name], sizes, config.precision, context)
        origin = f"a roofline of the {name}'s data sheet; the population costs nothing in it"
    else:
        engine = cpu_engine(sizes, config.precision, num_cores, is_weights=is_weights)
        origin = (
            "SmolLM2-135M in vLLM on 2 cores (docs/benchmarks.md), scaled to "
            f"{sizes.num_parameters / 1e6:,.0f} M parameters and {num_cores} cores a worker"
        )
    num_pairs = config.population // 2 * config.space.noise_rank
    num_weights = moving_layers(config.space, sizes).num_weights if is_weights else 0
    return Speed(
        with_room(engine, config, sizes, PROMPT_TOKENS),
        lengths,
        PROMPT_TOKENS,
        move_seconds(num_weights, num_pairs, num_cores),
        "estimated",
        origin,
    )


def _of_run(estimate: Speed, config: Config, folder: RunFolder) -> Speed:
    """The speed of a run's workers: its own chunks, simulated, take as long as they took."""
    if not folder.has_run:
        raise RunFolderError(f"{folder.path} holds no run; name a folder that `train` wrote")
    own, measured = folder.read_config(), read_run(folder)
    check_same(own, config, folder.path)
    lengths = lengths_for(own.max_new_tokens, measured.tokens_per_answer)
    prompt_tokens = max(1, round(measured.tokens_per_prompt))
    there = Planned(own, replace(estimate, lengths=lengths, prompt_tokens=prompt_tokens))
    simulated_s = sum(map(there.answers.seconds, there.configured_chunks))
    is_same_move = own.space == config.space and own.population == config.population
    longer = config.max_new_tokens / own.max_new_tokens
    here = replace(
        there.speed,
        lengths=lengths_for(config.max_new_tokens, measured.tokens_per_answer * longer),
        move_s=measured.move_s if is_same_move else estimate.move_s,
        kind="measured",
        origin=f"{measured.num_generations} generations of {folder.path}",
    )
    return scaled(here, simulated_s / measured.busy_s)


def _wire(planned: Planned, num_workers: int, num_numbers: int) -> WireBytes:
    config, chunks = planned.config, planned.configured_chunks
    chunk, has_seeds = chunks[0], is_seeded(config.space.kind)
    result = planned.answers.result(chunk, ANY_DIGEST if has_seeds else None, 1.0)
    sizes = message_bytes(chunk, result, has_seeds=has_seeds)
    move = Move(0, 0, np.zeros(config.population // 2), sigma=0.1, learning_rate=0.1)
    vector = 0 if has_seeds else num_numbers * np.dtype(np.float32).itemsize
    return WireBytes(
        chunks=len(chunks) * (sizes.chunk + sizes.result),
        prompt_ids=len(chunks) * sizes.prompt_ids,
        vectors=config.population * vector,
        scores=sizes.scores * config.population // len(chunk.members),
        moves=num_workers * len(pickle.dumps(move)) if has_seeds else 0,
    )


def _notes(
    planned: Planned, memory: Memory, recommended: Prediction | None, gpu: str | None
) -> Iterator[str]:
    """What was assumed, and what does not fit."""
    config, speed = planned.config, planned.speed
    yield f"workers' speeds are spread by {SPEED_SPREAD:.0%}"
    yield (
        f"answers are {speed.lengths.mean():.0f} tokens long on average, prompts "
        f"{speed.prompt_tokens}"
    )
    yield f"an engine holds {speed.engine.max_sequences} sequences at once"
    is_estimated = speed.kind == "estimated"
    if config.workers.engine == "torch" and is_estimated:
        yield "figures are vLLM's: the torch engine is slower, measure it (--from RUN)"
    if config.space.kind == "weights" and is_estimated:
        cores = config.workers.cpus or CPU_CORES
        yield f"a mean of whole weights moves on {cores} of the host's cores a worker"
    if any(reward.name == LIKELIHOOD for reward in config.reward):
        yield f"reward {LIKELIHOOD} has no answers written, so a generation takes less"
    held_gb = (memory.total - memory.master) / BYTES_PER_GB
    if gpu is not None and held_gb > GPUS[find_gpu(gpu)].memory_gb:
        yield (
            f"{held_gb:.0f} GiB do not fit the {find_gpu(gpu)}'s {GPUS[find_gpu(gpu)].memory_gb}: "
            "lower workers.kv_cache_gb or workers.members_per_chunk, or quantise the model"
        )
    if recommended is None:
        most = config.population // (2 if planned.has_pairs else 1)
        yield f"a population of {config.population} has work for {most} workers at most"
