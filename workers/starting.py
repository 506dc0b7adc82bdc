"""What a worker is told at its start, and how it starts what it holds: engine, rewards, means."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kernels.errors import ModelError, WorkerError
from rewards.scoring import DEFAULT_LIMIT_S, Scorer
from rewards.specs import RewardSpec, specs_or_own
from workers.checkpoints import Checkpoint
from workers.engines.base import Engine, EngineSpec
from workers.layers import PerturbedLayer
from workers.means import Means, MeanSettings
from workers.protocol import Prompt
from workers.references import likelihood_reward
from workers.rendering import Renderer


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """Everything a worker needs to start, sent once."""

    engine: Literal["vllm", "torch"]
    # Run on the worker's machine, so each converts or fetches its own.
    locate_model: Callable[[], Path]
    precision: str
    reward_name: str | None  # None: there are `rewards`
    max_members: int
    max_model_len: int
    max_new_tokens: int
    kv_cache_gb: float
    num_threads: int
    is_compiled: bool = False
    device: Literal["cpu", "cuda"] | None = None  # as in `EngineSpec`
    means: MeanSettings | None = None  # of a seeded space, whose mean each worker moves itself
    mean_folder: Path | None = None  # where means are stored, on the machines that see it
    locate_reference: Callable[[], Path] | None = None  # full precision, where the mean is weights
    rewards: tuple[RewardSpec, ...] = ()  # instead of `reward_name`
    # From a chunk's start, generation included; what is not reached has no score.
    scoring_limit_s: float = DEFAULT_LIMIT_S


def start_engine(
    spec: WorkerSpec, model_path: Path, factors_path: Path | None, renderer: Renderer
) -> Engine:
    """The engine, loaded and hooked; without `factors_path` with nothing to perturb.

    Raises ModelError if a package that it needs is not on this machine, or the model is unfit.
    """
    engine_spec = EngineSpec(
        kind=spec.engine,
        model_path=model_path,
        precision=spec.precision,
        factors_path=factors_path,
        max_members=spec.max_members,
        max_model_len=spec.max_model_len,
        kv_cache_gb=spec.kv_cache_gb,
        num_threads=spec.num_threads,
        is_compiled=spec.is_compiled,
        device=spec.device,
    )
    return import_engine(spec)(engine_spec, renderer)


def import_engine(spec: WorkerSpec) -> Callable[[EngineSpec, Renderer], Engine]:
    """The engine's class. ModelError if a package that it needs is not on this machine."""
    # Imported here: either engine's libraries may be absent, and vLLM takes seconds to import.
    try:
        if spec.engine == "vllm":
            from workers.engines.vllm_engine import VllmEngine

            return VllmEngine
        from workers.engines.torch_engine import TorchEngine

        return TorchEngine
    except ModuleNotFoundError as error:
        raise ModelError(
            f"workers.engine={spec.engine} needs the package {error.name}, which {sys.executable} "
            f"on {os.uname().nodename} does not have; install es-align's environment on every "
            "machine of the cluster (docs/cluster.md), or use workers.label_selector"
        ) from error


def start_scorers(spec: WorkerSpec, prompts: Sequence[Prompt]) -> dict[str | None, Scorer]:
    """The rewards, loaded, by `Prompt.reward_name`; of None, which are the worker's own, none where
    the engine scores.

    Raises ConfigError or ModelError if one cannot be.
    """
    rewards: dict[str | None, tuple[RewardSpec, ...]] = {
        name: (RewardSpec(name),) for name in {prompt.reward_name for prompt in prompts} if name
    }
    own = specs_or_own(spec.rewards, spec.reward_name)
    if own and likelihood_reward(own) is None:
        rewards[None] = own
    scorers = {
        name: Scorer(specs, spec.num_threads, spec.scoring_limit_s)
        for name, specs in rewards.items()
    }
    for scorer in scorers.values():
        scorer.start()
    return scorers


def start_means(
    spec: WorkerSpec, settings: MeanSettings, layers: Sequence[PerturbedLayer]
) -> Means:
    """The means before the first move."""
    reference = None if spec.locate_reference is None else spec.locate_reference()
    return Means(layers, settings, None if reference is None else Checkpoint(reference).weight)


def check_lengths(tokens: Mapping[str, Sequence[int]], spec: WorkerSpec) -> None:
    """Raise WorkerError if the longest prompt leaves its answer no room in the context."""
    longest = max(tokens, key=lambda prompt_id: len(tokens[prompt_id]), default=None)
    if longest is None:
        return
    needed = len(tokens[longest]) + spec.max_new_tokens
    if needed > spec.max_model_len:
        raise WorkerError(
            f"prompt {longest} has {len(tokens[longest])} tokens, with "
            f"max_new_tokens={spec.max_new_tokens} that is {needed}; "
            f"workers.max_model_len is {spec.max_model_len}: set it to {needed} or more"
        )
