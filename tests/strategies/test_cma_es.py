"""cma_es against the library it stands on."""

import math
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from cmaes import CMA
from threadpoolctl import threadpool_info, threadpool_limits

from es_align.config_search import StrategyConfig
from es_align.errors import ConfigError
from es_align.strategies import make_strategy
from es_align.strategies.cma_es import CMAES
from kernels.noise import vector_noise


def make(*, dimension: int, population: int, sigma: float = 0.5) -> CMAES:
    config = StrategyConfig.model_validate({"kind": "cma_es", "sigma": sigma})
    strategy = make_strategy(
        config, dimension=dimension, population=population, seed=3, generations=1
    )
    assert isinstance(strategy, CMAES)
    return strategy


def cigar(vectors_MD: np.ndarray) -> np.ndarray:
    scales_D = np.logspace(0, 3, vectors_MD.shape[1])
    return -(scales_D * (vectors_MD - 1) ** 2).sum(axis=1)


def slope(vectors_MD: np.ndarray) -> np.ndarray:
    """Steep enough for sigma to grow, so that the covariance's path stands still at times."""
    return vectors_MD @ np.ones(vectors_MD.shape[1])


# The library sums in another order: differences of rounding grow with the condition of C.
@pytest.mark.parametrize(
    ("dimension", "population", "function", "relative"),
    [(1, 4, cigar, 1e-9), (6, 8, cigar, 1e-9), (6, 41, slope, 1e-9), (40, 16, cigar, 1e-9)],
)
def test_updates_are_the_librarys(
    dimension: int,
    population: int,
    function: Callable[[np.ndarray], np.ndarray],
    relative: float,
) -> None:
    strategy = make(dimension=dimension, population=population)
    library = CMA(mean=np.zeros(dimension), sigma=0.5, population_size=population)
    stood_still = 0
    for generation in range(30):
        asked = strategy.ask(generation)
        fitness_M = function(asked.vectors_MD)
        path_D = library._pc.copy()
        strategy.tell(asked, fitness_M)
        tell_library(library, asked.vectors_MD, fitness_M)
        stood_still += np.allclose(library._pc, (1 - library._cc) * path_D, rtol=1e-12)
        assert_same(strategy, library, relative)
    assert stood_still or function is not slope


def test_between_decompositions_updates_are_those_of_a_lazy_library() -> None:
    """Appendix B.2 of the tutorial, which the library leaves out: it decomposes every time."""
    dimension, population, gap = 150, 8, 3
    strategy = make(dimension=dimension, population=population)
    library = CMA(mean=np.zeros(dimension), sigma=0.5, population_size=population)
    assert math.floor(1 / (10 * dimension * (library._c1 + library._cmu))) == gap
    for generation in range(3 * gap):
        asked = strategy.ask(generation)
        fitness_M = cigar(asked.vectors_MD)
        strategy.tell(asked, fitness_M)
        eigen = library._eigen_decomposition()
        tell_library(library, asked.vectors_MD, fitness_M)
        if (generation + 1) % gap:
            library._B, library._D = eigen
        assert_same(strategy, library, 1e-9)


def tell_library(library: CMA, vectors_MD: np.ndarray, fitness_M: np.ndarray) -> None:
    library.tell([(v, -f) for v, f in zip(vectors_MD, fitness_M.tolist(), strict=True)])


def assert_same(strategy: CMAES, library: CMA, relative: float) -> None:
    state = strategy.state()
    assert state.scalars["num_updates"] == library.generation
    assert state.scalars["sigma"] == pytest.approx(library._sigma, rel=relative)
    for name, wanted in {
        "mean": library.mean,
        "covariance": library._C,
        "sigma_path": library._p_sigma,
        "covariance_path": library._pc,
    }.items():
        scale = np.abs(wanted).max()
        assert np.abs(state.arrays[name] - wanted).max() <= relative * scale, name


@pytest.mark.parametrize("done", [0, 2, 3, 4, 5])
def test_a_state_between_decompositions_goes_on_bit_for_bit(done: int) -> None:
    straight, broken_off = (make(dimension=150, population=8) for _ in range(2))
    for generation in range(9):
        for strategy in (straight, broken_off) if generation < done else (straight,):
            population = strategy.ask(generation)
            strategy.tell(population, cigar(population.vectors_MD))
    resumed = make(dimension=150, population=8)
    resumed.load_state(broken_off.state())
    for generation in range(done, 9):
        population = resumed.ask(generation)
        resumed.tell(population, cigar(population.vectors_MD))
    for name, array in straight.state().arrays.items():
        assert np.array_equal(resumed.state().arrays[name], array), name


def test_blas_runs_on_one_thread_whatever_the_process_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums shared by two threads have other last bits than those of one."""
    decompose, num_threads = np.linalg.eigh, []

    def watched(matrix_DD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        num_threads.extend(blas_threads())
        return decompose(matrix_DD)

    monkeypatch.setattr("numpy.linalg.eigh", watched)
    with threadpool_limits(limits=2, user_api="blas"):
        make(dimension=6, population=8).ask(0)
        assert set(blas_threads()) == {2}
    assert set(num_threads) == {1}


def blas_threads() -> list[int]:
    return [
        library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"
    ]


def test_an_update_of_the_size_of_essa_takes_little_time_and_memory() -> None:
    dimension, population = 1536, 96
    strategy = make(dimension=dimension, population=population)
    asked = strategy.ask(0)
    fitness_M = cigar(asked.vectors_MD)
    tracemalloc.start()
    started = time.process_time()
    strategy.tell(asked, fitness_M)
    elapsed_s = time.process_time() - started
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert elapsed_s < 1.5
    # The library's update takes 1,536 bytes * D^2 beyond what it holds.
    assert peak_bytes < 24 * dimension**2


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
    with pytest.raises(
        ConfigError, match=r"dimension=5000 .* limit is 4096.*strategy\.kind=sep_cma_es"
    ):
        make(dimension=5000, population=8)


def test_too_small_a_population_is_refused() -> None:
    with pytest.raises(ConfigError, match="population=3 is too small for cma_es; use 4 or more"):
        make(dimension=6, population=3)
