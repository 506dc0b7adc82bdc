"""The mean of a seeded space: matrices that everybody who needs them moves by scalars alone.

EGGROLL (arXiv 2511.16652): the gradient of a matrix is `sum_p w_p E_p`, E_p the low-rank noise that
the members of pair p had, made again from its seed. The step is an optimiser's of torch.optim for
that gradient and is relative: a matrix moves by `sigma * unit * step`, with the unit its noise has.
A driver, a worker and one that joins late therefore hold the same bits after the same moves, and a
digest says so.

Cores and LoRA factors are small, float64, and go to the engine as one vector with the members.
Whole weights are `kernels.master.Master`s, with optimiser states in fp32, and are written into the
engine after a move. One matrix is moved at a time, so beside masters and states there is never more
than one gradient (of all matrices if steps are shortened to `max_step`).
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch

from kernels.master import Master, MasterKind, tensor_digest
from kernels.matrix_noise import NoiseKind, NoiseStream
from kernels.update import NoisyMatrix, matrix_update
from workers.layers import CoreLayer, LoraLayer, NoiseLayer, PerturbedLayer
from workers.protocol import Move, Moved

OptimizerKind = Literal["sgd", "momentum", "adam"]
ADAM_SECOND_BETA = 0.999
# A sum's last bits depend on its order; of the factor that shortens a step these are kept.
FACTOR_BITS = 16


@dataclass(frozen=True, slots=True)
class MeanSettings:
    """What a mean's moves depend on beside their scalars; fixed for a run."""

    seed: int
    noise: NoiseKind
    optimizer: OptimizerKind
    momentum: float  # of `momentum`, and Adam's first beta
    master: MasterKind = "fp32"  # of whole weights; both kinds hold the same numbers


class _Value(Protocol):
    """Where a matrix of the mean is kept."""

    def add_(self, delta_RC: torch.Tensor) -> object: ...

    @property
    def digest(self) -> str: ...


class _Small:
    """A matrix in float64."""

    def __init__(self, value_RC: torch.Tensor) -> None:
        self.value_RC = value_RC.double()

    def add_(self, delta_RC: torch.Tensor) -> None:
        self.value_RC += delta_RC

    @property
    def digest(self) -> str:
        return tensor_digest(self.value_RC)


class _Descent:
    """torch.optim on the steps of one matrix.

    It moves a step that starts at zero, never the mean: none of the optimisers in use reads where a
    parameter is, and a mean may be kept in another form than its step.
    """

    def __init__(self, settings: MeanSettings, dtype: torch.dtype) -> None:
        self._step = torch.nn.Parameter(torch.empty(0, dtype=dtype), requires_grad=False)
        if settings.optimizer == "adam":
            betas = (settings.momentum, ADAM_SECOND_BETA)
            self._optimizer: torch.optim.Optimizer = torch.optim.Adam([self._step], betas=betas)
        else:
            momentum = settings.momentum if settings.optimizer == "momentum" else 0.0
            self._optimizer = torch.optim.SGD([self._step], momentum=momentum)

    def step(self, gradient_RC: torch.Tensor, learning_rate: float) -> torch.Tensor:
        """The step uphill, in the units of the gradient times the rate; takes the gradient over."""
        step = self._step
        gradient_RC = gradient_RC.neg_().to(step.dtype)  # torch.optim descends
        step.data = torch.zeros_like(gradient_RC)
        step.grad = gradient_RC
        self._optimizer.param_groups[0]["lr"] = learning_rate
        self._optimizer.step()
        step.grad, taken_RC = None, step.data
        step.data = taken_RC.new_empty(0)
        return taken_RC


@dataclass(frozen=True, slots=True)
class _Matrix:
    """One perturbed matrix of the mean."""

    noise: NoisyMatrix
    unit: float
    value: _Value
    descent: _Descent


class Means:
    """The means of all layers of a seeded space."""

    def __init__(
        self,
        layers: Sequence[PerturbedLayer],
        settings: MeanSettings,
        weight_of: Callable[[str], torch.Tensor] | None = None,
    ) -> None:
        """`weight_of` gives a layer's weight (out, in) in full precision; whole weights ask."""
        self.settings = settings
        self._matrices: list[_Matrix] = []
        self._masters: dict[str, Master] = {}
        for layer in layers:
            self._add(layer, weight_of)
        self.moved = Moved(self.digest, 0.0)

    @property
    def has_weights(self) -> bool:
        """Whether the mean is the engine's own weights."""
        return bool(self._masters)

    @property
    def dimension(self) -> int:
        """Numbers of the mean."""
        return sum(matrix.noise.rows * matrix.noise.columns for matrix in self._matrices)

    def move(self, move: Move) -> Moved:
        """Take one step."""
        stream = NoiseStream(self.settings.seed, move.noise_generation, self.settings.noise)
        steps = (self._step(matrix, stream, move) for matrix in self._matrices)
        scale = move.sigma
        if move.max_step is not None:
            kept = list(steps)
            scale *= _shortening(kept, move.max_step)
            steps = iter(kept)
        square = 0.0
        for matrix, step_RC in zip(self._matrices, steps, strict=True):
            step_RC *= scale
            square += _length(step_RC) ** 2
            matrix.value.add_(step_RC.mul_(matrix.unit))
        self.moved = Moved(self.digest, square**0.5)
        return self.moved

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Layer name and weight (out, in), fp32, of every layer whose whole weight is the mean."""
        for name, master in self._masters.items():
            yield name, master.full()

    @property
    def digest(self) -> str:
        """sha256 of the digests of all matrices."""
        total = hashlib.sha256()
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:  # hashing frees the GIL
            for part in threads.map(lambda matrix: matrix.value.digest, self._matrices):
                total.update(part.encode())
        return total.hexdigest()

    @property
    def vector_D(self) -> np.ndarray:
        """All small matrices one after the other, row by row, float64: the space's own order."""
        parts = [
            matrix.value.value_RC.flatten().numpy()
            for matrix in self._matrices
            if isinstance(matrix.value, _Small)
        ]
        return np.concatenate([np.zeros(0), *parts])

    def _add(self, layer: PerturbedLayer, weight_of: Callable[[str], torch.Tensor] | None) -> None:
        if isinstance(layer, CoreLayer):
            rank = layer.basis.right_IR.shape[1]
            noise = NoisyMatrix.core(layer.parameter, rank, layer.noise_rank)
            self._add_small(noise, layer.unit, layer.start_K.view(rank, rank))
        elif isinstance(layer, LoraLayer):
            (out_features, in_features), rank = layer.shape, layer.rank
            noise = NoisyMatrix(layer.parameter, rank, in_features, layer.noise_rank)
            self._add_small(noise, layer.unit_a, layer.down_RI)
            noise = NoisyMatrix(layer.parameter + 1, out_features, rank, layer.noise_rank)
            self._add_small(noise, layer.unit_b, layer.up_OR)
        elif isinstance(layer, NoiseLayer):
            assert weight_of is not None
            weight_OI = weight_of(layer.name)
            master = Master(weight_OI, self.settings.master)
            self._masters[layer.name] = master
            out_features, in_features = layer.shape
            noise = NoisyMatrix(layer.parameter, out_features, in_features, layer.noise_rank)
            descent = _Descent(self.settings, torch.float32)
            self._matrices.append(_Matrix(noise, layer.unit, master, descent))

    def _add_small(self, noise: NoisyMatrix, unit: float, start_RC: torch.Tensor) -> None:
        descent = _Descent(self.settings, torch.float64)
        self._matrices.append(_Matrix(noise, unit, _Small(start_RC), descent))

    def _step(self, matrix: _Matrix, stream: NoiseStream, move: Move) -> torch.Tensor:
        pairs = range(len(move.weight_N))
        gradient_RC = matrix_update(stream, pairs, move.weight_N, matrix.noise)
        return matrix.descent.step(gradient_RC, move.learning_rate)


def _length(step_RC: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(step_RC, dtype=torch.float64))


def _shortening(steps: Sequence[torch.Tensor], max_step: float) -> float:
    """What brings the steps together to `max_step * sqrt(numbers)`, at most 1."""
    length = math.sqrt(math.fsum(_length(step_RC) ** 2 for step_RC in steps))
    longest = max_step * math.sqrt(sum(step_RC.numel() for step_RC in steps))
    if length <= longest:
        return 1.0
    mantissa, exponent = math.frexp(longest / length)
    return math.ldexp(round(math.ldexp(mantissa, FACTOR_BITS)), exponent - FACTOR_BITS)
