"""Triton forward of a shared-basis perturbation (formulas in `kernels.shared_basis`).

    hidden = x V;   y += (hidden * a[m]) U^T   or   y += ((hidden * a[m]) C * b[m]) U^T

The directions are everybody's and only the scales are gathered, row by row, so a tile of mixed
members costs what a uniform one does: the two forms differ in their tiles alone
(`kernels.gpu.directions`), and the number of rows decides between them. The second kernel tiles
rows and output columns, since y is by far the largest of what it touches. For bf16 and fp16 rows
the delta stays within 2^-7 of its own scale of the float64 definition, for fp32 within 1e-5.

Products of many adapters in one batch, gathered by row: Punica (arXiv 2310.18547) and S-LoRA
(arXiv 2311.03285); here, as in ESSA (arXiv 2507.04453), the outer matrices are shared.
"""

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from kernels.gpu.common import (
    NOBODY,
    Form,
    check,
    launch,
    load_members,
    locate_block,
    sum_partials,
)
from kernels.gpu.directions import (
    add_tile,
    choose_blocks,
    expanded,
    expansion_constants,
    output_grid,
    project,
)

if TYPE_CHECKING:
    from kernels.shared_basis import ScaledBasis


def add_scaled_basis_(
    layer: "ScaledBasis",
    y_TO: torch.Tensor,
    x_TI: torch.Tensor,
    member_T: torch.Tensor,
    form: Form | None = None,
) -> torch.Tensor:
    """Add every row's scaled directions to `y_TO` in place (`kernels.perturbation.Perturbation`).

    Up to `common.PREFILL_ROWS` rows the decode form runs, unless `form` says otherwise. A CUDA
    graph may capture it. Raises as `kernels.gpu.common.check` does.
    """
    basis, num_rows = layer.basis, len(x_TI)
    check(basis.rank, y_TO, x_TI, member_T)
    if num_rows == 0:
        return y_TO
    blocks = choose_blocks(num_rows, basis.rank, form)
    partial_PTQ = project(basis, x_TI, member_T, blocks)
    launch(
        _expand_scaled,
        output_grid(basis, num_rows, blocks),
        y_TO,
        y_TO.stride(0),
        member_T,
        partial_PTQ,
        basis.left_OR,
        layer.scale_a_MSR,
        basis.core_SRR,
        layer.scale_b_MSR,
        num_rows,
        **expansion_constants(basis, x_TI, partial_PTQ, blocks),
    )
    return y_TO


@triton.jit(do_not_specialize=["num_rows"])
def _expand_scaled(
    y_ptr,
    stride_y,
    member_ptr,
    partial_ptr,
    left_ptr,
    scale_a_ptr,
    core_ptr,
    scale_b_ptr,
    num_rows,
    WIDTHS: tl.constexpr,
    PHASES: tl.constexpr,
    SLICES: tl.constexpr,
    RANK: tl.constexpr,
    RANK_PADDED: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_O: tl.constexpr,
    PRECISION: tl.constexpr,
):
    rows, member = load_members(member_ptr, num_rows, BLOCK_T)
    if tl.max(member, axis=0) != NOBODY:
        index, start, column, width = locate_block(
            tl.program_id(1), WIDTHS, PHASES, SLICES, BLOCK_O
        )
        r = tl.arange(0, RANK_PADDED)
        q = index * RANK + r
        mask = (member >= 0)[:, None] & (r < RANK)[None, :]
        partial_where = partial_ptr + rows[:, None] * (SLICES * RANK) + q[None, :]
        hidden = sum_partials(partial_where, mask, num_rows * (SLICES * RANK), SPLITS)
        scale = member.to(tl.int64)[:, None] * (SLICES * RANK) + q[None, :]
        hidden *= tl.load(scale_a_ptr + scale, mask=mask, other=0.0)
        if core_ptr is not None:
            core_mask = (r < RANK)[:, None] & (r < RANK)[None, :]
            core_where = core_ptr + q[:, None] * RANK + r[None, :]
            core = tl.load(core_where, mask=core_mask, other=0.0)
            hidden = tl.dot(hidden, core, input_precision=PRECISION)
            hidden *= tl.load(scale_b_ptr + scale, mask=mask, other=0.0)
        o = column + tl.arange(0, BLOCK_O)
        delta = expanded(left_ptr, hidden, start, o, width, RANK, RANK_PADDED, PRECISION)
        add_tile(y_ptr, stride_y, rows, member, start, o, width, delta)
