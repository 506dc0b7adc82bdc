"""Noise factors of low-rank matrix perturbations (EGGROLL, arXiv 2511.16652), addressed by place.

A factor of a pair is a (rank, width) table of small integers: the popcount of a random word minus
16 (binomial) or +-1 (Rademacher), exact in int8, fp16 and bf16; Gaussian is there for comparison.
Every element is a function of (seed, generation, pair, parameter, row, column) through Philox
4x32-10, so a shard makes its own columns, and NumPy (the reference), torch, C++ and Triton give the
same integers.

Layout, which all of them follow:
key      = low, high word of the seed
counter  = block, Purpose.NOISE << 24 | parameter, pair, generation
binomial, Gaussian   block = row * ceil(width / 4) + column // 4, lane = column % 4
Rademacher           block = row * ceil(width / 128) + column // 128,
                     lane = column % 128 // 32, bit = column % 32, least significant first
Gaussian elements come two by two (Box-Muller) from lanes (0, 1) and (2, 3).

Shape suffixes: _P pairs, _R rows (the rank), _B blocks, _L lanes, _W columns.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch

from kernels.noise import Purpose
from kernels.philox import WORD_BITS, WORD_MASK, philox4x32, philox4x32_torch

NoiseKind = Literal["binomial", "rademacher", "gaussian"]
VARIANCE: dict[NoiseKind, float] = {"binomial": 8.0, "rademacher": 1.0, "gaussian": 1.0}
KURTOSIS: dict[NoiseKind, float] = {"binomial": 2.9375, "rademacher": 1.0, "gaussian": 3.0}
BLOCK_COLUMNS: dict[NoiseKind, int] = {"binomial": 4, "rademacher": 128, "gaussian": 4}

BINOMIAL_CENTRE = 16  # the mean popcount of 32 bits
PARAMETER_BITS = 24
WIDTH_LIMIT = 2**30  # kernels index columns, also some beyond the end, with signed 32-bit numbers
# A group of pairs is made at once: large enough to hide the interpreter, small enough for a cache.
BLOCKS_AT_ONCE = 2**15


class NoiseStream(NamedTuple):
    """One generation's noise of one run."""

    seed: int
    generation: int
    kind: NoiseKind = "binomial"


class FillPlan(NamedTuple):
    """The checked arguments of a fill as every implementation needs them."""

    key: tuple[int, int]  # low and high word
    parameter_word: int  # the counter's word 1
    generation: int  # the counter's word 3
    row_blocks: int  # blocks of one whole row; a row's first block is row * row_blocks
    first_block: int  # of those needed, within a row
    num_blocks: int
    skip: int  # columns of the first block before the wanted ones
    num_columns: int


def factor_noise(
    stream: NoiseStream,
    pairs: Sequence[int],
    parameter: int,
    rank: int,
    width: int,
    columns: tuple[int, int] | None = None,
) -> np.ndarray:
    """Factors of some pairs, int8 (pairs, rank, columns); float32 for Gaussian noise.

    `columns` = (start, stop) gives that slice of the (rank, width) factor, made from its own blocks
    alone; None is all of it. Gaussian noise is computed in float64 and rounded once. Raises
    ValueError if a number does not fit its place in the counter.
    """
    plan = plan_fill(stream, pairs, parameter, rank, width, columns)
    dtype = np.float32 if stream.kind == "gaussian" else np.int8
    out_PRW = np.empty((len(pairs), rank, plan.num_columns), dtype=dtype)
    block_RB = np.add.outer(
        np.arange(rank, dtype=np.uint32) * np.uint32(plan.row_blocks),
        np.arange(plan.first_block, plan.first_block + plan.num_blocks, dtype=np.uint32),
    )
    pair_P = np.array(pairs, dtype=np.uint32)
    parameter_word = np.array(plan.parameter_word, dtype=np.uint32)
    generation = np.array(plan.generation, dtype=np.uint32)
    for group in _groups(len(pairs), block_RB.size):
        words_PRBL = philox4x32(
            block_RB, parameter_word, pair_P[group, None, None], generation, plan.key
        )
        values_PRW = _VALUES[stream.kind](words_PRBL).reshape(*words_PRBL.shape[:2], -1)
        out_PRW[group] = values_PRW[..., plan.skip : plan.skip + plan.num_columns]
    return out_PRW


def factor_noise_torch(
    stream: NoiseStream,
    pairs: Sequence[int],
    parameter: int,
    rank: int,
    width: int,
    columns: tuple[int, int] | None = None,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """`factor_noise` on a device: the same integers; Gaussian noise to the last bit or two."""
    plan = plan_fill(stream, pairs, parameter, rank, width, columns)
    dtype = torch.float32 if stream.kind == "gaussian" else torch.int8
    out_PRW = torch.empty(len(pairs), rank, plan.num_columns, dtype=dtype, device=device)
    row_R1 = torch.arange(rank, device=device)[:, None]
    first, stop = plan.first_block, plan.first_block + plan.num_blocks
    block_RB = row_R1 * plan.row_blocks + torch.arange(first, stop, device=device)
    pair_P = torch.tensor(list(pairs), dtype=torch.int64, device=device)
    parameter_word, generation = torch.tensor(
        [plan.parameter_word, plan.generation], dtype=torch.int64, device=device
    )
    for group in _groups(len(pairs), block_RB.numel()):
        words_PRBL = philox4x32_torch(
            block_RB, parameter_word, pair_P[group, None, None], generation, plan.key
        )
        values_PRW = _VALUES_TORCH[stream.kind](words_PRBL).flatten(2)
        out_PRW[group] = values_PRW[..., plan.skip : plan.skip + plan.num_columns].to(dtype)
    return out_PRW


def plan_fill(
    stream: NoiseStream,
    pairs: Sequence[int],
    parameter: int,
    rank: int,
    width: int,
    columns: tuple[int, int] | None = None,
) -> FillPlan:
    """Check the arguments of `factor_noise` and lay them out as counter words and blocks."""
    if stream.kind not in BLOCK_COLUMNS:
        raise ValueError(f"kind={stream.kind!r} is not a noise; use {', '.join(BLOCK_COLUMNS)}")
    _check_bits("seed", stream.seed, 2 * WORD_BITS)
    _check_bits("generation", stream.generation, WORD_BITS)
    _check_bits("parameter", parameter, PARAMETER_BITS)
    for pair in (min(pairs, default=0), max(pairs, default=0)):
        _check_bits("pair", pair, WORD_BITS)
    if not 1 <= width < WIDTH_LIMIT:
        raise ValueError(f"width={width} is out of range; use 1 to 2**30 - 1 columns")
    start, stop = (0, width) if columns is None else columns
    if not 0 <= start < stop <= width:
        raise ValueError(f"columns={columns} is no part of width={width}; use 0 <= start < stop")
    block_columns = BLOCK_COLUMNS[stream.kind]
    row_blocks = math.ceil(width / block_columns)
    limit = 2**WORD_BITS // row_blocks
    if not 1 <= rank <= limit:
        raise ValueError(f"rank={rank} is out of range; use 1 to {limit} rows of width={width}")
    first_block = start // block_columns
    return FillPlan(
        key=(stream.seed & WORD_MASK, stream.seed >> WORD_BITS),
        parameter_word=Purpose.NOISE << PARAMETER_BITS | parameter,
        generation=stream.generation,
        row_blocks=row_blocks,
        first_block=first_block,
        num_blocks=math.ceil(stop / block_columns) - first_block,
        skip=start - first_block * block_columns,
        num_columns=stop - start,
    )


def _check_bits(name: str, number: int, num_bits: int) -> None:
    if not 0 <= number < 2**num_bits:
        raise ValueError(
            f"{name}={number} does not fit the noise counter; use 0 to 2**{num_bits} - 1"
        )


def _groups(num_pairs: int, blocks_per_pair: int) -> Iterator[slice]:
    """Pairs to make at once."""
    size = max(1, BLOCKS_AT_ONCE // blocks_per_pair)
    for start in range(0, num_pairs, size):
        yield slice(start, start + size)


def _binomial(words: np.ndarray) -> np.ndarray:
    return np.bitwise_count(words).astype(np.int8) - np.int8(BINOMIAL_CENTRE)


def _rademacher(words: np.ndarray) -> np.ndarray:
    bytes_first_to_last = words.astype("<u4").view(np.uint8)
    bits = np.unpackbits(bytes_first_to_last, axis=-1, bitorder="little")
    return 2 * bits.view(np.int8) - np.int8(1)


def _gaussian(words: np.ndarray) -> np.ndarray:
    uniform = (words[..., 0::2].astype(np.float64) + 1) * 2.0**-WORD_BITS  # never 0
    radius = np.sqrt(-2 * np.log(uniform))
    angle = words[..., 1::2] * (2 * np.pi * 2.0**-WORD_BITS)
    normals = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return normals.astype(np.float32)


def _binomial_torch(words: torch.Tensor) -> torch.Tensor:
    # Sums of bits side by side: in pairs, in fours, in bytes, then all bytes in the fourth.
    counts = words - ((words >> 1) & 0x55555555)
    counts = (counts & 0x33333333) + ((counts >> 2) & 0x33333333)
    counts = (counts + (counts >> 4)) & 0x0F0F0F0F
    return ((counts * 0x01010101 >> 24) & 0xFF) - BINOMIAL_CENTRE


def _rademacher_torch(words: torch.Tensor) -> torch.Tensor:
    bits = words[..., None] >> torch.arange(WORD_BITS, device=words.device) & 1
    return 2 * bits.flatten(-2) - 1


def _gaussian_torch(words: torch.Tensor) -> torch.Tensor:
    uniform = (words[..., 0::2].double() + 1) * 2.0**-WORD_BITS
    radius = torch.sqrt(-2 * torch.log(uniform))
    angle = words[..., 1::2].double() * (2 * math.pi * 2.0**-WORD_BITS)
    return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1)


_VALUES = {"binomial": _binomial, "rademacher": _rademacher, "gaussian": _gaussian}
_VALUES_TORCH = {
    "binomial": _binomial_torch,
    "rademacher": _rademacher_torch,
    "gaussian": _gaussian_torch,
}
