"""Basis `random`: orthonormal directions that know nothing of model or task.

As the random bases of NOLA (arXiv 2310.02556) and RandLoRA (arXiv 2502.00987), here one pair U, V a
layer. The QR of Gaussian matrices, whose signs are fixed so that R has a positive diagonal: then
the directions are uniformly distributed (Mezzadri 2007, arXiv math-ph/0609050). They come from a
stream of their own, the same for every run, so two runs that differ in their seed search the same
space. It is the yardstick for the other bases.

A number is relative to the root mean square of the weight's singular values, |W|_F / sqrt(min(out,
in)): the gain of a direction that is nothing special.
"""

from collections.abc import Iterator

import numpy as np
import torch

from es_align.config_search import SpaceConfig
from es_align.models import linear_weights
from es_align.spaces.bases.base import BasisSource, LayerBasis
from kernels.noise import Purpose, philox
from kernels.shared_basis import SharedBasis

SEED = 0  # for every run: the basis is no part of a run's chance
# Second coordinate of the counter, after the layer's place; LoRAs start from coordinate 0.
RIGHT, LEFT = 1, 2


def random_bases(config: SpaceConfig, source: BasisSource) -> Iterator[LayerBasis]:
    """The basis of every target layer, in name order.

    Raises ConfigError if a target matches no layer.
    """
    for place, (name, weight_OI) in enumerate(linear_weights(source.reference, config.targets)):
        num_out, num_in = weight_OI.shape
        right_IR = random_directions(num_in, config.rank, place, RIGHT)
        left_OR = random_directions(num_out, config.rank, place, LEFT)
        gain = float(weight_OI.double().norm()) / min(num_out, num_in) ** 0.5
        unit_R = torch.full((config.rank,), gain)
        yield LayerBasis(name, SharedBasis(right_IR, left_OR), torch.zeros(config.rank), unit_R)


def random_directions(width: int, rank: int, *counter: int) -> torch.Tensor:
    """Orthonormal columns (width, rank), fp32, a function of the counter alone."""
    normals = philox(SEED, Purpose.FACTORS, *counter).standard_normal((width, rank))
    columns, triangle = np.linalg.qr(normals)
    return torch.from_numpy(columns * np.sign(np.diag(triangle))).float()
