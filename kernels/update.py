"""The EGGROLL update of a matrix, the same bits on every machine.

With w_p the weight of pair p and E_p its noise, entries of variance 1 (arXiv 2511.16652):

    delta = scale * sum_p w_p E_p,   E_p = 1 / (VARIANCE sqrt K) * A_p^T B_p

A and B are the integer factors of `kernels.matrix_noise`, made again from the seed. The sum is one
GEMM over pairs and rank, in chunks. So that it depends on no machine, device, thread count,
chunk, shard or order of summation, every number in it is an integer that float64 holds:

- the n pairs with a weight share a grid: w_p is rounded, once, to q_p * 2^(e - k), where
  max |w_p| < 2^e and so |q_p| <= 2^k;
- with L the largest magnitude of the noise (16 binomial, 1 Rademacher), any sum of any of the
  products q_p a b is at most n K L^2 2^k, and k = 53 - ceil(log2(n K L^2)) keeps that within 2^53,
  up to which float64 has every integer. Each multiplication and addition is then exact, fused or
  not, and one rounded multiplication at the end brings in all factors.

A weight moves by at most 2^-k of the largest: 2^-35 for 1024 pairs of binomial noise at rank 1.
One GEMM in float64 takes as long as two in float32, which could carry 22 bits of the weights, and
only in chunks of 32 pairs; so there is no float32 form. `benchmarks/update_gemm.py` measures it.

Shape suffixes: _P pairs, _K rank of the noise, _R rows, _C columns.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from kernels.filling import fill_factor_noise_
from kernels.matrix_noise import VARIANCE, NoiseKind, NoiseStream

OUTPUT_SIDE, INPUT_SIDE = 0, 1  # a layer's two factors are two parameters of the noise stream
LARGEST_NOISE: dict[NoiseKind, int] = {"binomial": 16, "rademacher": 1}
FLOAT64_BITS = 53  # integers up to 2**53 are exact
CHUNK_BYTES = 2**24  # of factors at a time, int8 and float64; near a processor's cache
FACTOR_BYTES = 1 + 8


class NoisyMatrix(NamedTuple):
    """A matrix whose members have noise of their own, in the order in which it is stored."""

    parameter: int  # of the layer; its factors are parameters 2p and 2p + 1 of the noise stream
    rows: int
    columns: int
    noise_rank: int
    row_side: int = OUTPUT_SIDE  # which factor runs along the rows

    @classmethod
    def core(cls, parameter: int, rank: int, noise_rank: int) -> "NoisyMatrix":
        """A core of `kernels.core`: its rows are the input's directions."""
        return cls(parameter, rank, rank, noise_rank, INPUT_SIDE)


class GridWeights(NamedTuple):
    """Weights on their common grid: `integer_P * 2**exponent`."""

    pairs: list[int]  # those with a weight
    integer_P: np.ndarray  # float64
    exponent: int


def round_weights(
    weight_P: Sequence[float] | np.ndarray, pairs: Sequence[int], noise_rank: int, kind: NoiseKind
) -> GridWeights:
    """Round the weights to the grid on which the update is exact; pairs of weight 0 drop out.

    Raises ValueError if a weight is not finite, there is not one a pair, or the noise is Gaussian.
    """
    weight_P = np.asarray(weight_P, dtype=np.float64)
    if kind not in LARGEST_NOISE:
        raise ValueError(f"kind={kind!r} has no exact update; use {' or '.join(LARGEST_NOISE)}")
    if weight_P.shape != (len(pairs),):
        raise ValueError(
            f"weights of shape {weight_P.shape} do not fit {len(pairs)} pairs; give one a pair"
        )
    if not np.isfinite(weight_P).all():
        bad = int(np.flatnonzero(~np.isfinite(weight_P))[0])
        raise ValueError(
            f"weight {weight_P[bad]} of pair {pairs[bad]} is not finite; use 0 to leave a pair out"
        )
    used = np.flatnonzero(weight_P)
    if not len(used):
        return GridWeights([], np.zeros(0), 0)
    num_products = len(used) * noise_rank * LARGEST_NOISE[kind] ** 2
    bits = FLOAT64_BITS - (num_products - 1).bit_length()
    exponent = int(np.frexp(np.abs(weight_P).max())[1]) - bits
    integer_P = np.rint(np.ldexp(weight_P[used], -exponent))
    return GridWeights([pairs[index] for index in used], integer_P, exponent)


def grid_unit(weights: GridWeights, noise_rank: int, kind: NoiseKind, scale: float = 1.0) -> float:
    """What brings the sum of integers to the update: the one rounded factor."""
    return math.ldexp(scale / (VARIANCE[kind] * math.sqrt(noise_rank)), weights.exponent)


def matrix_update(
    stream: NoiseStream,
    pairs: Sequence[int],
    weight_P: Sequence[float] | np.ndarray,
    matrix: NoisyMatrix,
    *,
    scale: float = 1.0,
    rows: tuple[int, int] | None = None,
    columns: tuple[int, int] | None = None,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """`scale * sum_p weight_P[p] E_p`, float64 `(rows, columns)`, E_p with entries of variance 1.

    `rows` and `columns` = (start, stop) give that part of the matrix, with the bits it has in the
    whole. Memory: 8 bytes a number of the part, and CHUNK_BYTES or one pair's factors beside it.
    Raises ValueError on what `round_weights` and `kernels.matrix_noise.plan_fill` refuse, and if
    `scale` is not finite.
    """
    if not math.isfinite(scale):
        raise ValueError(f"scale={scale} is not finite; use the size of the step")
    first_row, num_rows = _part(rows, matrix.rows, "rows")
    first_column, num_columns = _part(columns, matrix.columns, "columns")
    weights = round_weights(weight_P, pairs, matrix.noise_rank, stream.kind)
    if not weights.pairs:
        return torch.zeros(num_rows, num_columns, dtype=torch.float64, device=device)
    total_RC = torch.empty(num_rows, num_columns, dtype=torch.float64, device=device)
    rank = matrix.noise_rank
    pair_bytes = FACTOR_BYTES * rank * (num_rows + num_columns)
    num_at_once = max(1, CHUNK_BYTES // pair_bytes)
    row_parameter = 2 * matrix.parameter + matrix.row_side
    column_parameter = 2 * matrix.parameter + 1 - matrix.row_side
    for start in range(0, len(weights.pairs), num_at_once):
        chunk = slice(start, start + num_at_once)
        some = weights.pairs[chunk]
        left_PKR = torch.empty(len(some), rank, num_rows, dtype=torch.int8, device=device)
        right_PKC = torch.empty(len(some), rank, num_columns, dtype=torch.int8, device=device)
        fill_factor_noise_(left_PKR, stream, some, row_parameter, matrix.rows, first_row)
        fill_factor_noise_(right_PKC, stream, some, column_parameter, matrix.columns, first_column)
        integer_P = torch.from_numpy(weights.integer_P[chunk]).to(device)
        weighted_PKR = left_PKR.double().mul_(integer_P[:, None, None])
        total_RC.addmm_(
            weighted_PKR.flatten(0, 1).T,
            right_PKC.double().flatten(0, 1),
            beta=0 if start == 0 else 1,
        )
    return total_RC.mul_(grid_unit(weights, rank, stream.kind, scale))


def vector_update(
    stream: NoiseStream,
    pairs: Sequence[int],
    weight_P: Sequence[float] | np.ndarray,
    matrices: Sequence[NoisyMatrix],
    scales: Sequence[float] | None = None,
) -> np.ndarray:
    """The updates of small matrices one after the other, row by row: float64 (numbers,).

    `scales` has one factor a matrix (None: 1); the order is that of a seeded space's mean. Raises
    what `matrix_update` raises, and ValueError if there is not one scale a matrix.
    """
    factors = [1.0] * len(matrices) if scales is None else list(scales)
    if len(factors) != len(matrices):
        raise ValueError(f"{len(factors)} scales for {len(matrices)} matrices; give one a matrix")
    total_D = np.empty(sum(matrix.rows * matrix.columns for matrix in matrices))
    start = 0
    for matrix, scale in zip(matrices, factors, strict=True):
        part_RC = matrix_update(stream, pairs, weight_P, matrix, scale=scale)
        total_D[start : start + part_RC.numel()] = part_RC.flatten().numpy()
        start += part_RC.numel()
    return total_D


def _part(asked: tuple[int, int] | None, size: int, name: str) -> tuple[int, int]:
    """First index and number of those asked for."""
    start, stop = (0, size) if asked is None else asked
    if not 0 <= start < stop <= size:
        raise ValueError(f"{name}={asked} is no part of {size}; use 0 <= start < stop <= {size}")
    return start, stop - start
