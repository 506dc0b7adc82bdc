"""CMA-ES with a full covariance matrix (Hansen 2016, arXiv 1604.00772), the strategy of ESSA.

Constants and equations are those of the library `cmaes`, rank-one and active rank-mu update and
cumulative step-size control; a test holds both side by side. What differs is how the update is
computed. The library's takes 16 * members * D^2 bytes; here rank-one and rank-mu together are one
product of D x (M + 1) by (M + 1) x D, and C^(-1/2) is applied to vectors, never formed. And C is
decomposed only as often as it pays (the tutorial's B.2): while it has changed by less than about a
tenth of 1 / D, members are drawn from the last decomposition.

At D = 1536 and 96 members, on a loaded machine and one BLAS thread: an update in 0.03 to 0.14 s, a
decomposition every third generation in 0.7 s, 0.19 GB in all; with the library's update 2 to 10 s
and 3.6 GB. Memory of an update beyond the state: 16 bytes * D^2.
"""

import math
from collections.abc import Mapping

import numpy as np
from cmaes import CMA

from es_align.config_search import StrategyConfig
from es_align.errors import ConfigError
from es_align.strategies.common import require_dimension, require_population
from es_align.strategies.covariance import MIN_POPULATION, CovarianceAdaptation

# A 4096 x 4096 covariance takes 128 MiB and its eigenvectors about a minute on two cores.
MAX_DIMENSION = 4096
# Both as in the library: instead of a variance that rounding made negative, and so that nothing is
# divided by zero; and where sigma stops.
EPSILON = 1e-8
MAX_SIGMA = 1e32


class CMAES(CovarianceAdaptation[CMA]):
    """Covariance matrix adaptation over the vector's D numbers."""

    kind = "cma_es"

    def __init__(
        self,
        config: StrategyConfig,
        *,
        dimension: int,
        population: int,
        seed: int,
        generations: int,
    ) -> None:
        """Raises ConfigError if the dimension is outside 1 to 4096 or the population under 4."""
        require_dimension(dimension)
        if dimension > MAX_DIMENSION:
            raise ConfigError(
                f"dimension={dimension} is too large for the full covariance of cma_es; "
                f"the limit is {MAX_DIMENSION}. Lower space.rank, name fewer space.targets, "
                "or set strategy.kind=sep_cma_es"
            )
        require_population(self.kind, population, MIN_POPULATION)
        cma = CMA(mean=np.zeros(dimension), sigma=config.sigma, population_size=population)
        super().__init__(cma, seed=seed)
        self._gap = _decomposition_gap(cma)
        self._decomposed_DD = cma._C
        self._eigen: tuple[np.ndarray, np.ndarray] | None = None

    def _stretch(self, noise_MD: np.ndarray) -> np.ndarray:
        axes_DD, lengths_D = self._decomposition()
        return (noise_MD * lengths_D) @ axes_DD.T

    def _decomposition(self) -> tuple[np.ndarray, np.ndarray]:
        """Principal axes (columns) and their standard deviations, of the covariance drawn from."""
        if self._eigen is None:
            variances_D, axes_DD = np.linalg.eigh(self._decomposed_DD)
            self._eigen = axes_DD, np.sqrt(np.where(variances_D > 0, variances_D, EPSILON))
        return self._eigen

    def _adapt(self, ordered_MD: np.ndarray) -> None:
        """One update; the numbers of the equations are Hansen's, y = (x - mean) / sigma."""
        cma, dimension = self._cma, self.dimension
        axes_DD, lengths_D = self._decomposition()
        steps_MD = (ordered_MD - cma._mean) / cma._sigma
        white_MD = (steps_MD @ axes_DD) / lengths_D  # B^T C^(-1/2) y: as long as C^(-1/2) y
        best = slice(cma._mu)
        step_D = cma._weights[best] @ steps_MD[best]  # eq. 41
        white_step_D = axes_DD @ (cma._weights[best] @ white_MD[best])

        cma._g += 1
        cma._mean = cma._mean + cma._cm * cma._sigma * step_D  # eq. 42
        cma._p_sigma = _cumulate(cma._p_sigma, white_step_D, cma._c_sigma, cma._mu_eff)  # eq. 43
        path_length = float(np.linalg.norm(cma._p_sigma)) / cma._chi_n
        growth = math.exp(cma._c_sigma / cma._d_sigma * (path_length - 1))  # eq. 44
        cma._sigma = min(cma._sigma * growth, MAX_SIGMA)

        # While sigma still grows fast the path of the covariance stands still (p. 28).
        settled = math.sqrt(1 - (1 - cma._c_sigma) ** (2 * (cma._g + 1)))
        is_settled = path_length / settled < 1.4 + 2 / (dimension + 1)
        cma._pc = _cumulate(cma._pc, step_D * is_settled, cma._cc, cma._mu_eff)  # eq. 45
        missed = 0.0 if is_settled else cma._cc * (2 - cma._cc)

        lengths_M = np.linalg.norm(white_MD, axis=1)
        is_negative_M = cma._weights < 0
        weights_M = cma._weights * np.where(
            is_negative_M, dimension / (lengths_M**2 + EPSILON), 1.0
        )  # eq. 46
        kept = 1 + cma._c1 * missed - cma._c1 - cma._cmu * float(cma._weights.sum())
        rows_KD = np.vstack([steps_MD, cma._pc])
        rates_K = np.append(cma._cmu * weights_M, cma._c1)
        learnt_DD = (rows_KD.T * rates_K) @ rows_KD
        learnt_DD += kept * cma._C
        cma._C = learnt_DD  # eq. 47; the decomposition reads its lower triangle alone
        if cma._g % self._gap == 0:
            self._decomposed_DD, self._eigen = cma._C, None

    def _arrays(self) -> dict[str, np.ndarray]:
        arrays = super()._arrays()
        # With a gap of one they are the same whenever anybody looks.
        return arrays if self._gap == 1 else arrays | {"decomposed": self._decomposed_DD}

    def _load_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        super()._load_arrays(arrays)
        self._decomposed_DD = arrays.get("decomposed", arrays["covariance"])
        self._eigen = None


def _cumulate(path_D: np.ndarray, step_D: np.ndarray, rate: float, mu_eff: float) -> np.ndarray:
    """A path that stays standard normal under random selection."""
    return (1 - rate) * path_D + math.sqrt(rate * (2 - rate) * mu_eff) * step_D


def _decomposition_gap(cma: CMA) -> int:
    """Generations between decompositions: the numerical-practice appendix of the tutorial."""
    return max(1, math.floor(1 / (10 * cma.dim * (cma._c1 + cma._cmu))))
