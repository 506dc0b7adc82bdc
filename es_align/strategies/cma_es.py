"""CMA-ES with a full covariance matrix (Hansen 2016, arXiv 1604.00772), the strategy of ESSA.

The update is the library `cmaes`; sampling is ours. Its own `ask` draws from a generator it drops
when copied and multiplies out B diag(D) again for every member (0.84 s a generation at D = 960, 32
members, two cores; here 0.12 s, all of it the decomposition), so member m is here mean + sigma * B
(D * z_m) with z_m from `kernels.noise`, a pure function of state and generation. CMA-ES uses the
order of the members alone: `shaping`, `learning_rate` and `momentum` do not apply, and sigma is the
first one, adapted from then on. A member without fitness gets the median of the others, the neutral
rank, as the library needs all of them.

The update runs on BLAS and LAPACK, whose sums depend on how many threads share them, so both run
on one: the same bits again on the same kind of machine, whatever its cores, not across kinds.
Memory of an update: 16 bytes * members * D^2.
"""

import numpy as np
from cmaes import CMA
from threadpoolctl import threadpool_limits

from es_align.config import StrategyConfig
from es_align.errors import ConfigError
from es_align.strategies.base import (
    Population,
    StrategyState,
    Update,
    read_only,
    require_fitness,
    require_identity,
    require_members,
)
from kernels.noise import vector_noise
from rewards.base import JsonValue

# A 4096 x 4096 covariance takes 128 MiB and its eigenvectors about a minute on two cores.
MAX_DIMENSION = 4096
# Below four members fewer than two are selected, and the covariance update has no rank to learn
# from.
MIN_POPULATION = 4


class CMAES:
    """Covariance matrix adaptation over the vector's D numbers."""

    kind = "cma_es"

    def __init__(
        self, config: StrategyConfig, *, dimension: int, population: int, seed: int
    ) -> None:
        """Raises ConfigError if the dimension is outside 1 to 4096 or the population under 4."""
        if dimension < 1:
            raise ConfigError(
                f"dimension={dimension}: the space has nothing to perturb; "
                "raise its rank or add targets"
            )
        if dimension > MAX_DIMENSION:
            raise ConfigError(
                f"dimension={dimension} is too large for the full covariance of cma_es; "
                f"the limit is {MAX_DIMENSION}. Lower space.rank, name fewer space.targets, "
                "or set strategy.kind=openai_es"
            )
        if population < MIN_POPULATION:
            raise ConfigError(
                f"population={population} is too small for cma_es; use {MIN_POPULATION} or more"
            )
        self.dimension = dimension
        self._num_members = population
        self._seed = seed
        self._cma = CMA(mean=np.zeros(dimension), sigma=config.sigma, population_size=population)
        self._covariance_DD = self._cma._C

    @property
    def mean_D(self) -> np.ndarray:
        """The mean, float64 (D,): a copy that can be kept and not written to."""
        return read_only(self._cma.mean)

    def ask(self, generation: int) -> Population:
        """Members drawn from N(mean, sigma^2 C); changes nothing that `state` shows."""
        with threadpool_limits(limits=1, user_api="blas"):
            return self._ask(generation)

    def _ask(self, generation: int) -> Population:
        axes_DD, lengths_D = self._cma._eigen_decomposition()
        noise_MD = np.stack(
            [
                vector_noise(self._seed, generation, member, self.dimension)
                for member in range(self._num_members)
            ]
        )
        offsets_MD = self._cma._sigma * ((noise_MD * lengths_D) @ axes_DD.T)
        return Population(generation, self._cma.mean + offsets_MD)

    def tell(self, population: Population, fitness_M: np.ndarray) -> Update:
        """Move mean, sigma and covariance by the members' order.

        Raises WorkerError, the state unchanged, if fewer than half have a finite fitness.
        """
        require_fitness(population, fitness_M, self._num_members)
        is_finite_M = np.isfinite(fitness_M)
        num_used = int(is_finite_M.sum())
        require_members(population.generation, num_used, self._num_members)

        filled_M = np.where(is_finite_M, fitness_M, np.median(np.asarray(fitness_M)[is_finite_M]))
        sigma, mean_D = float(self._cma._sigma), self._cma.mean.copy()
        # The library minimises, and sorts the list in place.
        with threadpool_limits(limits=1, user_api="blas"):
            self._cma.tell(list(zip(population.vectors_MD, (-filled_M).tolist(), strict=True)))
        self._covariance_DD = self._cma._C
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

        The covariance is the one `tell` left: the library replaces it by B D^2 B^T when it
        decomposes it, which would make the state depend on whether `ask` came before; from this one
        it does the same again. Its history of best and worst values, read by its stopping rule
        alone, is left out.
        """
        arrays = {
            "mean": self._cma._mean.copy(),
            "covariance": self._covariance_DD.copy(),
            "sigma_path": self._cma._p_sigma.copy(),
            "covariance_path": self._cma._pc.copy(),
        }
        adapted: dict[str, JsonValue] = {
            "sigma": float(self._cma._sigma),
            "num_updates": self._cma._g,
        }
        return StrategyState(arrays, self._identity() | adapted)

    def load_state(self, state: StrategyState) -> None:
        """Take over a saved state; raises ConfigError if it is of another kind or size."""
        vector, matrix = (self.dimension,), (self.dimension, self.dimension)
        shapes = {
            "mean": vector,
            "covariance": matrix,
            "sigma_path": vector,
            "covariance_path": vector,
        }
        require_identity(state, self._identity(), shapes)
        arrays = {name: np.array(array, dtype=np.float64) for name, array in state.arrays.items()}
        self._cma._mean = arrays["mean"]
        self._cma._C = self._covariance_DD = arrays["covariance"]
        self._cma._B = self._cma._D = None
        self._cma._p_sigma = arrays["sigma_path"]
        self._cma._pc = arrays["covariance_path"]
        self._cma._sigma = float(str(state.scalars["sigma"]))
        self._cma._g = int(str(state.scalars["num_updates"]))

    def _identity(self) -> dict[str, JsonValue]:
        return {
            "kind": self.kind,
            "dimension": self.dimension,
            "population": self._num_members,
            "seed": self._seed,
        }
