"""One key derivation for all randomness: a draw is a function of (seed, purpose, counter).

Counter-based generation (Philox: Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3")
makes a draw independent of the worker count, of order and of what was drawn before, so a run can be
rebuilt from its seeds. The 128-bit key is (run seed, purpose); the upper three words of the 256-bit
counter are the caller's coordinates, the lowest one counts blocks. Two streams of one key are thus
2^64 blocks apart and never meet; two keys are two different ciphers.
"""

from enum import IntEnum

import numpy as np

NUM_COORDINATES = 3
WORD_LIMIT = 2**64
# Normals in the ziggurat's tail come from the platform's log1p, whose last bit differs between C
# libraries. On this grid such a bit changes a draw about once in 10^11, so replay on another
# machine gives equal digests.
NORMAL_GRID = 2.0**24


class Purpose(IntEnum):
    """What a stream is for; the numbers are part of every run's identity and never change."""

    NOISE = 1  # vector perturbations: (generation, pair or member)
    PROMPTS = 2  # which prompts a generation sees: (generation or epoch)
    SAMPLING = 3  # seeds of sampled completions
    BOOTSTRAP = 4  # resampling for intervals
    STRATEGY = 5  # what a strategy draws beside its noise
    DATA = 6  # procedural data sets
    FACTORS = 7  # what a space's own matrices start with: (layer)


def philox(seed: int, purpose: Purpose, *counter: int) -> np.random.Generator:
    """A generator at the start of the stream of (seed, purpose, counter).

    The counter has at most three coordinates; a missing one is 0, so `philox(s, p, 7)` and
    `philox(s, p, 7, 0)` are the same stream. Raises ValueError if there are more coordinates or a
    number does not fit 64 unsigned bits.
    """
    if len(counter) > NUM_COORDINATES:
        raise ValueError(
            f"counter={counter} has {len(counter)} coordinates; the limit is {NUM_COORDINATES}"
        )
    for number in (seed, *counter):
        if not 0 <= number < WORD_LIMIT:
            raise ValueError(f"{number} does not fit a Philox word; use 0 to 2**64 - 1")
    key = np.array([seed, purpose], dtype=np.uint64)
    words = np.zeros(1 + NUM_COORDINATES, dtype=np.uint64)
    words[1 : 1 + len(counter)] = counter
    return np.random.Generator(np.random.Philox(counter=words, key=key))


def vector_noise(seed: int, generation: int, pair: int, dimension: int) -> np.ndarray:
    """Standard normals of one pair or member, float64 (dimension,), multiples of 2**-24."""
    normals_D = philox(seed, Purpose.NOISE, generation, pair).standard_normal(dimension)
    return np.rint(normals_D * NORMAL_GRID) / NORMAL_GRID
