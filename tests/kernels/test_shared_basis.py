"""The shared-basis forward against its float64 definition, and the decomposition it is fed with."""

import pytest
import torch

from kernels.shared_basis import SharedBasis, add_shared_basis_, fuse, reference
from kernels.svd import leading_svd

IN, OUT, RANK, MEMBERS, ROWS = 24, 40, 5, 6, 17


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_basis(*, has_core: bool, seed: int = 0) -> SharedBasis:
    core = draw(RANK, RANK, seed=seed + 3) if has_core else None
    return SharedBasis(draw(IN, RANK, seed=seed + 1), draw(OUT, RANK, seed=seed + 2), core)


@pytest.mark.parametrize("has_core", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-6)])
def test_forward_is_the_definition(has_core: bool, dtype: torch.dtype, tolerance: float) -> None:
    basis = make_basis(has_core=has_core).to(dtype)
    x_TI = draw(ROWS, IN, seed=7).to(dtype)
    scale_a_MR = draw(MEMBERS + 1, RANK, seed=8)
    scale_b_MR = draw(MEMBERS + 1, RANK, seed=9) if has_core else None
    member_T = torch.arange(ROWS) % (MEMBERS + 1)
    wanted = reference(x_TI, basis, scale_a_MR, scale_b_MR, member_T)
    got = add_shared_basis_(
        torch.zeros(ROWS, OUT, dtype=dtype), x_TI, basis, scale_a_MR, scale_b_MR, member_T
    )
    assert float((got.double() - wanted).abs().max()) < tolerance * float(wanted.abs().max())


def test_the_base_result_is_added_to_not_replaced() -> None:
    basis = make_basis(has_core=False)
    x_TI, y_TO = draw(ROWS, IN, seed=1), draw(ROWS, OUT, seed=2)
    scale_MR = draw(MEMBERS, RANK, seed=3)
    member_T = torch.zeros(ROWS, dtype=torch.int64)
    delta = add_shared_basis_(torch.zeros(ROWS, OUT), x_TI, basis, scale_MR, None, member_T)
    both = add_shared_basis_(y_TO.clone(), x_TI, basis, scale_MR, None, member_T)
    torch.testing.assert_close(both, y_TO + delta)


@pytest.mark.parametrize("has_core", [False, True])
def test_a_row_of_zeros_adds_exactly_nothing(has_core: bool) -> None:
    basis = make_basis(has_core=has_core).to(torch.bfloat16)
    y_TO = draw(ROWS, OUT, seed=2).bfloat16()
    scale_MR = torch.zeros(1, RANK)
    member_T = torch.zeros(ROWS, dtype=torch.int64)
    x_TI = draw(ROWS, IN, seed=1).bfloat16()
    got = add_shared_basis_(
        y_TO.clone(), x_TI, basis, scale_MR, scale_MR if has_core else None, member_T
    )
    assert torch.equal(got, y_TO)


@pytest.mark.parametrize("has_core", [False, True])
def test_fused_layers_give_each_layer_its_own_result(has_core: bool) -> None:
    parts = [make_basis(has_core=has_core, seed=10 * n) for n in range(3)]
    scales_a = [draw(MEMBERS, RANK, seed=50 + n) for n in range(3)]
    scales_b = [draw(MEMBERS, RANK, seed=60 + n) for n in range(3)]
    x_TI, member_T = draw(ROWS, IN, seed=4), torch.arange(ROWS) % MEMBERS
    apart = [
        add_shared_basis_(torch.zeros(ROWS, OUT), x_TI, p, a, b if has_core else None, member_T)
        for p, a, b in zip(parts, scales_a, scales_b, strict=True)
    ]
    together = add_shared_basis_(
        torch.zeros(ROWS, 3 * OUT),
        x_TI,
        fuse(parts),
        torch.cat(scales_a, dim=1),
        torch.cat(scales_b, dim=1) if has_core else None,
        member_T,
    )
    torch.testing.assert_close(together, torch.cat(apart, dim=1))


def test_one_and_two_factor_layers_do_not_fuse() -> None:
    with pytest.raises(ValueError, match="cannot fuse"):
        fuse([make_basis(has_core=True), make_basis(has_core=False)])


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
