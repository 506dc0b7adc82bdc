"""How well a population fills many workers, and what it takes on the wire: for benchmarks/scale.py.

The dispatcher is the real one, the workers are simulated. Beside it stand static waves: the same
chunks, dealt out evenly beforehand, and a barrier.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from es_align.config import Config
from es_align.model_sizes import ModelSizes
from es_align.plan_speed import GPUS, gpu_engine
from es_align.rollout import population_chunks
from es_align.strategies import make_strategy
from es_align.wire_sizes import message_bytes
from kernels.noise import Purpose, philox
from workers.dispatch import Dispatcher
from workers.fleet import Fleet, FleetSettings
from workers.protocol import Chunk, Move
from workers.simulated_engine import MadeUpAnswers, measured_lengths
from workers.simulation import Durations, Fault, FaultKind, SimulatedTransport

POPULATION = 16_384
PROMPTS = 128
LARGEST_CHUNK = 64  # members, with 128 prompts 32 times what an engine holds at once
MIXED_SHARE = 8  # of a worker's share, the largest chunk on machines of mixed speeds
SMALLEST_SHARE = 8  # of the largest chunk, in the smallest
LIMIT_TOKENS, PROMPT_TOKENS = 320, 70
GENERATIONS = 3
LLAMA_8B = ModelSizes(4096, 14336, 32, 32, 8, 128, 128256, False)
GPU = "H100"
SPEED_SPREAD, SLOW_ONE_IN, SLOW_FACTOR = 0.1, 50, 2.0
DYING_ONE_IN = 100  # workers, each once in three generations
DURATIONS = Durations(place_s=5.0, load_s=60.0, move_s=1.0)
ANY_DIGEST = "0" * 64


@dataclass(frozen=True, slots=True)
class Efficiency:
    """Some generations on one cluster."""

    cluster: str
    workers: int
    largest: int  # members of a chunk
    smallest: int
    num_chunks: int  # of a generation
    occupancy: float  # share of the engines' places that held a sequence while they worked
    efficiency: float  # seconds of answers that counted over workers times the makespan
    static: float  # of static waves; of workers that die there is none
    seconds: float  # of a generation's evaluation, on average
    static_seconds: float
    one_batch_seconds: float  # static, each share as one batch: other chunks, other numbers
    num_copies: int  # of GENERATIONS * chunks
    num_retries: int


@dataclass(frozen=True, slots=True)
class Wire:
    """Bytes of a generation's messages, as pickled."""

    workers: int
    num_chunks: int
    a_chunk: float  # it and its result, without prompt ids and scores
    prompt_ids: float  # of a chunk
    a_member: float  # chunks and results
    a_score: float  # of each member and prompt: its reward, and the share that passed


def chunk_sizes(num_workers: int, *, is_mixed: bool = False) -> tuple[int, int]:
    """Largest and smallest for so many workers. None is more than a worker's share, on machines of
    mixed speeds an eighth of it, or a slow one has a chunk when all others are done; none is less
    than a pair.
    """
    share = POPULATION // num_workers
    largest = min(LARGEST_CHUNK, max(2, share // MIXED_SHARE if is_mixed else share))
    return largest, max(2, largest // SMALLEST_SHARE)


def make_config(members_per_chunk: int, smallest_chunk: int | None = None) -> Config:
    """EGGROLL over whole weights, as the driver's own cost is measured on the tiny model."""
    return Config.model_validate(
        {
            "model": "tiny",
            "precision": "fp32",
            "generations": 1 + GENERATIONS,
            "population": POPULATION,
            "prompts_per_generation": PROMPTS,
            "max_new_tokens": LIMIT_TOKENS,
            "task": {"name": "letters", "num_train": 512, "num_heldout": 4},
            "space": {"kind": "weights"},
            "evaluation": {"every": 0, "noise_floor_repeats": 0},
            "workers": {
                "engine": "torch",
                "members_per_chunk": members_per_chunk,
                "smallest_chunk": smallest_chunk,
            },
        }
    )


def make_chunks(config: Config, generation: int) -> list[Chunk]:
    """A generation as the driver cuts it."""
    strategy = make_strategy(
        config.strategy,
        dimension=1,
        population=config.population,
        seed=config.seed,
        generations=config.generations,
    )
    prompt_ids = [f"train/{index}" for index in range(config.prompts_per_generation)]
    return population_chunks(config, strategy.ask(generation), prompt_ids)


def make_answers() -> MadeUpAnswers:
    """Of an 8B model in INT8 on the GPU, by its data sheet."""
    context = PROMPT_TOKENS + float(measured_lengths().mean()) / 2
    engine = gpu_engine(GPUS[GPU], LLAMA_8B, "int8", context)
    return MadeUpAnswers(engine, prompt_tokens=PROMPT_TOKENS)


def speeds(num_workers: int, *, is_mixed: bool) -> list[float]:
    """All 1, or spread, and every fiftieth half as fast."""
    if not is_mixed:
        return [1.0] * num_workers
    normals = philox(0, Purpose.STRATEGY, num_workers).standard_normal(num_workers)
    spread = np.exp(SPEED_SPREAD * normals)
    spread[::SLOW_ONE_IN] /= SLOW_FACTOR
    return spread.tolist()


def deaths(num_workers: int, evaluate_s: float) -> list[Fault]:
    """One worker in a hundred, at times spread over the generations."""
    dying = range(0, num_workers, DYING_ONE_IN)
    began_s, all_s = DURATIONS.place_s + DURATIONS.load_s, GENERATIONS * evaluate_s
    return [
        Fault(began_s + (place + 0.5) / len(dying) * all_s, worker, FaultKind.KILLED)
        for place, worker in enumerate(dying)
    ]


@cache
def make_generations(largest: int, smallest: int | None) -> list[list[Chunk]]:
    """Some generations, cut so."""
    config = make_config(largest, smallest)
    return [make_chunks(config, generation) for generation in range(GENERATIONS)]


def measure(
    answers: MadeUpAnswers,
    worker_speeds: Sequence[float],
    *,
    cluster: str,
    message_s: float,
    faults: Sequence[Fault] = (),
) -> Efficiency:
    """Evaluate and move, generation after generation; the driver takes `message_s` a message."""
    num_workers = len(worker_speeds)
    largest, smallest = chunk_sizes(num_workers, is_mixed=len(set(worker_speeds)) > 1)
    generations = make_generations(largest, smallest)
    durations = replace(DURATIONS, message_s=message_s)
    transport = SimulatedTransport(answers, worker_speeds, durations, faults)
    settings = FleetSettings(num_workers, num_workers, 900.0, 600.0, max_retries=2)
    fleet = Fleet(transport, settings, lambda message: None)
    dispatcher = Dispatcher(fleet)
    fleet.start((), [])
    busy_s = evaluate_s = 0.0
    for generation, chunks in enumerate(generations):
        began = transport.now()
        results = dispatcher.evaluate(chunks)
        evaluate_s += transport.now() - began
        busy_s += sum(result.generate_s for result in results)
        fleet.move(Move(generation, generation, np.zeros(1), sigma=0.1, learning_rate=0.1))
    waves = make_generations(largest, None)
    static_busy_s, static_s = _static(answers, waves, worker_speeds)
    num_generations = len(generations)
    return Efficiency(
        cluster=cluster,
        workers=num_workers,
        largest=largest,
        smallest=smallest,
        num_chunks=len(generations[0]),
        occupancy=occupancy(answers, generations[0]),
        efficiency=busy_s / (num_workers * evaluate_s),
        static=math.nan if faults else static_busy_s / (num_workers * static_s),
        seconds=evaluate_s / num_generations,
        static_seconds=math.nan if faults else static_s / num_generations,
        one_batch_seconds=math.nan if faults else _one_batch(answers, waves[0], worker_speeds),
        num_copies=dispatcher.num_copies,
        num_retries=dispatcher.num_retries,
    )


def occupancy(answers: MadeUpAnswers, chunks: Sequence[Chunk]) -> float:
    """Share of the engine's places that held a sequence, over the time it worked."""
    seconds = np.array([answers.seconds(chunk) for chunk in chunks])
    filled = [answers.engine.occupancy(answers.tokens_MPS(chunk).ravel()) for chunk in chunks]
    return float(np.average(filled, weights=seconds))


def wire(num_workers: int) -> Wire:
    """All messages of a generation, cut for so many workers."""
    chunks, answers = make_generations(*chunk_sizes(num_workers))[-1], make_answers()
    sizes = [
        message_bytes(chunk, answers.result(chunk, ANY_DIGEST, 12.345), has_seeds=True)
        for chunk in chunks
    ]
    num_bytes = sum(size.chunk + size.result for size in sizes)
    return Wire(
        workers=num_workers,
        num_chunks=len(chunks),
        a_chunk=num_bytes / len(chunks),
        prompt_ids=sum(size.prompt_ids for size in sizes) / len(chunks),
        a_member=num_bytes / POPULATION,
        a_score=sum(size.scores for size in sizes) / (POPULATION * PROMPTS),
    )


def _static(
    answers: MadeUpAnswers, generations: Sequence[Sequence[Chunk]], worker_speeds: Sequence[float]
) -> tuple[float, float]:
    """Busy seconds of all workers and the makespans, summed over generations."""
    num_workers = len(worker_speeds)
    busy_s = makespan_s = 0.0
    for chunks in generations:
        taken_s = [0.0] * num_workers
        for place, chunk in enumerate(chunks):
            worker = place * num_workers // len(chunks)
            taken_s[worker] += answers.seconds(chunk) / worker_speeds[worker]
        busy_s += sum(taken_s)
        makespan_s += max(taken_s)
    return busy_s, makespan_s


def _one_batch(
    answers: MadeUpAnswers, chunks: Sequence[Chunk], worker_speeds: Sequence[float]
) -> float:
    """The makespan if each worker's share were one batch of its engine."""
    share = len(chunks) // len(worker_speeds)
    taken_s = []
    for worker, speed in enumerate(worker_speeds):
        own = chunks[worker * share : (worker + 1) * share]
        members = tuple(member for chunk in own for member in chunk.members)
        taken_s.append(answers.seconds(replace(own[0], members=members)) / speed)
    return max(taken_s)
