"""The layers of the seeded spaces, as an engine needs them: which matrix, its unit, its number.

Sigma is relative: to the RMS of a layer's weight for whole weights, to the RMS of its leading
singular values for cores, so one setting carries over between layers and models. A layer's number
in the noise stream is its place among the targets in name order, whatever order an engine has.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from es_align.config import SpaceConfig
from es_align.errors import ConfigError
from es_align.models import linear_weights
from es_align.spaces.singular_values import make_singular_values
from kernels.shared_basis import SharedBasis
from kernels.svd import leading_svd
from workers.layers import CoreLayer, NoiseLayer, PerturbedLayer

SpaceKind = Literal["singular_values", "core", "weights"]
CORE_NOISE_RANK = 1


def layers_for(
    kind: SpaceKind, rank: int, model_path: Path, targets: Sequence[str] = SpaceConfig().targets
) -> Sequence[PerturbedLayer]:
    """Layers of a space with the basis `weight`; `rank` is that of the basis, or of the noise.

    Raises ConfigError if a target matches no layer or the rank is above a layer's width.
    """
    if kind == "singular_values":
        config = SpaceConfig(rank=rank, targets=tuple(targets))
        return make_singular_values(config, model_path).factors
    if kind == "core":
        return core_layers(rank, model_path, targets)
    return noise_layers(rank, model_path, targets)


def noise_layers(rank: int, model_path: Path, targets: Sequence[str]) -> list[NoiseLayer]:
    """Whole weights under low-rank noise of this rank."""
    layers = []
    for parameter, (name, weight_OI) in enumerate(linear_weights(model_path, targets)):
        out_features, in_features = weight_OI.shape
        _check_rank(rank, name, weight_OI.shape)
        rms = float(weight_OI.float().square().mean().sqrt())
        layers.append(NoiseLayer(name, out_features, in_features, rank, rms, parameter))
    return layers


def core_layers(rank: int, model_path: Path, targets: Sequence[str]) -> list[CoreLayer]:
    """A core of rank x rank between each weight's leading singular directions."""
    layers = []
    for parameter, (name, weight_OI) in enumerate(linear_weights(model_path, targets)):
        _check_rank(rank, name, weight_OI.shape)
        svd = leading_svd(weight_OI, rank)
        basis = SharedBasis(svd.right_IR, svd.left_OR)
        unit = float(svd.values_R.square().mean().sqrt())
        layers.append(CoreLayer(name, basis, CORE_NOISE_RANK, unit, parameter))
    return layers


def _check_rank(rank: int, name: str, shape: Sequence[int]) -> None:
    if rank > min(shape):
        raise ConfigError(
            f"rank {rank} is larger than the narrow side of {name} ({shape[0]} x {shape[1]}); "
            f"use at most {min(shape)}"
        )
