"""Frozen directions of a model's own layers, which several spaces work between."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from es_align.errors import ConfigError
from es_align.models import linear_weights
from kernels.shared_basis import SharedBasis
from kernels.svd import leading_svd


class WeightBasis(NamedTuple):
    """The leading singular directions of one layer's weight (as in PiSSA and SVFit)."""

    name: str
    basis: SharedBasis
    values_R: torch.Tensor  # the singular values, fp32


def weight_bases(model_path: Path, targets: Sequence[str], rank: int) -> Iterator[WeightBasis]:
    """The basis of every target layer, in name order.

    Raises ConfigError if a target matches no layer or the rank is above a layer's width.
    """
    for name, weight_OI in linear_weights(model_path, targets):
        check_rank(rank, name, weight_OI)
        svd = leading_svd(weight_OI, rank)
        yield WeightBasis(name, SharedBasis(svd.right_IR, svd.left_OR), svd.values_R)


def check_rank(rank: int, name: str, weight_OI: torch.Tensor) -> None:
    """Raise ConfigError if a layer has fewer directions than that."""
    num_out, num_in = weight_OI.shape
    if rank > min(num_out, num_in):
        raise ConfigError(
            f"space.rank={rank} is larger than the narrow side of {name} ({num_out} x {num_in}); "
            f"use at most {min(num_out, num_in)}"
        )
