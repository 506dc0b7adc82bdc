"""The arms of a bench as the bench sees them: one process each, started one after the other.

A process of its own gives every arm vLLM's whole set-up, and nothing it does, compiling included,
reaches another. While one works the others wait for a line on a pipe.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

from es_align.bench.process import JsonProcess
from es_align.bench.prompts import BenchRequest, num_members
from es_align.bench.rounds import BASE, POPULATION, STOCK, ArmName, Timing
from es_align.bench.settings import (
    BenchSettings,
    ModelFacts,
    check_fits,
    check_settings,
    read_facts,
)
from es_align.bench.stock import slot_rank, write_adapters
from es_align.config import Precision
from es_align.config_search import SpaceKind
from es_align.errors import WorkerError
from es_align.models import ModelPaths, find_model, linear_shapes, resolve_model
from es_align.spaces import layers_for
from rewards.base import JsonValue
from workers.engines.vllm_arms import ArmSpec
from workers.layers import save_factors

# The first compilation of a machine takes minutes, a stock arm of many adapters as long.
LOAD_DEADLINE_S = 1200.0
RUN_DEADLINE_S = 1800.0
COMMAND = (sys.executable, "-P", "-m", "workers.engines.vllm_bench")


@dataclass(frozen=True, slots=True)
class Start:
    """How an arm's start went."""

    load_s: float
    is_compiled: bool
    bytes_per_member: float | None


class ProcessArm:
    """One arm in its process (see `es_align.bench.rounds.Arm`)."""

    def __init__(self, name: ArmName, process: JsonProcess) -> None:
        self.name: ArmName = name
        self.process = process

    def load(self, spec: ArmSpec) -> Start:
        """Start the engine; WorkerError if it does not come up."""
        fields = cast(dict[str, JsonValue], asdict(spec))
        answer = self.process.ask({"op": "load", **fields}, LOAD_DEADLINE_S)
        size = answer["bytes_per_member"]
        return Start(
            load_s=float(cast(float, answer["load_s"])),
            is_compiled=bool(answer["is_compiled"]),
            bytes_per_member=None if size is None else float(cast(float, size)),
        )

    def run(self, requests: Sequence[BenchRequest], new_tokens: int, generation: int) -> Timing:
        """See `Arm`."""
        message: dict[str, JsonValue] = {
            "op": "run",
            "prompts": [list(request.token_ids) for request in requests],
            "members": [request.member for request in requests],
            "num_members": num_members(requests),
            "generation": generation,
            "new_tokens": new_tokens,
        }
        answer = self.process.ask(message, RUN_DEADLINE_S)
        return Timing(
            float(cast(float, answer["seconds"])),
            float(cast(float, answer["change_s"])),
            int(cast(int, answer["num_tokens"])),
            tuple(cast(list[str], answer["answers"])),
        )


@dataclass(frozen=True, slots=True)
class OpenArms:
    """All arms of a bench, loaded; those that failed to load are told in `failures`."""

    arms: Sequence[ProcessArm]
    starts: Mapping[ArmName, Start]
    failures: Mapping[ArmName, str]
    facts: ModelFacts


@contextmanager
def open_arms(
    settings: BenchSettings, note: Callable[[str], None], *, stock_members: int | None = None
) -> Iterator[OpenArms]:
    """Load the arms for up to `settings.members` members; they end with the context.

    `stock_members` makes room for fewer in the stock arm, whose adapters take memory and disk.
    Raises ConfigError or ModelError before anything is loaded, WorkerError if the base or the
    population arm does not come up; the stock arm may fail.
    """
    check_settings(settings)
    source = find_model(settings.model)
    facts = read_facts(source, linear_shapes(source), settings.targets)
    check_fits(settings, facts)
    model = resolve_model(settings.model, cast(Precision, settings.precision))
    starts: dict[ArmName, Start] = {}
    failures: dict[ArmName, str] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="es-align-bench-")))
        arms: list[ProcessArm] = []
        names: list[ArmName] = [BASE, POPULATION]
        if settings.has_stock:
            names.append(STOCK)
        for name in names:
            log = folder / f"{name}.log"
            process = JsonProcess(name, COMMAND, _environment(settings.num_threads), log)
            stack.callback(process.close)
            arm = ProcessArm(name, process)
            try:
                room = stock_members if name == STOCK and stock_members else settings.members
                starts[name] = arm.load(
                    _spec(name, replace(settings, members=room), model, facts, folder)
                )
            except WorkerError as error:
                if name != STOCK:
                    raise
                process.close()
                failures[name] = str(error)
                note(f"{name}: {error}")
                continue
            arms.append(arm)
            mode = "compiled" if starts[name].is_compiled else "eager"
            note(f"{name}: ready in {starts[name].load_s:.1f} s, {mode}")
        yield OpenArms(arms, starts, failures, facts)


def _spec(
    name: ArmName, settings: BenchSettings, model: ModelPaths, facts: ModelFacts, folder: Path
) -> ArmSpec:
    factors = adapters = max_lora_rank = None
    if name == POPULATION:
        factors = folder / "factors.safetensors"
        space = cast(SpaceKind, settings.space)
        layers = layers_for(space, settings.rank, model.source, settings.targets)
        save_factors(layers, factors)
    if name == STOCK:
        adapters, max_lora_rank = folder / "adapters", slot_rank(settings.rank)
        if max_lora_rank is None:
            raise WorkerError(f"vLLM's LoRA has no slots for rank {settings.rank}")
        write_adapters(
            adapters,
            facts.shapes,
            rank=settings.rank,
            members=settings.members,
            seed=settings.seed,
            sigma=settings.sigma,
        )
    return ArmSpec(
        arm=name,
        model_path=str(model.engine),
        precision=settings.precision,
        max_members=settings.members,
        max_model_len=settings.model_len,
        kv_cache_gb=settings.kv_cache_gb,
        num_threads=settings.num_threads,
        is_compiled=not settings.is_eager,
        seed=settings.seed,
        sigma=settings.sigma,
        factors_path=None if factors is None else str(factors),
        adapters_path=None if adapters is None else str(adapters),
        max_lora_rank=max_lora_rank,
        max_loras=min(settings.stock_slots or settings.members, settings.members),
        targets=settings.targets,
    )


def _environment(num_threads: int) -> dict[str, str]:
    """This process's own, with vLLM in process and on as many threads in every arm."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(num_threads),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
