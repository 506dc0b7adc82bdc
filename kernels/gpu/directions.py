"""Triton products with a module's frozen directions: x V in split sums, and the expansion by U^T.

Both are the same for every member, so a tile of rows goes through `tl.dot` whoever its members are.
`kernels.gpu.shared_basis` and `kernels.gpu.core` put their own small matrices in between.

Shape suffixes: _T rows, _I in features, _O out features, _Q directions of all slices, _P splits.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
import triton
import triton.language as tl

from kernels.gpu.common import (
    Form,
    add_to_output,
    choose_form,
    choose_split,
    dot_precision,
    dot_type,
    launch,
    load_members,
    num_output_blocks,
    padded,
)

if TYPE_CHECKING:
    from kernels.shared_basis import FusedBasis


class Blocks(NamedTuple):
    """Tile sizes of one form: rows, input columns a step and at most a split, output columns."""

    rows: int
    step: int
    split: int
    columns: int


BLOCKS: dict[Form, Blocks] = {
    # 16 rows are the least that fills a tensor core; the fine split makes up for the few tiles.
    "decode": Blocks(rows=16, step=128, split=512, columns=128),
    # 64 rows read V and U a quarter as often.
    "prefill": Blocks(rows=64, step=64, split=4096, columns=128),
}
LARGE_RANK = 64  # beyond it, 64 rows of hidden values and a core do not fit the registers
MAX_DIRECTIONS_PER_PROGRAM = 64  # keeps V's tile in shared memory; more directions, more programs


def choose_blocks(num_rows: int, rank: int, form: Form | None) -> Blocks:
    """The tiles of the form given, or of the one that fits this many rows."""
    blocks = BLOCKS[choose_form(num_rows, form)]
    if rank > LARGE_RANK:
        return blocks._replace(rows=min(blocks.rows, 32))
    return blocks


def output_grid(basis: "FusedBasis", num_rows: int, blocks: Blocks) -> tuple[int, int]:
    """Programs of an expansion: tiles of rows, blocks of output columns."""
    phases = (0,) * basis.num_slices
    columns = num_output_blocks(basis.widths, phases, blocks.columns)
    return triton.cdiv(num_rows, blocks.rows), columns


def expansion_constants(
    basis: "FusedBasis", x_TI: torch.Tensor, partial_PTQ: torch.Tensor, blocks: Blocks
) -> dict[str, object]:
    """What every kernel that expands `project`'s sums is compiled for."""
    return {
        "WIDTHS": tuple(basis.widths),
        "PHASES": (0,) * basis.num_slices,
        "SLICES": basis.num_slices,
        "RANK": basis.rank,
        "RANK_PADDED": padded(basis.rank),
        "SPLITS": len(partial_PTQ),
        "BLOCK_T": blocks.rows,
        "BLOCK_O": blocks.columns,
        "PRECISION": dot_precision(x_TI),
    }


def project(
    basis: "FusedBasis", x_TI: torch.Tensor, member_T: torch.Tensor, blocks: Blocks
) -> torch.Tensor:
    """`x V` of every slice, fp32 `(P, T, Q)`, to be summed over the splits; NOBODY gives 0."""
    num_directions, in_features = basis.right_QI.shape
    num_rows, block_q = len(x_TI), min(padded(num_directions), MAX_DIRECTIONS_PER_PROGRAM)
    tiles, groups = triton.cdiv(num_rows, blocks.rows), triton.cdiv(num_directions, block_q)
    split = choose_split(blocks.split, tiles * groups, in_features)
    num_splits = triton.cdiv(in_features, split)
    partial_PTQ = torch.empty(
        num_splits, num_rows, num_directions, dtype=torch.float32, device=x_TI.device
    )
    launch(
        _project,
        (tiles, num_splits, groups),
        x_TI,
        x_TI.stride(0),
        member_T,
        basis.right_QI,
        partial_PTQ,
        num_rows,
        in_features,
        num_directions,
        SPLIT=split,
        BLOCK_T=blocks.rows,
        BLOCK_Q=block_q,
        BLOCK_I=blocks.step,
        DOT=dot_type(x_TI),
        PRECISION=dot_precision(x_TI),
    )
    return partial_PTQ


@triton.jit(do_not_specialize=["num_rows"])
def _project(
    x_ptr,
    stride_x,
    member_ptr,
    right_ptr,
    partial_ptr,
    num_rows,
    in_features,
    num_directions,
    SPLIT: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_I: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    rows, member = load_members(member_ptr, num_rows, BLOCK_T)
    split = tl.program_id(1)
    q = tl.program_id(2) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    is_direction = q < num_directions
    hidden = tl.zeros([BLOCK_T, BLOCK_Q], tl.float32)
    for first in range(split * SPLIT, tl.minimum((split + 1) * SPLIT, in_features), BLOCK_I):
        i = first + tl.arange(0, BLOCK_I)
        x_mask = (member >= 0)[:, None] & (i < in_features)[None, :]
        x = tl.load(x_ptr + rows[:, None] * stride_x + i[None, :], mask=x_mask, other=0.0)
        right_mask = is_direction[:, None] & (i < in_features)[None, :]
        right_where = right_ptr + q[:, None] * in_features + i[None, :]
        right = tl.load(right_where, mask=right_mask, other=0.0)
        hidden = tl.dot(x.to(DOT), tl.trans(right.to(DOT)), hidden, input_precision=PRECISION)
    where = partial_ptr + (split * num_rows + rows)[:, None] * num_directions + q[None, :]
    tl.store(where, hidden, mask=(rows < num_rows)[:, None] & is_direction[None, :])


@triton.jit
def expanded(
    left_ptr,
    hidden,
    start,
    o,
    width,
    RANK: tl.constexpr,
    RANK_PADDED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """`hidden U^T` for the columns `o` of the slice that begins at `start`."""
    r = tl.arange(0, RANK_PADDED)
    where = left_ptr + (start + o)[:, None] * RANK + r[None, :]
    mask = (o < width)[:, None] & (r < RANK)[None, :]
    left = tl.load(where, mask=mask, other=0.0).to(tl.float32)
    return tl.dot(hidden, tl.trans(left), input_precision=PRECISION)


@triton.jit
def add_tile(y_ptr, stride_y, rows, member, start, o, width, delta):
    """Add `delta` to the columns `o` of the slice that begins at `start`, for rows of somebody."""
    where = y_ptr + rows[:, None] * stride_y + (start + o)[None, :]
    add_to_output(where, (member >= 0)[:, None] & (o < width)[None, :], delta)
