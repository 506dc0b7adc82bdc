"""Triton forward of EGGROLL noise on whole weights (formula in `kernels.low_rank`).

    hidden = x b_p;   y += c[m] hidden a_p^T,   p the pair of the row's member

Both kernels are bound by memory: x once, y read and written, and the pair's int8 factors. The
first tiles rows and splits I, the second tiles rows and output columns, since y is by far the
largest. What decides between the forms is the number of rows. Decode: a program a row, because
neighbouring rows are different members, and in tiles each would be a pass of its own. Prefill:
tiles of rows, each pair in a tile served at once from one load of its factors, whatever the
segments' lengths; a mixed tile only takes more passes. The factors are read from the layer's table,
or made again in each kernel that needs them (`kernels.gpu.factors`): the same integers, so both
agree up to the order of fp32 sums.
For bf16 and fp16 rows the delta stays within 2^-7 of its own scale of the float64 definition, for
fp32 within 1e-5.

Noise: EGGROLL (arXiv 2511.16652). One program a row with its own factors, and tiles by segment:
Punica (arXiv 2310.18547) and S-LoRA (arXiv 2311.03285).

Shape suffixes: _T rows, _I in features, _O out features, _Q = slices x rank, _P splits over I.
"""

import math
from typing import TYPE_CHECKING

import torch
import triton

from kernels.gpu.common import (
    Form,
    check,
    choose_form,
    choose_split,
    dot_precision,
    dot_type,
    launch,
    num_output_blocks,
    padded,
)
from kernels.gpu.factors import Factors, NoiseOrigin, stored
from kernels.gpu.low_rank_kernels import expand_rows, expand_tiles, project_rows, project_tiles

if TYPE_CHECKING:
    from kernels.low_rank import LowRankNoise

ROW_COLUMNS = 1024  # of x or y that a program of the decode form serves: 8 for each thread
TILE_ROWS, TILE_SPLIT, TILE_COLUMNS = 64, 4096, 128
READ_STEP, MADE_STEP = 64, 128  # input columns at once; one Philox call makes 128 of +-1 noise
MAX_FACTORS_PER_PROGRAM = 64  # keeps a tile of right factors in shared memory
VECTORS_AT_ONCE = 4  # factor rows a program of the decode form has in flight


def add_low_rank_(
    layer: "LowRankNoise",
    y_TO: torch.Tensor,
    x_TI: torch.Tensor,
    member_T: torch.Tensor,
    form: Form | None = None,
) -> torch.Tensor:
    """Add every row's stored noise to `y_TO` in place (`kernels.perturbation.Perturbation`).

    Up to `common.PREFILL_ROWS` rows the decode form runs, unless `form` says otherwise. A CUDA
    graph may capture it. Raises as `kernels.gpu.common.check` does.
    """
    return _add(layer, None, y_TO, x_TI, member_T, form)


def add_low_rank_made_(
    layer: "LowRankNoise",
    origin: NoiseOrigin,
    y_TO: torch.Tensor,
    x_TI: torch.Tensor,
    member_T: torch.Tensor,
    form: Form | None = None,
) -> torch.Tensor:
    """`add_low_rank_` with the noise made in the kernels; the layer's tables stay unread.

    Seed, generation and pairs change every generation, so they are no launch arguments: the kernels
    read them from `origin.state_3` and `origin.pair_ids_N`. Write new ones in place and a captured
    graph uses them.
    """
    return _add(layer, origin, y_TO, x_TI, member_T, form)


def _add(
    layer: "LowRankNoise",
    origin: NoiseOrigin | None,
    y_TO: torch.Tensor,
    x_TI: torch.Tensor,
    member_T: torch.Tensor,
    form: Form | None,
) -> torch.Tensor:
    check(layer.noise_rank, y_TO, x_TI, member_T)
    num_rows, num_slices = len(x_TI), len(layer.widths)
    if num_rows == 0:
        return y_TO
    is_decode = choose_form(num_rows, form) == "decode"
    if origin is None:
        right, left = stored(layer.right_NSKI), stored(layer.left_NKO)
        kind, phases, phase = "stored", (0,) * num_slices, 0
    else:
        right = left = Factors(None, origin.state_3, origin.pair_ids_N, origin.slices_SF)
        kind, phases, phase = origin.kind, origin.row_phases, origin.column_phase
    partial_PTQ = project_noise(
        right,
        layer.pair_M,
        x_TI,
        member_T,
        num_slices=num_slices,
        rank=layer.noise_rank,
        is_decode=is_decode,
        kind=kind,
        phase=phase,
    )
    columns = ROW_COLUMNS if is_decode else TILE_COLUMNS
    out = (y_TO, y_TO.stride(0), member_T, layer.pair_M, layer.coefficient_MS, left, partial_PTQ)
    sizes = (num_rows, layer.left_NKO.shape[2])
    constants = {
        "WIDTHS": tuple(layer.widths),
        "PHASES": phases,
        "SLICES": num_slices,
        "RANK": layer.noise_rank,
        "KIND": kind,
        "SPLITS": len(partial_PTQ),
        "BLOCK_O": columns,
    }
    num_blocks = num_output_blocks(layer.widths, phases, columns)
    if is_decode:
        block_k = math.gcd(layer.noise_rank, VECTORS_AT_ONCE)
        launch(expand_rows, (num_rows, num_blocks), *out, *sizes, BLOCK_K=block_k, **constants)
        return y_TO
    launch(
        expand_tiles,
        (triton.cdiv(num_rows, TILE_ROWS), num_blocks),
        *out,
        *sizes,
        RANK_POWER=triton.next_power_of_2(layer.noise_rank),
        RANK_PADDED=padded(layer.noise_rank),
        BLOCK_T=TILE_ROWS,
        PRECISION=dot_precision(x_TI),
        **constants,
    )
    return y_TO


def project_noise(
    right: Factors,
    pair_M: torch.Tensor,
    x_TI: torch.Tensor,
    member_T: torch.Tensor,
    *,
    num_slices: int,
    rank: int,
    is_decode: bool,
    kind: str = "stored",
    phase: int = 0,
) -> torch.Tensor:
    """`x b` of each row's pair, slice by slice, fp32 `(P, T, Q)`, to be summed over the splits.

    Rows of NOBODY stay unwritten.
    """
    num_rows, in_features, num_inner = *x_TI.shape, num_slices * rank
    block_q = min(triton.next_power_of_2(num_inner), MAX_FACTORS_PER_PROGRAM)
    tiles, groups = triton.cdiv(num_rows, TILE_ROWS), triton.cdiv(num_inner, block_q)
    split = ROW_COLUMNS
    if not is_decode:
        split = choose_split(TILE_SPLIT, tiles * groups, in_features + phase)
    num_splits = triton.cdiv(in_features + phase, split)
    partial_PTQ = torch.empty(
        num_splits, num_rows, num_inner, dtype=torch.float32, device=x_TI.device
    )
    rows = (x_TI, x_TI.stride(0), member_T, pair_M, right, partial_PTQ, num_rows, in_features)
    constants = {"SLICES": num_slices, "RANK": rank, "KIND": kind, "PHASE": phase}
    if is_decode:
        at_once = math.gcd(num_inner, VECTORS_AT_ONCE)
        grid = (num_rows, num_splits)
        launch(project_rows, grid, *rows, BLOCK_I=split, BLOCK_Q=at_once, **constants)
        return partial_PTQ
    launch(
        project_tiles,
        (tiles, num_splits, groups),
        *rows,
        SPLIT=split,
        BLOCK_T=TILE_ROWS,
        BLOCK_I=READ_STEP if kind == "stored" else MADE_STEP,
        BLOCK_Q=block_q,
        DOT=dot_type(x_TI),
        PRECISION=dot_precision(x_TI),
        **constants,
    )
    return partial_PTQ
