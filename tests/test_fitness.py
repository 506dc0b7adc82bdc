"""From rewards to shaped fitness, in literal numbers."""

from random import Random
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from es_align.config_search import StrategyConfig
from es_align.fitness import (
    CENTRINGS,
    MIN_SPREAD,
    SHAPINGS,
    average_rewards,
    break_ties,
    centre_prompts,
)

NAN = float("nan")


def test_each_prompt_is_centred_over_the_members() -> None:
    rewards_MP = np.array([[1.0, 10.0], [0.0, 12.0], [0.5, 14.0], [0.5, 12.0]])
    assert centre_prompts(rewards_MP).tolist() == [-0.75, -0.25, 1.0, 0.0]


def test_a_member_is_compared_on_its_own_prompts() -> None:
    rewards_MP = np.array([[1.0, NAN], [0.0, 2.0], [NAN, 4.0]])
    # Prompt averages 0.5 and 3.
    assert centre_prompts(rewards_MP).tolist() == [0.5, -0.75, 1.0]


def test_nothing_scored_is_nan_and_never_zero() -> None:
    rewards_MP = np.array([[NAN, NAN], [0.0, NAN], [1.0, NAN]])
    fitness_M = centre_prompts(rewards_MP)
    assert np.isnan(fitness_M[0])
    assert fitness_M[1:].tolist() == [-0.5, 0.5]


def test_infinite_rewards_are_no_score() -> None:
    rewards_MP = np.array([[np.inf, 0.0], [1.0, -np.inf], [3.0, 2.0]])
    assert centre_prompts(rewards_MP).tolist() == [-1.0, -1.0, 1.0]


def test_equal_scores_in_another_order_are_an_exact_tie() -> None:
    rewards_MP = np.array([[0.1, 0.2, 0.3, 0.7], [0.7, 0.3, 0.2, 0.1], [0.2, 0.7, 0.1, 0.3]])
    assert len(set(centre_prompts(rewards_MP).tolist())) == 1


def test_without_centring_fitness_is_the_average_of_the_scores_there_are() -> None:
    rewards_MP = np.array([[1.0, 10.0], [0.0, NAN], [np.inf, 4.0], [NAN, NAN]])
    assert average_rewards(rewards_MP) == pytest.approx([5.5, 0.0, 4.0, NAN], abs=0, nan_ok=True)


def test_with_all_scores_centring_moves_every_member_alike() -> None:
    rewards_MP = np.array([[1.0, 10.0], [0.0, 12.0], [0.5, 14.0], [0.5, 12.0]])
    moved_M = average_rewards(rewards_MP) - centre_prompts(rewards_MP)
    assert moved_M.tolist() == [6.25] * 4  # the mean of the prompts' averages, 0.5 and 12


@pytest.mark.parametrize(
    ("shaping", "expected"),
    [
        ("none", [1.0, 2.0, NAN, 2.0, 5.0]),
        ("centred", [-1.5, -0.5, NAN, -0.5, 2.5]),
        ("leave_one_out", [1 - 9 / 3, 2 - 8 / 3, NAN, 2 - 8 / 3, 5 - 5 / 3]),
        ("z_score", [-1.0, -1 / 3, NAN, -1 / 3, 5 / 3]),
        ("centred_ranks", [-0.5, 0.0, NAN, 0.0, 0.5]),
    ],
)
def test_shapings_by_hand(shaping: str, expected: list[float]) -> None:
    # Mean 2.5, standard deviation 1.5; the tie shares rank (1 + 2) / 2 of 3.
    shaped_M = SHAPINGS[shaping](np.array([1.0, 2.0, NAN, 2.0, 5.0]))
    assert shaped_M == pytest.approx(expected, abs=1e-15, nan_ok=True)


@pytest.mark.parametrize("shaping", ["centred", "leave_one_out", "z_score", "centred_ranks"])
def test_equal_members_shape_to_zeros(shaping: str) -> None:
    for fitness in ([0.1, 0.1, 0.1], [0.7]):
        assert SHAPINGS[shaping](np.array(fitness)).tolist() == [0.0] * len(fitness)
    shaped_M = SHAPINGS[shaping](np.array([0.3, NAN, 0.3]))
    assert shaped_M.tolist() == pytest.approx([0.0, NAN, 0.0], abs=0, nan_ok=True)


def test_a_spread_of_rounding_is_none() -> None:
    fitness_M = np.array([0.1 + 0.2, 0.3, 0.3])
    assert fitness_M[0] != 0.3
    assert SHAPINGS["z_score"](fitness_M).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("shaping", SHAPINGS)
def test_nobody_scored_stays_nobody(shaping: str) -> None:
    assert np.isnan(SHAPINGS[shaping](np.full(4, NAN))).all()


def test_the_config_offers_exactly_the_shapings() -> None:
    allowed = StrategyConfig.model_fields["shaping"].annotation
    assert set(SHAPINGS) == set(get_args(allowed))
    assert set(CENTRINGS) == set(get_args(StrategyConfig.model_fields["centring"].annotation))


thousandths = st.integers(-1000, 1000).map(lambda number: number / 1000)


@given(st.lists(thousandths, min_size=2, max_size=20), st.floats(0.01, 100), st.floats(-10, 10))
def test_z_scores_and_ranks_forget_scale_and_offset(
    values: list[float], scale: float, offset: float
) -> None:
    fitness_M = np.array(values)
    for shaping in ("z_score", "centred_ranks"):
        shape = SHAPINGS[shaping]
        assert shape(scale * fitness_M + offset) == pytest.approx(shape(fitness_M), abs=1e-6)


@given(st.lists(thousandths, min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_shaping_follows_the_members_bit_for_bit(values: list[float], random: Random) -> None:
    order = list(range(len(values)))
    random.shuffle(order)
    fitness_M = np.array(values)
    for shape in SHAPINGS.values():
        assert np.array_equal(shape(fitness_M[order]), shape(fitness_M)[order])


def test_ties_are_broken_by_likelihood_over_a_share_of_the_smallest_gap() -> None:
    fitness_M = np.array([1.0, 1.0, 0.0, 1.0, 0.25, 0.25])
    likelihood_M = np.array([-2.0, -1.0, -9.0, -3.0, -1.0, -4.0])
    # The gaps are 0.25 and 0.75; ranks run from -0.5 to 0.5 of 0.5 * 0.25.
    broken_M = break_ties(fitness_M, likelihood_M, 0.5)
    assert broken_M.tolist() == [1.0, 1.0625, 0.0, 0.9375, 0.3125, 0.1875]


def test_where_all_are_equal_likelihood_is_the_only_signal() -> None:
    broken_M = break_ties(np.array([3.0, 3.0, 3.0]), np.array([-1.0, -2.0, -0.5]), 0.1)
    assert broken_M.tolist() == [3.0, 2.95, 3.05]


def test_a_member_without_likelihood_keeps_the_middle_of_its_group() -> None:
    fitness_M = np.array([1.0, 1.0, 1.0, NAN, np.inf, 0.0])
    likelihood_M = np.array([-1.0, NAN, -2.0, -1.0, -1.0, np.inf])
    broken_M = break_ties(fitness_M, likelihood_M, 0.5)
    assert broken_M == pytest.approx([1.25, 1.0, 0.75, NAN, NAN, 0.0], abs=0, nan_ok=True)
    assert np.isnan(break_ties(np.full(3, NAN), np.zeros(3), 0.5)).all()


def test_a_gap_of_rounding_is_a_tie_and_sets_no_scale() -> None:
    fitness_M = np.array([0.1 + 0.2, 0.3, 1.3])
    broken_M = break_ties(fitness_M, np.array([-2.0, -1.0, -1.0]), 0.5)
    assert broken_M == pytest.approx([0.05, 0.55, 1.3], abs=1e-15)


likelihoods = st.one_of(st.floats(-50, 0), st.just(NAN))
members = st.lists(
    st.tuples(st.one_of(thousandths, st.floats(-1e9, 1e9), st.just(NAN)), likelihoods),
    min_size=1,
    max_size=20,
)


@given(members, st.floats(0, 0.5))
def test_breaking_ties_never_reorders(drawn: list[tuple[float, float]], tie_break: float) -> None:
    fitness_M, likelihood_M = (np.array(column) for column in zip(*drawn, strict=True))
    broken_M = break_ties(fitness_M, likelihood_M, tie_break)
    assert np.array_equal(np.isnan(broken_M), np.isnan(fitness_M))
    for low in range(len(drawn)):
        for high in range(len(drawn)):
            # Further apart than the ends of a chain of twenty equals.
            if fitness_M[high] - fitness_M[low] > 20 * MIN_SPREAD:
                assert broken_M[high] >= broken_M[low]


@given(st.lists(st.tuples(thousandths, likelihoods), min_size=1, max_size=20), st.floats(0.01, 0.5))
def test_equals_differ_exactly_by_likelihood(
    drawn: list[tuple[float, float]], tie_break: float
) -> None:
    fitness_M, likelihood_M = (np.array(column) for column in zip(*drawn, strict=True))
    broken_M = break_ties(fitness_M, likelihood_M, tie_break)
    for one in range(len(drawn)):
        for other in range(len(drawn)):
            if fitness_M[one] == fitness_M[other] and likelihood_M[one] > likelihood_M[other]:
                assert broken_M[one] > broken_M[other]
            if fitness_M[one] > fitness_M[other]:
                assert broken_M[one] > broken_M[other]


@given(members, st.randoms(use_true_random=False))
def test_breaking_ties_follows_the_members_bit_for_bit(
    drawn: list[tuple[float, float]], random: Random
) -> None:
    fitness_M, likelihood_M = (np.array(column) for column in zip(*drawn, strict=True))
    order = random.sample(range(len(drawn)), len(drawn))
    broken_M = break_ties(fitness_M, likelihood_M, 0.3)
    again_M = break_ties(fitness_M[order], likelihood_M[order], 0.3)
    assert np.array_equal(again_M, broken_M[order], equal_nan=True)
