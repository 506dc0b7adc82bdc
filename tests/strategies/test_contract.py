"""What every strategy in the registry must do."""

import json

import numpy as np
import pytest

from es_align.config_search import StrategyConfig
from es_align.errors import ConfigError, WorkerError
from es_align.strategies import STRATEGIES, Strategy, StrategyState, make_strategy

DIMENSION = 12
POPULATION = 16
GENERATIONS = 60
TARGET_D = np.linspace(-0.3, 0.5, DIMENSION)

# Whose members are vectors; `eggroll` has its own, with the means that it moves.
VECTOR_STRATEGIES = sorted(set(STRATEGIES) - {"eggroll"})

pytestmark = pytest.mark.parametrize("kind", VECTOR_STRATEGIES)


def make(kind: str, *, dimension: int = DIMENSION, seed: int = 1) -> Strategy:
    config = StrategyConfig.model_validate({"kind": kind, "sigma": 0.1, "learning_rate": 0.1})
    return make_strategy(
        config, dimension=dimension, population=POPULATION, seed=seed, generations=GENERATIONS
    )


def bowl(vectors_MD: np.ndarray) -> np.ndarray:
    return -((vectors_MD - TARGET_D) ** 2).sum(axis=1)


def run(strategy: Strategy, start: int, stop: int) -> None:
    for generation in range(start, stop):
        population = strategy.ask(generation)
        strategy.tell(population, bowl(population.vectors_MD))


def through_json(state: StrategyState) -> StrategyState:
    return StrategyState(state.arrays, json.loads(json.dumps(dict(state.scalars))))


def same_state(left: StrategyState, right: StrategyState) -> bool:
    return (
        left.scalars == right.scalars
        and left.arrays.keys() == right.arrays.keys()
        and all(np.array_equal(left.arrays[name], right.arrays[name]) for name in left.arrays)
    )


def test_starts_at_zero_and_serves_its_shape(kind: str) -> None:
    strategy = make(kind)
    population = strategy.ask(0)
    assert (strategy.kind, strategy.dimension) == (kind, DIMENSION)
    assert strategy.mean_D.tolist() == [0.0] * DIMENSION
    assert population.generation == 0
    assert population.vectors_MD.shape == (POPULATION, DIMENSION)
    assert population.vectors_MD.dtype == np.float64
    assert len(np.unique(population.vectors_MD, axis=0)) == POPULATION


def test_sigma_is_the_spread_of_the_members(kind: str) -> None:
    vectors_MD = make(kind, dimension=300).ask(0).vectors_MD
    # At least 2,400 draws: a standard error of 0.015 or less.
    assert vectors_MD.std() == pytest.approx(0.1, rel=0.05)


def test_two_runs_are_one(kind: str) -> None:
    first, second = make(kind), make(kind)
    run(first, 0, 5)
    run(second, 0, 5)
    assert same_state(first.state(), second.state())


def test_asking_changes_nothing(kind: str) -> None:
    strategy, undisturbed = make(kind), make(kind)
    run(strategy, 0, 3)
    run(undisturbed, 0, 3)
    before = strategy.state()
    asked = [strategy.ask(generation).vectors_MD for generation in (3, 7, 3)]
    assert np.array_equal(asked[0], asked[2])
    assert not np.array_equal(asked[0], asked[1])
    assert same_state(strategy.state(), before)
    run(strategy, 3, 6)
    run(undisturbed, 3, 6)
    assert same_state(strategy.state(), undisturbed.state())


def test_seeds_and_generations_differ_in_every_number(kind: str) -> None:
    first, second = make(kind, seed=1), make(kind, seed=2)
    draws = [first.ask(0), first.ask(1), second.ask(0)]
    numbers = np.concatenate([population.vectors_MD.ravel() for population in draws])
    assert len(np.unique(numbers)) == len(numbers)


@pytest.mark.parametrize("has_asked", [False, True])
def test_a_restored_state_goes_on_bit_for_bit(kind: str, has_asked: bool) -> None:
    straight, broken_off = make(kind), make(kind)
    run(straight, 0, 8)
    run(broken_off, 0, 4)
    if has_asked:
        broken_off.ask(4)
    resumed = make(kind)
    run(resumed, 0, 2)  # nothing of which may be left
    resumed.load_state(through_json(broken_off.state()))
    assert same_state(resumed.state(), broken_off.state())
    run(resumed, 4, 8)
    assert same_state(resumed.state(), straight.state())
    assert np.array_equal(resumed.mean_D, straight.mean_D)


def test_mean_and_state_are_copies(kind: str) -> None:
    strategy = make(kind)
    mean_D, state = strategy.mean_D, strategy.state()
    with pytest.raises(ValueError, match="read-only"):
        mean_D[0] = 1.0
    run(strategy, 0, 2)
    assert mean_D.tolist() == [0.0] * DIMENSION
    assert state.arrays["mean"].tolist() == [0.0] * DIMENSION
    resumed = make(kind)
    resumed.load_state(state)
    run(resumed, 0, 2)
    assert state.arrays["mean"].tolist() == [0.0] * DIMENSION


def test_climbs_a_bowl(kind: str) -> None:
    strategy = make(kind)
    start = np.linalg.norm(TARGET_D)
    run(strategy, 0, GENERATIONS)
    assert np.linalg.norm(strategy.mean_D - TARGET_D) < 0.25 * start


def test_without_a_schedule_the_length_of_the_run_changes_nothing(kind: str) -> None:
    config = StrategyConfig.model_validate({"kind": kind})
    lengths = [
        make_strategy(
            config, dimension=DIMENSION, population=POPULATION, seed=1, generations=generations
        )
        for generations in (1, 50)
    ]
    for strategy in lengths:
        run(strategy, 0, 3)
    assert same_state(lengths[0].state(), lengths[1].state())


def test_update_reports_what_it_did(kind: str) -> None:
    strategy = make(kind)
    population = strategy.ask(0)
    update = strategy.tell(population, bowl(population.vectors_MD))
    assert (update.generation, update.num_used, update.num_excluded) == (0, POPULATION, 0)
    assert update.sigma == 0.1
    assert update.step_norm == pytest.approx(np.linalg.norm(strategy.mean_D))
    assert update.step_norm > 0


def test_a_constant_added_to_fitness_changes_nothing(kind: str) -> None:
    plain, shifted = make(kind), make(kind)
    for generation in range(3):
        population = plain.ask(generation)
        plain.tell(population, bowl(population.vectors_MD))
        shifted.tell(population, bowl(population.vectors_MD) + 3.0)
    assert shifted.mean_D == pytest.approx(plain.mean_D, rel=1e-9, abs=1e-12)


def test_members_without_fitness_are_excluded_and_counted(kind: str) -> None:
    strategy, infinite, zero = make(kind), make(kind), make(kind)
    population = strategy.ask(0)
    fitness_M = 5 + bowl(population.vectors_MD)
    fitness_M[[2, 9]] = np.nan
    update = strategy.tell(population, fitness_M)
    assert update.num_used + update.num_excluded == POPULATION
    assert update.num_excluded >= 2
    assert np.isfinite(strategy.mean_D).all()

    infinite.tell(population, np.where(np.isnan(fitness_M), np.inf, fitness_M))
    assert same_state(infinite.state(), strategy.state())
    zero.tell(population, np.nan_to_num(fitness_M))
    assert not same_state(zero.state(), strategy.state())


@pytest.mark.parametrize("num_scored", [0, POPULATION // 2 - 1])
def test_too_few_members_stop_the_run_and_leave_the_state(kind: str, num_scored: int) -> None:
    strategy = make(kind)
    run(strategy, 0, 2)
    before = strategy.state()
    fitness_M = np.full(POPULATION, np.nan)
    fitness_M[:num_scored] = np.arange(num_scored)
    with pytest.raises(WorkerError, match=r"generation 2: only \d of 16 .* --resume"):
        strategy.tell(strategy.ask(2), fitness_M)
    assert same_state(strategy.state(), before)


def test_half_of_the_members_are_enough(kind: str) -> None:
    strategy = make(kind)
    fitness_M = np.arange(float(POPULATION))
    fitness_M[POPULATION // 2 :] = np.nan
    assert strategy.tell(strategy.ask(0), fitness_M).num_used == POPULATION // 2


def test_fitness_of_another_size_is_refused(kind: str) -> None:
    strategy = make(kind)
    with pytest.raises(ValueError, match="do not fit a strategy of 16 members"):
        strategy.tell(strategy.ask(0), np.zeros(POPULATION - 1))


def test_a_foreign_state_is_refused(kind: str) -> None:
    strategy = make(kind)
    with pytest.raises(ConfigError, match="dimension=13, this run has dimension=12"):
        strategy.load_state(make(kind, dimension=13).state())
    with pytest.raises(ConfigError, match="seed=2, this run has seed=1"):
        strategy.load_state(make(kind, seed=2).state())
    own = strategy.state()
    with pytest.raises(ConfigError, match="kind='other'"):
        strategy.load_state(StrategyState(own.arrays, {**own.scalars, "kind": "other"}))
    with pytest.raises(ConfigError, match="the saved state holds arrays"):
        strategy.load_state(StrategyState({}, own.scalars))


def test_a_space_without_numbers_is_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match=r"dimension=0: .* raise its rank"):
        make(kind, dimension=0)
