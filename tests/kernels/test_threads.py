"""Decompositions side by side: in order, each on one thread, read only as far ahead as needed."""

import os
from collections.abc import Iterator

import pytest
import torch

from kernels.svd import leading_svd
from kernels.threads import each_on_one_thread

NUM_CORES = len(os.sched_getaffinity(0))


@pytest.fixture(autouse=True)
def three_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # vLLM's engine, in an earlier test of this process, puts a function there that does nothing.
    monkeypatch.setattr(torch, "set_num_threads", torch._C.set_num_threads)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_results_are_in_order_and_of_one_thread() -> None:
    found = list(each_on_one_thread(lambda item: (item, torch.get_num_threads()), range(20)))
    assert found == [(item, 1) for item in range(20)]
    assert torch.get_num_threads() == 3


def test_items_are_read_a_core_s_worth_ahead() -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for item in range(20):
            read.append(item)
            yield item

    results = each_on_one_thread(lambda item: item, items())
    for taken in range(1, 5):
        next(results)
        assert len(read) == taken + NUM_CORES
    results.close()
    assert torch.get_num_threads() == 3


def test_an_error_is_raised_and_leaves_the_threads() -> None:
    def fail(item: int) -> int:
        raise ValueError(f"no {item}")

    with pytest.raises(ValueError, match="no 0"):
        list(each_on_one_thread(fail, range(3)))
    assert torch.get_num_threads() == 3


def test_directions_have_the_same_bits_whatever_the_number_of_threads() -> None:
    """Wide enough that LAPACK would share the work out."""
    weights = torch.randn(4, 300, 300, generator=torch.Generator().manual_seed(0))
    found = []
    for num_threads in (1, 3):
        torch.set_num_threads(num_threads)
        svds = each_on_one_thread(lambda weight: leading_svd(weight, 4), weights.unbind())
        found.append([part for svd in svds for part in svd])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
