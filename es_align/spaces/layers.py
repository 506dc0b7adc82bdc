"""The layers of the seeded spaces, as an engine needs them: which matrix, its unit, its number.

Sigma is relative: to the RMS of a layer's weight for whole weights, to the RMS of its leading
singular values for cores, so one setting carries over between layers and models. A layer's number
in the noise stream is its place among the targets in name order, whatever order an engine has.
"""

from collections.abc import Sequence
from pathlib import Path

from es_align.config import SpaceConfig, SpaceKind
from es_align.models import linear_weights
from es_align.spaces.bases import check_rank, weight_bases
from es_align.spaces.singular_values import make_singular_values
from workers.layers import CoreLayer, NoiseLayer, PerturbedLayer

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
        check_rank(rank, name, weight_OI)
        rms = float(weight_OI.float().square().mean().sqrt())
        layers.append(NoiseLayer(name, out_features, in_features, rank, rms, parameter))
    return layers


def core_layers(rank: int, model_path: Path, targets: Sequence[str]) -> list[CoreLayer]:
    """A core of rank x rank between each weight's leading singular directions."""
    layers = []
    for parameter, (name, basis, values_R) in enumerate(weight_bases(model_path, targets, rank)):
        unit = float(values_R.square().mean().sqrt())
        layers.append(CoreLayer(name, basis, CORE_NOISE_RANK, unit, parameter))
    return layers
