"""Triton forward of a core perturbation (formula in `kernels.core`).

    hidden = x V;   y += (hidden C + c[m] sum_k (hidden b_pk) a_pk^T) U^T

V, C and U are everybody's and go through `tl.dot` (`kernels.gpu.directions`, which also says what
decides between the forms). The pair's factors, 2 K R bytes, are loaded once for a tile whose rows
all belong to one pair, as prefill segments do, and gathered row by row for a mixed one; the tile's
least and greatest pair tell which. The second kernel tiles rows and output columns, since y is by
far the largest of what it touches. For bf16 and fp16 rows the delta stays within 2^-7 of its own
scale of the float64 definition, for fp32 within 1e-5.

Noise: EGGROLL (arXiv 2511.16652). Products of many adapters in one batch, gathered by row: Punica
(arXiv 2310.18547) and S-LoRA (arXiv 2311.03285).
"""

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from kernels.gpu.common import (
    NOBODY,
    Form,
    check,
    find_lowest,
    launch,
    load_members,
    load_pair_vectors,
    load_pairs,
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
    from kernels.core import CoreNoise


def add_core_noise_(
    layer: "CoreNoise",
    y_TO: torch.Tensor,
    x_TI: torch.Tensor,
    member_T: torch.Tensor,
    form: Form | None = None,
) -> torch.Tensor:
    """Add the core and every row's noise on it to `y_TO` in place (`Perturbation.add_`).

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
        _expand_core,
        output_grid(basis, num_rows, blocks),
        y_TO,
        y_TO.stride(0),
        member_T,
        partial_PTQ,
        basis.left_OR,
        layer.core_SRR,
        layer.left_NSKR,
        layer.right_NSKR,
        layer.pair_M,
        layer.coefficient_MS,
        num_rows,
        NOISE_RANK=layer.noise_rank,
        **expansion_constants(basis, x_TI, partial_PTQ, blocks),
    )
    return y_TO


@triton.jit(do_not_specialize=["num_rows"])
def _expand_core(
    y_ptr,
    stride_y,
    member_ptr,
    partial_ptr,
    left_ptr,
    core_ptr,
    noise_left_ptr,
    noise_right_ptr,
    pair_ptr,
    coefficient_ptr,
    num_rows,
    WIDTHS: tl.constexpr,
    PHASES: tl.constexpr,
    SLICES: tl.constexpr,
    RANK: tl.constexpr,
    RANK_PADDED: tl.constexpr,
    NOISE_RANK: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_O: tl.constexpr,
    PRECISION: tl.constexpr,
):
    rows, member = load_members(member_ptr, num_rows, BLOCK_T)
    is_somebody = member >= 0
    if tl.max(member, axis=0) != NOBODY:
        index, start, column, width = locate_block(
            tl.program_id(1), WIDTHS, PHASES, SLICES, BLOCK_O
        )
        r = tl.arange(0, RANK_PADDED)
        q = index * RANK + r
        is_direction = r < RANK
        mask = is_somebody[:, None] & is_direction[None, :]
        partial_where = partial_ptr + rows[:, None] * (SLICES * RANK) + q[None, :]
        hidden = sum_partials(partial_where, mask, num_rows * (SLICES * RANK), SPLITS)
        core_mask = is_direction[:, None] & is_direction[None, :]
        core_where = core_ptr + q[:, None] * RANK + r[None, :]
        core = tl.load(core_where, mask=core_mask, other=0.0)
        mixed = tl.dot(hidden, core, input_precision=PRECISION)

        pair = load_pairs(pair_ptr, member)
        lowest, is_uniform = find_lowest(pair, is_somebody)
        coefficient_where = coefficient_ptr + member * SLICES + index
        coefficient = tl.load(coefficient_where, mask=is_somebody, other=0.0)
        stride_pair = SLICES * NOISE_RANK * RANK
        for k in range(NOISE_RANK):
            offset = (index * NOISE_RANK + k) * RANK
            right = load_pair_vectors(
                noise_right_ptr, pair, is_somebody, lowest, is_uniform, offset, stride_pair, r, RANK
            )
            left = load_pair_vectors(
                noise_left_ptr, pair, is_somebody, lowest, is_uniform, offset, stride_pair, r, RANK
            )
            inner = tl.sum(hidden * right, axis=1) * coefficient
            mixed += inner[:, None] * left
        o = column + tl.arange(0, BLOCK_O)
        delta = expanded(left_ptr, mixed, start, o, width, RANK, RANK_PADDED, PRECISION)
        add_tile(y_ptr, stride_y, rows, member, start, o, width, delta)
