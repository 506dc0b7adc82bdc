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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from kernels.descent import (
    Descent,
    Gradient,
    OptimizerKind,
    Value,
    add_step_,
    descend_by_gradient_,
    step_length,
)
from kernels.errors import WorkerError
from kernels.master import Master, MasterKind, tensor_digest
from kernels.matrix_noise import NoiseKind, NoiseStream
from kernels.update import NoisyMatrix
from workers.layers import CoreLayer, LoraLayer, NoiseLayer, PerturbedLayer
from workers.protocol import Move, Moved

# A sum's last bits depend on its order; of the factor that shortens a step these are kept.
FACTOR_BITS = 16
_STEPS = "step."  # before the names of an optimiser's tensors


@dataclass(frozen=True, slots=True)
class MeanSettings:
    """What a mean's moves depend on beside their scalars; fixed for a run."""

    seed: int
    noise: NoiseKind
    optimizer: OptimizerKind
    momentum: float  # of `momentum`, and Adam's first beta
    master: MasterKind = "fp32"  # of whole weights; both kinds hold the same numbers


class _Value(Value, Protocol):
    """Where a matrix of the mean is kept."""

    @property
    def digest(self) -> str: ...

    def state(self) -> dict[str, torch.Tensor]: ...

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None: ...


class _Small:
    """A matrix in float64."""

    def __init__(self, value_RC: torch.Tensor) -> None:
        self.value_RC = value_RC.double()

    def add_(self, delta_RC: torch.Tensor) -> None:
        self.value_RC += delta_RC

    @property
    def digest(self) -> str:
        return tensor_digest(self.value_RC)

    def state(self) -> dict[str, torch.Tensor]:
        return {"value": self.value_RC}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        self.value_RC = state["value"]


@dataclass(frozen=True, slots=True)
class _Matrix:
    """One perturbed matrix of the mean."""

    noise: NoisyMatrix
    unit: float
    value: _Value
    descent: Descent

    def gradient(self, stream: NoiseStream, move: Move) -> Gradient:
        """What the move says of this matrix."""
        return Gradient(stream, move.weight_N, self.noise)

    def state(self) -> dict[str, torch.Tensor]:
        """Where it is and what its optimiser remembers, by name."""
        steps = {f"{_STEPS}{name}": tensor for name, tensor in self.descent.state().items()}
        return {**self.value.state(), **steps}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from what `state` gave."""
        self.value.load_state(state)
        steps = {n.removeprefix(_STEPS): t for n, t in state.items() if n.startswith(_STEPS)}
        self.descent.load_state(steps)


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
        self._step_norm = 0.0
        self._moved: Moved | None = None
        self.num_moves = 0
        self.history = hashlib.sha256(repr(settings).encode()).hexdigest()  # of all moves so far

    @property
    def has_weights(self) -> bool:
        """Whether the mean is the engine's own weights."""
        return bool(self._masters)

    @property
    def moved(self) -> Moved:
        """What there is after the last move."""
        if self._moved is None:
            self._moved = Moved(self.digest, self._step_norm)
        return self._moved

    def move(self, move: Move) -> None:
        """Take one step; raises WorkerError if it has no finite length."""
        self._moved = None
        self.num_moves, self.history = self.num_moves + 1, history_after(self.history, move)
        stream = NoiseStream(self.settings.seed, move.noise_generation, self.settings.noise)
        if move.max_step is None:
            squares = [
                descend_by_gradient_(
                    matrix.value,
                    matrix.descent,
                    matrix.gradient(stream, move),
                    learning_rate=move.learning_rate,
                    scale=move.sigma,
                    unit=matrix.unit,
                )
                for matrix in self._moving
            ]
        else:
            steps = [
                matrix.descent.step(matrix.gradient(stream, move).full(), move.learning_rate)
                for matrix in self._moving
            ]
            scale = move.sigma * _shortening(steps, move.max_step)
            squares = [
                add_step_(matrix.value, step_RC, scale, matrix.unit)
                for matrix, step_RC in zip(self._moving, steps, strict=True)
            ]
        self._step_norm = sum(squares) ** 0.5
        if not math.isfinite(self._step_norm):
            raise WorkerError(
                f"generation {move.generation}: the step of the mean is {self._step_norm}, with "
                f"sigma={move.sigma:g} and learning_rate={move.learning_rate:g}; lower one of them"
            )

    @property
    def _moving(self) -> list["_Matrix"]:
        """Without the LoRA factors that have no noise."""
        return [matrix for matrix in self._matrices if matrix.unit]

    def states(self) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
        """All that later moves depend on: a name for each matrix, and its tensors, not copied."""
        for place, matrix in enumerate(self._matrices):
            yield str(place), matrix.state()

    def load_states(
        self,
        states: Iterable[tuple[str, Mapping[str, torch.Tensor]]],
        num_moves: int,
        history: str,
    ) -> None:
        """Go on from `states`, which were those after so many moves, of that history."""
        for place, state in states:
            self._matrices[int(place)].load_state(state)
        self.num_moves, self.history, self._moved = num_moves, history, None

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Layer name and weight (out, in), fp32, of every layer whose whole weight is the mean."""
        for name, master in self._masters.items():
            yield name, master.full()

    @property
    def digest(self) -> str:
        """SHA-256 of the digests of all matrices."""
        parts = "".join(matrix.value.digest for matrix in self._matrices)
        return hashlib.sha256(parts.encode()).hexdigest()

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
            descent = self._descent(torch.float32)
            self._matrices.append(_Matrix(noise, layer.unit, master, descent))

    def _add_small(self, noise: NoisyMatrix, unit: float, start_RC: torch.Tensor) -> None:
        descent = self._descent(torch.float64)
        self._matrices.append(_Matrix(noise, unit, _Small(start_RC), descent))

    def _descent(self, dtype: torch.dtype) -> Descent:
        return Descent(self.settings.optimizer, self.settings.momentum, dtype)


def history_after(history: str, move: Move) -> str:
    """SHA-256 of a history and one move more."""
    scalars = (move.generation, move.noise_generation, move.sigma, move.learning_rate)
    told = f"{history}{scalars}{move.max_step}".encode()
    return hashlib.sha256(told + move.weight_N.astype(np.float64).tobytes()).hexdigest()


def _shortening(steps: Sequence[torch.Tensor], max_step: float) -> float:
    """What brings the steps together to `max_step * sqrt(numbers)`, at most 1."""
    length = math.sqrt(math.fsum(step_length(step_RC) ** 2 for step_RC in steps))
    longest = max_step * math.sqrt(sum(step_RC.numel() for step_RC in steps))
    if length <= longest:
        return 1.0
    mantissa, exponent = math.frexp(longest / length)
    return math.ldexp(round(math.ldexp(mantissa, FACTOR_BITS)), exponent - FACTOR_BITS)
