"""Philox 4x32-10: a counter of four 32-bit words and a key of two give four random words.

Salmon, Moraes, Dror, Shaw 2011, "Parallel Random Numbers: As Easy as 1, 2, 3". The 32-bit form
is here because every device multiplies 32-bit words exactly: the same words come from NumPy, torch,
C++ and Triton (`kernels.gpu.philox`), so a shard or a kernel can make its own part of the noise.
A round takes the products of two words with fixed multipliers; between rounds the key words step
by fixed increments.
"""

import numpy as np
import torch

NUM_ROUNDS = 10
MULTIPLIER_0 = 0xD2511F53
MULTIPLIER_2 = 0xCD9E8D57
KEY_STEP_LOW = 0x9E3779B9
KEY_STEP_HIGH = 0xBB67AE85
WORD_BITS = 32
WORD_MASK = 2**WORD_BITS - 1


def philox4x32(
    word0: np.ndarray, word1: np.ndarray, word2: np.ndarray, word3: np.ndarray, key: tuple[int, int]
) -> np.ndarray:
    """Four random words a counter, uint32 (..., 4).

    The counter's words are uint32 arrays that broadcast against each other to (...); `key` is the
    low and the high word of the 64-bit key.
    """
    shape = np.broadcast_shapes(word0.shape, word1.shape, word2.shape, word3.shape)
    shift = np.uint64(WORD_BITS)
    low, high = key
    for _ in range(NUM_ROUNDS):
        product0 = word0.astype(np.uint64) * np.uint64(MULTIPLIER_0)
        product2 = word2.astype(np.uint64) * np.uint64(MULTIPLIER_2)
        word0 = (product2 >> shift).astype(np.uint32) ^ word1 ^ np.uint32(low)
        word2 = (product0 >> shift).astype(np.uint32) ^ word3 ^ np.uint32(high)
        word1, word3 = product2.astype(np.uint32), product0.astype(np.uint32)
        low, high = (low + KEY_STEP_LOW) & WORD_MASK, (high + KEY_STEP_HIGH) & WORD_MASK
    words = np.empty((*shape, 4), dtype=np.uint32)
    for lane, word in enumerate((word0, word1, word2, word3)):
        words[..., lane] = word
    return words


def philox4x32_torch(
    word0: torch.Tensor,
    word1: torch.Tensor,
    word2: torch.Tensor,
    word3: torch.Tensor,
    key: tuple[int, int],
) -> torch.Tensor:
    """The same words as int64 (..., 4) below 2**32, from int64 counter words below 2**32.

    A product can pass 2**63; it wraps, which leaves its 64 bits as they are unsigned, and the mask
    removes what the arithmetic shift brings in.
    """
    low, high = key
    for _ in range(NUM_ROUNDS):
        product0, product2 = word0 * MULTIPLIER_0, word2 * MULTIPLIER_2
        word0 = ((product2 >> WORD_BITS) & WORD_MASK) ^ word1 ^ low
        word2 = ((product0 >> WORD_BITS) & WORD_MASK) ^ word3 ^ high
        word1, word3 = product2 & WORD_MASK, product0 & WORD_MASK
        low, high = (low + KEY_STEP_LOW) & WORD_MASK, (high + KEY_STEP_HIGH) & WORD_MASK
    return torch.stack(torch.broadcast_tensors(word0, word1, word2, word3), dim=-1)
