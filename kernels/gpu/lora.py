"""Triton forward of a perturbed LoRA (formula in `kernels.lora`).

    h = A x + cA[m] sum_k aA_pk (bA_pk . x);   y += B h + cB[m] sum_k aB_pk (bB_pk . h)

Three kernels: `A x`, which is everybody's (`kernels.gpu.directions`), the products of each row with
its own pair's bA (`kernels.gpu.low_rank`), and the expansion, which finishes h, tiles rows and
output columns and adds both terms to y at once. A pair's vectors there are loaded once for a tile
whose rows all belong to it, as prefill segments do, and gathered row by row for a mixed one. The
forms differ in their tiles and in how bA is multiplied; both read the same tables. For bf16 and
fp16 rows the delta stays within 2^-7 of its own scale of the float64 definition, for fp32 within
1e-5.

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
    choose_form,
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
from kernels.gpu.factors import stored
from kernels.gpu.low_rank import project_noise

if TYPE_CHECKING:
    from kernels.lora import LoraNoise


def add_lora_noise_(
    layer: "LoraNoise",
    y_TO: torch.Tensor,
    x_TI: torch.Tensor,
    member_T: torch.Tensor,
    form: Form | None = None,
) -> torch.Tensor:
    """Add the mean's LoRA and every row's noise on it to `y_TO` in place (`Perturbation.add_`).

    Without `form` each product takes the form that fits this many rows. A CUDA graph may capture
    it: a new mean is written into the same tensors. Raises as `kernels.gpu.common.check` does.
    """
    mean, num_rows = layer.mean, len(x_TI)
    check(mean.rank, y_TO, x_TI, member_T)
    if num_rows == 0:
        return y_TO
    blocks = choose_blocks(num_rows, mean.rank, form)
    partial_PTQ = project(mean, x_TI, member_T, blocks)
    noise_PTQ = project_noise(
        stored(layer.down_right_NSKI),
        layer.pair_M,
        x_TI,
        member_T,
        num_slices=mean.num_slices,
        rank=layer.noise_rank,
        is_decode=choose_form(num_rows, form) == "decode",
    )
    launch(
        _expand_lora,
        output_grid(mean, num_rows, blocks),
        y_TO,
        y_TO.stride(0),
        member_T,
        partial_PTQ,
        noise_PTQ,
        mean.left_OR,
        layer.down_left_NSKR,
        layer.up_left_NKO,
        layer.up_right_NSKR,
        layer.pair_M,
        layer.coefficient_MS,
        num_rows,
        len(mean.left_OR),
        NOISE_RANK=layer.noise_rank,
        NOISE_SPLITS=len(noise_PTQ),
        **expansion_constants(mean, x_TI, partial_PTQ, blocks),
    )
    return y_TO


@triton.jit(do_not_specialize=["num_rows"])
def _expand_lora(
    y_ptr,
    stride_y,
    member_ptr,
    partial_ptr,
    noise_ptr,
    left_ptr,
    down_left_ptr,
    up_left_ptr,
    up_right_ptr,
    pair_ptr,
    coefficient_ptr,
    num_rows,
    out_features,
    WIDTHS: tl.constexpr,
    PHASES: tl.constexpr,
    SLICES: tl.constexpr,
    RANK: tl.constexpr,
    RANK_PADDED: tl.constexpr,
    NOISE_RANK: tl.constexpr,
    SPLITS: tl.constexpr,
    NOISE_SPLITS: tl.constexpr,
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
        pair = load_pairs(pair_ptr, member)
        lowest, is_uniform = find_lowest(pair, is_somebody)
        coefficient_where = coefficient_ptr + (member * SLICES + index) * 2
        size_a = tl.load(coefficient_where, mask=is_somebody, other=0.0)
        size_b = tl.load(coefficient_where + 1, mask=is_somebody, other=0.0)

        r = tl.arange(0, RANK_PADDED)
        mask = is_somebody[:, None] & (r < RANK)[None, :]
        partial_where = partial_ptr + rows[:, None] * (SLICES * RANK) + (index * RANK + r)[None, :]
        hidden = sum_partials(partial_where, mask, num_rows * (SLICES * RANK), SPLITS)
        noise_where = noise_ptr + (rows * SLICES + index) * NOISE_RANK
        stride_noise = num_rows * (SLICES * NOISE_RANK)
        stride_pair = SLICES * NOISE_RANK * RANK
        for k in range(NOISE_RANK):
            left = load_pair_vectors(
                down_left_ptr, pair, is_somebody, lowest, is_uniform,
                (index * NOISE_RANK + k) * RANK, stride_pair, r, RANK,
            )  # fmt: skip
            inner = sum_partials(noise_where + k, is_somebody, stride_noise, NOISE_SPLITS)
            hidden += (size_a * inner)[:, None] * left

        o = column + tl.arange(0, BLOCK_O)
        delta = expanded(left_ptr, hidden, start, o, width, RANK, RANK_PADDED, PRECISION)
        for k in range(NOISE_RANK):
            right = load_pair_vectors(
                up_right_ptr, pair, is_somebody, lowest, is_uniform,
                (index * NOISE_RANK + k) * RANK, stride_pair, r, RANK,
            )  # fmt: skip
            left = load_pair_vectors(
                up_left_ptr, pair, is_somebody, lowest, is_uniform,
                k * out_features + start, NOISE_RANK * out_features, o, width,
            )  # fmt: skip
            inner = size_b * tl.sum(hidden * right, axis=1)
            delta += inner[:, None] * left
        add_tile(y_ptr, stride_y, rows, member, start, o, width, delta)
