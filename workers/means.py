"""The mean of a seeded space: matrices that everybody who needs them moves by scalars alone.

EGGROLL (arXiv 2511.16652): the gradient of a matrix is `sum_p w_p E_p`, E_p the low-rank noise that
the members of pair p had, made again from its seed. The step is an optimiser's of torch.optim for
that gradient and is relative: a matrix moves by `sigma * unit * step`, with the unit its noise has.
A driver, a worker and one that joins late therefore hold the same bits after the same moves, and a
digest says so.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from kernels.matrix_noise import NoiseKind, NoiseStream
from kernels.update import NoisyMatrix, matrix_update
from workers.layers import CoreLayer, PerturbedLayer
from workers.protocol import Move, Moved

OptimizerKind = Literal["sgd", "momentum", "adam"]


@dataclass(frozen=True, slots=True)
class MeanSettings:
    """What a mean's moves depend on beside their scalars; fixed for a run."""

    seed: int
    noise: NoiseKind
    optimizer: OptimizerKind
    momentum: float  # of `momentum`, and Adam's first beta


@dataclass(frozen=True, slots=True)
class _Matrix:
    """One perturbed matrix: a core."""

    value: torch.Tensor  # float64 (rows, columns)
    unit: float
    noise: NoisyMatrix


class Means:
    """The means of all layers of a seeded space."""

    def __init__(self, layers: Sequence[PerturbedLayer], settings: MeanSettings) -> None:
        self.settings = settings
        self._matrices = [_core(layer) for layer in layers if isinstance(layer, CoreLayer)]
        # The optimiser moves steps that start at zero, never the means: none of those in use reads
        # where a parameter is, and a mean may be kept in another form than its step.
        self._steps = [torch.zeros_like(matrix.value) for matrix in self._matrices]
        self._optimizer = _optimizer(settings, self._steps)
        self.moved = Moved(self.digest, 0.0)

    def move(self, move: Move) -> Moved:
        """Take one step."""
        stream = NoiseStream(self.settings.seed, move.noise_generation, self.settings.noise)
        pairs = range(len(move.weight_N))
        for matrix, step in zip(self._matrices, self._steps, strict=True):
            gradient = matrix_update(stream, pairs, move.weight_N, matrix.noise)
            step.zero_()
            step.grad = gradient.neg_()  # torch.optim descends, fitness is climbed
        for group in self._optimizer.param_groups:
            group["lr"] = move.learning_rate
        self._optimizer.step()
        square = 0.0
        for matrix, step in zip(self._matrices, self._steps, strict=True):
            step.mul_(move.sigma)
            square += float(step.square().sum())
            matrix.value.add_(step, alpha=matrix.unit)
        self.moved = Moved(self.digest, square**0.5)
        return self.moved

    @property
    def digest(self) -> str:
        """sha256 of all matrices."""
        total = hashlib.sha256()
        for matrix in self._matrices:
            total.update(f"{tuple(matrix.value.shape)}".encode())
            total.update(matrix.value.numpy().tobytes())
        return total.hexdigest()

    @property
    def vector_D(self) -> np.ndarray:
        """All matrices one after the other, row by row, float64: the space's own order."""
        return torch.cat([matrix.value.flatten() for matrix in self._matrices]).numpy()


def _core(layer: CoreLayer) -> _Matrix:
    rank = layer.basis.right_IR.shape[1]
    value_RR = torch.zeros(rank, rank, dtype=torch.float64)
    return _Matrix(value_RR, layer.unit, NoisyMatrix.core(layer.parameter, rank, layer.noise_rank))


def _optimizer(settings: MeanSettings, steps: list[torch.Tensor]) -> torch.optim.Optimizer:
    if settings.optimizer == "adam":
        return torch.optim.Adam(steps, betas=(settings.momentum, 0.999))
    momentum = settings.momentum if settings.optimizer == "momentum" else 0.0
    return torch.optim.SGD(steps, momentum=momentum)
