"""The noise factors a low-rank forward multiplies with: read from a table, or made in the kernel.

Made factors follow the layout of `kernels.matrix_noise` and are the same integers as stored ones. A
Philox call gives 4 columns of binomial noise or 128 of +-1, so tiles begin at multiples of those in
the whole factor; a shard that begins in between starts its first tile early (its phase).

Parameter 2 p + 1 of the counter is the right factor of the slice with parameter p, 2 p the left.

Shape suffixes: _S slices, _N pairs, _F fields.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import triton
import triton.language as tl

from kernels.gpu.philox import binomial_from_word, philox4x32, rademacher_from_word
from kernels.matrix_noise import BLOCK_COLUMNS, NoiseStream, plan_fill
from kernels.noise import Purpose
from kernels.perturbation import Slice

MadeKind = Literal["binomial", "rademacher"]

_NOISE_WORD = tl.constexpr(Purpose.NOISE << 24)
_FIELDS = tl.constexpr(5)  # of NoiseOrigin.slices_SF
_BINOMIAL_COLUMNS = tl.constexpr(BLOCK_COLUMNS["binomial"])
_RADEMACHER_COLUMNS = tl.constexpr(BLOCK_COLUMNS["rademacher"])


class NoiseOrigin(NamedTuple):
    """Where a module's noise comes from; see `noise_origin`."""

    state_3: torch.Tensor  # int64: low and high word of the seed, generation
    pair_ids_N: torch.Tensor  # int32: for a row that pair_M gives, the pair's number in the counter
    slices_SF: torch.Tensor  # int32: parameter, first row, whole rows, first column, whole columns
    kind: MadeKind
    row_phases: tuple[int, ...]  # columns by which each slice's first tile of outputs starts early
    column_phase: int  # the same for the inputs, which all slices share


class Factors(NamedTuple):
    """What a kernel needs for one of the two factors; a table or an origin, the rest None."""

    table: torch.Tensor | None
    state: torch.Tensor | None
    pair_ids: torch.Tensor | None
    slices: torch.Tensor | None


def stored(table: torch.Tensor) -> Factors:
    """Factors that are read."""
    return Factors(table, None, None, None)


def noise_origin(
    state_3: torch.Tensor,
    pair_ids_N: torch.Tensor,
    kind: MadeKind,
    parameters: Sequence[int],
    slices: Sequence[Slice],
    shapes: Sequence[tuple[int, int]],
) -> NoiseOrigin:
    """Describe the noise of a module: one parameter, slice and (rows, columns) a checkpoint layer.

    Build it once, before any capture. `state_3` (`write_noise_state`, one for all modules) and
    `pair_ids_N` are read by the kernels and rewritten in place by the caller, so a captured graph
    sees each new generation. Raises ValueError if a number does not fit the counter or the slices
    do not share their columns.
    """
    stream, fields = NoiseStream(0, 0, kind), []
    for parameter, part, (num_rows, num_columns) in zip(parameters, slices, shapes, strict=True):
        rows = (part.first_row, part.first_row + part.num_rows)
        plan_fill(stream, (), 2 * parameter, 1, num_rows, rows)
        columns = (part.first_column, part.first_column + part.num_columns)
        plan_fill(stream, (), 2 * parameter + 1, 1, num_columns, columns)
        fields.append((parameter, part.first_row, num_rows, part.first_column, num_columns))
    shared = {(s.first_column, s.num_columns, c) for s, (_, c) in zip(slices, shapes, strict=True)}
    if len(shared) != 1:
        raise ValueError(f"slices of one module share their input columns; given {sorted(shared)}")
    block = BLOCK_COLUMNS[kind]
    return NoiseOrigin(
        state_3,
        pair_ids_N,
        torch.tensor(fields, dtype=torch.int32, device=state_3.device),
        kind,
        tuple(part.first_row % block for part in slices),
        slices[0].first_column % block,
    )


def write_noise_state(state_3: torch.Tensor, seed: int, generation: int) -> torch.Tensor:
    """Set the seed and generation that captured kernels read; int64 (3,), returned.

    To be called between replays, not in a capture. Raises ValueError beyond 64 and 32 bits.
    """
    plan = plan_fill(NoiseStream(seed, generation), (), 0, 1, 1)
    return state_3.copy_(torch.tensor((*plan.key, plan.generation), dtype=torch.int64))


@triton.jit
def load_stream(factors, KIND: tl.constexpr):
    """Key words and generation, loaded once a program; zeros for a stored table."""
    if KIND == "stored":
        return 0, 0, 0
    else:
        state = factors.state
        low, high = tl.load(state).to(tl.uint32), tl.load(state + 1).to(tl.uint32)
        return low, high, tl.load(state + 2).to(tl.uint32)


@triton.jit
def make_noise(
    stream, parameter, pair_id, k, width, first, KIND: tl.constexpr, BLOCK: tl.constexpr
):
    """Columns `first` to `first + BLOCK` of rows `k` (_K) of a factor `width` wide, int8.

    `first` is a multiple of the generator's block; `parameter` is a number or one a row, (_K, 1).
    """
    PER: tl.constexpr = _BINOMIAL_COLUMNS if KIND == "binomial" else _RADEMACHER_COLUMNS
    column_block = first // PER + tl.arange(0, BLOCK // PER)
    block = k[:, None] * tl.cdiv(width, PER) + column_block[None, :]
    key_low, key_high, generation = stream
    w0, w1, w2, w3 = philox4x32(
        block.to(tl.uint32),
        (parameter + _NOISE_WORD).to(tl.uint32),
        pair_id.to(tl.uint32),
        generation,
        key_low,
        key_high,
    )
    if KIND == "binomial":
        even = tl.interleave(_integer(w0), _integer(w2))
        odd = tl.interleave(_integer(w1), _integer(w3))
        noise = tl.interleave(even, odd)
    else:
        words = tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))
        bits = tl.arange(0, 32)[None, None, :]
        noise = tl.reshape(rademacher_from_word(words[:, :, None], bits), [k.shape[0], BLOCK])
    return noise.to(tl.int8)


@triton.jit
def _integer(word):
    return binomial_from_word(word).to(tl.int8)


@triton.jit
def right_tile(
    factors,
    stream,
    pair,
    q,
    first,
    in_features,
    SLICES: tl.constexpr,
    RANK: tl.constexpr,
    KIND: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Right factors of a pair, int8: rows q = slice * RANK + k, local columns from `first`."""
    if KIND == "stored":
        i = first + tl.arange(0, BLOCK)
        where = factors.table + pair.to(tl.int64) * (SLICES * RANK * in_features)
        where += q[:, None] * in_features + i[None, :]
        mask = (q < SLICES * RANK)[:, None] & (i < in_features)[None, :]
        return tl.load(where, mask=mask, other=0)
    else:
        pair_id = tl.load(factors.pair_ids + pair)
        fields = factors.slices + tl.minimum(q // RANK, SLICES - 1) * _FIELDS
        parameter = 2 * tl.load(fields)[:, None] + 1
        column = tl.load(factors.slices + 3) + first
        width = tl.load(factors.slices + 4)
        return make_noise(stream, parameter, pair_id, q % RANK, width, column, KIND, BLOCK)


@triton.jit
def left_tile(
    factors,
    stream,
    pair,
    k,
    index,
    start,
    first,
    width,
    out_features,
    RANK: tl.constexpr,
    KIND: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Left factor of a pair, int8: rows k, local columns of slice `index` from `first`."""
    if KIND == "stored":
        o = first + tl.arange(0, BLOCK)
        where = factors.table + pair.to(tl.int64) * (RANK * out_features)
        where += k[:, None] * out_features + (start + o)[None, :]
        return tl.load(where, mask=(k < RANK)[:, None] & (o < width)[None, :], other=0)
    else:
        fields = factors.slices + index * _FIELDS
        pair_id = tl.load(factors.pair_ids + pair)
        row = tl.load(fields + 1) + first
        whole = tl.load(fields + 2)
        return make_noise(stream, 2 * tl.load(fields), pair_id, k, whole, row, KIND, BLOCK)
