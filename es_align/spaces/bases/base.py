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
from es_align.models import linear_shapes, target_layers
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


def check_rank(rank: int, path: Path, targets: Sequence[str], setting: str = "space.rank") -> None:
    """Refuse a rank that not every target layer of the checkpoint has directions for.

    Reads shapes alone. Raises ConfigError naming the setting and the narrowest layer, or a target
    that matches no layer.
    """
    shapes = linear_shapes(path)
    narrowest = min(target_layers(path, targets), key=lambda name: min(shapes[name]))
    num_out, num_in = shapes[narrowest]
    if rank > min(num_out, num_in):
        raise ConfigError(
            f"{setting}={rank} is larger than the narrow side of {narrowest} ({num_out} x "
            f"{num_in}), the narrowest target; use at most {min(num_out, num_in)}"
        )
