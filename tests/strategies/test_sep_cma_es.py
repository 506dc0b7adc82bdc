"""sep_cma_es against the library it stands on, and where it goes beyond it."""

import numpy as np
import pytest
from cmaes import SepCMA

from es_align.config_search import StrategyConfig
from es_align.errors import ConfigError
from es_align.strategies import Strategy, make_strategy
from kernels.noise import vector_noise


def make(*, dimension: int, population: int, sigma: float = 0.5) -> Strategy:
    config = StrategyConfig.model_validate({"kind": "sep_cma_es", "sigma": sigma})
    return make_strategy(config, dimension=dimension, population=population, seed=3, generations=1)


def bowl(vectors_MD: np.ndarray) -> np.ndarray:
    scales_D = np.logspace(0, 3, vectors_MD.shape[1])
    return -(scales_D * (vectors_MD - 1) ** 2).sum(axis=1)


def test_updates_are_the_librarys() -> None:
    strategy = make(dimension=20, population=9)
    library = SepCMA(mean=np.zeros(20), sigma=0.5, population_size=9)
    for generation in range(30):
        population = strategy.ask(generation)
        fitness_M = bowl(population.vectors_MD)
        strategy.tell(population, fitness_M)
        losses = (-fitness_M).tolist()
        library.tell(list(zip(population.vectors_MD, losses, strict=True)))
        state = strategy.state()
        assert state.scalars["sigma"] == library._sigma
        assert state.arrays["mean"].tolist() == library.mean.tolist()
        assert state.arrays["covariance"].tolist() == library._C.tolist()


def test_members_have_the_adapted_spread_number_by_number() -> None:
    strategy = make(dimension=5, population=8)
    for generation in range(20):
        population = strategy.ask(generation)
        strategy.tell(population, bowl(population.vectors_MD))
    state, member = strategy.state(), 3
    spread_D = float(str(state.scalars["sigma"])) * np.sqrt(state.arrays["covariance"])
    wanted_D = strategy.mean_D + spread_D * vector_noise(3, 20, member, 5)
    assert strategy.ask(20).vectors_MD[member] == pytest.approx(wanted_D, rel=1e-12)
    assert spread_D.max() > 3 * spread_D.min()


def test_variances_stay_positive_with_many_members_in_few_dimensions() -> None:
    """The library's rate for the variances is 1.2 here: a number selected hard turns negative."""
    strategy = make(dimension=10, population=96)
    library = SepCMA(mean=np.zeros(10), sigma=0.5, population_size=96)
    population = strategy.ask(0)
    losses_M = np.abs(population.vectors_MD[:, 0])
    library.tell(list(zip(population.vectors_MD, losses_M.tolist(), strict=True)))
    assert library._C.min() < 0
    strategy.tell(population, -losses_M)
    assert 0 < strategy.state().arrays["covariance"].min() < 0.5


def test_a_hundred_thousand_numbers_are_served() -> None:
    strategy = make(dimension=100_000, population=4, sigma=0.1)
    population = strategy.ask(0)
    update = strategy.tell(population, population.vectors_MD[:, 0])
    assert update.step_norm > 0
    assert sum(array.size for array in strategy.state().arrays.values()) == 400_000


def test_a_member_without_fitness_ranks_in_the_middle() -> None:
    without, median = make(dimension=6, population=8), make(dimension=6, population=8)
    without.tell(without.ask(0), np.array([7, 1, np.nan, 3, 6, 2, 5, np.inf]))
    median.tell(median.ask(0), np.array([7, 1, 4, 3, 6, 2, 5, 4]))
    assert without.mean_D.tolist() == median.mean_D.tolist()


@pytest.mark.parametrize(
    ("dimension", "population", "told"),
    [
        (6, 3, "population=3 is too small for sep_cma_es; use 4 or more"),
        (1, 8, r"dimension=1 is too small for sep_cma_es, .*strategy\.kind=cma_es"),
    ],
)
def test_sizes_that_it_cannot_serve_are_refused(dimension: int, population: int, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make(dimension=dimension, population=population)
