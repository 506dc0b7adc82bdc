"""Matrix noise in Triton: the device functions a kernel calls, and a kernel that fills a table.

The words, the layout and the integers are those of `kernels.philox` and `kernels.matrix_noise`, bit
for bit; Gaussian noise differs in the last bits. Nothing is looked up, so a forward kernel can make
a block of noise where it is used instead of reading it.

Unsigned words wrap on purpose: those sums and products ask for no overflow check, which Triton's
interpreter and debug mode would otherwise raise on.

Shape suffixes: _P pairs, _R rows (the rank), _B blocks, _W words or columns.
"""

import math

import torch
import triton
import triton.language as tl

from kernels import philox
from kernels.matrix_noise import BINOMIAL_CENTRE, BLOCK_COLUMNS, NoiseStream, plan_fill

# Type hints here are Triton's: the types of a kernel's arguments, not of Python values.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportInvalidTypeForm=false

_NUM_ROUNDS = tl.constexpr(philox.NUM_ROUNDS)
_MULTIPLIER_0 = tl.constexpr(philox.MULTIPLIER_0)
_MULTIPLIER_2 = tl.constexpr(philox.MULTIPLIER_2)
_KEY_STEP_LOW = tl.constexpr(philox.KEY_STEP_LOW)
_KEY_STEP_HIGH = tl.constexpr(philox.KEY_STEP_HIGH)
_BINOMIAL_CENTRE = tl.constexpr(BINOMIAL_CENTRE)
_UNIT = tl.constexpr(2.0**-philox.WORD_BITS)
_TURN = tl.constexpr(2 * math.pi)

COLUMNS_PER_PROGRAM = 1024  # 256 binomial blocks: two for each thread of four warps


@triton.jit
def philox4x32(c0, c1, c2, c3, k0, k1):
    """Four uint32 tensors of random words; counter and key words are uint32 and broadcast.

    A kernel's integer argument becomes one by `.to(tl.uint32)`. A 64-bit product is one wide
    multiply on NVIDIA, where its halves asked for apart are two.
    """
    for _ in tl.static_range(_NUM_ROUNDS):
        product0 = c0.to(tl.uint64) * _MULTIPLIER_0
        product2 = c2.to(tl.uint64) * _MULTIPLIER_2
        c0 = (product2 >> 32).to(tl.uint32) ^ c1 ^ k0
        c2 = (product0 >> 32).to(tl.uint32) ^ c3 ^ k1
        c1 = product2.to(tl.uint32)
        c3 = product0.to(tl.uint32)
        k0 = tl.add(k0, _KEY_STEP_LOW, sanitize_overflow=False)
        k1 = tl.add(k1, _KEY_STEP_HIGH, sanitize_overflow=False)
    return c0, c1, c2, c3


@triton.jit
def binomial_from_word(word):
    """Popcount of each uint32 word minus 16, int32: variance 8.

    Bits are summed side by side: in pairs, in fours, in bytes, then all bytes in the topmost one.
    """
    counts = word - ((word >> 1) & 0x55555555)
    counts = (counts & 0x33333333) + ((counts >> 2) & 0x33333333)
    counts = (counts + (counts >> 4)) & 0x0F0F0F0F
    counts = tl.mul(counts, 0x01010101, sanitize_overflow=False) >> 24
    return counts.to(tl.int32) - _BINOMIAL_CENTRE


@triton.jit
def rademacher_from_word(word, bit):
    """+1 or -1 from bit `bit` (0 the least significant) of each uint32 word, int32."""
    return ((word >> bit) & 1).to(tl.int32) * 2 - 1


@triton.jit
def words_in_order(w0, w1, w2, w3):
    """The words of blocks (_B each) in the order of their columns, (4 * _B,)."""
    joined = tl.join(tl.join(w0, w2), tl.join(w1, w3))
    return tl.reshape(joined, (4 * w0.shape[0],))


@triton.jit
def _normals(word, other):
    """Box-Muller in float64, where word + 1 is exact: two float32 normals."""
    radius = tl.sqrt(-2.0 * tl.log((word.to(tl.float64) + 1.0) * _UNIT))
    angle = other.to(tl.float64) * _UNIT * _TURN
    return (radius * tl.cos(angle)).to(tl.float32), (radius * tl.sin(angle)).to(tl.float32)


# One compiled kernel a kind, whatever the numbers.
_RUNTIME_NUMBERS = [
    "pair_stride",
    "row_stride",
    "rank",
    "num_tiles",
    "num_columns",
    "skip",
    "first_block",
    "row_blocks",
    "parameter_word",
    "generation",
    "key_low",
    "key_high",
]


@triton.jit(do_not_specialize=_RUNTIME_NUMBERS)
def _fill_kernel(
    out_pointer,
    pair_pointer,
    pair_stride: tl.int64,
    row_stride: tl.int64,
    rank: tl.int32,
    num_tiles: tl.int32,
    num_columns: tl.int32,
    skip: tl.int32,
    first_block: tl.uint32,
    row_blocks: tl.uint32,
    parameter_word: tl.uint32,
    generation: tl.uint32,
    key_low: tl.uint32,
    key_high: tl.uint32,
    KIND: tl.constexpr,
    NUM_BLOCKS: tl.constexpr,
):
    """One program fills NUM_BLOCKS blocks of one row of one pair."""
    tile = tl.program_id(0) % num_tiles
    row = tl.program_id(0) // num_tiles % rank
    pair_index = (tl.program_id(0) // num_tiles // rank).to(tl.int64)
    block_B = tile * NUM_BLOCKS + tl.arange(0, NUM_BLOCKS)
    counter_B = row.to(tl.uint32) * row_blocks.to(tl.uint32) + first_block.to(tl.uint32)
    counter_B = counter_B + block_B.to(tl.uint32)
    pair = tl.load(pair_pointer + pair_index).to(tl.uint32, bitcast=True)
    w0, w1, w2, w3 = philox4x32(
        counter_B,
        parameter_word.to(tl.uint32),
        pair,
        generation.to(tl.uint32),
        key_low.to(tl.uint32),
        key_high.to(tl.uint32),
    )
    if KIND == "gaussian":
        w0, w1 = _normals(w0, w1)
        w2, w3 = _normals(w2, w3)
    word_W = words_in_order(w0, w1, w2, w3)
    position_W = tile * (4 * NUM_BLOCKS) + tl.arange(0, 4 * NUM_BLOCKS)
    out_pointer += pair_index * pair_stride + row.to(tl.int64) * row_stride
    if KIND == "rademacher":
        bit = tl.arange(0, 32)[None, :]
        value = rademacher_from_word(word_W[:, None], bit)
        column = position_W[:, None] * 32 + bit - skip
    else:
        value = binomial_from_word(word_W) if KIND == "binomial" else word_W
        column = position_W - skip
    is_wanted = (column >= 0) & (column < num_columns)
    tl.store(out_pointer + column, value.to(out_pointer.dtype.element_ty), mask=is_wanted)


def fill_factor_noise(
    out_PRW: torch.Tensor,
    stream: NoiseStream,
    pair_P: torch.Tensor,
    parameter: int,
    width: int,
    columns: tuple[int, int] | None = None,
) -> torch.Tensor:
    """Write `kernels.matrix_noise.factor_noise` into `out_PRW` and return it.

    `out_PRW` is int8, or float32 for Gaussian noise, (pairs, rank, columns) with stride 1 along the
    columns: a slice of a larger table will do. `pair_P` is int32 on the same device; its bits are
    the pair's number (2**31 and more are negative), which stays unread here so that the host need
    not wait. Seed and generation are launch arguments: a captured graph keeps them.
    Raises ValueError for arguments that do not fit.
    """
    num_pairs, rank, num_columns = out_PRW.shape
    plan = plan_fill(stream, (), parameter, rank, width, columns)
    dtype = torch.float32 if stream.kind == "gaussian" else torch.int8
    if num_columns != plan.num_columns or out_PRW.dtype != dtype or out_PRW.stride(2) != 1:
        raise ValueError(
            f"out has {num_columns} columns of {out_PRW.dtype} with stride {out_PRW.stride(2)}; "
            f"{stream.kind} noise here needs {plan.num_columns} of {dtype} with stride 1"
        )
    if pair_P.shape != (num_pairs,) or pair_P.dtype != torch.int32 or not pair_P.is_contiguous():
        raise ValueError(
            f"pairs of shape {tuple(pair_P.shape)} and {pair_P.dtype}; "
            f"use contiguous int32 of shape ({num_pairs},)"
        )
    if num_pairs == 0:
        return out_PRW
    tile_blocks = COLUMNS_PER_PROGRAM // BLOCK_COLUMNS[stream.kind]
    num_tiles = math.ceil(plan.num_blocks / tile_blocks)
    _fill_kernel[(num_pairs * rank * num_tiles,)](
        out_PRW,
        pair_P,
        out_PRW.stride(0),
        out_PRW.stride(1),
        rank,
        num_tiles,
        plan.num_columns,
        plan.skip,
        plan.first_block,
        plan.row_blocks,
        plan.parameter_word,
        plan.generation,
        *plan.key,
        KIND=stream.kind,
        NUM_BLOCKS=tile_blocks,
    )
    return out_PRW
