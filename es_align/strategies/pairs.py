"""What strategies of antithetic pairs share: members 2p and 2p + 1 are the two signs of pair p."""

import numpy as np

from es_align.errors import ConfigError


def require_pairs(population: int) -> None:
    """Raise ConfigError unless the population can be cut into pairs."""
    if population % 2 == 0 and population >= 2:
        return
    lower, upper = max(population - 1, 2), max(population + 1, 2)
    nearest = f"{lower} or {upper}" if lower < upper else f"{upper}"
    raise ConfigError(f"population={population} must be even for antithetic pairs; use {nearest}")


def whole_pairs(fitness_M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`(fitness_N2, is_whole_N)`; a pair in which a member has no finite fitness is NaN, False."""
    fitness_N2 = np.array(fitness_M, dtype=np.float64).reshape(-1, 2)
    is_whole_N = np.isfinite(fitness_N2[:, 0]) & np.isfinite(fitness_N2[:, 1])
    fitness_N2[~is_whole_N] = np.nan
    return fitness_N2, is_whole_N


def pair_weights(shaped_M: np.ndarray, is_whole_N: np.ndarray) -> np.ndarray:
    """Half the difference of each pair's two fitnesses over the number of whole pairs, float64;
    0 for a pair that is not whole. Weighted with them, the noise sums to the estimated gradient.
    """
    shaped_N2 = shaped_M.reshape(-1, 2)
    weight_N = np.where(is_whole_N, (shaped_N2[:, 0] - shaped_N2[:, 1]) / 2, 0.0)
    return weight_N / is_whole_N.sum()
