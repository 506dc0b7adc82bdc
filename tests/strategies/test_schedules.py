"""Schedules in literal numbers."""

from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from es_align.config_search import Schedule
from es_align.schedules import SCHEDULES, schedule_factor


@pytest.mark.parametrize(
    ("schedule", "final", "expected"),
    [
        ("constant", 1.0, [1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", 0.2, [1.0, 0.8, 0.6, 0.4, 0.2]),
        ("linear", 3.0, [1.0, 1.5, 2.0, 2.5, 3.0]),
        # (1 + cos(pi / 4)) / 2 = 0.853553391
        ("cosine", 0.5, [1.0, 0.926776695, 0.75, 0.573223305, 0.5]),
        ("exponential", 0.0001, [1.0, 0.1, 0.01, 0.001, 0.0001]),
        ("exponential", 16.0, [1.0, 2.0, 4.0, 8.0, 16.0]),
    ],
)
def test_five_generations_by_hand(schedule: Schedule, final: float, expected: list[float]) -> None:
    assert [schedule_factor(schedule, final, g, 5) for g in range(5)] == expected


@pytest.mark.parametrize("schedule", get_args(Schedule))
def test_a_run_of_one_generation_is_all_start(schedule: Schedule) -> None:
    assert schedule_factor(schedule, 0.5, 0, 1) == 1.0


@pytest.mark.parametrize("schedule", [s for s in get_args(Schedule) if s != "constant"])
def test_after_the_last_generation_nothing_changes(schedule: Schedule) -> None:
    final = 0.1234567890123
    assert schedule_factor(schedule, final, 9, 10) == final
    assert schedule_factor(schedule, final, 25, 10) == final


@given(
    st.sampled_from([s for s in get_args(Schedule) if s != "constant"]),
    st.floats(1e-3, 0.999),
    st.integers(2, 500),
)
def test_from_one_to_the_end_it_never_rises(
    schedule: Schedule, final: float, generations: int
) -> None:
    factors = [schedule_factor(schedule, final, g, generations) for g in range(generations)]
    # Nine digits may round the last but one below the end.
    assert all(b <= a + 1e-9 for a, b in pairwise(factors))
    assert (factors[0], factors[-1]) == (1.0, final)


def test_the_config_offers_exactly_the_schedules() -> None:
    assert set(SCHEDULES) == set(get_args(Schedule))
