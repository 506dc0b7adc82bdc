"""What a space is: the numbers that are perturbed, and what they mean for the model."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch

from workers.layers import PerturbedLayer
from workers.members import Members


class LoraFactors(NamedTuple):
    """The layer computes `W x + up (down x)`; fp32."""

    down_RI: torch.Tensor
    up_OR: torch.Tensor


class Space(Protocol):
    """What a run perturbs: some layers, and how many numbers of them move."""

    @property
    def kind(self) -> str:
        """Name in the configuration."""
        ...

    @property
    def dimension(self) -> int:
        """Numbers of the mean."""
        ...

    @property
    def factors(self) -> Sequence[PerturbedLayer]:
        """What workers need to apply the members: frozen, sent once."""
        ...

    @property
    def digest(self) -> str:
        """sha256 of the factors; a ledger belongs to one of these."""
        ...


@runtime_checkable
class AdapterSpace(Space, Protocol):
    """A space whose mean is a vector of numbers, and a LoRA on the model as it was."""

    def mean_member(self, mean_D: np.ndarray) -> Members:
        """One member for an engine: the model at this mean."""
        ...

    def lora(self, vector_D: np.ndarray) -> Mapping[str, LoraFactors]:
        """The vector as LoRA factors per layer, exact up to fp32 rounding."""
        ...
