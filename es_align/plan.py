"""`es-align plan`: what a run would take of N workers, before any of them is rented.

Memory and bytes are arithmetic. Seconds and efficiency are those of the real dispatcher over
simulated workers (`workers.simulation`), whose speed was measured or is estimated
(`es_align.plan_speed`); the result says which. No engine, no Ray and no torch.
"""

import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np

from es_align.config import Config
from es_align.config_search import is_seeded
from es_align.errors import ConfigError, RunFolderError
from es_align.model_sizes import ModelSizes, read_sizes
from es_align.plan_memory import BYTES_PER_GB, Memory, dimension, moving_layers, worker_memory
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
    with_room,
)
from es_align.preflight import check_settings, chunk_sizes, uses_pairs
from es_align.rollout import population_chunks
from es_align.run_folder import RunFolder
from es_align.strategies.base import Population
from workers.dispatch import Dispatcher
from workers.fleet import Fleet, FleetSettings
from workers.members import Members, NoiseMembers
from workers.protocol import Chunk, Move
from workers.simulated_engine import MadeUpAnswers
from workers.simulation import Durations, SimulatedTransport

SPEED_SPREAD = 0.1  # standard deviation of the logarithm of workers' speeds
CHUNKS_A_WORKER = (1, 2, 4, 8, 16)  # that are tried
NUM_DISTINCT = 512  # members with lengths of their own
LIKELIHOOD = "log_likelihood"  # the reward
AS_GOOD = 1.01  # a larger chunk that is so little slower is preferred: fewer messages


@dataclass(frozen=True, slots=True)
class WireBytes:
    """Bytes of a generation between the driver and all workers, as pickled."""

    chunks: int  # there and back, without what follows
    prompt_ids: int
    vectors: int  # of members that are no seeds
    scores: int
    moves: int  # of the means that workers hold


@dataclass(frozen=True, slots=True)
class Prediction:
    """A generation of simulated workers."""

    members_per_chunk: int
    num_chunks: int
    seconds: float  # of a generation
    evaluate_s: float
    move_s: float
    efficiency: float  # seconds of answers that counted over workers times evaluate_s
    occupancy: float  # share of the engine's places that held a sequence while it worked
    tokens_per_s: float  # of all workers, generated


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


class _Planned(NamedTuple):
    """What predictions have in common."""

    config: Config
    num_workers: int
    speed: Speed
    answers: MadeUpAnswers
    prompt_ids: tuple[str, ...]


def plan(
    config: Config,
    *,
    num_workers: int | None = None,
    gpu: str | None = None,
    run: str | Path | None = None,
    tokens_per_s: float | None = None,
) -> PlanResult:
    """Predict a generation of `num_workers` workers (none: as configured).

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
    moving = moving_layers(config.space, sizes)
    speed = _speed(config, sizes, gpu, None if run is None else Path(run), tokens_per_s)
    num_members, num_prompts = config.population, config.prompts_per_generation
    planned = _Planned(
        config,
        num_workers,
        speed,
        _answers(speed, num_members),
        tuple(f"train/{index}" for index in range(num_prompts)),
    )
    size = config.workers.members_per_chunk or num_members
    configured = _predict(planned, size)
    recommended = _recommend(planned, configured)
    memory = worker_memory(config, sizes, size)
    chunk = _chunks(planned, size)[0]
    return PlanResult(
        model=config.model,
        parameters=sizes.num_parameters,
        precision=config.precision,
        space=config.space.kind,
        dimension=dimension(config.space, moving),
        workers=num_workers,
        population=num_members,
        prompts_per_generation=num_prompts,
        samples_per_prompt=config.samples_per_prompt,
        completions=num_members * num_prompts * config.samples_per_prompt,
        memory_bytes=memory,
        memory_bytes_total=memory.total,
        wire_bytes=_wire(planned, configured, dimension(config.space, moving)),
        speed_kind=speed.kind,
        speed_origin=speed.origin,
        tokens_per_s_worker=_tokens_per_s(planned.answers, chunk),
        configured=configured,
        recommended=recommended,
        notes=tuple(_notes(planned, memory, recommended, gpu)),
    )


def _speed(
    config: Config, sizes: ModelSizes, gpu: str | None, run: Path | None, rate: float | None
) -> Speed:
    """What is known of one worker, the most certain first."""
    cores = config.workers.cpus or CPU_CORES
    num_pairs = config.population // 2 * config.space.noise_rank
    is_weights = config.space.kind == "weights"
    moving = moving_layers(config.space, sizes)
    move_s = move_seconds(moving.num_weights, num_pairs, cores) if is_weights else 0.0
    lengths = lengths_for(config.max_new_tokens)
    if gpu is None and config.workers.gpus and run is None and rate is None:
        raise ConfigError(
            f"workers.gpus={config.workers.gpus:g} does not say which GPU; name it (--gpu H100), "
            "or measure one: --from RUN, or --tokens-per-s"
        )
    if gpu is not None or config.workers.gpus:
        name = "H100" if gpu is None else find_gpu(gpu)
        context = PROMPT_TOKENS + float(lengths.mean()) / 2
        engine = gpu_engine(GPUS[name], sizes, config.precision, context)
        origin = f"a roofline of the {name}'s data sheet; the population costs nothing in it"
    else:
        engine = cpu_engine(sizes, config.precision, cores, is_weights=is_weights)
        origin = (
            "SmolLM2-135M in vLLM on 2 cores (docs/benchmarks.md), scaled to "
            f"{sizes.num_parameters / 1e6:,.0f} M parameters and {cores} cores a worker"
        )
    engine = with_room(engine, config, sizes, PROMPT_TOKENS)
    speed = Speed(engine, lengths, PROMPT_TOKENS, move_s, "estimated", origin)
    if run is not None:
        return _measured(speed, config, RunFolder(run))
    if rate is None:
        return speed
    if not (rate > 0 and math.isfinite(rate)):
        raise ConfigError(f"--tokens-per-s {rate:g} must be above 0")
    told = replace(speed, kind="measured", origin=f"--tokens-per-s {rate:g}, as you say")
    size = config.workers.members_per_chunk or config.population
    answers = _answers(told, config.population)
    planned = _Planned(config, 1, told, answers, _some_prompts(config))
    return _scaled(told, rate / _tokens_per_s(answers, _chunks(planned, size)[0]))


def _measured(speed: Speed, config: Config, folder: RunFolder) -> Speed:
    """The speed of a run's workers: its own chunks, simulated, take as long as they took."""
    if not folder.has_run:
        raise RunFolderError(f"{folder.path} holds no run; name a folder that `train` wrote")
    own, measured = folder.read_config(), read_run(folder)
    check_same(own, config, folder.path)
    prompt_tokens = max(1, round(measured.tokens_per_prompt))
    lengths = lengths_for(own.max_new_tokens, measured.tokens_per_answer)
    there = replace(speed, lengths=lengths, prompt_tokens=prompt_tokens)
    answers = _answers(there, own.population)
    planned = _Planned(own, 1, there, answers, _some_prompts(own))
    chunks = _chunks(planned, own.workers.members_per_chunk or own.population)
    simulated_s = sum(answers.seconds(chunk) for chunk in chunks)
    is_alike = own.max_new_tokens == config.max_new_tokens
    share = measured.tokens_per_answer / own.max_new_tokens
    here = (
        lengths if is_alike else lengths_for(config.max_new_tokens, share * config.max_new_tokens)
    )
    same_move = own.space == config.space and own.population == config.population
    return _scaled(
        replace(
            there,
            lengths=here,
            move_s=measured.move_s if same_move else speed.move_s,
            kind="measured",
            origin=f"{measured.num_generations} generations of {folder.path}",
        ),
        simulated_s / measured.busy_s,
    )


def _scaled(speed: Speed, factor: float) -> Speed:
    """So many times as fast."""
    engine = speed.engine
    return replace(
        speed,
        engine=replace(
            engine,
            step_s=engine.step_s / factor,
            sequence_s=engine.sequence_s / factor,
            prefill_s=engine.prefill_s / factor,
        ),
    )


def _answers(speed: Speed, num_members: int) -> MadeUpAnswers:
    return MadeUpAnswers(
        speed.engine,
        speed.lengths,
        prompt_tokens=speed.prompt_tokens,
        num_distinct=min(num_members, NUM_DISTINCT),
    )


def _some_prompts(config: Config) -> tuple[str, ...]:
    return tuple(f"train/{index}" for index in range(config.prompts_per_generation))


def _chunks(planned: _Planned, size: int, perturbed: Members | None = None) -> list[Chunk]:
    """A generation as `es_align.rollout` cuts it, in chunks of another size."""
    config = planned.config
    workers = config.workers.model_copy(update={"members_per_chunk": size})
    asked = config.model_copy(update={"workers": workers, "samples_per_generation": 0})
    if perturbed is None:
        perturbed = _seeds(config)
    return population_chunks(asked, Population(0, perturbed), planned.prompt_ids)


def _seeds(config: Config) -> NoiseMembers:
    pairs = tuple(member // 2 for member in range(config.population))
    signs = tuple(1 - 2 * (member % 2) for member in range(config.population))
    return NoiseMembers(config.seed, 0, pairs, signs, config.strategy.sigma)


def _tokens_per_s(answers: MadeUpAnswers, chunk: Chunk) -> float:
    return int(answers.tokens_MPS(chunk).sum()) / answers.seconds(chunk)


def _predict(planned: _Planned, size: int) -> Prediction:
    """Run the dispatcher over a generation."""
    num_workers, speed, answers = planned.num_workers, planned.speed, planned.answers
    chunks = _chunks(planned, size)
    transport = SimulatedTransport(answers, _speeds(num_workers), Durations(0.0, 0.0, speed.move_s))
    limit_s = planned.config.workers.load_deadline_s
    settings = FleetSettings(num_workers, num_workers, limit_s, math.inf, 0)
    fleet = Fleet(transport, settings, lambda message: None)
    fleet.start((), [])
    began = transport.now()
    results = Dispatcher(fleet).evaluate(chunks)
    evaluate_s = transport.now() - began
    busy_s = sum(result.generate_s for result in results)
    num_tokens = sum(result.num_generated_tokens for result in results)
    places = [answers.engine.occupancy(answers.tokens_MPS(chunk).ravel()) for chunk in chunks[:16]]
    return Prediction(
        members_per_chunk=size,
        num_chunks=len(chunks),
        seconds=evaluate_s + speed.move_s,
        evaluate_s=evaluate_s,
        move_s=speed.move_s,
        efficiency=busy_s / (num_workers * evaluate_s),
        occupancy=float(np.mean(places)),
        tokens_per_s=num_tokens / evaluate_s,
    )


def _recommend(planned: _Planned, configured: Prediction) -> Prediction | None:
    """The chunks with which a generation is over first."""
    config, num_workers = planned.config, planned.num_workers
    fitting = [
        size
        for size in chunk_sizes(config.population, has_pairs=uses_pairs(config.strategy))
        if config.population // size >= num_workers
    ]
    if not fitting:
        return None
    wanted = [config.population / (num_workers * count) for count in CHUNKS_A_WORKER]
    tried = {max((s for s in fitting if s <= most), default=fitting[0]) for most in wanted}
    predictions = [_predict(planned, size) for size in tried - {configured.members_per_chunk}]
    if configured.num_chunks >= num_workers:
        predictions.append(configured)
    best_s = min(prediction.evaluate_s for prediction in predictions)
    as_good = [p for p in predictions if p.evaluate_s <= AS_GOOD * best_s]
    return max(as_good, key=lambda prediction: prediction.members_per_chunk)


def _speeds(num_workers: int) -> list[float]:
    """Speeds that are spread as machines of one kind are, around 1."""
    normal = NormalDist()
    places = ((worker + 0.5) / num_workers for worker in range(num_workers))
    return [math.exp(SPEED_SPREAD * normal.inv_cdf(place)) for place in places]


def _wire(planned: _Planned, configured: Prediction, num_numbers: int) -> WireBytes:
    config, num_chunks = planned.config, configured.num_chunks
    chunk = _chunks(planned, configured.members_per_chunk)[0]
    num_members, is_seeded_space = len(chunk.members), is_seeded(config.space.kind)
    bare = replace(chunk, prompt_ids=(), perturbed=chunk.perturbed if is_seeded_space else None)
    result = planned.answers.result(chunk, "0" * 64 if is_seeded_space else None, 1.0)
    scores = result.rewards_MP.nbytes + result.passed_MP.nbytes
    there_and_back = len(pickle.dumps(bare)) + len(pickle.dumps(result)) - scores
    weights = np.zeros(config.population // 2)
    move = len(pickle.dumps(Move(0, 0, weights, 0.1, 0.1))) if is_seeded_space else 0
    vectors = 0 if is_seeded_space else 4 * num_members * num_numbers
    return WireBytes(
        chunks=num_chunks * there_and_back,
        prompt_ids=num_chunks * len(pickle.dumps(chunk.prompt_ids)),
        vectors=num_chunks * vectors,
        scores=num_chunks * scores,
        moves=planned.num_workers * move,
    )


def _notes(
    planned: _Planned, memory: Memory, recommended: Prediction | None, gpu: str | None
) -> Sequence[str]:
    """What was assumed, and what does not fit."""
    config, engine = planned.config, planned.speed.engine
    notes = [
        f"workers' speeds are spread by {SPEED_SPREAD:.0%}",
        f"answers are {planned.speed.lengths.mean():.0f} tokens long on average, prompts "
        f"{planned.speed.prompt_tokens}",
        f"an engine holds {engine.max_sequences} sequences at once",
    ]
    if config.workers.engine == "torch" and planned.speed.kind == "estimated":
        notes.append("figures are vLLM's: the torch engine is slower, measure it (--from RUN)")
    if config.space.kind == "weights" and planned.speed.kind == "estimated":
        cores = config.workers.cpus or CPU_CORES
        notes.append(f"a mean of whole weights moves on {cores} of the host's cores a worker")
    if any(reward.name == LIKELIHOOD for reward in config.reward):
        notes.append(f"reward {LIKELIHOOD} has no answers written, so a generation takes less")
    if gpu is not None:
        held = (memory.total - memory.master) / BYTES_PER_GB
        if held > GPUS[find_gpu(gpu)].memory_gb:
            notes.append(
                f"{held:.0f} GiB do not fit the {find_gpu(gpu)}'s {GPUS[find_gpu(gpu)].memory_gb}: "
                "lower workers.kv_cache_gb or workers.members_per_chunk, or quantise the model"
            )
    if recommended is None:
        most = config.population // (2 if uses_pairs(config.strategy) else 1)
        notes.append(f"a population of {config.population} has work for {most} workers at most")
    return notes
