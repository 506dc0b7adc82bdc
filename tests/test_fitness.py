"""From rewards to shaped fitness, in literal numbers."""

from random import Random
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from es_align.config import StrategyConfig
from es_align.fitness import CENTRINGS, SHAPINGS, average_rewards, centre_prompts

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
