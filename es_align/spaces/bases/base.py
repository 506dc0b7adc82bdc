"""What a basis is: frozen directions of a layer, where the mean starts, what a number means.

Every basis yields the same record a layer, and a space makes its own layers of these: scales on the
directions (`singular_values`), or a matrix between them (`core`).

Shape suffixes: _I in features, _O out features, _R directions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from es_align.errors import ConfigError
from kernels.shared_basis import SharedBasis
from workers.protocol import Prompt


@dataclass(frozen=True, slots=True)
class BasisSource:
    """What a basis may be made of; each reads only what it needs."""

    reference: Path  # checkpoint in full precision
    engine: Path | None = None  # checkpoint that the engine runs; quantisation_error reads it
    prompts: Sequence[Prompt] = ()  # the task's training prompts, in order; activations reads them


class LayerBasis(NamedTuple):
    """Directions of one linear layer; the change of its weight is `U diag(values) V^T`.

    With basis `adapter` it is `U_B diag(values_b) core^T diag(values) V_A^T` (two factors).
    """

    name: str  # of the layer in the checkpoint
    basis: SharedBasis  # fp32 (I, R) and (O, R)
    start_R: torch.Tensor  # values that the mean starts with, fp32; zeros: the model as it is
    unit_R: torch.Tensor  # what a number is relative to, fp32
    start_b_R: torch.Tensor | None = None  # the second factor's
    unit_b_R: torch.Tensor | None = None


def check_rank(rank: int, name: str, shape: Sequence[int]) -> None:
    """Raise ConfigError if a layer of this (out, in) shape has fewer directions than that."""
    num_out, num_in = shape
    if rank > min(num_out, num_in):
        raise ConfigError(
            f"space.rank={rank} is larger than the narrow side of {name} ({num_out} x {num_in}); "
            f"use at most {min(num_out, num_in)}"
        )
