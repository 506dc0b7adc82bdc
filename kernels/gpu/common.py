"""What the Triton forwards share: which form runs, and the device functions around it.

Every forward is two kernels. The first multiplies rows by the right directions or factors; its
reduction over the input width is split over programs, because one step of decoding, or a short
prefill, has too few rows to fill a GPU otherwise. Each split writes its own partial sum to a
scratch buffer, and the second kernel adds them in a fixed order (no atomics: a result does not
depend on timing), finishes the small matrices and adds the expansion to y, which is read and
rounded once. Output columns are tiled so that a block never crosses from one fused slice into the
next.

Nothing is decided on the host but by shapes, so a CUDA graph may capture every launch; the
scratch comes from the graph's own pool. In the decode form a row's sums do not depend on how many
rows there are. Rows of NOBODY are masked when y is stored.

Shape suffixes: _T rows, _I in features, _O out features, _Q columns of the hidden product.
"""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import torch
import triton
import triton.language as tl
from triton import knobs

from kernels import perturbation
from kernels.errors import ModelError

Form = Literal["decode", "prefill"]

# A decode step has a row a sequence, of which vLLM holds so many at most by its own defaults. Tiles
# for more rows would leave most of a GPU's processors idle.
PREFILL_ROWS = 1024
PROGRAMS = 256  # about two for each processor of an H100; the same for all, so that sums are, too
LEAST_SPLIT = 512  # columns; in less a program does too little for its start
MAX_RANK = 128  # a tile of hidden values and a core of this rank still fit one SM's shared memory
NOBODY = tl.constexpr(perturbation.NOBODY)
NO_PAIR = tl.constexpr(2**31 - 1)  # greater than any pair


class Kernel(Protocol):
    """What `triton.jit` makes of a function."""

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., object]: ...


def launch(kernel: Kernel, grid: tuple[int, ...], *arguments: object, **constants: object) -> None:
    """Start a kernel; numbers stand for its parameters of type constexpr."""
    kernel[grid](*arguments, **constants)


def dot_type(x_TI: torch.Tensor) -> tl.dtype:
    """The operands' type of the product with x.

    Triton's interpreter multiplies the bit patterns of bf16, so it gets the same values in fp32.
    """
    if knobs.runtime.interpret or x_TI.dtype == torch.float32:
        return tl.float32
    return tl.float16 if x_TI.dtype == torch.float16 else tl.bfloat16


def dot_precision(x_TI: torch.Tensor) -> str:
    """How tensor cores multiply fp32: with TF32, or for fp32 rows with three TF32 products.

    TF32 keeps 11 bits of a hidden value where rounding it to bf16 would keep 8; three of them keep
    about 21, and plain fp32 arithmetic would spill these tiles out of the registers.
    """
    return "tf32x3" if x_TI.dtype == torch.float32 else "tf32"


def padded(count: int, least: int = 16) -> int:
    """The power of two that holds `count`, at least what `tl.dot` takes as an inner dimension."""
    return max(least, triton.next_power_of_2(count))


def choose_form(num_rows: int, form: Form | None) -> Form:
    """The form given, or the one that fits this many rows."""
    return form or ("decode" if num_rows <= PREFILL_ROWS else "prefill")


def choose_split(most: int, num_tiles: int, in_features: int) -> int:
    """Input columns that one program adds up: `most`, halved while the tiles are too few programs.

    Halves make few variants to compile, and no two that one program serves alike.
    """
    split = min(most, padded(in_features, LEAST_SPLIT))
    while split > LEAST_SPLIT and num_tiles * triton.cdiv(in_features, split) < PROGRAMS:
        split //= 2
    return split


def num_output_blocks(widths: Sequence[int], phases: Sequence[int], block: int) -> int:
    """Blocks over all slices' columns, as `locate_block` counts them."""
    return sum(triton.cdiv(w + p, block) for w, p in zip(widths, phases, strict=True))


def check(rank: int, y_TO: torch.Tensor, x_TI: torch.Tensor, member_T: torch.Tensor) -> None:
    """Raise ModelError for a rank beyond MAX_RANK, ValueError for tensors the kernels misread."""
    if rank > MAX_RANK:
        raise ModelError(f"rank={rank} is beyond the GPU kernels' limit of {MAX_RANK}; lower it")
    if x_TI.stride(1) != 1 or y_TO.stride(1) != 1 or not member_T.is_contiguous():
        raise ValueError(
            f"x {tuple(x_TI.stride())}, y {tuple(y_TO.stride())} and members "
            f"{tuple(member_T.stride())} need a last stride of 1; call contiguous() first"
        )
    if member_T.dtype != torch.int32 or not len(x_TI) == len(y_TO) == len(member_T):
        raise ValueError(
            f"{len(member_T)} members of type {member_T.dtype} for {len(x_TI)} rows of x and "
            f"{len(y_TO)} of y; give one int32 a row"
        )


@triton.jit
def load_members(member_ptr, num_rows, BLOCK_T: tl.constexpr):
    """This program's rows (int64, for offsets) and each one's member; NOBODY beyond the end."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    return rows, tl.load(member_ptr + rows, mask=rows < num_rows, other=NOBODY)


@triton.jit
def load_pairs(pair_ptr, member):
    """Each row's pair; NO_PAIR for NOBODY."""
    return tl.load(pair_ptr + member, mask=member >= 0, other=NO_PAIR)


@triton.jit
def find_lowest(pair, is_somebody):
    """`(the tile's least pair, whether it is everybody's)`; what a tile inside a segment asks."""
    lowest = tl.min(pair, axis=0)
    return lowest, lowest == tl.max(tl.where(is_somebody, pair, 0), axis=0)


@triton.jit
def load_pair_vectors(
    table_ptr, pair, is_somebody, lowest, is_uniform, offset, stride_pair, column, width
):
    """One vector of every row's pair, fp32 `(rows, column)`; a single load if all pairs are one.

    It begins `offset` into the pair's part of the table; columns from `width` on are 0.
    """
    table_ptr += offset
    is_inside = column < width
    if is_uniform:
        one_where = table_ptr + lowest.to(tl.int64) * stride_pair + column
        vector = tl.load(one_where, mask=is_inside, other=0)
        vectors = tl.broadcast_to(vector[None, :], [pair.shape[0], column.shape[0]])
    else:
        where = table_ptr + pair.to(tl.int64)[:, None] * stride_pair + column[None, :]
        vectors = tl.load(where, mask=is_somebody[:, None] & is_inside[None, :], other=0)
    return vectors.to(tl.float32)


@triton.jit
def locate_block(
    block,
    WIDTHS: tl.constexpr,
    PHASES: tl.constexpr,
    SLICES: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """`(slice, its first column in y, the block's first column within it, its width)`.

    A slice's blocks start PHASES[slice] columns early: there the noise of a shard that begins
    between two generator blocks begins as well.
    """
    index = 0
    start = 0
    column = block * BLOCK_O - PHASES[0]
    width = WIDTHS[0]
    end = 0
    for s in tl.static_range(1, SLICES):  # pyright: ignore[reportGeneralTypeIssues]
        block -= tl.cdiv(WIDTHS[s - 1] + PHASES[s - 1], BLOCK_O)
        end += WIDTHS[s - 1]
        is_reached = block >= 0
        index = tl.where(is_reached, s, index)
        start = tl.where(is_reached, end, start)
        column = tl.where(is_reached, block * BLOCK_O - PHASES[s], column)
        width = tl.where(is_reached, WIDTHS[s], width)
    return index, start, column, width


@triton.jit
def sum_partials(where, mask, stride_split, SPLITS: tl.constexpr):
    """The partial sums at `where`, `stride_split` apart, added in their order."""
    total = tl.load(where, mask=mask, other=0.0)
    for _ in range(1, SPLITS):
        where += stride_split
        total += tl.load(where, mask=mask, other=0.0)
    return total


@triton.jit
def repeat_rows(tile, TIMES: tl.constexpr):
    """The tile over and over: fills what `tl.dot` wants without making more noise."""
    ROWS: tl.constexpr = tile.shape[0]
    COLUMNS: tl.constexpr = tile.shape[1]
    repeated = tl.broadcast_to(tile[None, :, :], [TIMES, ROWS, COLUMNS])
    return tl.reshape(repeated, [TIMES * ROWS, COLUMNS])


@triton.jit
def add_to_output(where, mask, delta):
    """Add `delta` to y in fp32 and round once; what is masked keeps its bits."""
    y = tl.load(where, mask=mask, other=0.0)
    tl.store(where, (y.to(tl.float32) + delta).to(y.dtype), mask=mask)
