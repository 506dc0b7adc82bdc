"""What cma_es and sep_cma_es share: all but the form of the covariance (Hansen 2016,
arXiv 1604.00772).

The library `cmaes` holds the constants and the adapted numbers; drawing members is ours. Its own
`ask` draws from a generator that it drops when it is pickled, so member m is here mean + sigma *
C^(1/2) z_m with z_m from `kernels.noise`, a pure function of state and generation. Both use the
order of the members alone: `shaping`, `learning_rate`, `momentum`, `max_step` and the schedules do
not apply, and sigma is the first one, adapted from then on. A member without fitness gets the
median of the others, the neutral rank, since the weights are made for the whole population.

BLAS and LAPACK sum in an order that depends on how many threads share the work, so they run on one
here: the same bits again on the same kind of machine, whatever its cores, not across kinds.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Generic, TypeVar

import numpy as np
from cmaes import CMA, SepCMA
from threadpoolctl import ThreadpoolController

from es_align.strategies.base import (
    Population,
    StrategyState,
    Update,
    read_only,
    require_fitness,
    require_identity,
    require_members,
)
from es_align.strategies.common import member_noise
from rewards.base import JsonValue

# Below four members fewer than two are selected, and the covariance update has no rank to learn
# from.
MIN_POPULATION = 4

Optimiser = TypeVar("Optimiser", CMA, SepCMA)


class CovarianceAdaptation(ABC, Generic[Optimiser]):
    """Covariance matrix adaptation around one of the library's optimisers."""

    kind: str

    def __init__(self, cma: Optimiser, *, seed: int) -> None:
        self.dimension = cma.dim
        self._num_members = cma.population_size
        self._seed = seed
        self._cma = cma
        # Looking up the libraries takes a millisecond, setting what was found next to nothing.
        self._threads = ThreadpoolController()

    @abstractmethod
    def _stretch(self, noise_MD: np.ndarray) -> np.ndarray:
        """Draws from N(0, C), float64 (M, D), from standard normals of that shape."""

    @abstractmethod
    def _adapt(self, ordered_MD: np.ndarray) -> None:
        """Move mean, sigma, paths and covariance by the members, best first, float64 (M, D)."""

    @property
    def mean_D(self) -> np.ndarray:
        """The mean, float64 (D,): a copy that can be kept and not written to."""
        return read_only(self._cma.mean)

    def ask(self, generation: int) -> Population:
        """Members drawn from N(mean, sigma^2 C); changes nothing that `state` shows."""
        noise_MD = member_noise(self._seed, generation, self._num_members, self.dimension)
        with self._threads.limit(limits=1, user_api="blas"):
            draws_MD = self._stretch(noise_MD)
        return Population(generation, self._cma.mean + self._cma._sigma * draws_MD)

    def tell(self, population: Population, fitness_M: np.ndarray) -> Update:
        """Move mean, sigma and covariance by the members' order.

        Raises WorkerError, the state unchanged, if fewer than half have a finite fitness.
        """
        require_fitness(population, fitness_M, self._num_members)
        is_finite_M = np.isfinite(fitness_M)
        num_used = int(is_finite_M.sum())
        require_members(population.generation, num_used, self._num_members)

        filled_M = np.where(is_finite_M, fitness_M, np.median(np.asarray(fitness_M)[is_finite_M]))
        order_M = np.argsort(-filled_M, kind="stable")
        sigma, mean_D = float(self._cma._sigma), self._cma.mean.copy()
        with self._threads.limit(limits=1, user_api="blas"):
            self._adapt(population.vectors_MD[order_M])
        return Update(
            generation=population.generation,
            step_norm=float(np.linalg.norm(self._cma.mean - mean_D)),
            num_used=num_used,
            num_excluded=self._num_members - num_used,
            sigma=sigma,
            learning_rate=float(self._cma._cm),
        )

    def state(self) -> StrategyState:
        """Everything the next ask and tell read.

        The library's history of best and worst values, read by its stopping rule alone, is left
        out.
        """
        arrays = {name: array.copy() for name, array in self._arrays().items()}
        adapted: dict[str, JsonValue] = {
            "sigma": float(self._cma._sigma),
            "num_updates": self._cma._g,
        }
        return StrategyState(arrays, self._identity() | adapted)

    def load_state(self, state: StrategyState) -> None:
        """Take over a saved state; raises ConfigError if it is of another kind or size."""
        shapes = {name: array.shape for name, array in self._arrays().items()}
        require_identity(state, self._identity(), shapes)
        self._cma._sigma = float(str(state.scalars["sigma"]))
        self._cma._g = int(str(state.scalars["num_updates"]))
        self._load_arrays(
            {name: np.array(array, dtype=np.float64) for name, array in state.arrays.items()}
        )

    def _arrays(self) -> dict[str, np.ndarray]:
        """The adapted arrays by name, not copied."""
        return {
            "mean": self._cma._mean,
            "covariance": self._cma._C,
            "sigma_path": self._cma._p_sigma,
            "covariance_path": self._cma._pc,
        }

    def _load_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._cma._mean = arrays["mean"]
        self._cma._C = arrays["covariance"]
        self._cma._p_sigma = arrays["sigma_path"]
        self._cma._pc = arrays["covariance_path"]

    def _identity(self) -> dict[str, JsonValue]:
        return {
            "kind": self.kind,
            "dimension": self.dimension,
            "population": self._num_members,
            "seed": self._seed,
        }
