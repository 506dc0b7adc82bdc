"""openai_es against the formula written out by hand."""

import numpy as np
import pytest

from es_align.config_search import StrategyConfig
from es_align.errors import ConfigError
from es_align.sealed import digest
from es_align.strategies import make_strategy
from es_align.strategies.base import Strategy
from kernels.noise import vector_noise

NAN = float("nan")


def make(*, dimension: int, population: int, generations: int = 9, **settings: object) -> Strategy:
    config = StrategyConfig.model_validate({"kind": "openai_es", **settings})
    return make_strategy(
        config, dimension=dimension, population=population, seed=3, generations=generations
    )


def test_members_are_antithetic_pairs() -> None:
    strategy = make(dimension=5, population=6, sigma=0.5)
    vectors_MD = strategy.ask(4).vectors_MD
    for pair in range(3):
        noise_D = vector_noise(3, 4, pair, 5)
        assert vectors_MD[2 * pair].tolist() == (0.5 * noise_D).tolist()
        assert vectors_MD[2 * pair + 1].tolist() == (-0.5 * noise_D).tolist()


def test_two_updates_by_hand_in_plain_floats() -> None:
    sigma, learning_rate, momentum, dimension, num_pairs = 0.25, 0.125, 0.5, 7, 3
    strategy = make(
        dimension=dimension,
        population=2 * num_pairs,
        sigma=sigma,
        learning_rate=learning_rate,
        momentum=momentum,
        shaping="none",
    )
    mean, velocity = [0.0] * dimension, [0.0] * dimension
    for generation, fitness in enumerate(([3.0, 1.0, 0.5, 0.7, 2.0, 2.0], [0.1, 0.9, 4, 1, 0, 1])):
        gradient = [0.0] * dimension
        for pair in range(num_pairs):
            noise = vector_noise(3, generation, pair, dimension).tolist()
            weight = (fitness[2 * pair] - fitness[2 * pair + 1]) / 2
            gradient = [sum_ + weight * draw for sum_, draw in zip(gradient, noise, strict=True)]
        for i in range(dimension):
            velocity[i] = momentum * velocity[i] + gradient[i] / num_pairs
            mean[i] = mean[i] + learning_rate * sigma * velocity[i]
        strategy.tell(strategy.ask(generation), np.array(fitness))
        # Equal bits: nothing is summed in another order or fused.
        assert strategy.mean_D.tolist() == mean


@pytest.mark.parametrize("shaping", ["z_score", "centred_ranks", "centred", "leave_one_out"])
def test_dense_form_of_the_paper(shaping: str) -> None:
    strategy = make(
        dimension=40, population=20, sigma=0.3, learning_rate=0.2, momentum=0.0, shaping=shaping
    )
    population = strategy.ask(0)
    fitness_M = np.sin(np.arange(20.0))
    shaped_M = {
        "z_score": (fitness_M - fitness_M.mean()) / fitness_M.std(),
        "centred_ranks": fitness_M.argsort().argsort() / 19 - 0.5,
        "centred": fitness_M - fitness_M.mean(),
        "leave_one_out": [
            fitness - np.delete(fitness_M, m).mean() for m, fitness in enumerate(fitness_M)
        ],
    }[shaping]
    noise_MD = population.vectors_MD / 0.3
    alpha = 0.2 * 0.3**2
    expected_D = alpha / (20 * 0.3) * (shaped_M @ noise_MD)
    strategy.tell(population, fitness_M)
    assert strategy.mean_D == pytest.approx(expected_D, rel=1e-12, abs=1e-15)


def test_pinned_digest_of_a_short_run() -> None:
    # Fitness that needs no summation over the vector, so every machine must reach these bits.
    strategy = make(dimension=33, population=8, sigma=0.05, learning_rate=0.1, momentum=0.9)
    for generation in range(5):
        population = strategy.ask(generation)
        strategy.tell(population, population.vectors_MD[:, 0] - 2 * population.vectors_MD[:, 1])
    expected = "c328728537d90ebc25aa66521b5b9747192961d7d6481be007af74bb8109c974"
    assert digest(strategy.mean_D) == expected


def test_an_equal_population_leaves_the_mean_unmoved() -> None:
    for shaping in ("z_score", "centred", "leave_one_out", "centred_ranks", "none"):
        strategy = make(dimension=5, population=6, shaping=shaping)
        update = strategy.tell(strategy.ask(0), np.full(6, 0.1))
        assert strategy.mean_D.tolist() == [0.0] * 5
        assert update.step_norm == 0.0


def test_an_equal_pair_contributes_exactly_nothing() -> None:
    strategy = make(dimension=5, population=6, shaping="none", sigma=1.0, learning_rate=1.0)
    strategy.tell(strategy.ask(0), np.array([0.3, 0.3, 1.0, 0.0, 0.7, 0.7]))
    assert strategy.mean_D.tolist() == (0.5 * vector_noise(3, 0, 1, 5) / 3).tolist()


def test_a_pair_that_lacks_a_member_is_left_out_whole() -> None:
    strategy = make(dimension=5, population=8, shaping="z_score", sigma=1.0, learning_rate=1.0)
    update = strategy.tell(strategy.ask(0), np.array([1, 0, 100, NAN, 0, 1, 0, 1]))
    assert (update.num_used, update.num_excluded) == (6, 2)
    # z-scores over the six are +-1: the 100 is not even in the mean.
    noise_ND = [vector_noise(3, 0, pair, 5) for pair in (0, 2, 3)]
    assert strategy.mean_D.tolist() == ((noise_ND[0] - noise_ND[1] - noise_ND[2]) / 3).tolist()


def test_swapping_every_pairs_fitness_turns_the_step_round() -> None:
    fitness_M = np.cos(np.arange(10.0))
    swapped_M = fitness_M.reshape(-1, 2)[:, ::-1].ravel()
    there, back = make(dimension=5, population=10), make(dimension=5, population=10)
    there.tell(there.ask(0), fitness_M)
    back.tell(back.ask(0), swapped_M)
    assert back.mean_D.tolist() == (-there.mean_D).tolist()


def test_step_is_free_of_the_rewards_scale() -> None:
    fitness_M = np.cos(np.arange(10.0))
    small, large = make(dimension=5, population=10), make(dimension=5, population=10)
    small.tell(small.ask(0), fitness_M)
    large.tell(large.ask(0), 1024 * fitness_M)
    assert large.mean_D.tolist() == small.mean_D.tolist()


@pytest.mark.parametrize(("dimension", "sigma"), [(50, 0.05), (400, 0.05), (400, 2.0)])
def test_way_uphill_is_the_learning_rate_in_sigmas(dimension: int, sigma: float) -> None:
    strategy = make(
        dimension=dimension, population=8192, sigma=sigma, learning_rate=0.5, momentum=0.0
    )
    slope_D = np.linspace(-1, 2, dimension)
    population = strategy.ask(0)
    strategy.tell(population, population.vectors_MD @ slope_D)
    uphill = strategy.mean_D @ slope_D / np.linalg.norm(slope_D)
    assert uphill / sigma == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("max_step", [1e-3, 0.01])
def test_a_step_beyond_the_limit_is_cut_to_it_in_its_direction(max_step: float) -> None:
    fitness_M = np.cos(np.arange(10.0))
    free = make(dimension=16, population=10, sigma=0.5, momentum=0.0)
    cut = make(dimension=16, population=10, sigma=0.5, momentum=0.0, max_step=max_step)
    free.tell(free.ask(0), fitness_M)
    update = cut.tell(cut.ask(0), fitness_M)
    longest = max_step * 0.5 * 4
    assert np.linalg.norm(free.mean_D) > longest
    assert update.step_norm == pytest.approx(longest, rel=1e-12)
    share = longest / np.linalg.norm(free.mean_D)
    assert cut.mean_D == pytest.approx(share * free.mean_D, rel=1e-12)
    # What is cut off is not lost: the velocity is that of the free step.
    assert cut.state().arrays["velocity"].tolist() == free.state().arrays["velocity"].tolist()


def test_a_step_within_the_limit_keeps_its_bits() -> None:
    fitness_M = np.cos(np.arange(10.0))
    free = make(dimension=16, population=10)
    limited = make(dimension=16, population=10, max_step=10.0)
    for generation in range(3):
        free.tell(free.ask(generation), fitness_M)
        limited.tell(limited.ask(generation), fitness_M)
    assert limited.mean_D.tolist() == free.mean_D.tolist()


def test_scheduled_sigma_and_learning_rate_are_those_of_the_generation() -> None:
    strategy = make(
        dimension=5,
        population=6,
        generations=5,
        shaping="none",
        momentum=0.0,
        sigma=0.5,
        sigma_schedule="linear",
        sigma_final=0.5,
        learning_rate=0.25,
        learning_rate_schedule="exponential",
        learning_rate_final=0.0625,
    )
    before_D = strategy.mean_D
    for generation, (sigma, learning_rate) in enumerate(
        [(0.5, 0.25), (0.4375, 0.125), (0.375, 0.0625), (0.3125, 0.03125), (0.25, 0.015625)]
    ):
        population = strategy.ask(generation)
        noise_D = vector_noise(3, generation, 0, 5)
        assert population.vectors_MD[0].tolist() == (before_D + sigma * noise_D).tolist()
        update = strategy.tell(population, np.array([1.0, 0.0, 2.0, 2.0, 3.0, 3.0]))
        assert (update.sigma, update.learning_rate) == (sigma, learning_rate)
        step_D = learning_rate * sigma * (0.5 * noise_D / 3)
        assert strategy.mean_D.tolist() == (before_D + step_D).tolist()
        before_D = strategy.mean_D


@pytest.mark.parametrize(("population", "nearest"), [(33, "32 or 34"), (3, "2 or 4"), (1, "2")])
def test_an_odd_population_is_refused(population: int, nearest: str) -> None:
    message = f"population={population} must be even for antithetic pairs; use {nearest}"
    with pytest.raises(ConfigError, match=f"^{message}$"):
        make(dimension=5, population=population)
