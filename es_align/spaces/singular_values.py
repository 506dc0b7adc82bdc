"""Space `singular_values`: every member moves a few singular values and nothing else.

The directions are those of the configured basis (`es_align.spaces.bases`) and stay frozen. With
basis `adapter` this is ESSA (arXiv 2507.04453): B and A of a PEFT LoRA are decomposed separately
and a candidate adds offsets to the leading alpha*r singular values of both. Otherwise each
direction has one number, and the layer changes by `U diag(start + unit * numbers) V^T`. Numbers are
relative to the basis's unit, with `weight` and `adapter` the singular value itself: 0.1 moves it by
a tenth, so one sigma carries across layers and model sizes.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from es_align.config_search import SpaceConfig
from es_align.errors import ConfigError
from es_align.spaces.base import LoraFactors
from es_align.spaces.bases import BasisSource, layer_bases
from workers.layers import LayerFactors, layers_digest


class SingularValues:
    """Offsets of singular values, relative to their units."""

    kind = "singular_values"

    def __init__(self, factors: Sequence[LayerFactors]) -> None:
        self.factors = list(factors)
        self.dimension = sum(layer.num_numbers for layer in self.factors)
        self.digest = layers_digest(self.factors)

    def mean_member(self, mean_D: np.ndarray) -> np.ndarray:
        """One member: the mean itself, float32 (1, D)."""
        return mean_D[None].astype(np.float32)

    def lora(self, vector_D: np.ndarray) -> Mapping[str, LoraFactors]:
        """`(down_RI, up_OR)` of every layer at this vector, fp32;
        the scaling is folded into `up_OR`.
        """
        numbers_1D = torch.from_numpy(np.asarray(vector_D, dtype=np.float32))[None]
        start, factors = 0, {}
        for layer in self.factors:
            scale_a_1R, scale_b_1R = layer.scales(numbers_1D[:, start : start + layer.num_numbers])
            start += layer.num_numbers
            down_RI = (layer.basis.right_IR * scale_a_1R).T
            up_OR = layer.basis.left_OR
            if layer.basis.core_RR is not None and scale_b_1R is not None:
                up_OR = up_OR @ (layer.basis.core_RR * scale_b_1R).T
            factors[layer.name] = LoraFactors(down_RI.contiguous(), up_OR.contiguous())
        return factors


def make_singular_values(config: SpaceConfig, source: BasisSource) -> SingularValues:
    """Build the space on the configured basis.

    Raises ConfigError or ModelError as `es_align.spaces.bases.layer_bases` does, and ConfigError if
    alpha*r of an adapter rounds to nothing.
    """
    layers = []
    for name, basis, start_R, unit_R, start_b_R, unit_b_R in layer_bases(config, source):
        rank = len(unit_R)
        num_moving = _num_moving(config.alpha, rank) if config.basis == "adapter" else rank
        layers.append(LayerFactors(name, basis, num_moving, start_R, unit_R, start_b_R, unit_b_R))
    return SingularValues(layers)


def _num_moving(alpha: float, rank: int) -> int:
    num_moving = round(alpha * rank)
    if num_moving < 1:
        raise ConfigError(
            f"space.alpha={alpha} of rank {rank} rounds to no singular value; "
            f"use at least {1 / rank:g}"
        )
    return num_moving
