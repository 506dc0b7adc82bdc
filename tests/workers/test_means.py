"""Strategy `eggroll` and the means that its moves lead: on toy cores, without a model."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from es_align.config_search import StrategyConfig
from es_align.errors import ConfigError, WorkerError
from es_align.strategies import Population, Strategy, make_strategy
from kernels.matrix_noise import VARIANCE, NoiseStream, factor_noise
from kernels.shared_basis import SharedBasis
from workers.layers import CoreLayer, LoraLayer
from workers.means import Means, MeanSettings, OptimizerKind
from workers.members import NoiseMembers
from workers.protocol import Move

RANK, POPULATION, SEED = 4, 32, 5
UNITS = (1.0, 2.5)
LAYERS = [
    CoreLayer(f"layer{i}", SharedBasis(torch.eye(6)[:, :RANK], torch.eye(6)[:, :RANK]), 1, unit, i)
    for i, unit in enumerate(UNITS)
]
DIMENSION = sum(layer.num_numbers for layer in LAYERS)
SETTINGS = MeanSettings(SEED, "binomial", "momentum", 0.5)
TARGET_D = np.linspace(-0.4, 0.6, DIMENSION)


def make(**fields: object) -> Strategy:
    given = {"kind": "eggroll", "sigma": 0.1, "learning_rate": 0.5, **fields}
    config = StrategyConfig.model_validate(given)
    return make_strategy(
        config, dimension=DIMENSION, population=POPULATION, seed=SEED, generations=60
    )


def members_of(population: Population) -> NoiseMembers:
    assert isinstance(population.members, NoiseMembers)
    return population.members


def noise(stream: NoiseStream, pair: int, layer: CoreLayer) -> np.ndarray:
    """The pair's noise on one core in standard deviations, from the definition in `kernels.core`:
    b a^T, since a core's rows are the directions of its input.
    """
    a_1R, b_1R = (
        factor_noise(stream, [pair], 2 * layer.parameter + side, 1, RANK)[0] for side in (0, 1)
    )
    return b_1R.T.astype(float) @ a_1R / VARIANCE[stream.kind]


def vectors_of(means: Means, members: NoiseMembers) -> np.ndarray:
    """Every member's whole vector."""
    stream = NoiseStream(members.seed, members.generation, members.kind)
    rows = []
    for pair, sign in zip(members.pairs, members.signs, strict=True):
        parts = [sign * members.sigma * layer.unit * noise(stream, pair, layer) for layer in LAYERS]
        rows.append(means.vector_D + np.concatenate([part.ravel() for part in parts]))
    return np.stack(rows)


def bowl(vectors_MD: np.ndarray) -> np.ndarray:
    return -((vectors_MD - TARGET_D) ** 2).sum(axis=1)


def run(strategy: Strategy, means: Means, generations: range) -> list[str]:
    digests = []
    for generation in generations:
        population = strategy.ask(generation)
        fitness_M = bowl(vectors_of(means, members_of(population)))
        move = strategy.tell(population, fitness_M).move
        assert move is not None
        means.move(move)
        digests.append(means.digest)
    return digests


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_the_mean_climbs(optimizer: OptimizerKind) -> None:
    means = Means(LAYERS, replace(SETTINGS, optimizer=optimizer))
    start = bowl(means.vector_D[None])[0]
    run(make(), means, range(60))
    assert bowl(means.vector_D[None])[0] > 0.1 * start


def test_a_move_is_the_gradient_of_the_definition() -> None:
    """Plain descent: sigma * unit * rate * sum over pairs of half the shaped difference times E."""
    strategy, means = make(shaping="none"), Means(LAYERS, replace(SETTINGS, optimizer="sgd"))
    population = strategy.ask(0)
    fitness_M = np.random.Generator(np.random.Philox(1)).normal(size=POPULATION)
    move = strategy.tell(population, fitness_M).move
    assert move is not None
    means.move(move)
    moved = means.moved
    stream, pairs = NoiseStream(SEED, 0), POPULATION // 2
    expected = []
    for layer in LAYERS:
        total = np.zeros((RANK, RANK))
        for pair in range(pairs):
            half = (fitness_M[2 * pair] - fitness_M[2 * pair + 1]) / 2
            total += half * noise(stream, pair, layer)
        expected.append(0.1 * layer.unit * 0.5 * total / pairs)
    np.testing.assert_allclose(
        means.vector_D, np.concatenate([one.ravel() for one in expected]), rtol=1e-6, atol=1e-9
    )
    square = sum((one / layer.unit) ** 2 for one, layer in zip(expected, LAYERS, strict=True))
    assert moved.step_norm == pytest.approx(np.sqrt(square.sum()), rel=1e-6)


def test_a_late_joiner_holds_the_same_bits() -> None:
    strategy, means = make(), Means(LAYERS, SETTINGS)
    digests = run(strategy, means, range(4))
    again = Means(LAYERS, SETTINGS)
    assert again.moved.digest == Means(LAYERS, SETTINGS).moved.digest != digests[0]
    assert run(make(), again, range(4)) == digests
    assert len(set(digests)) == 4


def test_equal_fitness_moves_nothing() -> None:
    strategy, means = make(shaping="none"), Means(LAYERS, SETTINGS)
    move = strategy.tell(strategy.ask(0), np.repeat(np.arange(POPULATION / 2), 2)).move
    assert move is not None and not move.weight_N.any()
    means.move(move)
    assert means.moved.step_norm == 0
    assert not means.vector_D.any()


def test_asking_changes_nothing_and_the_noise_is_shared_as_often_as_asked() -> None:
    strategy = make(noise_reuse=3)
    noises = [members_of(strategy.ask(generation)).generation for generation in range(7)]
    assert noises == [0, 0, 0, 1, 1, 1, 2]
    assert strategy.ask(4) == strategy.ask(4)
    members = members_of(strategy.ask(0))
    assert (members.pairs[:4], members.signs[:4]) == ((0, 0, 1, 1), (1, -1, 1, -1))
    move = strategy.tell(strategy.ask(5), np.arange(float(POPULATION))).move
    assert move is not None and (move.generation, move.noise_generation) == (5, 1)


def test_a_pair_without_both_fitnesses_is_left_out_and_counted() -> None:
    strategy = make()
    fitness_M = np.arange(float(POPULATION)) ** 2
    fitness_M[[4, 11]] = np.nan, np.inf
    update = strategy.tell(strategy.ask(0), fitness_M)
    assert (update.num_used, update.num_excluded) == (POPULATION - 4, 4)
    assert update.move is not None
    assert np.flatnonzero(update.move.weight_N == 0).tolist() == [2, 5]


def test_too_few_members_stop_the_run() -> None:
    strategy = make()
    fitness_M = np.full(POPULATION, np.nan)
    fitness_M[:14] = 1.0
    with pytest.raises(WorkerError, match=r"generation 3: only 14 of 32 .* --resume"):
        strategy.tell(strategy.ask(3), fitness_M)


def test_an_odd_population_is_refused() -> None:
    config = StrategyConfig.model_validate({"kind": "eggroll"})
    with pytest.raises(ConfigError, match=r"population=7 must be even .* use 6 or 8"):
        make_strategy(config, dimension=4, population=7, seed=0, generations=1)


def test_a_step_without_a_length_stops_the_run() -> None:
    means = Means(LAYERS, SETTINGS)
    endless = Move(3, 3, np.ones(POPULATION // 2), sigma=math.inf, learning_rate=0.5)
    with pytest.raises(WorkerError, match=r"generation 3: the step .* sigma=inf .*lower one"):
        means.move(endless)


def test_a_factor_without_noise_costs_and_counts_nothing() -> None:
    """LoRAs with noise on B alone: the length of the step is B's."""
    generator = torch.Generator().manual_seed(1)
    down_RI, up_OR = (torch.randn(*shape, generator=generator) for shape in ((2, 6), (5, 2)))
    moved = []
    for unit_a in (0.0, 0.5):
        means = Means([LoraLayer("x", down_RI, up_OR, 1.0, 1, unit_a, 0.5, 0)], SETTINGS)
        means.move(Move(0, 0, np.array([1.0, -0.5]), sigma=0.1, learning_rate=0.5))
        moved.append((means.vector_D, means.moved.step_norm))
    (only_b_D, length_b), (both_D, length) = moved
    assert np.array_equal(only_b_D[:12].astype(np.float32), down_RI.flatten().numpy())
    assert np.array_equal(only_b_D[12:], both_D[12:])
    assert 0 < length_b < length
