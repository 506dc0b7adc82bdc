"""Philox 4x32-10: its paper's known answers, and NumPy and torch against whole numbers."""

import numpy as np
import pytest
import torch

from kernels.philox import philox4x32, philox4x32_torch

WORD = 2**32
# (counter, key, words) from the Random123 distribution's kat_vectors.
KNOWN_ANSWERS = [
    ([0] * 4, (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    (
        [0xFFFFFFFF] * 4,
        (0xFFFFFFFF, 0xFFFFFFFF),
        [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD],
    ),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        (0xA4093822, 0x299F31D0),
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


def philox_block(counter: list[int], key: tuple[int, int]) -> list[int]:
    """Philox 4x32-10 as its paper writes it, in whole numbers."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c0, WORD)
        high1, low1 = divmod(0xCD9E8D57 * c2, WORD)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % WORD, (k1 + 0xBB67AE85) % WORD
    return [c0, c1, c2, c3]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_known_answers(counter: list[int], key: tuple[int, int], words: list[int]) -> None:
    assert philox_block(counter, key) == words
    got = philox4x32(*np.array(counter, dtype=np.uint32)[:, None], key=key)
    assert got.dtype == np.uint32
    assert got.tolist() == [words]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_known_answers_in_torch(
    counter: list[int], key: tuple[int, int], words: list[int], torch_device: str
) -> None:
    got = philox4x32_torch(*torch.tensor(counter, device=torch_device)[:, None], key=key)
    assert got.tolist() == [words]


def test_arrays_are_the_whole_numbers_word_for_word(torch_device: str) -> None:
    # Extremes beside random words: every carry and sign bit occurs.
    extremes = [0, 1, 2**31 - 1, 2**31, WORD - 1]
    random = np.random.default_rng(5)
    words = random.integers(WORD, size=(4, 200), dtype=np.uint32)
    words[:, :100] = random.choice(np.array(extremes, dtype=np.uint32), size=(4, 100))
    key = (0x80000000, 0xFFFFFFFE)
    wanted = [philox_block(counter, key) for counter in words.T.tolist()]
    assert philox4x32(*words, key=key).tolist() == wanted
    words_torch = torch.from_numpy(words.astype(np.int64)).to(torch_device)
    assert philox4x32_torch(*words_torch, key=key).tolist() == wanted


def test_counter_words_broadcast() -> None:
    block, pair = np.arange(5, dtype=np.uint32), np.arange(3, dtype=np.uint32)[:, None]
    one, two = np.array(1, dtype=np.uint32), np.array(2, dtype=np.uint32)
    words = philox4x32(block, one, pair, two, (3, 4))
    assert words.shape == (3, 5, 4)
    assert words[2, 4].tolist() == philox_block([4, 1, 2, 2], (3, 4))
    in_torch = philox4x32_torch(
        torch.arange(5), torch.tensor(1), torch.arange(3)[:, None], torch.tensor(2), (3, 4)
    )
    assert in_torch.tolist() == words.tolist()
