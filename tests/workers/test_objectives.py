"""What the samples of a prompt amount to: pass@k is that of all subsets, no lost sample a zero."""

from fractions import Fraction
from itertools import combinations
from math import comb
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.objectives import pass_at_k, sample_means, sample_scores

NAN = float("nan")


@pytest.mark.parametrize("num_samples", range(1, 9))
def test_pass_at_k_is_the_share_of_all_subsets_with_a_pass(num_samples: int) -> None:
    for num_passed in range(num_samples + 1):
        passed = [True] * num_passed + [False] * (num_samples - num_passed)
        for k in range(1, num_samples + 1):
            subsets = [any(subset) for subset in combinations(passed, k)]
            assert pass_at_k(num_samples, num_passed, k) == sum(subsets) / len(subsets)


@given(st.integers(1, 2000), st.data())
def test_pass_at_k_is_the_nearest_number_however_many_samples(
    num_samples: int, data: st.DataObject
) -> None:
    num_passed = data.draw(st.integers(0, num_samples))
    k = data.draw(st.integers(1, num_samples))
    exact = 1 - Fraction(comb(num_samples - num_passed, k), comb(num_samples, k))
    assert pass_at_k(num_samples, num_passed, k) == float(exact)


def test_pass_at_k_by_hand() -> None:
    assert pass_at_k(4, 1, 2) == 0.5
    assert pass_at_k(5, 2, 3) == 0.9
    assert pass_at_k(10_000, 1, 1) == 1e-4
    assert np.isnan(pass_at_k(3, 3, 4))


REWARDS_MPS = np.array(
    [
        [[0.5, 1.0, 0.0], [NAN, 0.2, NAN]],
        [[NAN, NAN, NAN], [np.inf, 1.0, 0.6]],
    ]
)
PASSED_MPS = np.array(
    [
        [[False, True, False], [True, False, False]],
        [[False, False, False], [True, True, False]],
    ]
)


@pytest.mark.parametrize(
    ("pass_k", "expected"),
    [
        (None, [[0.5, 0.2], [NAN, 0.8]]),
        # An unscored sample is neither a try nor a pass, so two are left where one is infinite.
        (1, [[1 / 3, 0.0], [NAN, 0.5]]),
        (2, [[2 / 3, NAN], [NAN, 1.0]]),
        (3, [[1.0, NAN], [NAN, NAN]]),
    ],
)
def test_samples_without_a_score_are_left_out(
    pass_k: int | None, expected: list[list[float]]
) -> None:
    scores_MP = sample_scores(REWARDS_MPS, PASSED_MPS, pass_k)
    assert scores_MP.dtype == np.float64
    assert np.array_equal(scores_MP, np.array(expected), equal_nan=True)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_the_samples_changes_no_bit(values: list[float], random: Random) -> None:
    shuffled = random.sample(values, len(values))
    assert sample_means(np.array([[values]])) == sample_means(np.array([[shuffled]]))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_one_sample_is_its_own_mean(value: float) -> None:
    assert sample_means(np.array([[[value]]])).tolist() == [[value]]
