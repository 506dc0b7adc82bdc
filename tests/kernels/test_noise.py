"""The key derivation: pinned numbers, and streams that cannot meet."""

import numpy as np
import pytest

from kernels.noise import Purpose, philox, vector_noise

WORD = 2**64
MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)


def philox_block(counter: tuple[int, ...], key: tuple[int, int]) -> list[int]:
    """Philox 4x64-10 as its paper writes it, in whole numbers."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = divmod(MULTIPLIERS[0] * c0, WORD)
        high1, low1 = divmod(MULTIPLIERS[1] * c2, WORD)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + WEYL[0]) % WORD, (k1 + WEYL[1]) % WORD
    return [c0, c1, c2, c3]


def raw_words(generator: np.random.Generator, num_words: int) -> list[int]:
    return [int(word) for word in np.atleast_1d(generator.bit_generator.random_raw(num_words))]


def test_reference_has_the_papers_known_answers() -> None:
    assert philox_block((0, 0, 0, 0), (0, 0)) == [
        0x16554D9ECA36314C,
        0xDB20FE9D672D0FDC,
        0xD7E772CEE186176B,
        0x7E68B68AEC7BA23B,
    ]


def test_key_and_counter_are_where_the_module_says() -> None:
    words = raw_words(philox(2**63 - 1, Purpose.BOOTSTRAP, 12, 34, 56), 8)
    key = (2**63 - 1, 4)
    # NumPy steps the block number before it draws, so the first block is number 1.
    first, second = philox_block((1, 12, 34, 56), key), philox_block((2, 12, 34, 56), key)
    assert words == first + second


def test_pinned_draws() -> None:
    assert raw_words(philox(7, Purpose.NOISE, 3, 1), 2) == [0x03E7AF71A416AE83, 0xF04C7C4E92507DB2]
    normals_D = vector_noise(7, 3, 1, 4)
    assert normals_D.dtype == np.float64
    assert (normals_D * 2**24).tolist() == [3185141.0, -16260178.0, 7336147.0, -46942077.0]


def test_purposes_keep_their_numbers() -> None:
    assert {purpose.name: purpose.value for purpose in Purpose} == {
        "NOISE": 1,
        "PROMPTS": 2,
        "SAMPLING": 3,
        "BOOTSTRAP": 4,
        "STRATEGY": 5,
        "DATA": 6,
        "FACTORS": 7,
    }


def test_neighbouring_seeds_share_no_draw() -> None:
    streams = [
        raw_words(philox(seed, Purpose.NOISE, generation, pair), 64)
        for seed in (5, 6)
        for generation in range(8)
        for pair in range(8)
    ]
    assert len({word for stream in streams for word in stream}) == 2 * 8 * 8 * 64
    noise = [set(vector_noise(seed, 0, 0, 512).tolist()) for seed in (5, 6)]
    assert not noise[0] & noise[1]


def test_every_coordinate_and_purpose_changes_the_stream() -> None:
    streams = [
        philox(1, Purpose.NOISE, 2, 3, 4),
        philox(2, Purpose.NOISE, 2, 3, 4),
        philox(1, Purpose.PROMPTS, 2, 3, 4),
        philox(1, Purpose.NOISE, 3, 2, 4),
        philox(1, Purpose.NOISE, 2, 3, 5),
        philox(1, Purpose.NOISE),
    ]
    words = [word for stream in streams for word in raw_words(stream, 256)]
    assert len(set(words)) == len(words)


def test_a_missing_coordinate_is_zero() -> None:
    assert raw_words(philox(1, Purpose.DATA, 9), 4) == raw_words(
        philox(1, Purpose.DATA, 9, 0, 0), 4
    )


def test_longer_noise_begins_with_the_shorter() -> None:
    assert np.array_equal(vector_noise(1, 2, 3, 1000)[:10], vector_noise(1, 2, 3, 10))


def test_normals_are_on_the_grid_and_have_normal_moments() -> None:
    normals = np.concatenate([vector_noise(11, 0, pair, 1000) for pair in range(200)])
    assert np.array_equal(normals * 2**24, np.rint(normals * 2**24))
    # Standard errors at 200,000 draws: 0.0022, 0.0032, 0.011.
    assert abs(normals.mean()) < 0.008
    assert abs(normals.var() - 1) < 0.012
    assert abs((normals**4).mean() - 3) < 0.09


@pytest.mark.parametrize("arguments", [(-1, 0), (2**64, 0), (0, -1), (0, 2**64), (0, 1, 2, 3, 4)])
def test_numbers_that_do_not_fit_are_refused(arguments: tuple[int, ...]) -> None:
    seed, *counter = arguments
    with pytest.raises(ValueError, match=r"2\*\*64 - 1|the limit is 3"):
        philox(seed, Purpose.NOISE, *counter)
