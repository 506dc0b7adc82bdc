"""CMA-ES with a diagonal covariance (Ros and Hansen 2008, "A Simple Modification in CMA-ES
Achieving Linear Time and Space Complexity").

The update is the library `cmaes`: one variance for each number, learnt (D + 2) / 3 times as fast as
the full matrix, in time and memory linear in D. It serves the dimensions that cma_es cannot, and
learns nothing of how numbers depend on each other.
"""

import numpy as np
from cmaes import SepCMA

from es_align.config_search import StrategyConfig
from es_align.errors import ConfigError
from es_align.strategies.common import require_dimension, require_population
from es_align.strategies.covariance import MIN_POPULATION, CovarianceAdaptation


class SepCMAES(CovarianceAdaptation[SepCMA]):
    """Covariance matrix adaptation over the D variances alone."""

    kind = "sep_cma_es"

    def __init__(
        self,
        config: StrategyConfig,
        *,
        dimension: int,
        population: int,
        seed: int,
        generations: int,
    ) -> None:
        """Raises ConfigError if the dimension is under 2 or the population under 4."""
        require_dimension(dimension)
        if dimension == 1:
            raise ConfigError(
                "dimension=1 is too small for sep_cma_es, which needs 2; raise space.rank, "
                "or set strategy.kind=cma_es"
            )
        require_population(self.kind, population, MIN_POPULATION)
        cma = SepCMA(mean=np.zeros(dimension), sigma=config.sigma, population_size=population)
        # The library's rates of both updates together exceed 1 where the population is large
        # beside the dimension, and what is left of the old variances is then negative.
        cma._cmu = min(float(cma._cmu), 1 - float(cma._c1))
        super().__init__(cma, seed=seed)

    def _stretch(self, noise_MD: np.ndarray) -> np.ndarray:
        return noise_MD * np.sqrt(self._cma._C)

    def _adapt(self, ordered_MD: np.ndarray) -> None:
        # The library minimises, and a place in the order is as good as a value.
        self._cma.tell([(vector_D, float(place)) for place, vector_D in enumerate(ordered_MD)])
