"""Which prompts a generation sees."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from es_align.tasks.base import BatchOrder, shuffled
from kernels.errors import ConfigError
from kernels.noise import Purpose


@st.composite
def orders(draw):
    num_groups = draw(st.integers(1, 4))
    prompts_per_generation = draw(st.integers(1, 12))
    least = -(-prompts_per_generation // num_groups)
    sizes = draw(st.lists(st.integers(least, 20), min_size=num_groups, max_size=num_groups))
    groups, first = [], 0
    for size in sizes:
        groups.append(range(first, first + size))
        first += size
    return groups, prompts_per_generation


@given(order=orders(), seed=st.integers(0, 2**63 - 1), generation=st.integers(0, 10**6))
def test_a_batch_has_no_prompt_twice_and_is_balanced(order, seed, generation):
    groups, num_prompts = order
    batches = BatchOrder(groups, prompts_per_generation=num_prompts, seed=seed)
    positions = batches.positions(generation)
    assert len(positions) == len(set(positions)) == num_prompts
    counts = [sum(position in group for position in positions) for group in groups]
    assert max(counts) - min(counts) <= 1
    again = BatchOrder(groups, prompts_per_generation=num_prompts, seed=seed)
    assert again.positions(generation) == positions


@given(order=orders(), seed=st.integers(0, 2**63 - 1))
def test_every_prompt_comes_up_once_a_round(order, seed):
    groups, num_prompts = order
    batches = BatchOrder(groups, prompts_per_generation=num_prompts, seed=seed)
    dealt = [position for generation in range(60) for position in batches.positions(generation)]
    for group in groups:
        of_group = [position for position in dealt if position in group]
        for first in range(0, len(of_group) - len(group) + 1, len(group)):
            assert sorted(of_group[first : first + len(group)]) == list(group)


LITERAL_BATCHES = [[3, 1, 2], [5, 4, 0], [3, 2, 1], [5, 4, 0]]


def test_literal_batches():
    batches = BatchOrder([range(6)], prompts_per_generation=3, seed=0)
    assert [batches.positions(generation) for generation in range(4)] == LITERAL_BATCHES


def test_seeds_and_rounds_differ():
    def dealt(seed: int, generations: range) -> list[list[int]]:
        batches = BatchOrder([range(64)], prompts_per_generation=8, seed=seed)
        return [batches.positions(generation) for generation in generations]

    assert dealt(0, range(8)) != dealt(1, range(8))
    assert dealt(0, range(8)) != dealt(0, range(8, 16))


def test_a_pool_that_is_too_small_is_refused():
    with pytest.raises(ConfigError, match="use prompts_per_generation=6 or fewer"):
        BatchOrder([range(3), range(5)], prompts_per_generation=8, seed=0)


def test_shuffled_is_a_permutation_fixed_by_its_arguments():
    order = shuffled(100, 7, Purpose.DATA, 1, 2, 3)
    assert sorted(order.tolist()) == list(range(100))
    assert order.tolist() == shuffled(100, 7, Purpose.DATA, 1, 2, 3).tolist()
    assert order.tolist() != shuffled(100, 7, Purpose.DATA, 1, 2, 4).tolist()
    assert order.tolist() != shuffled(100, 7, Purpose.PROMPTS, 1, 2, 3).tolist()
