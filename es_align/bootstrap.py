"""How sure a gain is: a paired bootstrap over held-out prompts (Efron and Tibshirani 1993, chapter
13).

The same prompts are scored before and after, so the prompts are resampled and each keeps its pair:
what differs between prompts cancels, and the interval is much narrower than from two separate
means. The interval is the percentile one. It covers the choice of prompts, not the run's seed;
`resampled_means` covers both where there are several.
"""

from dataclasses import dataclass

import numpy as np

from kernels.noise import Purpose, philox

# Resampled at once: 32 MiB of indices and as much of differences.
BLOCK_NUMBERS = 4_194_304


@dataclass(frozen=True, slots=True)
class Gain:
    """Mean reward after less before, with its interval; all NaN if no prompt has both scores."""

    gain: float
    low: float
    high: float
    num_prompts: int  # scored before and after: what the gain is over
    num_dropped: int  # the others


def paired_gain(
    before_P: np.ndarray,
    after_P: np.ndarray,
    *,
    samples: int,
    seed: int,
    confidence: float = 0.95,
) -> Gain:
    """Gain and bootstrap interval from rewards of the same prompts in the same order.

    Takes float64 or bool (P,) twice, a non-finite reward meaning no score, and the number of
    resamples. Every resample is a pure function of the seed. Raises ValueError if the two differ in
    length, samples is below 1 or confidence not between 0 and 1.
    """
    if np.shape(before_P) != np.shape(after_P) or samples < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"before has shape {np.shape(before_P)}, after {np.shape(after_P)}, samples={samples}, "
            f"confidence={confidence}; give one shape, samples >= 1 and 0 < confidence < 1"
        )
    before_P, after_P = np.asarray(before_P, np.float64), np.asarray(after_P, np.float64)
    is_paired_P = np.isfinite(before_P) & np.isfinite(after_P)
    paired = after_P[is_paired_P] - before_P[is_paired_P]
    num_dropped = len(before_P) - len(paired)
    if not len(paired):
        return Gain(np.nan, np.nan, np.nan, 0, num_dropped)

    random = philox(seed, Purpose.BOOTSTRAP)
    rows_per_block = max(BLOCK_NUMBERS // len(paired), 1)
    gains = np.empty(samples)
    for start in range(0, samples, rows_per_block):
        block = gains[start : start + rows_per_block]
        drawn = random.integers(len(paired), size=(len(block), len(paired)))
        block[:] = paired[drawn].mean(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(gains, [tail, 1 - tail]).tolist()
    return Gain(float(paired.mean()), low, high, len(paired), num_dropped)


def resampled_means(scores_SPX: np.ndarray, *, samples: int, seed: int) -> np.ndarray:
    """Means over seeds and prompts, both drawn with repetition, float64 (samples, X).

    Takes float64 (S, P, X), X whatever was measured of each; NaN is no score. Each draw takes its
    prompts for all its seeds, as every seed was asked the same. With one seed only prompts differ.
    Prompts without any score are left out; NaN if there is no other.
    """
    scores_SPX = scores_SPX[:, np.isfinite(scores_SPX).any(axis=(0, 2))]
    num_seeds, num_prompts, width = scores_SPX.shape
    if not num_prompts:
        return np.full((samples, width), np.nan)
    is_scored_SPX = np.isfinite(scores_SPX)
    filled_SPX = np.where(is_scored_SPX, scores_SPX, 0.0)
    random = philox(seed, Purpose.BOOTSTRAP)
    sums, counts = np.empty((samples, width)), np.empty((samples, width))
    for n in range(samples):
        seeds = random.integers(num_seeds, size=num_seeds)[:, None]
        prompts = random.integers(num_prompts, size=num_prompts)
        sums[n] = filled_SPX[seeds, prompts].sum(axis=(0, 1))
        counts[n] = is_scored_SPX[seeds, prompts].sum(axis=(0, 1))
    # A draw may hold nothing but what has no score.
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def interval_of(means_NX: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the middle 95 % of resampled means, float64 (X,) each; NaN where none is known."""
    bounds_2X = np.full((2, means_NX.shape[1]), np.nan)
    is_known_X = np.isfinite(means_NX).any(axis=0)
    bounds_2X[:, is_known_X] = np.nanquantile(means_NX[:, is_known_X], [0.025, 0.975], axis=0)
    return bounds_2X[0], bounds_2X[1]
