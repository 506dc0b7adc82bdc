"""Noise factors: the documented layout, shards, moments, and streams that share nothing."""

import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.matrix_noise import (
    BLOCKS_AT_ONCE,
    KURTOSIS,
    VARIANCE,
    NoiseKind,
    NoiseStream,
    factor_noise,
    factor_noise_torch,
)
from kernels.philox import philox4x32

KINDS: tuple[NoiseKind, ...] = get_args(NoiseKind)
INTEGER_KINDS: tuple[NoiseKind, ...] = ("binomial", "rademacher")
LAST = NoiseStream(seed=2**64 - 1, generation=2**32 - 1)


def random_word(stream: NoiseStream, pair: int, parameter: int, block: int, lane: int) -> int:
    """One word at its documented counter and key."""
    counter = np.array([block, (1 << 24) + parameter, pair, stream.generation], dtype=np.uint32)
    key = (stream.seed % 2**32, stream.seed // 2**32)
    return int(philox4x32(*counter[:, None], key=key)[0, lane])


def element(
    stream: NoiseStream, pair: int, parameter: int, width: int, row: int, column: int
) -> float:
    """One element by the documented layout, alone."""
    if stream.kind == "rademacher":
        block = row * math.ceil(width / 128) + column // 128
        word = random_word(stream, pair, parameter, block, column % 128 // 32)
        return 2 * (word >> column % 32 & 1) - 1
    block = row * math.ceil(width / 4) + column // 4
    lane = column % 4
    if stream.kind == "binomial":
        return random_word(stream, pair, parameter, block, lane).bit_count() - 16
    first = random_word(stream, pair, parameter, block, lane // 2 * 2)
    second = random_word(stream, pair, parameter, block, lane // 2 * 2 + 1)
    radius = math.sqrt(-2 * math.log((first + 1) / 2**32))
    return radius * (math.sin if lane % 2 else math.cos)(2 * math.pi * second / 2**32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [1, 4, 131, 300])
def test_elements_are_where_the_layout_says(kind: NoiseKind, width: int) -> None:
    stream = LAST._replace(kind=kind)
    pairs, parameter = [2**32 - 1, 6], 2**24 - 1
    noise_PRW = factor_noise(stream, pairs, parameter, 2, width)
    wanted = [
        [
            [element(stream, pair, parameter, width, row, column) for column in range(width)]
            for row in range(2)
        ]
        for pair in pairs
    ]
    if kind == "gaussian":
        assert noise_PRW.dtype == np.float32
        np.testing.assert_allclose(noise_PRW, wanted, rtol=2e-7, atol=1e-9)
    else:
        assert noise_PRW.dtype == np.int8
        assert noise_PRW.tolist() == wanted


def test_first_elements() -> None:
    stream = NoiseStream(seed=7, generation=3)
    binomial = factor_noise(stream, [1], 2, 2, 6)[0]
    assert binomial.tolist() == [[2, 4, 3, -1, -1, 3], [-4, -1, 2, 3, 4, -6]]
    rademacher = factor_noise(stream._replace(kind="rademacher"), [1], 2, 2, 12)[0]
    assert rademacher.tolist() == [
        [1, -1, 1, 1, -1, -1, -1, -1, 1, -1, -1, 1],
        [-1, -1, 1, -1, 1, 1, -1, 1, -1, -1, -1, 1],
    ]
    gaussian = factor_noise(stream._replace(kind="gaussian"), [1], 2, 1, 4)[0, 0]
    assert gaussian.tolist() == pytest.approx(
        [-0.2040716261, -0.1663419902, -0.2522203326, -0.2872022986], rel=1e-6
    )


@settings(max_examples=60)
@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2**64 - 1),
    generation=st.integers(0, 2**32 - 1),
    parameter=st.integers(0, 2**24 - 1),
    pairs=st.lists(st.integers(0, 2**32 - 1), max_size=3),
    rank=st.integers(1, 5),
    width=st.integers(1, 600),
    data=st.data(),
)
def test_shards_and_torch_agree_with_the_whole(
    kind: NoiseKind,
    seed: int,
    generation: int,
    parameter: int,
    pairs: list[int],
    rank: int,
    width: int,
    data: st.DataObject,
) -> None:
    start = data.draw(st.integers(0, width - 1), label="start")
    columns = (start, data.draw(st.integers(start + 1, width), label="stop"))
    stream = NoiseStream(seed, generation, kind)
    whole_PRW = factor_noise(stream, pairs, parameter, rank, width)
    assert whole_PRW.shape == (len(pairs), rank, width)
    shard_PRW = factor_noise(stream, pairs, parameter, rank, width, columns)
    assert np.array_equal(shard_PRW, whole_PRW[..., slice(*columns)])
    in_torch = factor_noise_torch(stream, pairs, parameter, rank, width, columns)
    wanted = torch.from_numpy(shard_PRW)
    tolerance = 1e-6 if kind == "gaussian" else 0
    torch.testing.assert_close(in_torch, wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_torch_on_every_device(kind: NoiseKind, torch_device: str) -> None:
    stream, pairs = LAST._replace(kind=kind), [0, 2**32 - 1]
    wanted = torch.from_numpy(factor_noise(stream, pairs, 9, 3, 515, (3, 514)))
    got = factor_noise_torch(stream, pairs, 9, 3, 515, (3, 514), device=torch_device)
    tolerance = 1e-6 if kind == "gaussian" else 0
    torch.testing.assert_close(got.cpu(), wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_do_not_depend_on_their_company(kind: NoiseKind) -> None:
    stream = NoiseStream(11, 0, kind)
    pairs = range(BLOCKS_AT_ONCE // 100)  # more than one group of two blocks or more a pair
    together = factor_noise(stream, pairs, 0, 2, 260)
    in_torch = factor_noise_torch(stream, pairs, 0, 2, 260)
    for pair in (0, 1, len(pairs) // 2, len(pairs) - 1):
        alone = factor_noise(stream, [pair], 0, 2, 260)[0]
        assert np.array_equal(together[pair], alone)
        torch.testing.assert_close(in_torch[pair], torch.from_numpy(alone), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_shard_makes_its_own_blocks_alone(kind: NoiseKind) -> None:
    # The whole factor would take gigabytes.
    width, middle = 2**30 - 1, 2**29 + 77
    noise = factor_noise(NoiseStream(1, 2, kind), [3], 4, 2, width, (middle, middle + 5))
    stream = NoiseStream(1, 2, kind)
    wanted = [element(stream, 3, 4, width, 1, middle + column) for column in range(5)]
    np.testing.assert_allclose(noise[0, 1], wanted, rtol=2e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_moments(kind: NoiseKind) -> None:
    noise_PRW = factor_noise(NoiseStream(2024, 5, kind), range(50), 3, 4, 2000).astype(np.float64)
    count, variance, kurtosis = noise_PRW.size, VARIANCE[kind], KURTOSIS[kind]
    # Four standard errors at 400,000 draws; that of a kurtosis is at most sqrt(24 / count) here.
    assert abs(noise_PRW.mean()) < 4 * math.sqrt(variance / count)
    measured = (noise_PRW**2).mean()
    assert abs(measured - variance) <= 4 * variance * math.sqrt((kurtosis - 1) / count)
    assert abs((noise_PRW**4).mean() / measured**2 - kurtosis) < 0.031


@pytest.mark.parametrize("kind", KINDS)
def test_elements_are_uncorrelated(kind: NoiseKind) -> None:
    noise_PRW = factor_noise(NoiseStream(99, 1, kind), range(64), 3, 4, 1024).astype(np.float64)
    noise_PRW /= math.sqrt(VARIANCE[kind])
    neighbours = [(0, 0, lag) for lag in (1, 2, 4, 32, 128)] + [(0, 1, 0), (1, 0, 0)]
    for pairs, rows, columns in neighbours:
        product = noise_PRW * np.roll(noise_PRW, (pairs, rows, columns), axis=(0, 1, 2))
        assert abs(product.mean()) < 4.5 / math.sqrt(noise_PRW.size)


def test_integer_noise_has_its_range() -> None:
    binomial = factor_noise(NoiseStream(1, 1), range(50), 3, 4, 2000)
    # Beyond +-13 lie 2 (1 + 32 + 496) of 2**32 words: a tenth of one of 400,000 is expected there.
    assert -13 <= binomial.min() <= -10 and 10 <= binomial.max() <= 13
    assert np.unique(factor_noise(NoiseStream(1, 1, "rademacher"), [0], 0, 4, 2000)).size == 2


def test_no_four_words_of_a_stream_occur_in_another() -> None:
    # Rademacher noise of whole blocks is the words themselves, so every alignment can be compared.
    places = [
        (NoiseStream(5, 3, "rademacher"), 11, 7),
        (NoiseStream(6, 3, "rademacher"), 11, 7),
        (NoiseStream(5 << 32, 3, "rademacher"), 11, 7),
        (NoiseStream(5, 4, "rademacher"), 11, 7),
        (NoiseStream(5, 3, "rademacher"), 12, 7),
        (NoiseStream(5, 3, "rademacher"), 11, 8),
        (NoiseStream(5, 11, "rademacher"), 3, 7),
        (NoiseStream(5, 3, "rademacher"), 7, 11),
    ]
    windows = []
    for stream, pair, parameter in places:
        noise_RW = factor_noise(stream, [pair], parameter, 4, 128 * 128)[0]
        words = np.packbits(noise_RW > 0, bitorder="little").view("<u4")
        assert int(words[4]) == random_word(stream, pair, parameter, block=1, lane=0)
        windows.append(np.lib.stride_tricks.sliding_window_view(words, 4))
    every_window = np.concatenate(windows)
    assert len(every_window) == 8 * (4 * 128 * 4 - 3)
    assert len(np.unique(every_window, axis=0)) == len(every_window)


@pytest.mark.parametrize("kind", INTEGER_KINDS)
def test_neighbouring_seeds_and_generations_are_unrelated(kind: NoiseKind) -> None:
    streams = [NoiseStream(seed, generation, kind) for seed in (5, 6) for generation in (0, 1)]
    noise = [factor_noise(stream, [0], 0, 1, 65536)[0, 0].astype(np.float64) for stream in streams]
    correlation = np.corrcoef(noise) - np.eye(4)
    assert np.abs(correlation).max() < 4.5 / math.sqrt(65536)


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        (r"seed=-1 does not fit .* 2\*\*64 - 1", {"seed": -1}),
        (r"seed=18446744073709551616 does", {"seed": 2**64}),
        (r"generation=-1 does not fit .* 2\*\*32 - 1", {"generation": -1}),
        (r"generation=4294967296 does", {"generation": 2**32}),
        (r"parameter=16777216 does not fit .* 2\*\*24 - 1", {"parameter": 2**24}),
        (r"parameter=-1 does", {"parameter": -1}),
        (r"pair=4294967296 does not fit .* 2\*\*32 - 1", {"pairs": [0, 2**32]}),
        (r"pair=-1 does", {"pairs": [3, -1]}),
        (r"rank=0 is out of range; use 1 to 4294967296 rows", {"rank": 0}),
        (r"rank=17 is out of range; use 1 to 16 rows", {"rank": 17, "width": 2**30 - 1}),
        (r"width=0 is out of range", {"width": 0}),
        (r"width=1073741824 is out of range; use 1 to 2\*\*30 - 1", {"width": 2**30}),
        (r"columns=\(2, 2\) is no part of width=4", {"columns": (2, 2)}),
        (r"columns=\(0, 5\) is no part of width=4", {"columns": (0, 5)}),
        (r"columns=\(-1, 2\) is no part of width=4", {"columns": (-1, 2)}),
        (r"kind='cauchy' is not a noise; use binomial, rademacher", {"kind": "cauchy"}),
    ],
)
def test_arguments_out_of_range_are_refused(message: str, changes: dict) -> None:
    arguments = {"pairs": [0], "parameter": 0, "rank": 1, "width": 4} | changes
    fields = {name: arguments.pop(name) for name in list(arguments) if name in NoiseStream._fields}
    stream = NoiseStream(**({"seed": 0, "generation": 0} | fields))
    for fill in (factor_noise, factor_noise_torch):
        with pytest.raises(ValueError, match=message):
            fill(stream, **arguments)
