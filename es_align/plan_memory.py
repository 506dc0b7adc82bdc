"""What one worker holds, in bytes, by arithmetic: the tables are those of `kernels` and `workers`.

Left out are the processes themselves (torch and vLLM, one to two GB), what a compiler keeps, and
activations. Tests hold the sums against built tables and a written checkpoint.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from es_align.config import Config, Precision
from es_align.config_search import SpaceConfig
from es_align.layouts import GROUP_SIZES
from es_align.model_sizes import ModelSizes
from es_align.space_checks import FUSED

BYTES_PER_GB = 2**30
BYTES_PER_NUMBER = {"fp32": 4, "bf16": 2}
FLOAT, DOUBLE, INDEX = 4, 8, 4
MASTER_BYTES = 4  # of either kind
STATES = {"sgd": 0, "momentum": 1, "adam": 2}  # that the optimiser keeps of every number


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one worker."""

    weights: int  # of the model, in its precision
    kv_cache: int
    population: int  # the members' tables, and the frozen directions they stand on
    master: int  # the mean that a worker moves itself, its optimiser and one gradient: on the host

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.kv_cache + self.population + self.master


@dataclass(frozen=True, slots=True)
class Moving:
    """The layers that a space perturbs."""

    shapes: tuple[tuple[int, int], ...]  # (out, in)
    num_modules: int  # in which vLLM computes them
    rank: int  # of directions, core or LoRA
    num_factors: int = 1  # tables of singular values: two with an adapter

    @property
    def num_weights(self) -> int:
        """Numbers of the layers' weights."""
        return sum(rows * columns for rows, columns in self.shapes)

    @property
    def perimeter(self) -> int:
        """Rows and columns of all layers."""
        return sum(rows + columns for rows, columns in self.shapes)


def worker_memory(config: Config, sizes: ModelSizes, max_members: int) -> Memory:
    """What a worker holds whose chunks have at most so many members."""
    moving = moving_layers(config.space, sizes)
    number = FLOAT if config.precision == "fp32" else 2
    return Memory(
        weights=weight_bytes(sizes, config.precision),
        kv_cache=_kv_bytes(config, sizes, max_members),
        population=member_bytes(config.space, moving, max_members)
        + _shared_bytes(config.space, moving, number),
        master=_mean_bytes(config, moving),
    )


def dimension(space: SpaceConfig, moving: Moving) -> int:
    """Numbers of a mean's vector; of whole weights those themselves."""
    match space.kind:
        case "singular_values":
            return len(moving.shapes) * moving.rank * moving.num_factors
        case "core":
            return len(moving.shapes) * moving.rank**2
        case "lora":
            return moving.perimeter * moving.rank
        case _:
            return moving.num_weights


def moving_layers(space: SpaceConfig, sizes: ModelSizes) -> Moving:
    """What is perturbed of this model."""
    targets, rank, num_factors = set(space.targets), space.rank, 1
    settings = Path(space.adapter or "") / "adapter_config.json"
    if space.basis == "adapter" and settings.is_file():
        adapter = json.loads(settings.read_text(encoding="utf-8"))
        rank = int(adapter.get("r", rank))
        named = adapter.get("target_modules")
        targets = (
            {name.rpartition(".")[2] for name in named} if isinstance(named, list) else targets
        )
    if space.kind == "singular_values" and space.basis == "adapter":
        num_factors = 2
    layers = {name: shape for name, shape in sizes.layers.items() if name in targets}
    together = [sum(name in layers for name in group) for group in FUSED]
    num_modules = len(layers) - sum(max(0, count - 1) for count in together)
    return Moving(
        tuple(layers.values()) * sizes.num_blocks, num_modules * sizes.num_blocks, rank, num_factors
    )


def weight_bytes(sizes: ModelSizes, precision: Precision) -> int:
    """The model's weights; embeddings and head stay in bf16 where the rest is quantised."""
    num_rest = sizes.num_parameters - sizes.num_linear
    shapes = sizes.layers.values()
    if precision == "int8":
        num_rows = sizes.num_blocks * sum(rows for rows, _ in shapes)
        return sizes.num_linear + FLOAT * num_rows + 2 * num_rest
    if precision == "int4":
        fitting = (size for size in GROUP_SIZES if all(width % size == 0 for _, width in shapes))
        group = next(fitting, GROUP_SIZES[-1])
        return sizes.num_linear // 2 + 2 * (sizes.num_linear // group) + 2 * num_rest
    return BYTES_PER_NUMBER[precision] * sizes.num_parameters


def _kv_bytes(config: Config, sizes: ModelSizes, max_members: int) -> int:
    """What vLLM is given; the torch engine holds all sequences of a chunk at full length."""
    if config.workers.engine == "vllm":
        return int(config.workers.kv_cache_gb * BYTES_PER_GB)
    num_sequences = max_members * config.prompts_per_generation * config.samples_per_prompt
    return num_sequences * config.max_new_tokens * sizes.kv_bytes


def member_bytes(space: SpaceConfig, moving: Moving, max_members: int) -> int:
    """The members' tables: `workers.population.Population.member_bytes`."""
    num_layers, rank = len(moving.shapes), moving.rank
    num_rows, num_pairs = max_members + 1, (max_members + 1) // 2  # one row for nobody
    if space.kind == "singular_values":
        return num_rows * num_layers * rank * moving.num_factors * FLOAT
    num_matrices = num_layers * (2 if space.kind == "lora" else 1)
    coefficients = num_rows * (FLOAT * num_matrices + INDEX * moving.num_modules)
    noise = {
        "core": 2 * rank * num_layers,
        "lora": moving.perimeter + 2 * rank * num_layers,
        "weights": moving.perimeter,
    }
    return num_pairs * space.noise_rank * noise[space.kind] + coefficients


def _shared_bytes(space: SpaceConfig, moving: Moving, number: int) -> int:
    """Directions, cores and factors of all members together, `number` bytes a number."""
    if space.kind == "weights":
        return 0
    cores = FLOAT * moving.rank**2 * len(moving.shapes) if space.kind == "core" else 0
    return number * moving.rank * moving.perimeter + cores


def _mean_bytes(config: Config, moving: Moving) -> int:
    """The mean of a seeded space, which every worker moves; one gradient at a time."""
    space, strategy = config.space, config.strategy
    if space.kind == "singular_values":
        return 0
    num_states, num_numbers = STATES[strategy.optimizer], dimension(space, moving)
    if space.kind != "weights":
        return DOUBLE * num_numbers * (1 + num_states)
    largest = max(rows * columns for rows, columns in moving.shapes)
    gradients = FLOAT * num_numbers if strategy.max_step is not None else DOUBLE * largest
    return num_numbers * (MASTER_BYTES + FLOAT * num_states) + gradients
