"""Chunks are whole, in order, and small at the end."""

import itertools

import pytest

from es_align.chunking import cut, smallest_sizes


@pytest.mark.parametrize(
    ("num_members", "largest", "smallest", "sizes"),
    [
        (16, 4, None, {4: 4}),
        (16, 16, 16, {16: 1}),
        (16, 16, 2, {8: 1, 4: 1, 2: 2}),
        (16_384, 64, 8, {64: 128, 32: 128, 16: 128, 8: 256}),
        (20, 4, 2, {4: 2, 2: 6}),
        (12, 12, 3, {6: 1, 3: 2}),
        (64, 32, 1, {32: 1, 16: 1, 8: 1, 4: 1, 2: 1, 1: 2}),
    ],
)
def test_half_of_what_is_left_goes_into_each_size(
    num_members: int, largest: int, smallest: int | None, sizes: dict[int, int]
) -> None:
    chunks = cut(num_members, largest, smallest)
    assert {size: len(list(same)) for size, same in itertools.groupby(chunks, len)} == sizes
    assert list(itertools.chain(*chunks)) == list(range(num_members))


@pytest.mark.parametrize("population", [8, 24, 48, 96, 1000, 16_384])
@pytest.mark.parametrize("has_pairs", [True, False])
def test_every_smallest_size_that_is_offered_cuts(population: int, has_pairs: bool) -> None:
    for largest in range(2, population + 1, 2):
        if population % largest:
            continue
        for smallest in smallest_sizes(largest, population, has_pairs=has_pairs):
            chunks = cut(population, largest, smallest)
            assert list(itertools.chain(*chunks)) == list(range(population))
            assert {len(chunk) % smallest for chunk in chunks} == {0}
            assert len(chunks[-1]) == smallest
            assert not has_pairs or all(chunk.start % 2 == 0 for chunk in chunks)


def test_pairs_are_never_parted() -> None:
    assert smallest_sizes(12, 24, has_pairs=True) == [6, 12]
    assert smallest_sizes(12, 24, has_pairs=False) == [3, 6, 12]
