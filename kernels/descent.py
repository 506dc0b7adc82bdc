"""The step of one matrix: torch.optim on the update of `kernels.update`, added where it is kept.

torch.optim is the definition. On CPUs an fp32 master that follows plain or momentum descent takes
the step in one compiled pass: sum over pairs, gradient, momentum and weight are never written to
memory in between, and every number is rounded as torch rounds it, so both paths give the same bits
in any mixture. Only the length of the step, which is reported, is added up in another order.

Shape suffixes: _N pairs, _P those with a weight, _K rank of the noise, _R rows, _C columns.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch

from kernels import native
from kernels.filling import fill_factor_noise_
from kernels.master import Master
from kernels.matrix_noise import NoiseStream
from kernels.native.weights import descend_
from kernels.update import NoisyMatrix, grid_unit, matrix_update, round_weights

OptimizerKind = Literal["sgd", "momentum", "adam"]
ADAM_SECOND_BETA = 0.999
MOMENTUM = "momentum_buffer"  # the name under which torch.optim.SGD keeps it
# Pairs times rank above which the torch path's GEMM is as quick: benchmarks/update_gemm.py.
NATIVE_FACTORS = 512


class Value(Protocol):
    """Where a matrix is kept."""

    def add_(self, delta_RC: torch.Tensor) -> object: ...


class Gradient(NamedTuple):
    """`sum_n weight_N[n] E_n` of one matrix, not yet computed; pair n of the noise has weight n."""

    stream: NoiseStream
    weight_N: np.ndarray
    matrix: NoisyMatrix

    def full(self) -> torch.Tensor:
        """float64 (rows, columns)."""
        return matrix_update(self.stream, range(len(self.weight_N)), self.weight_N, self.matrix)


class Descent:
    """torch.optim on the steps of one matrix.

    It moves a step that starts at zero, never the mean: none of the optimisers in use reads where a
    parameter is, and a mean may be kept in another form than its step.
    """

    def __init__(self, optimizer: OptimizerKind, momentum: float, dtype: torch.dtype) -> None:
        """`momentum` is that of `momentum`, and Adam's first beta; `dtype` that of the states."""
        self.is_linear = optimizer != "adam"
        self.momentum = 0.0 if optimizer == "sgd" else momentum
        self._step = torch.nn.Parameter(torch.empty(0, dtype=dtype), requires_grad=False)
        self._optimizer: torch.optim.Optimizer = (
            torch.optim.SGD([self._step], momentum=self.momentum)
            if self.is_linear
            else torch.optim.Adam([self._step], betas=(momentum, ADAM_SECOND_BETA))
        )

    @property
    def dtype(self) -> torch.dtype:
        """Of the states."""
        return self._step.dtype

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

    def state(self) -> dict[str, torch.Tensor]:
        """The optimiser's tensors by torch's names; none before the first step."""
        state = self._optimizer.state[self._step]
        return {name: value for name, value in state.items() if value is not None}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from what `state` gave."""
        self._optimizer.state[self._step] = dict(state)

    def momentum_state(self, rows: int, columns: int) -> tuple[torch.Tensor | None, bool]:
        """SGD's momentum (None without), and whether it was only now made and holds nothing."""
        if self.momentum == 0:
            return None, False
        state = self._optimizer.state[self._step]
        is_first = state.get(MOMENTUM) is None
        if is_first:
            state[MOMENTUM] = torch.empty(rows, columns, dtype=self.dtype)
        return state[MOMENTUM], is_first


def descend_by_gradient_(
    value: Value,
    descent: Descent,
    gradient: Gradient,
    *,
    learning_rate: float,
    scale: float,
    unit: float,
) -> float:
    """Move `value` by `scale * unit` times the optimiser's step; the squared length before `unit`.

    Raises what `kernels.update.matrix_update` raises.
    """
    if isinstance(value, Master) and _is_native(value, descent, gradient):
        return _descend_natively_(value.full(), descent, gradient, learning_rate, scale, unit)
    return add_step_(value, descent.step(gradient.full(), learning_rate), scale, unit)


def add_step_(value: Value, step_RC: torch.Tensor, scale: float, unit: float) -> float:
    """Move `value` by `scale * unit * step_RC`, which is written over; the length before `unit`,
    squared.
    """
    step_RC *= scale
    square = step_length(step_RC) ** 2
    value.add_(step_RC.mul_(unit))
    return square


def step_length(step_RC: torch.Tensor) -> float:
    """Euclidean length, in float64."""
    return float(torch.linalg.vector_norm(step_RC, dtype=torch.float64))


def _is_native(master: Master, descent: Descent, gradient: Gradient) -> bool:
    weight_RC = master.full() if master.kind == "fp32" else None
    return (
        weight_RC is not None
        and weight_RC.is_cpu
        and weight_RC.is_contiguous()
        and descent.is_linear
        and descent.dtype == torch.float32
        and len(gradient.weight_N) * gradient.matrix.noise_rank <= NATIVE_FACTORS
        and native.library() is not None
    )


def _descend_natively_(
    weight_RC: torch.Tensor,
    descent: Descent,
    gradient: Gradient,
    learning_rate: float,
    scale: float,
    unit: float,
) -> float:
    stream, weight_N, matrix = gradient
    rank = matrix.noise_rank
    weights = round_weights(weight_N, range(len(weight_N)), rank, stream.kind)
    left_PKR, right_PKC = (
        _factor(stream, weights.pairs, 2 * matrix.parameter + side, rank, width)
        for side, width in ((matrix.row_side, matrix.rows), (1 - matrix.row_side, matrix.columns))
    )
    momentum_RC, is_first = descent.momentum_state(matrix.rows, matrix.columns)
    return descend_(
        weight_RC,
        momentum_RC,
        left_PKR,
        right_PKC,
        weights.integer_P,
        grid=grid_unit(weights, rank, stream.kind),
        is_first=is_first,
        decay=descent.momentum,
        learning_rate=learning_rate,
        scale=scale,
        unit=unit,
    )


def _factor(
    stream: NoiseStream, pairs: list[int], parameter: int, rank: int, width: int
) -> torch.Tensor:
    factor_PKW = torch.empty(len(pairs), rank, width, dtype=torch.int8)
    return fill_factor_noise_(factor_PKW, stream, pairs, parameter, width) if pairs else factor_PKW
