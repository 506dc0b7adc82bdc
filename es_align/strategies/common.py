"""What several strategies on a vector share: the checks of their size, and independent members.

The strategies that draw every member by itself (cma_es, sep_cma_es, snes) need no pairs: an odd
population is as good as an even one, and a member without fitness takes no other one with it.
"""

import numpy as np

from es_align.errors import ConfigError
from kernels.noise import vector_noise


def require_dimension(dimension: int) -> None:
    """Raise ConfigError if there is nothing to perturb."""
    if dimension < 1:
        raise ConfigError(
            f"dimension={dimension}: the space has nothing to perturb; "
            "raise its rank or add targets"
        )


def require_population(kind: str, population: int, smallest: int) -> None:
    """Raise ConfigError if a strategy has too few members to learn from their order."""
    if population < smallest:
        raise ConfigError(
            f"population={population} is too small for {kind}; use {smallest} or more"
        )


def member_noise(seed: int, generation: int, num_members: int, dimension: int) -> np.ndarray:
    """Standard normals, float64 (M, D): row m belongs to member m of that generation."""
    return np.stack(
        [vector_noise(seed, generation, member, dimension) for member in range(num_members)]
    )
