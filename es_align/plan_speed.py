"""How fast one worker is: measured in a run, told, or estimated, and always said which.

Whatever is known of its speed, an engine's model has three numbers (`workers.simulated_engine`).
Their proportions come from a roofline: a step reads the weights once, and for each sequence the
cache, and computes two operations a parameter and sequence. A run, or tokens a second, then scale
all three. On CPUs the figures of docs/benchmarks.md do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from es_align.config import Config, Precision
from es_align.config_errors import nearest
from es_align.errors import ConfigError, RunFolderError
from es_align.model_sizes import ModelSizes
from es_align.plan_memory import BYTES_PER_GB, weight_bytes
from es_align.run_folder import RunFolder
from rewards.base import JsonValue
from workers.simulated_engine import EngineModel, measured_lengths

# On CPUs: of `workers.engines.vllm_engine`, which imports vLLM; a test compares both.
MAX_SEQUENCES = 256
MEASURED_LIMIT = 320  # of the measured lengths
BISECTIONS = 40
PROMPT_TOKENS = 70  # where no run says it: about what prompts of `instructions` have

# docs/benchmarks.md: SmolLM2-135M, 128 requests of 32 tokens and 64 new ones, tokens a second.
CPU_TOKENS_PER_S: Mapping[bool, Mapping[Precision, float]] = {
    False: {"fp32": 620, "bf16": 620, "int8": 888, "int4": 325},
    True: {"fp32": 606, "bf16": 606, "int8": 786, "int4": 354},  # rank-1 noise on every weight
}
CPU_REQUESTS, CPU_PROMPT_TOKENS, CPU_NEW_TOKENS = 128, 32, 64
# What a prompt's token takes of one that is written: between those and docs/population_sweep.json,
# INT8, where half of the tokens are prompts'.
PREFILL_SHARE = 0.6
CPU_CORES = 2
CPU_PARAMETERS = 134_515_008
CPU_BYTES_PER_S = 20e9
# Moving whole weights on the host, one core: docs/benchmarks.md, update_gemm and time/move_s.
MOVE_S_PER_WEIGHT = 1.1e-8
MOVE_S_PER_WEIGHT_AND_PAIR = 4.3e-11

# What a kernel reaches of a data sheet's numbers, and what vLLM itself takes for a step.
SHARE_OF_BANDWIDTH, SHARE_OF_OPERATIONS = 0.6, 0.4
GPU_STEP_S = 0.005


@dataclass(frozen=True, slots=True)
class Gpu:
    """A data sheet, without sparsity, and vLLM's own limit."""

    bytes_per_s: float
    bf16_per_s: float  # operations
    int8_per_s: float
    memory_gb: int
    max_sequences: int  # that vLLM runs at once; a test compares it


GPUS = {
    "A100": Gpu(2.04e12, 312e12, 624e12, 80, 256),
    "H100": Gpu(3.35e12, 989e12, 1979e12, 80, 1024),
    "H200": Gpu(4.8e12, 989e12, 1979e12, 141, 1024),
    "L4": Gpu(0.3e12, 121e12, 242e12, 24, 256),
    "L40S": Gpu(0.864e12, 362e12, 733e12, 48, 256),
    "RTX4090": Gpu(1.008e12, 165e12, 661e12, 24, 256),
}


@dataclass(frozen=True, slots=True)
class Speed:
    """One worker's speed, and what answers look like."""

    engine: EngineModel
    lengths: np.ndarray  # tokens of answers, to draw from
    prompt_tokens: int  # of a prompt, on average
    move_s: float  # that a worker takes to move its mean
    kind: Literal["measured", "estimated"]
    origin: str  # for a person


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run's generations took, on average."""

    busy_s: float  # of its workers, together
    tokens_per_answer: float
    tokens_per_prompt: float
    move_s: float
    num_generations: int


def find_gpu(name: str) -> str:
    """The name as it stands in `GPUS`; raises ConfigError if it is none."""
    wanted = name.upper().replace("-", "").replace(" ", "").removeprefix("NVIDIA")
    if wanted in GPUS:
        return wanted
    guess = nearest(wanted, list(GPUS))
    meant = f"did you mean {guess}? " if guess else ""
    raise ConfigError(
        f"--gpu {name} is not known; {meant}known are {', '.join(GPUS)}; for another one measure a "
        "run and plan with --from RUN or --tokens-per-s"
    )


def gpu_engine(gpu: Gpu, sizes: ModelSizes, precision: Precision, context: float) -> EngineModel:
    """A roofline; `context` is how long a sequence is on average, in tokens."""
    operations = gpu.int8_per_s if precision == "int8" else gpu.bf16_per_s
    operation_s = 1 / (operations * SHARE_OF_OPERATIONS)
    byte_s = 1 / (gpu.bytes_per_s * SHARE_OF_BANDWIDTH)
    token_s = 2 * sizes.num_parameters * operation_s
    return EngineModel(
        step_s=GPU_STEP_S + weight_bytes(sizes, precision) * byte_s,
        sequence_s=token_s + context * sizes.kv_bytes * byte_s,
        prefill_s=token_s,
        max_sequences=gpu.max_sequences,
    )


def cpu_engine(
    sizes: ModelSizes, precision: Precision, num_cores: int, *, is_weights: bool
) -> EngineModel:
    """The figures of docs/benchmarks.md, by parameters and cores."""
    step_s = weight_bytes(sizes, precision) / CPU_BYTES_PER_S
    scale = sizes.num_parameters / CPU_PARAMETERS * CPU_CORES / num_cores
    tokens = CPU_REQUESTS * CPU_NEW_TOKENS
    total_s = scale * tokens / CPU_TOKENS_PER_S[is_weights][precision]
    num_rows = tokens + PREFILL_SHARE * CPU_REQUESTS * CPU_PROMPT_TOKENS
    token_s = max(0.1 * total_s, total_s - CPU_NEW_TOKENS * step_s) / num_rows
    return EngineModel(step_s, token_s, PREFILL_SHARE * token_s, MAX_SEQUENCES)


def with_room(engine: EngineModel, config: Config, sizes: ModelSizes, prompt: int) -> EngineModel:
    """The engine with as many sequences at once as its cache has room for.

    Raises ConfigError if it has none for one.
    """
    if config.workers.engine != "vllm":
        return engine
    room = int(config.workers.kv_cache_gb * BYTES_PER_GB) // sizes.kv_bytes
    longest = prompt + config.max_new_tokens
    if room < longest:
        needed = longest * sizes.kv_bytes / BYTES_PER_GB
        raise ConfigError(
            f"workers.kv_cache_gb={config.workers.kv_cache_gb:g} has room for {room} tokens, and "
            f"one sequence takes {longest}; set it to {needed:.2g} or more"
        )
    return replace(engine, max_sequences=min(engine.max_sequences, room // longest))


def scaled(speed: Speed, factor: float) -> Speed:
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


def lengths_for(limit: int, mean: float | None = None) -> np.ndarray:
    """The measured lengths, stretched to a limit, int64, sorted, from 1 to the limit; where their
    mean is known, with short ones or long ones more often until it is `mean`.
    """
    measured = measured_lengths()
    stretched = np.clip(np.rint(measured * (limit / MEASURED_LIMIT)), 1, limit).astype(np.int64)
    if mean is None:
        return stretched
    ranks = (np.arange(len(measured)) + 0.5) / len(measured)
    low, high = 1e-3, 1e3
    bent = stretched
    for _ in range(BISECTIONS):
        power = (low * high) ** 0.5
        bent = stretched[(ranks**power * len(measured)).astype(np.int64)]
        low, high = (power, high) if bent.mean() > mean else (low, power)
    return bent


def read_run(folder: RunFolder) -> Measured:
    """What the generations of a run took, without the first, which warms up, if there are others.

    Raises RunFolderError if none was finished, or nothing was generated.
    """
    rows = [row for row in folder.read_rows(folder.metrics) if "completions" in row]
    rows = rows[1:] or rows
    if not rows:
        raise RunFolderError(
            f"{folder.path} has no generation in metrics.jsonl; name the folder of a run that did "
            "one, or plan with --tokens-per-s"
        )
    tokens, num_answers = _mean(rows, "tokens/total"), _mean(rows, "completions")
    busy_s = _mean(rows, "time/generate_s") + _mean(rows, "time/score_s")
    if tokens == 0 or busy_s == 0:
        raise RunFolderError(
            f"{folder.path}: its generations wrote {tokens:.0f} tokens in {busy_s:.1f} s, so they "
            "say nothing of how fast answers are written; name another run, or --tokens-per-s"
        )
    return Measured(
        busy_s=busy_s,
        tokens_per_answer=tokens / num_answers,
        tokens_per_prompt=_mean(rows, "tokens/prompt") / num_answers,
        move_s=_mean(rows, "time/move_s"),
        num_generations=len(rows),
    )


def check_same(run: Config, asked: Config, folder: Path) -> None:
    """Raise ConfigError if a run was of another model or precision, whose speed says nothing."""
    for name in ("model", "precision"):
        own, given = getattr(run, name), getattr(asked, name)
        if own != given:
            raise ConfigError(
                f"--from {folder} is a run with {name}={own}, and this plan is for {name}={given}; "
                f"name a run of the same, or --set {name}={own}"
            )


def move_seconds(num_weights: int, num_pairs: int, num_cores: int) -> float:
    """What moving whole weights takes on the host's cores."""
    each_s = MOVE_S_PER_WEIGHT + MOVE_S_PER_WEIGHT_AND_PAIR * num_pairs
    return num_weights * each_s / num_cores


def _mean(rows: Sequence[Mapping[str, JsonValue]], name: str) -> float:
    return float(np.mean([float(str(row.get(name, 0))) for row in rows]))
