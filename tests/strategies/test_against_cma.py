"""cma_es and sep_cma_es against Hansen's own implementation, the package `cma`."""

from collections.abc import Callable

import numpy as np
import pytest

from es_align.config_search import StrategyConfig
from es_align.strategies import make_strategy

cma = pytest.importorskip("cma")

Function = Callable[[np.ndarray], np.ndarray]
SEEDS = range(1, 8)
REFERENCE_SEEDS = range(1, 12)  # not 0: the reference would take the time
POPULATION = 12
SIGMA = 0.5
MAX_GENERATIONS = 1000


def sphere(vectors_MD: np.ndarray) -> np.ndarray:
    return ((vectors_MD - 1) ** 2).sum(axis=1)


def ellipsoid(vectors_MD: np.ndarray) -> np.ndarray:
    return (np.logspace(0, 4, vectors_MD.shape[1]) * (vectors_MD - 1) ** 2).sum(axis=1)


def rosenbrock(vectors_MD: np.ndarray) -> np.ndarray:
    here, after = vectors_MD[:, :-1], vectors_MD[:, 1:]
    return (100 * (after - here**2) ** 2 + (1 - here) ** 2).sum(axis=1)


@pytest.mark.parametrize(
    ("kind", "function", "dimension", "target"),
    [
        ("cma_es", sphere, 6, 1e-9),
        ("cma_es", ellipsoid, 6, 1e-9),
        ("cma_es", rosenbrock, 6, 1e-9),
        ("sep_cma_es", sphere, 6, 1e-9),
        ("sep_cma_es", ellipsoid, 6, 1e-9),
        # Along the valley's bend a diagonal learns nothing: far enough is into the valley.
        ("sep_cma_es", rosenbrock, 4, 1.0),
    ],
)
def test_evaluations_to_the_target_are_the_references(
    kind: str, function: Function, dimension: int, target: float
) -> None:
    """The median over 7 seeds lies between the reference's fewest and most over 11 seeds."""
    ours = [evaluations(kind, function, dimension, target, seed) for seed in SEEDS]
    reference = [
        reference_evaluations(kind, function, dimension, target, seed) for seed in REFERENCE_SEEDS
    ]
    assert min(reference) <= np.median(ours) <= max(reference), (ours, reference)


def evaluations(kind: str, function: Function, dimension: int, target: float, seed: int) -> int:
    config = StrategyConfig.model_validate({"kind": kind, "sigma": SIGMA})
    strategy = make_strategy(
        config, dimension=dimension, population=POPULATION, seed=seed, generations=1
    )
    for generation in range(MAX_GENERATIONS):
        population = strategy.ask(generation)
        losses_M = function(population.vectors_MD)
        if losses_M.min() < target:
            return (generation + 1) * POPULATION
        strategy.tell(population, -losses_M)
    raise AssertionError(f"{kind} did not reach {target} with seed {seed}")


def reference_evaluations(
    kind: str, function: Function, dimension: int, target: float, seed: int
) -> int:
    options = {
        "popsize": POPULATION,
        "seed": seed,
        "CMA_diagonal": kind == "sep_cma_es",
        "verbose": -9,
    }
    reference = cma.CMAEvolutionStrategy(np.zeros(dimension), SIGMA, options)
    for generation in range(MAX_GENERATIONS):
        vectors = reference.ask()
        losses_M = function(np.array(vectors))
        if losses_M.min() < target:
            return (generation + 1) * POPULATION
        reference.tell(vectors, losses_M.tolist())
    raise AssertionError(f"the reference did not reach {target} with seed {seed}")
