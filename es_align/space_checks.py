"""Checks of a space before a model is loaded: does it go with strategy, precision, engine, adapter
and run, and does it read what is set?
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from es_align.config import Config
from es_align.config_loading import changed_fields
from es_align.config_search import SpaceConfig, is_seeded
from es_align.errors import ConfigError, ModelError
from es_align.layouts import StoredScheme

# What vLLM computes in one module, whose layers are then perturbed together or not at all.
FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class Reader(NamedTuple):
    """Who reads a setting of the space."""

    reads: Callable[[SpaceConfig], bool]
    told: str


READERS: Mapping[str, Reader] = {
    "rank": Reader(
        lambda space: space.kind != "weights" and space.basis != "adapter",
        "where directions or a LoRA are made of the model (an adapter has its own rank, weights "
        "have space.noise_rank)",
    ),
    "noise_rank": Reader(
        lambda space: is_seeded(space.kind), "with space.kind=core, lora or weights"
    ),
    "lora_factors": Reader(lambda space: space.kind == "lora", "with space.kind=lora"),
    "master": Reader(lambda space: space.kind == "weights", "with space.kind=weights"),
    "alpha": Reader(
        lambda space: space.kind == "singular_values" and space.basis == "adapter",
        "with space.kind=singular_values and space.basis=adapter",
    ),
    "targets": Reader(
        lambda space: space.basis != "adapter",
        "where no adapter is (with space.basis=adapter every layer of the adapter moves)",
    ),
}


def check_space(config: Config, scheme: StoredScheme | None) -> None:
    """Refuse a basis, a strategy or an adapter that does not go with the space or the model, whose
    scheme is None unless it is a folder of quantised weights.

    Raises ConfigError or ModelError naming the value, the limit and the next step.
    """
    kind, strategy = config.space.kind, config.strategy.kind
    if is_seeded(kind) != (strategy == "eggroll"):
        fitting = "eggroll" if is_seeded(kind) else "openai_es, cma_es, sep_cma_es or snes"
        members = "seeds of matrix noise" if is_seeded(kind) else "vectors"
        raise ConfigError(
            f"strategy.kind={strategy} cannot serve space.kind={kind}, whose members are "
            f"{members}; use {fitting}, or leave strategy.kind out"
        )
    if kind == "core" and config.space.basis == "adapter":
        raise ConfigError(
            "space.basis=adapter is not there for space.kind=core, whose basis has one factor; use "
            "space.kind=singular_values, or space.basis=weight, activations, quantisation_error or "
            "random"
        )
    if kind in ("lora", "weights"):
        _check_other_basis(config)
    check_writable(config, scheme)
    if config.space.basis == "quantisation_error":
        _check_repair(config, scheme)
    _check_adapter(config)


def check_read(space: SpaceConfig) -> None:
    """Refuse settings that the space does not read; one that has its default is none.

    Raises ConfigError naming each, and who reads it.
    """
    defaults = SpaceConfig()
    unread = [name for name, reader in READERS.items() if not reader.reads(space)]
    unread = [name for name in unread if getattr(space, name) != getattr(defaults, name)]
    if unread:
        told = ", ".join(
            f"space.{name}={_yaml(getattr(space, name))} is only read {READERS[name].told}"
            for name in unread
        )
        reset = ", ".join(f"space.{name}={_yaml(getattr(defaults, name))}" for name in unread)
        raise ConfigError(
            f"{told}; this is space.kind={space.kind} with space.basis={space.basis}: leave "
            f"{'it' if len(unread) == 1 else 'them'} out or set {reset}"
        )


def check_writable(config: Config, scheme: StoredScheme | None) -> None:
    """Refuse to move the whole weights of a checkpoint whose quantised form cannot take them.

    Raises ConfigError naming what to use. To be called again once the model is on this machine: the
    scheme of a hub id is not known before.
    """
    if config.space.kind != "weights" or scheme is None:
        return
    if scheme.layout in ("gptq", "awq") or scheme.has_zero_points:
        form = scheme.layout if scheme.layout in ("gptq", "awq") else "codes with zero points"
        raise ConfigError(
            f"model={config.model} is stored as {form}, which space.kind=weights cannot "
            "write; name its full-precision original and a precision, or use another space"
        )
    if scheme.layout == "pack-quantized":
        raise ConfigError(
            f"model={config.model} is a ready-made INT4 checkpoint, which space.kind=weights would "
            "round anew, with other scales, before the first generation; name its full-precision "
            "original with precision=int4, or use another space"
        )


def check_fused(config: Config, model_folder: Path | None) -> None:
    """Refuse to perturb a part of what vLLM computes together.

    `model_folder` is the checkpoint if it is known; layers that it has not are not missed. Raises
    ConfigError saying what to add, ModelError if an adapter or a checkpoint cannot be read.
    """
    if config.workers.engine != "vllm":
        return
    elsewhere = "use workers.engine=torch (with precision bf16 or fp32)"
    if config.space.basis == "adapter":
        folder = Path(str(config.space.adapter))
        for module, parts in _adapter_modules(folder):
            named, missing = _part_of_fused(parts)
            if missing:
                raise ConfigError(
                    f"space.adapter={folder} has {named} of {module} but not {missing}, and vLLM "
                    "computes these together; train it on q, k and v, and on gate and up, or "
                    f"{elsewhere}"
                )
        return
    known = None if model_folder is None else _last_parts(model_folder)
    named, missing = _part_of_fused(config.space.targets, known)
    if missing:
        raise ConfigError(
            f"space.targets={_yaml(config.space.targets)} has {named} but not {missing}, and vLLM "
            f"computes these together; add {missing} to space.targets, or {elsewhere}"
        )


def _part_of_fused(names: Collection[str], known: Collection[str] | None = None) -> tuple[str, str]:
    """What is named of the fused layers of which some are left out, and what is left out."""
    named, missing = [], []
    for group in FUSED:
        there = [name for name in group if not known or name in known]
        if set(there) & set(names) and not set(there) <= set(names):
            named += [name for name in there if name in names]
            missing += [name for name in there if name not in names]
    return ", ".join(named), ", ".join(missing)


def _adapter_modules(folder: Path) -> Iterator[tuple[str, set[str]]]:
    """Every module of a PEFT LoRA, and the last parts of the names of its layers."""
    modules: dict[str, set[str]] = {}
    for key in _keys([folder / "adapter_model.safetensors"]):
        module, _, part = key.partition(".lora_")[0].rpartition(".")
        modules.setdefault(module.removeprefix("base_model.model."), set()).add(part)
    yield from modules.items()


def _last_parts(folder: Path) -> set[str]:
    """Last parts of the names of the checkpoint's layers."""
    keys = _keys(sorted(folder.glob("*.safetensors")))
    return {key.rpartition(".")[0].rpartition(".")[2] for key in keys}


def _keys(files: Iterable[Path]) -> Iterator[str]:
    for file in files:
        try:
            with safe_open(file, framework="np") as tensors:
                yield from tensors.keys()
        except SafetensorError as error:
            raise ModelError(f"{file} is no safetensors file ({error}); fetch it again") from error


def _yaml(value: object) -> object:
    return f"[{', '.join(value)}]" if isinstance(value, tuple) else value


def _check_other_basis(config: Config) -> None:
    """Of the spaces that work between no frozen directions."""
    kind, basis, factors = config.space.kind, config.space.basis, config.space.lora_factors
    fitting = ("weight", "adapter") if kind == "lora" else ("weight",)
    if basis not in fitting:
        raise ConfigError(
            f"space.basis={basis} is not there for space.kind={kind}; use space.basis="
            f"{' or '.join(fitting)}"
        )
    if kind == "lora" and factors == "a" and basis == "weight":
        raise ConfigError(
            "space.lora_factors=a moves nothing in a fresh LoRA, whose B is zero; use both or b, "
            "or go on from a trained one with space.basis=adapter"
        )


def check_run_settings(run: Config, asked: Config) -> None:
    """Refuse to evaluate a run's mean with another seed, strategy or space than it was made with,
    or on another model where it is of no use there.

    Raises ConfigError naming the setting.
    """
    changed = changed_fields(run, asked)
    for name, (own, given) in changed.items():
        if name == "seed" or name.startswith(("strategy.", "space.")):
            raise ConfigError(
                f"{name}={given} belongs to the run, whose mean was made with {name}={own}; leave "
                f"{name} out, or train another run with it"
            )
    if run.space.kind == "weights" and "model" in changed:
        raise ConfigError(
            f"model={asked.model}, but the run's mean is the weights of {run.model} "
            "(space.kind=weights); leave model out, or evaluate the checkpoint that `es-align "
            "export` writes"
        )
    if run.space.basis != "quantisation_error":
        return
    for name in ("model", "precision"):
        given, own = getattr(asked, name), getattr(run, name)
        if given != own:
            raise ConfigError(
                f"{name}={given}, but the run's mean repairs {run.model} in {run.precision} "
                f"(space.basis=quantisation_error) and is of no use elsewhere; leave {name} out, "
                f"or set {name}={own}"
            )


def _check_repair(config: Config, scheme: StoredScheme | None) -> None:
    """Only where the engine computes with less than the model that is named."""
    model, precision = config.model, config.precision
    if precision not in ("int8", "int4"):
        raise ConfigError(
            f"space.basis=quantisation_error repairs what int8 or int4 rounds away, and precision="
            f"{precision} leaves the weights of {model} as they are; set precision=int8 or int4, "
            "or use space.basis=weight"
        )
    if scheme is not None:
        raise ConfigError(
            f"space.basis=quantisation_error needs the full-precision original, and model {model} "
            f"is quantised already; name its original with precision={precision}, or use "
            "space.basis=weight"
        )


def _check_adapter(config: Config) -> None:
    basis, adapter = config.space.basis, config.space.adapter
    if basis != "adapter":
        if adapter is not None:
            raise ConfigError(
                f"space.adapter={adapter} is only read with space.basis=adapter, which is {basis}; "
                "set the basis, or remove space.adapter"
            )
        return
    if adapter is None:
        raise ConfigError(
            "space.basis=adapter needs space.adapter; name the folder of a PEFT LoRA, or use "
            "space.basis=weight"
        )
    folder = Path(adapter)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise ModelError(
                f"space.adapter={adapter} has no {name}; name a folder written by PEFT's "
                "save_pretrained"
            )
