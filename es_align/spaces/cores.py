"""Space `core`: a small matrix between frozen directions, as in LoRA-XS and Fed-SB.

`y += ((x V) C) U^T` with U and V the directions of the layer's basis (`es_align.spaces.bases`) and
C of rank x rank numbers: zero at the start, or the repair with basis `quantisation_error`. Members
add low-rank noise to C; its update has full rank. Sigma is relative to the root mean square of the
units of the layer's directions.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from es_align.config_search import SpaceConfig
from es_align.spaces.base import LoraFactors
from es_align.spaces.bases import BasisSource
from es_align.spaces.layers import core_layers
from workers.layers import CoreLayer, layers_digest
from workers.members import NoiseMembers


class Cores:
    """A core for each layer; the mean's vector is all of them, row by row."""

    kind = "core"

    def __init__(self, factors: Sequence[CoreLayer]) -> None:
        self.factors = list(factors)
        self.dimension = sum(layer.num_numbers for layer in self.factors)
        self.digest = layers_digest(self.factors)

    def mean_member(self, mean_D: np.ndarray) -> NoiseMembers:
        """One member: the mean itself."""
        return NoiseMembers(0, 0, (0,), (0,), 0.0, mean_D=mean_D.astype(np.float32))

    def lora(self, vector_D: np.ndarray) -> Mapping[str, LoraFactors]:
        """`(down_RI, up_OR)` of every layer at this mean, fp32: `x V` and `C U^T`.

        The vector is the whole core, its start included.
        """
        numbers_D = torch.from_numpy(np.asarray(vector_D, dtype=np.float32))
        start, factors = 0, {}
        for layer in self.factors:
            rank = layer.basis.right_IR.shape[1]
            core_RR = numbers_D[start : start + layer.num_numbers].view(rank, rank)
            start += layer.num_numbers
            up_OR = layer.basis.left_OR @ core_RR.T
            factors[layer.name] = LoraFactors(layer.basis.right_IR.T.contiguous(), up_OR)
        return factors


def make_cores(config: SpaceConfig, source: BasisSource) -> Cores:
    """Build the space between the configured basis.

    Raises ConfigError or ModelError as `es_align.spaces.bases.layer_bases` does.
    """
    return Cores(core_layers(config, source))
