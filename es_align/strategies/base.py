"""What a strategy is: it proposes a population around its mean and moves the mean by their fitness.

Fitness is maximised. A strategy draws from `kernels.noise` alone, so `ask` is a pure function of
its state and the generation, and its state is arrays and JSON scalars: no pickle, and a resumed run
goes on bit for bit. Vectors are offsets from the model as it was: the mean starts at zero.

Suffixes: _M members, _N antithetic pairs, _D numbers of a vector.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from es_align.config_search import StrategyConfig
from es_align.errors import ConfigError, WorkerError
from rewards.base import JsonValue
from workers.members import Members
from workers.protocol import Move


@dataclass(frozen=True, slots=True)
class Population:
    """The candidates of one generation."""

    generation: int
    members: Members  # float64 vectors, mean plus offsets, row m is member m; or their seeds

    def __len__(self) -> int:
        return len(self.members)

    @property
    def vectors_MD(self) -> np.ndarray:
        """Of a space whose members are vectors."""
        assert isinstance(self.members, np.ndarray)
        return self.members


@dataclass(frozen=True, slots=True)
class Update:
    """What one `tell` did."""

    generation: int
    step_norm: float  # L2 norm of the mean's move
    num_used: int  # members whose fitness counted
    num_excluded: int  # the others: no fitness, or the partner in the pair has none
    sigma: float  # of this generation's noise
    learning_rate: float
    move: Move | None = None  # of a mean that the workers hold: then they know its norm, too


@dataclass(frozen=True, slots=True)
class StrategyState:
    """Everything a strategy needs to go on bit for bit."""

    arrays: Mapping[str, np.ndarray]
    scalars: Mapping[str, JsonValue]


class Strategy(Protocol):
    """How the mean moves; one is made for each run by `make_strategy`."""

    kind: str
    dimension: int

    @property
    def mean_D(self) -> np.ndarray | None:
        """The mean, float64 (D,): a copy that can be kept and not written to; None if the workers
        hold it, moved by each `Update.move`.
        """
        ...

    def ask(self, generation: int) -> Population:
        """The population of a generation; changes nothing, so asking again gives the same bits."""
        ...

    def tell(self, population: Population, fitness_M: np.ndarray) -> Update:
        """Move the mean by the members' fitness, float64 (M,), non-finite for a member without one.

        Raises WorkerError, the state unchanged, if fewer than half of the members count.
        """
        ...

    def state(self) -> StrategyState:
        """A copy of the whole state."""
        ...

    def load_state(self, state: StrategyState) -> None:
        """Take over a saved state; raises ConfigError if it is of another kind or size."""
        ...


class StrategyFactory(Protocol):
    """What stands in the registry: a class whose constructor takes these."""

    def __call__(
        self,
        config: StrategyConfig,
        *,
        dimension: int,
        population: int,
        seed: int,
        generations: int,
    ) -> Strategy: ...


def read_only(array: np.ndarray) -> np.ndarray:
    """A copy that refuses to be written to."""
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def require_members(generation: int, num_used: int, num_members: int) -> None:
    """Raise WorkerError if fewer than half of the members, or none, have a fitness that counts."""
    if num_used and 2 * num_used >= num_members:
        return
    raise WorkerError(
        f"generation {generation}: only {num_used} of {num_members} members have a fitness that "
        "counts, fewer than half; the mean was not moved and the run stops here. Read the reasons "
        "in metrics.jsonl, repair the reward or the workers, then go on with --resume"
    )


def require_fitness(population: Population, fitness_M: np.ndarray, num_members: int) -> None:
    """Raise ValueError unless population and fitness are both of `num_members` members."""
    if len(population) != num_members or np.shape(fitness_M) != (num_members,):
        raise ValueError(
            f"population of {len(population)} members and fitness of shape "
            f"{np.shape(fitness_M)} do not fit a strategy of {num_members} members"
        )


def require_identity(
    state: StrategyState, identity: Mapping[str, JsonValue], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise ConfigError unless the state's scalars hold `identity`, its arrays these shapes."""
    for name, expected in identity.items():
        if state.scalars.get(name) != expected:
            raise ConfigError(
                f"the saved state has {name}={state.scalars.get(name)!r}, this run has "
                f"{name}={expected!r}; resume with the configuration the run was started with"
            )
    found = {name: array.shape for name, array in state.arrays.items()}
    if found != dict(shapes):
        raise ConfigError(
            f"the saved state holds arrays {found}, this run needs {dict(shapes)}; "
            "resume with the configuration the run was started with"
        )
