"""Evolution strategy with antithetic noise on a vector (Salimans et al. 2017, arXiv 1703.03864).

Members 2p and 2p + 1 are mean + sigma * noise_p and mean - sigma * noise_p. With s the shaped
fitness and N the number of pairs in which both members have one,

    gradient = 1/N * sum_p (s[2p] - s[2p + 1]) / 2 * noise_p
    velocity = momentum * velocity + gradient
    step     = learning_rate * sigma * velocity
    mean     = mean + min(1, max_step * sigma * sqrt(D) / |step|) * step

The last factor is 1 without `max_step`: a trust region as wide as that many times the distance of a
member from the mean, sigma * sqrt(D). It shortens the step, not the velocity. Sigma and learning
rate are their schedules' values in that generation.

The paper steps by alpha / (n sigma) * sum_i F_i noise_i; here alpha = learning_rate * sigma^2. That
makes the step free of scale: sigma carries the unit of the parameters, and z-scores remove the
reward's. On a slope without noise the gradient's component uphill is then 1, whatever the slope,
dimension or population, so learning_rate / (1 - momentum) is the way gained per generation in units
of sigma, and 1 is about what CMA-ES does. Measurement noise shortens it of itself; a larger
population only averages the sideways part, of norm about sqrt(D / N), away. Ranks have standard
deviation 0.29, so their steps are that much shorter; under `centred`, `leave_one_out` and `none`
the learning rate is per unit of reward.

The sums run pair by pair in float64 by elementwise operations alone: no BLAS, no fused
multiply-add, so any machine rebuilds the same bits. Left out: weight decay and virtual batch
normalisation (the paper's 2.1).
"""

import math

import numpy as np

from es_align.config_search import StrategyConfig
from es_align.fitness import SHAPINGS
from es_align.schedules import learning_rate_at, sigma_at
from es_align.strategies.base import (
    Population,
    StrategyState,
    Update,
    read_only,
    require_fitness,
    require_identity,
    require_members,
)
from es_align.strategies.common import require_dimension
from es_align.strategies.pairs import require_pairs, whole_pairs
from kernels.noise import vector_noise
from rewards.base import JsonValue


class OpenAIES:
    """Antithetic evolution strategy with momentum; see the module for the exact update."""

    kind = "openai_es"

    def __init__(
        self,
        config: StrategyConfig,
        *,
        dimension: int,
        population: int,
        seed: int,
        generations: int,
    ) -> None:
        """Raises ConfigError if the population is odd or the dimension not positive."""
        require_pairs(population)
        require_dimension(dimension)
        self.dimension = dimension
        self._num_members = population
        self._seed = seed
        self._config = config
        self._generations = generations
        self._shape = SHAPINGS[config.shaping]
        self._mean_D = np.zeros(dimension)
        self._velocity_D = np.zeros(dimension)

    @property
    def mean_D(self) -> np.ndarray:
        """The mean, float64 (D,): a copy that can be kept and not written to."""
        return read_only(self._mean_D)

    def ask(self, generation: int) -> Population:
        """The pairs around the mean; changes nothing."""
        sigma = sigma_at(self._config, generation, self._generations)
        vectors_MD = np.empty((self._num_members, self.dimension))
        for pair in range(self._num_members // 2):
            offset_D = sigma * self._noise(generation, pair)
            vectors_MD[2 * pair] = self._mean_D + offset_D
            vectors_MD[2 * pair + 1] = self._mean_D - offset_D
        return Population(generation, vectors_MD)

    def tell(self, population: Population, fitness_M: np.ndarray) -> Update:
        """Move the mean; a pair in which a member has no finite fitness is left out whole.

        The noise is made again from the generation's number, so the vectors' values are not read.
        Raises WorkerError, the state unchanged, if fewer than half of the members count.
        """
        require_fitness(population, fitness_M, self._num_members)
        fitness_N2, is_whole_N = whole_pairs(fitness_M)
        num_used = 2 * int(is_whole_N.sum())
        require_members(population.generation, num_used, self._num_members)

        shaped_N2 = self._shape(fitness_N2.ravel()).reshape(-1, 2)
        gradient_D = np.zeros(self.dimension)
        for pair in np.flatnonzero(is_whole_N).tolist():
            weight = (shaped_N2[pair, 0] - shaped_N2[pair, 1]) / 2
            if weight:
                gradient_D += weight * self._noise(population.generation, pair)
        gradient_D /= num_used // 2

        sigma = sigma_at(self._config, population.generation, self._generations)
        learning_rate = learning_rate_at(self._config, population.generation, self._generations)
        self._velocity_D = self._config.momentum * self._velocity_D + gradient_D
        step_D = self._within_reach((learning_rate * sigma) * self._velocity_D, sigma)
        self._mean_D = self._mean_D + step_D
        return Update(
            generation=population.generation,
            step_norm=float(np.linalg.norm(step_D)),
            num_used=num_used,
            num_excluded=self._num_members - num_used,
            sigma=sigma,
            learning_rate=learning_rate,
        )

    def state(self) -> StrategyState:
        """Mean and velocity, and what they belong to."""
        arrays = {"mean": self._mean_D.copy(), "velocity": self._velocity_D.copy()}
        return StrategyState(arrays, self._identity())

    def load_state(self, state: StrategyState) -> None:
        """Take over a saved state; raises ConfigError if it is of another kind or size."""
        shapes = {"mean": (self.dimension,), "velocity": (self.dimension,)}
        require_identity(state, self._identity(), shapes)
        self._mean_D = np.array(state.arrays["mean"], dtype=np.float64)
        self._velocity_D = np.array(state.arrays["velocity"], dtype=np.float64)

    def _within_reach(self, step_D: np.ndarray, sigma: float) -> np.ndarray:
        if self._config.max_step is None:
            return step_D
        longest = self._config.max_step * sigma * math.sqrt(self.dimension)
        length = math.sqrt(math.fsum((step_D * step_D).tolist()))
        return step_D if length <= longest else step_D * (longest / length)

    def _identity(self) -> dict[str, JsonValue]:
        return {
            "kind": self.kind,
            "dimension": self.dimension,
            "population": self._num_members,
            "seed": self._seed,
        }

    def _noise(self, generation: int, pair: int) -> np.ndarray:
        return vector_noise(self._seed, generation, pair, self.dimension)
