"""cma_es against the library it stands on."""

import numpy as np
import pytest
from cmaes import CMA

from es_align.config import StrategyConfig
from es_align.errors import ConfigError
from es_align.strategies import make_strategy
from es_align.strategies.base import Strategy
from kernels.noise import vector_noise


def make(*, dimension: int, population: int, sigma: float = 0.5) -> Strategy:
    config = StrategyConfig.model_validate({"kind": "cma_es", "sigma": sigma})
    return make_strategy(config, dimension=dimension, population=population, seed=3)


def cigar(vectors_MD: np.ndarray) -> np.ndarray:
    scales_D = np.logspace(0, 3, vectors_MD.shape[1])
    return -(scales_D * (vectors_MD - 1) ** 2).sum(axis=1)


def test_updates_are_the_librarys() -> None:
    strategy = make(dimension=6, population=8)
    library = CMA(mean=np.zeros(6), sigma=0.5, population_size=8)
    for generation in range(10):
        population = strategy.ask(generation)
        fitness_M = cigar(population.vectors_MD)
        strategy.tell(population, fitness_M)
        library.tell([(v, -f) for v, f in zip(population.vectors_MD, fitness_M, strict=True)])
        assert strategy.mean_D.tolist() == library.mean.tolist()


def test_first_members_are_sigma_times_the_noise() -> None:
    vectors_MD = make(dimension=6, population=8).ask(2).vectors_MD
    assert vectors_MD[5] == pytest.approx(0.5 * vector_noise(3, 2, 5, 6), abs=1e-15)


def test_members_follow_the_adapted_covariance() -> None:
    strategy = make(dimension=4, population=400)
    for generation in range(12):
        population = strategy.ask(generation)
        strategy.tell(population, cigar(population.vectors_MD))
    state = strategy.state()
    wanted_DD = float(str(state.scalars["sigma"])) ** 2 * state.arrays["covariance"]
    drawn_MD = np.concatenate([strategy.ask(100 + i).vectors_MD for i in range(50)])
    found_DD = np.cov(drawn_MD.T)
    scale = np.sqrt(np.outer(np.diag(wanted_DD), np.diag(wanted_DD)))
    # 20,000 draws: a standard error of about 0.01.
    assert np.abs((found_DD - wanted_DD) / scale).max() < 0.05
    assert np.linalg.cond(wanted_DD) > 20


def test_reaches_the_optimum_of_an_ill_conditioned_bowl() -> None:
    strategy = make(dimension=8, population=12)
    for generation in range(250):
        population = strategy.ask(generation)
        strategy.tell(population, cigar(population.vectors_MD))
    assert strategy.mean_D == pytest.approx(np.ones(8), abs=1e-6)


def test_only_the_order_of_fitness_counts() -> None:
    plain, bent = make(dimension=6, population=8), make(dimension=6, population=8)
    for generation in range(4):
        population = plain.ask(generation)
        fitness_M = cigar(population.vectors_MD)
        plain.tell(population, fitness_M)
        bent.tell(population, np.arctan(fitness_M / 1000))
    assert bent.mean_D.tolist() == plain.mean_D.tolist()


def test_a_member_without_fitness_ranks_in_the_middle() -> None:
    without, median = make(dimension=6, population=8), make(dimension=6, population=8)
    without.tell(without.ask(0), np.array([7, 1, np.nan, 3, 6, 2, 5, np.inf]))
    median.tell(median.ask(0), np.array([7, 1, 4, 3, 6, 2, 5, 4]))
    assert without.mean_D.tolist() == median.mean_D.tolist()


def test_update_reports_the_sigma_its_members_had() -> None:
    strategy = make(dimension=6, population=8)
    sigmas = []
    for generation in range(3):
        population = strategy.ask(generation)
        sigmas.append(strategy.tell(population, cigar(population.vectors_MD)).sigma)
    assert sigmas[0] == 0.5
    assert sigmas[2] != sigmas[1] != 0.5


def test_too_many_dimensions_are_refused_before_memory_is_taken() -> None:
    with pytest.raises(ConfigError, match=r"dimension=5000 .* limit is 4096.*strategy\.kind=open"):
        make(dimension=5000, population=8)


def test_too_small_a_population_is_refused() -> None:
    with pytest.raises(ConfigError, match="population=3 is too small for cma_es; use 4 or more"):
        make(dimension=6, population=3)
