"""EGGROLL (arXiv 2511.16652): antithetic low-rank matrix noise, a full-rank update.

For the spaces whose members are seeds. Pair p perturbs every matrix by `+-sigma * unit * E_p`,
where `E_p = (1 / sqrt r) A_p B_p^T` is made from (seed, generation, p) wherever it is needed:

    f_p = (shaped(2p) - shaped(2p + 1)) / 2            pairs in which both members have a fitness
    gradient = sum_p f_p E_p / N                       N those pairs
    matrix <- matrix + sigma * unit * step(gradient)

with the step of `optimizer`, shortened to `max_step`. Unlike in the paper the step is in units of
sigma, as in openai_es: `learning_rate` and `momentum` mean the same in both. The gradient and the
step are taken where the matrices are (`workers.means`); all that leaves the driver is f.

`noise_reuse` generations share their noise (the paper's 1 to 4), so that what is made from it may
be kept; it is shared across generations, never across seeds.
"""

import numpy as np

from es_align.config_search import StrategyConfig
from es_align.fitness import SHAPINGS
from es_align.schedules import learning_rate_at, sigma_at
from es_align.strategies.base import (
    Population,
    StrategyState,
    Update,
    require_fitness,
    require_identity,
    require_members,
)
from es_align.strategies.pairs import pair_weights, require_pairs, whole_pairs
from rewards.base import JsonValue
from workers.members import NoiseMembers
from workers.protocol import Move


class Eggroll:
    """Antithetic evolution strategy on matrices; the mean is with the workers."""

    kind = "eggroll"

    def __init__(
        self,
        config: StrategyConfig,
        *,
        dimension: int,
        population: int,
        seed: int,
        generations: int,
    ) -> None:
        """Raises ConfigError if the population is odd."""
        require_pairs(population)
        self.dimension = dimension
        self._config = config
        self._num_members = population
        self._seed = seed
        self._generations = generations
        self._shape = SHAPINGS[config.shaping]

    @property
    def mean_D(self) -> None:
        """None: see `workers.means`."""
        return None

    def ask(self, generation: int) -> Population:
        """The seeds of the pairs; changes nothing."""
        num_pairs = self._num_members // 2
        members = NoiseMembers(
            self._seed,
            generation // self._config.noise_reuse,
            tuple(pair for pair in range(num_pairs) for _ in range(2)),
            (1, -1) * num_pairs,
            sigma_at(self._config, generation, self._generations),
            self._config.noise,
        )
        return Population(generation, members)

    def tell(self, population: Population, fitness_M: np.ndarray) -> Update:
        """The weights of the pairs, as a move; a pair without both fitnesses is left out.

        Raises WorkerError if fewer than half of the members count.
        """
        require_fitness(population, fitness_M, self._num_members)
        fitness_N2, is_whole_N = whole_pairs(fitness_M)
        num_used = 2 * int(is_whole_N.sum())
        require_members(population.generation, num_used, self._num_members)
        move = Move(
            population.generation,
            population.generation // self._config.noise_reuse,
            pair_weights(self._shape(fitness_N2.ravel()), is_whole_N),
            sigma_at(self._config, population.generation, self._generations),
            learning_rate_at(self._config, population.generation, self._generations),
            self._config.max_step,
        )
        return Update(
            generation=population.generation,
            step_norm=float("nan"),
            num_used=num_used,
            num_excluded=self._num_members - num_used,
            sigma=move.sigma,
            learning_rate=move.learning_rate,
            move=move,
        )

    def state(self) -> StrategyState:
        """What it belongs to; everything else is in the ledger."""
        return StrategyState({}, self._identity())

    def load_state(self, state: StrategyState) -> None:
        """Raises ConfigError if the state is of another kind or size."""
        require_identity(state, self._identity(), {})

    def _identity(self) -> dict[str, JsonValue]:
        return {
            "kind": self.kind,
            "dimension": self.dimension,
            "population": self._num_members,
            "seed": self._seed,
        }
