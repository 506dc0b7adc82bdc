"""Checksums of rows: both paths against the definition in Python's integers, and what they tell."""

import numpy as np
import pytest
import torch

from kernels import native
from kernels.checksums import row_checksums
from kernels.master import Master

WRAP = 2**64


def key(column: int) -> int:
    """SplitMix64's number after `column`, from its definition."""
    mixed = (column + 1) * 0x9E3779B97F4A7C15 % WRAP
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 % WRAP
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % WRAP
    return (mixed ^ mixed >> 31) | 1


@pytest.mark.parametrize("is_native", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (7, 33), (64, 576)])
def test_a_row_s_sum_is_the_definition_s(
    shape: tuple[int, int], is_native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_native and native.library() is None:
        pytest.skip("needs a C++ compiler")
    if not is_native:
        monkeypatch.setattr(native, "library", lambda: None)
    matrix_RC = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    matrix_RC[0, 0] = -0.0
    bits_RC = matrix_RC.numpy().view(np.uint32).tolist()
    wanted = [sum(bits * key(c) for c, bits in enumerate(row)) % WRAP for row in bits_RC]
    assert [value % WRAP for value in row_checksums(matrix_RC).tolist()] == wanted


def test_any_bit_any_swap_and_any_shape_is_told() -> None:
    matrix_RC = torch.randn(4, 16, generator=torch.Generator().manual_seed(2))
    found = {Master(matrix_RC).digest, Master(matrix_RC.reshape(16, 4)).digest}
    for bit in range(32):
        other_RC = matrix_RC.clone()
        other_RC.view(torch.int32)[2, 5] ^= np.array(1 << bit, np.uint32).view(np.int32).item()
        found.add(Master(other_RC).digest)
    found |= {Master(matrix_RC.roll(1, side)).digest for side in (0, 1)}
    assert len(found) == 2 + 32 + 2
