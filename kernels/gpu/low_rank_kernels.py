"""Triton kernels of the low-rank forward: two products, each for single rows and for row tiles.

Rows: a program serves one row with its own pair's factors, a long run of columns at a time; a
reduction over so few values is left to ordinary arithmetic. Tiles: 64 rows go through
`tl.dot`, once for each pair that occurs in the tile, found by the least pair not yet served. A tile
inside a prefill segment is one pass; one across a border is a pass a segment, which loads only that
segment's rows. The factors are read or made (`kernels.gpu.factors`).

Shape suffixes: _T rows, _I in features, _O out features, _Q = slices x rank, _P splits over I.
"""

import triton
import triton.language as tl

from kernels.gpu.common import (
    NO_PAIR,
    add_to_output,
    load_members,
    load_pairs,
    locate_block,
    repeat_rows,
    sum_partials,
)
from kernels.gpu.factors import left_tile, load_stream, right_tile


@triton.jit(do_not_specialize=["num_rows"])
def project_rows(
    x_ptr,
    stride_x,
    member_ptr,
    pair_ptr,
    factors,
    partial_ptr,
    num_rows,
    in_features,
    SLICES: tl.constexpr,
    RANK: tl.constexpr,
    KIND: tl.constexpr,
    PHASE: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_Q: tl.constexpr,
):
    """`partial_PTQ`: x times the right factors of the row's pair, over one run of columns."""
    row, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    member = tl.load(member_ptr + row)
    if member >= 0:
        pair = tl.load(pair_ptr + member)
        stream = load_stream(factors, KIND)
        first = split * BLOCK_I - PHASE
        i = first + tl.arange(0, BLOCK_I)
        x = tl.load(x_ptr + row * stride_x + i, mask=(i >= 0) & (i < in_features), other=0.0)
        where = partial_ptr + (split * num_rows + row) * (SLICES * RANK)
        for first_q in range(0, SLICES * RANK, BLOCK_Q):
            q = first_q + tl.arange(0, BLOCK_Q)
            right = right_tile(
                factors, stream, pair, q, first, in_features, SLICES, RANK, KIND, BLOCK_I
            )
            inner = tl.sum(x.to(tl.float32)[None, :] * right.to(tl.float32), axis=1)
            tl.store(where + q, inner)


@triton.jit(do_not_specialize=["num_rows"])
def expand_rows(
    y_ptr,
    stride_y,
    member_ptr,
    pair_ptr,
    coefficient_ptr,
    factors,
    partial_ptr,
    num_rows,
    out_features,
    WIDTHS: tl.constexpr,
    PHASES: tl.constexpr,
    SLICES: tl.constexpr,
    RANK: tl.constexpr,
    KIND: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Add a run of columns of `c (x b) a^T` to one row of y."""
    row = tl.program_id(0).to(tl.int64)
    member = tl.load(member_ptr + row)
    if member >= 0:
        pair = tl.load(pair_ptr + member)
        stream = load_stream(factors, KIND)
        index, start, column, width = locate_block(
            tl.program_id(1), WIDTHS, PHASES, SLICES, BLOCK_O
        )
        delta = tl.zeros([BLOCK_O], tl.float32)
        for first in range(0, RANK, BLOCK_K):
            k = first + tl.arange(0, BLOCK_K)
            where = partial_ptr + (row * SLICES + index) * RANK + k
            inner = sum_partials(where, k < RANK, num_rows * (SLICES * RANK), SPLITS)
            left = left_tile(
                factors, stream, pair, k, index, start, column, width, out_features,
                RANK, KIND, BLOCK_O,
            )  # fmt: skip
            delta += tl.sum(inner[:, None] * left.to(tl.float32), axis=0)
        o = column + tl.arange(0, BLOCK_O)
        delta *= tl.load(coefficient_ptr + member * SLICES + index)
        add_to_output(y_ptr + row * stride_y + start + o, (o >= 0) & (o < width), delta)


@triton.jit(do_not_specialize=["num_rows"])
def project_tiles(
    x_ptr,
    stride_x,
    member_ptr,
    pair_ptr,
    factors,
    partial_ptr,
    num_rows,
    in_features,
    SLICES: tl.constexpr,
    RANK: tl.constexpr,
    KIND: tl.constexpr,
    PHASE: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """`partial_PTQ` for a tile of rows, pair by pair; rows of NOBODY are left as they are."""
    rows, member = load_members(member_ptr, num_rows, BLOCK_T)
    pair = load_pairs(pair_ptr, member)
    split = tl.program_id(1)
    q = tl.program_id(2) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    stream = load_stream(factors, KIND)
    begin = split * SPLIT - PHASE
    hidden = tl.zeros([BLOCK_T, BLOCK_Q], tl.float32)
    served = tl.min(pair, axis=0)
    while served < NO_PAIR:
        for first in range(begin, tl.minimum(begin + SPLIT, in_features), BLOCK_I):
            i = first + tl.arange(0, BLOCK_I)
            mask = (pair == served)[:, None] & ((i >= 0) & (i < in_features))[None, :]
            x = tl.load(x_ptr + rows[:, None] * stride_x + i[None, :], mask=mask, other=0.0)
            right = right_tile(
                factors, stream, served, q, first, in_features, SLICES, RANK, KIND, BLOCK_I
            )
            hidden = tl.dot(x.to(DOT), tl.trans(right.to(DOT)), hidden, input_precision=PRECISION)
        served = tl.min(tl.where(pair > served, pair, NO_PAIR), axis=0)
    where = partial_ptr + (split * num_rows + rows)[:, None] * (SLICES * RANK) + q[None, :]
    tl.store(where, hidden, mask=(member >= 0)[:, None] & (q < SLICES * RANK)[None, :])


@triton.jit(do_not_specialize=["num_rows"])
def expand_tiles(
    y_ptr,
    stride_y,
    member_ptr,
    pair_ptr,
    coefficient_ptr,
    factors,
    partial_ptr,
    num_rows,
    out_features,
    WIDTHS: tl.constexpr,
    PHASES: tl.constexpr,
    SLICES: tl.constexpr,
    RANK: tl.constexpr,
    RANK_POWER: tl.constexpr,
    RANK_PADDED: tl.constexpr,
    KIND: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_O: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add a tile of `c (x b) a^T` to y, pair by pair."""
    rows, member = load_members(member_ptr, num_rows, BLOCK_T)
    pair = load_pairs(pair_ptr, member)
    stream = load_stream(factors, KIND)
    index, start, column, width = locate_block(tl.program_id(1), WIDTHS, PHASES, SLICES, BLOCK_O)
    k = tl.arange(0, RANK_PADDED)
    where = partial_ptr + ((rows * SLICES + index) * RANK)[:, None] + k[None, :]
    stride_split = num_rows * (SLICES * RANK)
    delta = tl.zeros([BLOCK_T, BLOCK_O], tl.float32)
    served = tl.min(pair, axis=0)
    while served < NO_PAIR:
        is_served = pair == served
        left = left_tile(
            factors, stream, served, tl.arange(0, RANK_POWER), index, start, column, width,
            out_features, RANK, KIND, BLOCK_O,
        )  # fmt: skip
        left = repeat_rows(left.to(tl.float32), RANK_PADDED // RANK_POWER)
        inner = sum_partials(where, is_served[:, None] & (k < RANK)[None, :], stride_split, SPLITS)
        delta = tl.dot(inner, left, delta, input_precision=PRECISION)
        served = tl.min(tl.where(pair > served, pair, NO_PAIR), axis=0)
    is_somebody = member >= 0
    coefficient_where = coefficient_ptr + member * SLICES + index
    delta *= tl.load(coefficient_where, mask=is_somebody, other=0.0)[:, None]
    o = column + tl.arange(0, BLOCK_O)
    where = y_ptr + rows[:, None] * stride_y + (start + o)[None, :]
    add_to_output(where, is_somebody[:, None] & ((o >= 0) & (o < width))[None, :], delta)
