"""Noise that is written before the base product, which then adds itself to it.

`kernels.gpu.low_rank` adds behind a product that is done, whatever made it: x is read again, y read
and written once more, by two kernels. Where the product is ours to call, its epilogue can add
instead: one kernel, a program a row, reads x and writes c (x b) a^T in y's place, and the GEMM
accumulates onto that. So y is moved once less and x is in the cache when the GEMM reads it; the
term is rounded to bf16 once more. A candidate for the engine's unquantised layers, should a GPU
say that it pays.

Shape suffixes: _T rows, _I in features, _O out features.
"""

import torch
import triton
import triton.language as tl

from kernels.gpu.common import launch
from kernels.gpu.factors import Factors, NoiseOrigin, left_tile, load_stream, right_tile, stored
from kernels.low_rank import LowRankNoise

COLUMNS, LEAST_COLUMNS = 4096, 256  # of x or y at once, all ranks together; of one rank
WARPS = 8


def write_low_rank(
    layer: LowRankNoise,
    origin: NoiseOrigin | None,
    y_TO: torch.Tensor,
    x_TI: torch.Tensor,
    member_T: torch.Tensor,
) -> None:
    """Write each row's noise over `y_TO`, 0 for rows of NOBODY; of a layer with one slice.

    The noise is that of the layer's tables, or made as `origin` says, which must not be a shard's.
    """
    if origin is None:
        right, left, kind = stored(layer.right_NSKI), stored(layer.left_NKO), "stored"
    else:
        right = left = Factors(None, origin.state_3, origin.pair_ids_N, origin.slices_SF)
        kind = origin.kind
    rank_power = triton.next_power_of_2(layer.noise_rank)
    launch(
        _write_rows,
        (len(x_TI),),
        y_TO,
        y_TO.stride(0),
        x_TI,
        x_TI.stride(0),
        member_T,
        layer.pair_M,
        layer.coefficient_MS,
        right,
        left,
        x_TI.shape[1],
        y_TO.shape[1],
        RANK=layer.noise_rank,
        RANK_POWER=rank_power,
        KIND=kind,
        BLOCK=max(LEAST_COLUMNS, COLUMNS // rank_power),
        num_warps=WARPS,
    )


@triton.jit
def _write_rows(
    y_ptr,
    stride_y,
    x_ptr,
    stride_x,
    member_ptr,
    pair_ptr,
    coefficient_ptr,
    right,
    left,
    in_features,
    out_features,
    RANK: tl.constexpr,
    RANK_POWER: tl.constexpr,
    KIND: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    member = tl.load(member_ptr + row)
    column = tl.arange(0, BLOCK)
    y_ptr += row * stride_y
    if member >= 0:
        pair = tl.load(pair_ptr + member)
        stream = load_stream(right, KIND)
        k = tl.arange(0, RANK_POWER)
        products = tl.zeros([RANK_POWER, BLOCK], tl.float32)
        for first in range(0, in_features, BLOCK):
            i = first + column
            x = tl.load(x_ptr + row * stride_x + i, mask=i < in_features, other=0.0)
            factors = right_tile(right, stream, pair, k, first, in_features, 1, RANK, KIND, BLOCK)
            products += x.to(tl.float32)[None, :] * factors.to(tl.float32)
        inner = tl.sum(products, axis=1) * tl.load(coefficient_ptr + member)
        inner = tl.where(k < RANK, inner, 0.0)
        for first in range(0, out_features, BLOCK):
            factors = left_tile(
                left, stream, pair, k, 0, 0, first, out_features, out_features, RANK, KIND, BLOCK
            )
            addend = tl.sum(inner[:, None] * factors.to(tl.float32), axis=0)
            o = first + column
            tl.store(y_ptr + o, addend.to(y_ptr.dtype.element_ty), mask=o < out_features)
    else:
        nothing = tl.zeros([BLOCK], y_ptr.dtype.element_ty)
        for first in range(0, out_features, BLOCK):
            o = first + column
            tl.store(y_ptr + o, nothing, mask=o < out_features)
