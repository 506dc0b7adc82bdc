"""The layers of the seeded spaces, as an engine needs them: which matrix, its unit, its number.

Sigma is relative, so one setting carries over between layers and models: to the RMS of a layer's
weight for whole weights, to the RMS of its directions' units for cores (the singular values with
basis `weight`), to the RMS of A and B for LoRAs, where either noise changes B A by sigma of itself.
A fresh B is zero and has no size of its own, nor has that of an adapter which was not trained. Its
unit is the RMS at which scaling * B A would be as large as the weight,

unit_b = RMS(W) / (scaling * sqrt(rank) * RMS(A)),

so at the start sigma means the same as for whole weights; the noise of A acts as B grows.

A matrix's number in the noise stream is its place among the targets in name order, whatever order
an engine has; the two factors of a LoRA take two numbers.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from es_align.adapters import Adapter
from es_align.config_search import SpaceConfig, SpaceKind
from es_align.errors import ConfigError
from es_align.models import linear_weights
from es_align.spaces.bases import BasisSource, check_rank, layer_bases
from es_align.spaces.singular_values import make_singular_values
from es_align.stored_weights import StoredWeights
from kernels.noise import Purpose, philox
from workers.layers import CoreLayer, LoraLayer, NoiseLayer, PerturbedLayer

FACTOR_NOISE_RANK = 1  # of cores and LoRA factors, which are narrow themselves


def layers_for(
    kind: SpaceKind, rank: int, model_path: Path, targets: Sequence[str] = SpaceConfig().targets
) -> Sequence[PerturbedLayer]:
    """Layers of a space made from the weights; `rank` is that of basis, LoRA or noise.

    Raises ConfigError if a target matches no layer or the rank is above a layer's width.
    """
    config, source = SpaceConfig(rank=rank, targets=tuple(targets)), BasisSource(model_path)
    if kind == "singular_values":
        return make_singular_values(config, source).factors
    if kind == "core":
        return core_layers(config, source)
    if kind == "lora":
        return lora_layers(rank, model_path, targets)
    return noise_layers(rank, model_path, targets)


def noise_layers(rank: int, model_path: Path, targets: Sequence[str]) -> list[NoiseLayer]:
    """Whole weights under low-rank noise of this rank.

    Raises ConfigError if a target matches no layer or the rank is above a layer's width.
    """
    check_rank(rank, model_path, targets, "space.noise_rank")
    layers = []
    for parameter, (name, weight_OI) in enumerate(linear_weights(model_path, targets)):
        out_features, in_features = weight_OI.shape
        unit = _rms(weight_OI)
        layers.append(NoiseLayer(name, out_features, in_features, rank, unit, parameter))
    return layers


def core_layers(config: SpaceConfig, source: BasisSource) -> list[CoreLayer]:
    """A core of rank x rank between the directions of each layer's basis, which is of one factor.

    Raises ConfigError if the noise's rank is above the core's; ConfigError or ModelError as
    `layer_bases` does.
    """
    _check_noise_rank(config.noise_rank, config.rank)
    layers = []
    for parameter, made in enumerate(layer_bases(config, source)):
        assert made.basis.core_RR is None  # checked with the config, before anything was loaded
        start_RR = torch.diag(made.start_R) if made.start_R.any() else None
        unit = _rms(made.unit_R)
        layers.append(
            CoreLayer(made.name, made.basis, config.noise_rank, unit, parameter, start_RR)
        )
    return layers


def lora_layers(
    rank: int,
    model_path: Path,
    targets: Sequence[str],
    seed: int = 0,
    *,
    noise_rank: int = FACTOR_NOISE_RANK,
) -> list[LoraLayer]:
    """A fresh LoRA with scaling 1 on each weight; both factors are perturbed.

    A is normal with variance 1 / in_features, so that A x is as large as x, and B zero, as in PEFT:
    it starts as the base model. Raises ConfigError if the noise's rank is above the LoRA's, that is
    above a layer's width, or a target matches no layer.
    """
    _check_noise_rank(noise_rank, rank)
    check_rank(rank, model_path, targets)
    layers = []
    for place, (name, weight_OI) in enumerate(linear_weights(model_path, targets)):
        out_features, in_features = weight_OI.shape
        normals_RI = philox(seed, Purpose.FACTORS, place).standard_normal((rank, in_features))
        down_RI = torch.from_numpy(normals_RI / in_features**0.5).float()
        unit_a = _rms(down_RI)
        layers.append(
            LoraLayer(
                name=name,
                down_RI=down_RI,
                up_OR=torch.zeros(out_features, rank),
                scaling=1.0,
                noise_rank=noise_rank,
                unit_a=unit_a,
                unit_b=_fresh_unit(weight_OI, down_RI, 1.0),
                parameter=2 * place,
            )
        )
    return layers


def adapter_layers(
    adapter: Adapter, model_path: Path, noise_rank: int = FACTOR_NOISE_RANK
) -> list[LoraLayer]:
    """The layers of a PEFT LoRA on this model; both factors are perturbed.

    Raises ConfigError if the noise's rank is above an adapter layer's.
    """
    stored = StoredWeights(model_path)
    layers = []
    for place, (name, (down_RI, up_OR)) in enumerate(adapter.layers.items()):
        _check_noise_rank(noise_rank, len(down_RI))
        unit_b = _rms(up_OR)
        if not unit_b and down_RI.any():
            unit_b = _fresh_unit(stored.matrix(name), down_RI, adapter.scaling)
        units = _rms(down_RI), unit_b
        layers.append(
            LoraLayer(name, down_RI, up_OR, adapter.scaling, noise_rank, *units, 2 * place)
        )
    return layers


def _fresh_unit(weight_OI: torch.Tensor, down_RI: torch.Tensor, scaling: float) -> float:
    """The unit of a B that is zero, see the module."""
    return _rms(weight_OI) / (abs(scaling) * len(down_RI) ** 0.5 * _rms(down_RI))


def _check_noise_rank(noise_rank: int, rank: int) -> None:
    if noise_rank > rank:
        raise ConfigError(
            f"space.noise_rank={noise_rank} is larger than the rank {rank} of what is perturbed; "
            f"use at most {rank}"
        )


def _rms(values: torch.Tensor) -> float:
    return float(values.float().square().mean().sqrt())
