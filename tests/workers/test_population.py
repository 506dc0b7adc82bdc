"""The population's tables: which number of a vector ends up where, and what does not fit."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from kernels.errors import ModelError, WorkerError
from kernels.matrix_noise import NoiseStream, factor_noise
from kernels.perturbation import Slice
from kernels.shared_basis import SharedBasis
from workers.hooks import CoreHook, LoraHook, NoiseHook, ScaledHook
from workers.layers import (
    CoreLayer,
    LayerFactors,
    LoraLayer,
    NoiseLayer,
    layers_digest,
    load_factors,
    save_factors,
)
from workers.members import NoiseMembers, identities
from workers.population import Population

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
    assert isinstance(first, ScaledHook) and isinstance(second, ScaledHook)
    one, two = first.perturbation, second.perturbation
    assert two.scale_b_MSR is not None
    assert one.scale_a_MSR[:, 0].tolist() == [[10, 0, 0], [0, 0, 30], [0, 0, 0]]
    assert two.scale_a_MSR[:, 0].tolist() == [[1.5, 2], [1, 2], [0, 0]]
    assert two.scale_b_MSR[:, 0].tolist() == [[3, 4], [3, 4], [0, 0]]


def test_noise_is_the_stream_s_and_its_size_the_layer_s() -> None:
    layers = [NoiseLayer("m.0.q", 5, 4, 2, 0.5, 3), NoiseLayer("m.0.k", 6, 4, 2, 0.25, 8)]
    population = Population(layers, 4, torch.float32)
    hook = population.hook("m.0.qk", ["m.0.q", "m.0.k"])
    members = NoiseMembers(7, 2, pairs=(9, 4, 9, 0), signs=(1, -1, -1, 0), sigma=0.1)
    population.set_members(members)
    assert isinstance(hook, NoiseHook)
    noise = hook.perturbation
    stream = NoiseStream(7, 2)
    for slot, pair in ((0, 9), (1, 4), (2, 9)):
        row = int(noise.pair_M[slot])
        left, right = noise.left_NKO[row].numpy(), noise.right_NSKI[row].numpy()
        assert (left[:, :5] == factor_noise(stream, [pair], 6, 2, 5)[0]).all()
        assert (left[:, 5:] == factor_noise(stream, [pair], 16, 2, 6)[0]).all()
        assert (right[0] == factor_noise(stream, [pair], 7, 2, 4)[0]).all()
        assert (right[1] == factor_noise(stream, [pair], 17, 2, 4)[0]).all()
    scale = 0.1 * 0.5 / (8 * 2**0.5)
    expected = [[scale, scale / 2], [-scale, -scale / 2], [-scale, -scale / 2], [0, 0], [0, 0]]
    torch.testing.assert_close(noise.coefficient_MS, torch.tensor(expected))


def test_a_member_s_noise_has_the_asked_deviation() -> None:
    population = Population([NoiseLayer("m", 300, 200, 4, 0.5, 0)], 2, torch.float32)
    hook = population.hook("m", ["m"])
    population.set_members(NoiseMembers(1, 0, pairs=(0, 0), signs=(1, -1), sigma=0.1))
    assert isinstance(hook, NoiseHook)
    eye = torch.eye(200)
    noise_IO = hook.perturbation.definition(eye, torch.zeros(200, dtype=torch.int32))
    assert abs(float(noise_IO.std()) - 0.05) < 0.0025
    assert abs(float(noise_IO.mean())) < 0.001


def test_a_core_is_the_mean_s_with_the_pair_s_noise() -> None:
    basis = SharedBasis(torch.eye(4)[:, :2], torch.eye(5)[:, :2])
    population = Population([CoreLayer("m", basis, 1, 2.0, 6)], 2, torch.float32)
    hook = population.hook("m", ["m"])
    mean = np.arange(4, dtype=np.float32)
    population.set_members(NoiseMembers(3, 1, (5, 5), (1, 0), 0.01, mean_D=mean))
    assert isinstance(hook, CoreHook)
    left = factor_noise(NoiseStream(3, 1), [5], 12, 1, 2)[0].astype(float)
    right = factor_noise(NoiseStream(3, 1), [5], 13, 1, 2)[0].astype(float)
    core = np.arange(4).reshape(2, 2) + 0.01 * 2.0 / 8 * right.T @ left
    x_TI = torch.eye(4)
    with_noise = hook.perturbation.definition(x_TI, torch.zeros(4, dtype=torch.int32))
    np.testing.assert_allclose(with_noise[:2, :2].numpy(), core, rtol=1e-6)
    mean_alone = hook.perturbation.definition(x_TI, torch.ones(4, dtype=torch.int32))
    np.testing.assert_allclose(mean_alone[:2, :2].numpy(), np.arange(4).reshape(2, 2))


def test_a_core_without_a_mean_is_the_layer_s_start(tmp_path: Path) -> None:
    basis = SharedBasis(torch.eye(4)[:, :2], torch.eye(5)[:, :2])
    start_RR = torch.diag(torch.tensor([3.0, 2.0]))
    layer = CoreLayer("m", basis, 1, 2.0, 6, start_RR)
    assert layer.start_K.tolist() == [3, 0, 0, 2]
    assert not CoreLayer("m", basis, 1, 2.0, 6).start_K.any()
    digests = {layers_digest([one]) for one in (layer, CoreLayer("m", basis, 1, 2.0, 6))}
    assert len(digests) == 2
    save_factors([layer], tmp_path / "factors")
    (loaded,) = load_factors(tmp_path / "factors")
    assert layers_digest([loaded]) in digests and isinstance(loaded, CoreLayer)
    assert loaded.start_RR is not None and torch.equal(loaded.start_RR, start_RR)

    population = Population([loaded], 2, torch.float32)
    hook = population.hook("m", ["m"])
    assert isinstance(hook, CoreHook)
    x_TI, nobody_s_noise = torch.eye(4), torch.ones(4, dtype=torch.int32)
    for mean_D, wanted in ((None, start_RR), (np.zeros(4, dtype=np.float32), torch.zeros(2, 2))):
        population.set_members(NoiseMembers(3, 1, (5, 5), (1, 0), 0.01, mean_D=mean_D))
        got = hook.perturbation.definition(x_TI, nobody_s_noise)[:2, :2]
        torch.testing.assert_close(got.float(), wanted)


def lora(name: str, out_features: int, rank: int, parameter: int, unit_b: float = 0.5) -> LoraLayer:
    """On four inputs, with scaling 2 and noise of rank 2."""
    down_RI = torch.arange(4.0 * rank).view(rank, 4)
    up_OR = torch.ones(out_features, rank)
    return LoraLayer(name, down_RI, up_OR, 2.0, 2, 0.25, unit_b, parameter)


def test_a_lora_is_the_mean_s_with_noise_on_both_factors() -> None:
    layers = [lora("m.0.q", 5, 3, 6), lora("m.0.k", 6, 2, 8)]
    assert [layer.num_numbers for layer in layers] == [3 * 4 + 5 * 3, 2 * 4 + 6 * 2]
    population = Population(layers, 4, torch.float32)
    hook = population.hook("m.0.qk", ["m.0.q", "m.0.k"])
    assert isinstance(hook, LoraHook)
    mean_D = np.linspace(-1, 1, population.dimension, dtype=np.float32)
    x_TI, stream = torch.eye(4), NoiseStream(3, 1)
    for mean, given in ((mean_D, mean_D), (None, torch.cat([x.start_K for x in layers]).numpy())):
        population.set_members(NoiseMembers(3, 1, (9, 9, 4, 0), (1, -1, -1, 0), 0.1, mean_D=mean))
        for slot, (pair, sign) in enumerate(((9, 1), (9, -1), (4, -1), (0, 0))):
            wanted, start = [], 0
            for layer in layers:
                (out_features, in_features), rank = layer.shape, layer.rank
                numbers = given[start : start + layer.num_numbers].astype(float)
                start += layer.num_numbers
                widths = (rank, in_features, out_features, rank)
                a_left, a_right, b_left, b_right = (
                    factor_noise(stream, [pair], 2 * layer.parameter + n, 2, width)[0].astype(float)
                    for n, width in enumerate(widths)
                )
                size = sign * 0.1 / (8 * 2**0.5)
                down_RI = numbers[: rank * 4].reshape(rank, 4) + size * 0.25 * a_left.T @ a_right
                up_OR = numbers[rank * 4 :].reshape(-1, rank) + size * 0.5 * b_left.T @ b_right
                wanted.append((2.0 * up_OR @ down_RI).T)
            got = hook.perturbation.definition(x_TI, torch.full((4,), slot, dtype=torch.int32))
            np.testing.assert_allclose(got.numpy(), np.hstack(wanted), rtol=1e-5, atol=1e-5)


def test_two_ranks_hold_parts_of_one_lora() -> None:
    """Rows of the weight cut B, columns cut A; both ranks make the noise of the whole."""
    layer, x_TI = lora("m", 6, 3, 6), torch.eye(4)
    members = NoiseMembers(3, 1, (9,), (1,), 0.1)
    member_T = torch.zeros(4, dtype=torch.int32)

    def on_rank(part: Slice) -> torch.Tensor:
        population = Population([layer], 2, torch.float32)
        hook = population.hook("m", ["m"], [part])
        population.set_members(members)
        assert isinstance(hook, LoraHook)
        columns = slice(part.first_column, part.first_column + part.num_columns)
        return hook.perturbation.definition(x_TI[:, columns], member_T)

    whole = on_rank(Slice(0, 6, 0, 4))
    by_row = torch.cat([on_rank(Slice(0, 2, 0, 4)), on_rank(Slice(2, 4, 0, 4))], dim=1)
    torch.testing.assert_close(by_row, whole)
    by_column = on_rank(Slice(0, 6, 0, 3)) + on_rank(Slice(0, 6, 3, 1))
    torch.testing.assert_close(by_column, whole)


def test_a_unit_of_zero_leaves_a_factor_alone() -> None:
    population = Population([lora("m", 5, 3, 0, unit_b=0.0)], 2, torch.float32)
    hook = population.hook("m", ["m"])
    population.set_members(NoiseMembers(3, 1, (0, 0), (1, -1), 0.1))
    assert isinstance(hook, LoraHook)
    size = 0.1 * 0.25 / (8 * 2**0.5)
    expected = [[size, 0.0], [-size, 0.0], [0.0, 0.0]]
    torch.testing.assert_close(hook.perturbation.coefficient_MS, torch.tensor(expected))


def test_without_a_mean_a_core_is_where_it_starts() -> None:
    basis = SharedBasis(torch.eye(4)[:, :2], torch.eye(5)[:, :2])
    population = Population([CoreLayer("m", basis, 1, 2.0, 6)], 2, torch.float32)
    hook = population.hook("m", ["m"])
    assert isinstance(hook, CoreHook)
    population.set_members(NoiseMembers(3, 1, (5,), (1,), 0.01, mean_D=np.ones(4, np.float32)))
    assert hook.perturbation.core_SRR.any()
    population.set_members(NoiseMembers(3, 1, (5,), (1,), 0.01))
    assert not hook.perturbation.core_SRR.any()


def test_pairs_torn_apart_do_not_fit() -> None:
    population = Population([NoiseLayer("m", 5, 4, 1, 0.5, 0)], 4, torch.float32)
    population.hook("m", ["m"])
    with pytest.raises(WorkerError, match="4 members of 4 pairs do not fit the engine's 2 pairs"):
        population.set_members(NoiseMembers(0, 0, (0, 1, 2, 3), (1, 1, 1, 1), 0.1))


def test_seeds_and_vectors_are_not_confused() -> None:
    vectors = Population([ONE], 2, torch.float32)
    vectors.hook("a", ["m.0.q"])
    with pytest.raises(WorkerError, match="take vectors, not seeds"):
        vectors.set_members(NoiseMembers(0, 0, (0,), (1,), 0.1))
    seeds = Population([NoiseLayer("m", 5, 4, 1, 0.5, 0)], 2, torch.float32)
    seeds.hook("m", ["m"])
    with pytest.raises(WorkerError, match="takes seeds, not vectors"):
        seeds.set_members(np.zeros((1, 0)))


def test_members_that_differ_in_anything_have_another_identity() -> None:
    base = NoiseMembers(1, 2, (0, 0, 1, 1), (1, -1, 1, -1), 0.1)
    assert len(set(identities(base))) == 4
    for other in (
        dataclasses.replace(base, seed=2),
        dataclasses.replace(base, generation=3),
        dataclasses.replace(base, sigma=0.2),
        dataclasses.replace(base, kind="rademacher"),
        dataclasses.replace(base, mean_D=np.ones(1, dtype=np.float32)),
    ):
        assert not set(identities(base)) & set(identities(other))
    mean = NoiseMembers(1, 2, (0, 1), (0, 0), 0.1)
    assert len(set(identities(mean))) == 1
    vectors = np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 3.0]], dtype=np.float32)
    assert [identities(vectors).index(name) for name in identities(vectors)] == [0, 0, 2]


@pytest.mark.parametrize("shape", [(3, 5), (1, 4)])
def test_vectors_that_do_not_fit_are_refused(shape: tuple[int, int]) -> None:
    population = Population([ONE, TWO], 2, torch.float32)
    with pytest.raises(WorkerError, match="do not fit 2 slots x 5 numbers"):
        population.set_members(np.zeros(shape))


def test_a_layer_nobody_computes_is_named() -> None:
    population = Population([ONE, TWO], 2, torch.float32)
    population.hook("a", ["m.0.q"])
    message = r"1 perturbed layers are computed by no .* first \['m.0.o'\]"
    with pytest.raises(ModelError, match=message):
        population.check_all_hooked()


def test_half_a_fused_module_is_refused() -> None:
    population = Population([ONE], 2, torch.float32)
    assert population.hook("other", ["m.1.q"]) is None
    with pytest.raises(ModelError, match=r"computes m\.0\.q, m\.0\.k together"):
        population.hook("m.0.qk", ["m.0.q", "m.0.k"])


def test_a_layer_smaller_than_its_module_is_named() -> None:
    population = Population([NoiseLayer("m.0.q", 5, 4, 1, 0.5, 0)], 2, torch.float32)
    with pytest.raises(ModelError, match=r"layer m\.0\.q is 5 x 4, .* computes up to 8 x 4"):
        population.hook("m.0.q", ["m.0.q"], [Slice(0, 8, 0, 4)])


def test_layers_of_different_kinds_do_not_share_a_module() -> None:
    population = Population([ONE, NoiseLayer("m.0.k", 5, 4, 1, 0.5, 0)], 2, torch.float32)
    with pytest.raises(ModelError, match=r"m\.0\.qk are perturbed in different ways"):
        population.hook("m.0.qk", ["m.0.q", "m.0.k"])


def test_layers_survive_a_file(tmp_path: Path) -> None:
    core = CoreLayer("m.0.v", SharedBasis(torch.ones(4, 3), torch.ones(5, 3)), 2, 0.5, 7)
    noise = NoiseLayer("m.0.k", 5, 4, 1, 0.25, 8)
    saved = lora("m.0.g", 5, 3, 9)
    save_factors([ONE, TWO, core, noise, saved], tmp_path / "layers.safetensors")
    one, two, third, fourth, fifth = load_factors(tmp_path / "layers.safetensors")
    assert isinstance(one, LayerFactors) and isinstance(two, LayerFactors)
    assert (one.name, one.num_moving, two.name, two.num_moving) == ("m.0.q", 3, "m.0.o", 1)
    assert one.basis.core_RR is None and one.base_b_R is None
    assert two.base_b_R is not None and two.basis.core_RR is not None
    assert torch.equal(one.unit_a_R, ONE.unit_a_R)
    assert torch.equal(two.base_b_R, torch.tensor([3.0, 4.0]))
    assert isinstance(third, CoreLayer) and torch.equal(third.basis.left_OR, torch.ones(5, 3))
    assert (third.noise_rank, third.unit, third.parameter) == (2, 0.5, 7)
    assert fourth == noise
    assert isinstance(fifth, LoraLayer)
    assert torch.equal(fifth.start_K, saved.start_K) and fifth.shape == (5, 4)
    assert (fifth.scaling, fifth.noise_rank, fifth.parameter) == (2.0, 2, 9)
    assert (fifth.unit_a, fifth.unit_b) == (0.25, 0.5)
