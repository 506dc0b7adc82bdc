"""snes against the paper's formula written out by hand."""

import math

import numpy as np
import pytest

from es_align.config_search import StrategyConfig
from es_align.errors import ConfigError
from es_align.sealed import digest
from es_align.strategies import Strategy, make_strategy
from es_align.strategies.snes import utilities
from kernels.noise import vector_noise

NAN = float("nan")


def make(*, dimension: int, population: int, sigma: float = 0.5) -> Strategy:
    config = StrategyConfig.model_validate({"kind": "snes", "sigma": sigma})
    return make_strategy(config, dimension=dimension, population=population, seed=3, generations=1)


def bowl(vectors_MD: np.ndarray) -> np.ndarray:
    scales_D = np.logspace(0, 3, vectors_MD.shape[1])
    return -(scales_D * (vectors_MD - 1) ** 2).sum(axis=1)


def test_two_updates_by_hand_in_plain_floats() -> None:
    dimension, num_members = 7, 5
    strategy = make(dimension=dimension, population=num_members)
    eta = (3 + math.log(dimension)) / (5 * math.sqrt(dimension))
    raw = [max(0.0, math.log(num_members / 2 + 1) - math.log(k)) for k in range(1, 6)]
    utility_of_rank = [weight / sum(raw) - 1 / num_members for weight in raw]
    mean, spread = [0.0] * dimension, [0.5] * dimension
    for generation, fitness in enumerate(([3.0, 1.0, 0.5, 0.7, 2.0], [0.1, 0.9, 4.0, 1.0, 0.0])):
        # Utilities and scales are kept to 24 bits.
        noise = [vector_noise(3, generation, m, dimension).tolist() for m in range(num_members)]
        population = strategy.ask(generation)
        for m in range(num_members):
            wanted = [mean[i] + spread[i] * noise[m][i] for i in range(dimension)]
            assert population.vectors_MD[m] == pytest.approx(wanted, abs=1e-6)
        ranks = [sorted(fitness, reverse=True).index(value) for value in fitness]
        weights = [utility_of_rank[rank] for rank in ranks]
        for i in range(dimension):
            column = [noise[m][i] for m in range(num_members)]
            mean_gradient = sum(w * z for w, z in zip(weights, column, strict=True))
            scale_gradient = sum(w * (z * z - 1) for w, z in zip(weights, column, strict=True))
            mean[i] += spread[i] * mean_gradient
            spread[i] *= math.exp(eta / 2 * scale_gradient)
        strategy.tell(population, np.array(fitness))
        assert strategy.mean_D == pytest.approx(mean, abs=1e-6)


def test_utilities_are_the_papers() -> None:
    # log 3 - log 1, log 3 - log 2, 0, 0 over their sum, less 1/4.
    total = math.log(3) + math.log(1.5)
    expected = [math.log(1.5) / total - 0.25, -0.25, math.log(3) / total - 0.25, -0.25]
    assert utilities(np.array([2.0, 0.0, 7.0, 1.0])) == pytest.approx(expected, abs=1e-7)


def test_equal_members_share_their_utilities() -> None:
    total = math.log(3) + math.log(1.5)
    shared = (math.log(1.5) / total + 0) / 2 - 0.25
    found = utilities(np.array([2.0, 0.0, 7.0, 2.0]))
    assert found == pytest.approx([shared, -0.25, math.log(3) / total - 0.25, shared], abs=1e-7)
    assert found[0] == found[3]


@pytest.mark.parametrize("num_members", [1, 2, 7, 96])
def test_a_population_of_equals_moves_nothing(num_members: int) -> None:
    assert utilities(np.full(num_members, 0.1)).tolist() == [0.0] * num_members


def test_an_equal_population_leaves_the_state_as_it_was() -> None:
    strategy = make(dimension=5, population=7)
    update = strategy.tell(strategy.ask(0), np.full(7, 0.3))
    assert update.step_norm == 0.0
    assert strategy.mean_D.tolist() == [0.0] * 5
    assert strategy.state().arrays["log_scale"].tolist() == [0.0] * 5


def test_members_without_fitness_are_as_if_they_had_never_been() -> None:
    strategy = make(dimension=5, population=7, sigma=1.0)
    update = strategy.tell(strategy.ask(0), np.array([2.0, NAN, 0.0, 7.0, np.inf, NAN, 1.0]))
    assert (update.num_used, update.num_excluded) == (4, 3)
    weights = utilities(np.array([2.0, 0.0, 7.0, 1.0]))
    noise = [vector_noise(3, 0, member, 5) for member in (0, 2, 3, 6)]
    assert strategy.mean_D == pytest.approx(weights @ np.stack(noise), rel=1e-12)


def test_only_the_order_of_fitness_counts() -> None:
    plain, bent = make(dimension=6, population=8), make(dimension=6, population=8)
    for generation in range(4):
        population = plain.ask(generation)
        plain.tell(population, bowl(population.vectors_MD))
        bent.tell(population, np.arctan(bowl(population.vectors_MD) / 1000))
    assert bent.mean_D.tolist() == plain.mean_D.tolist()


def test_reaches_the_optimum_of_an_ill_conditioned_bowl_by_learning_its_scales() -> None:
    strategy = make(dimension=8, population=12)
    for generation in range(250):
        population = strategy.ask(generation)
        update = strategy.tell(population, bowl(population.vectors_MD))
    assert strategy.mean_D == pytest.approx(np.ones(8), abs=1e-6)
    assert update.sigma < 1e-5
    log_scale_D = strategy.state().arrays["log_scale"]
    # Ideal is 1 / sqrt(scale): a factor of 32 between the ends.
    assert log_scale_D[0] - log_scale_D[-1] > math.log(10)


def test_pinned_digest_of_a_short_run() -> None:
    # Fitness that needs no summation over the vector, so every machine must reach these bits.
    strategy = make(dimension=33, population=9, sigma=0.05)
    for generation in range(5):
        population = strategy.ask(generation)
        strategy.tell(population, population.vectors_MD[:, 0] - 2 * population.vectors_MD[:, 1])
    expected = "e282fcb5ef84e83b8dada7e7fcbdfdcd7137292db69f46f5648e91b4200cff93"
    assert digest(strategy.mean_D) == expected


def test_one_member_is_refused() -> None:
    with pytest.raises(ConfigError, match="population=1 is too small for snes; use 2 or more"):
        make(dimension=5, population=1)
