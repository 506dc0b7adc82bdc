"""The decomposition that bases are made from."""

import pytest
import torch

from kernels.svd import leading_svd

IN, OUT, RANK = 24, 40, 5


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(OUT, IN), (IN, OUT), (IN, IN)])
def test_all_directions_rebuild_the_matrix(shape: tuple[int, int]) -> None:
    weight = draw(*shape, seed=5)
    svd = leading_svd(weight, min(shape))
    rebuilt = svd.left_OR @ torch.diag(svd.values_R) @ svd.right_IR.T
    torch.testing.assert_close(rebuilt, weight, atol=1e-5, rtol=1e-5)


def test_leading_directions_are_those_of_the_library() -> None:
    weight = draw(OUT, IN, seed=6)
    svd = leading_svd(weight, RANK)
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    torch.testing.assert_close(svd.values_R, values[:RANK], atol=1e-5, rtol=1e-5)
    wanted = left[:, :RANK] @ torch.diag(values[:RANK]) @ right[:RANK]
    got = svd.left_OR @ torch.diag(svd.values_R) @ svd.right_IR.T
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


def test_signs_are_fixed_and_a_zero_matrix_is_no_trouble() -> None:
    weight = draw(OUT, IN, seed=6)
    first, again = leading_svd(weight, RANK), leading_svd(weight.clone(), RANK)
    assert torch.equal(first.right_IR, again.right_IR)
    largest = first.right_IR.abs().argmax(dim=0)
    assert bool((first.right_IR[largest, torch.arange(RANK)] > 0).all())
    nothing = leading_svd(torch.zeros(OUT, IN), RANK)
    assert torch.equal(nothing.values_R, torch.zeros(RANK))
    assert bool(torch.isfinite(nothing.left_OR).all())


def test_a_rank_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="rank 25 does not fit a 40 x 24 matrix"):
        leading_svd(draw(OUT, IN, seed=1), 25)
