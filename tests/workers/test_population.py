"""The population's tables: which number of a vector ends up where, and what does not fit."""

from pathlib import Path

import numpy as np
import pytest
import torch

from kernels.errors import ModelError, WorkerError
from kernels.shared_basis import SharedBasis
from workers.population import LayerFactors, Population, load_factors, save_factors

ONE = LayerFactors(
    name="m.0.q",
    basis=SharedBasis(torch.ones(4, 3), torch.ones(5, 3)),
    num_moving=3,
    base_a_R=torch.zeros(3),
    unit_a_R=torch.tensor([10.0, 20.0, 30.0]),
)
TWO = LayerFactors(
    name="m.0.o",
    basis=SharedBasis(torch.ones(4, 2), torch.ones(5, 2), torch.eye(2)),
    num_moving=1,
    base_a_R=torch.tensor([1.0, 2.0]),
    unit_a_R=torch.tensor([1.0, 2.0]),
    base_b_R=torch.tensor([3.0, 4.0]),
    unit_b_R=torch.tensor([3.0, 4.0]),
)


def test_numbers_become_scales_in_the_layer_s_unit() -> None:
    scale_a, scale_b = ONE.scales(torch.tensor([[0.1, 0.0, -1.0]]))
    assert scale_b is None
    torch.testing.assert_close(scale_a, torch.tensor([[1.0, 0.0, -30.0]]))


def test_only_the_moving_part_of_two_factors_moves() -> None:
    scale_a, scale_b = TWO.scales(torch.tensor([[0.5, -0.5]]))
    assert scale_b is not None
    torch.testing.assert_close(scale_a, torch.tensor([[1.5, 2.0]]))
    torch.testing.assert_close(scale_b, torch.tensor([[1.5, 4.0]]))
    assert (ONE.num_numbers, TWO.num_numbers) == (3, 2)


def test_each_layer_reads_its_own_part_of_the_vector_and_the_last_row_stays_zero() -> None:
    population = Population([ONE, TWO], 2, torch.float32)
    first, second = population.hook("a", ["m.0.q"]), population.hook("b", ["m.0.o"])
    population.check_all_hooked()
    population.set_members(np.array([[1.0, 0, 0, 0.5, 0.0], [0, 0, 1.0, 0, 0]]))
    assert first is not None and second is not None and second.scale_b_MR is not None
    assert first.scale_a_MR.tolist() == [[10, 0, 0], [0, 0, 30], [0, 0, 0]]
    assert second.scale_a_MR.tolist() == [[1.5, 2], [1, 2], [0, 0]]
    assert second.scale_b_MR.tolist() == [[3, 4], [3, 4], [0, 0]]
    assert population.base_row == 2


@pytest.mark.parametrize("shape", [(3, 5), (1, 4)])
def test_vectors_that_do_not_fit_are_refused(shape: tuple[int, int]) -> None:
    population = Population([ONE, TWO], 2, torch.float32)
    with pytest.raises(WorkerError, match="do not fit 2 slots x 5 numbers"):
        population.set_members(np.zeros(shape))


def test_a_layer_nobody_computes_is_named() -> None:
    population = Population([ONE, TWO], 2, torch.float32)
    population.hook("a", ["m.0.q"])
    with pytest.raises(ModelError, match=r"1 perturbed layers are not .* first \['m.0.o'\]"):
        population.check_all_hooked()


def test_half_a_fused_module_is_refused() -> None:
    population = Population([ONE], 2, torch.float32)
    assert population.hook("other", ["m.1.q"]) is None
    with pytest.raises(ModelError, match=r"computes m\.0\.q, m\.0\.k together"):
        population.hook("m.0.qk", ["m.0.q", "m.0.k"])


def test_factors_survive_a_file(tmp_path: Path) -> None:
    save_factors([ONE, TWO], tmp_path / "factors.safetensors")
    one, two = load_factors(tmp_path / "factors.safetensors")
    assert (one.name, one.num_moving, two.name, two.num_moving) == ("m.0.q", 3, "m.0.o", 1)
    assert one.basis.core_RR is None and one.base_b_R is None
    assert two.base_b_R is not None and two.basis.core_RR is not None
    assert torch.equal(one.unit_a_R, ONE.unit_a_R)
    assert torch.equal(two.base_b_R, torch.tensor([3.0, 4.0]))
