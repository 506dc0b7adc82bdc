"""Checks of a space before a model is loaded: does it go with strategy, precision and adapter?"""

from pathlib import Path

from es_align.config import Config, is_seeded
from es_align.errors import ConfigError, ModelError
from es_align.layouts import StoredScheme


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
    if kind == "weights" and scheme is not None and scheme.layout in ("gptq", "awq"):
        raise ConfigError(
            f"model={config.model} is stored as {scheme.layout}, which space.kind=weights cannot "
            "write; name its full-precision original and a precision, or use another space"
        )
    if config.space.basis == "quantisation_error":
        _check_repair(config, scheme)
    _check_adapter(config)


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


def check_repaired_model(run: Config, asked: Config) -> None:
    """Refuse to put a run's repair on another model than the one it repairs.

    Raises ConfigError naming the setting.
    """
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
