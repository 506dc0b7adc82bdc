"""The master copy takes steps that bf16 swallows, and says what it holds."""

import numpy as np
import pytest
import torch

from es_align.sealed import digest
from kernels.master import BYTES_PER_NUMBER, Master, MasterKind, tensor_digest
from kernels.matrix_noise import NoiseStream
from kernels.update import NoisyMatrix, matrix_update

MASTER_KINDS: tuple[MasterKind, ...] = ("fp32", "bf16")
masters = pytest.mark.parametrize("kind", MASTER_KINDS)


def cosine(step: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((step * wanted).sum() / (step.norm() * wanted.norm()))


# `in_place`: the cosine with the intended step that bf16 weights reach when they are updated in
# place. With the weights of rms 0.02 that language models have it is what public code reaches.
@pytest.mark.parametrize(
    ("population", "learning_rate", "rms", "in_place"),
    [
        (2048, 1e-3, 0.02, 0.66),
        (16384, 2e-4, 0.02, 0.19),
        (2048, 1e-3, 1, 0.1),
        (16384, 2e-4, 1, 0),
    ],
)
def test_masters_take_steps_that_bf16_swallows(
    population: int, learning_rate: float, rms: float, in_place: float
) -> None:
    """Single steps, and the sum of 50, at the sizes of published runs; every fp32 bit agrees."""
    num_pairs, matrix = population // 2, NoisyMatrix(0, 96, 96, 1)
    weight_RC = rms * torch.randn(96, 96, generator=torch.Generator().manual_seed(1))
    fp32, bf16 = Master(weight_RC, "fp32"), Master(weight_RC, "bf16")
    plain_RC = weight_RC.bfloat16()
    before, intended = fp32.full().double().clone(), torch.zeros(96, 96, dtype=torch.float64)
    for generation in range(50):
        shaped_N2 = np.random.default_rng(generation).standard_normal((num_pairs, 2))
        weight_P = (shaped_N2[:, 0] - shaped_N2[:, 1]) / population
        stream = NoiseStream(5, generation)
        delta = matrix_update(stream, range(num_pairs), weight_P, matrix, scale=learning_rate)
        fp32_before, plain_before = fp32.full().double(), plain_RC.double()
        fp32.add_(delta)
        bf16.add_(delta)
        plain_RC += delta.bfloat16()
        intended += delta
        assert cosine(fp32.full().double() - fp32_before, delta) >= 0.999
        if generation == 0:
            swallowed = cosine(plain_RC.double() - plain_before, delta)
            assert swallowed == pytest.approx(in_place, abs=0.05)
    assert cosine(bf16.full().double() - before, intended) >= 0.999
    assert torch.equal(bf16.full(), fp32.full())
    assert cosine(plain_RC.double() - weight_RC.bfloat16().double(), intended) < 0.8


@masters
def test_a_step_can_come_in_blocks_of_rows(kind: MasterKind) -> None:
    generator = torch.Generator().manual_seed(3)
    weight_RC = torch.randn(50, 33, generator=generator)
    delta_RC = 1e-4 * torch.randn(50, 33, generator=generator, dtype=torch.float64)
    whole, blocks = Master(weight_RC, kind), Master(weight_RC, kind)
    whole.add_(delta_RC)
    for first_row in (0, 20, 40):
        blocks.add_(delta_RC[first_row : first_row + 20], first_row)
    assert torch.equal(whole.full(), weight_RC + delta_RC.float())
    assert blocks.digest == whole.digest != Master(weight_RC, kind).digest
    assert whole.num_bytes == BYTES_PER_NUMBER[kind] * 50 * 33 == 4 * 50 * 33
    for step, first_row in ((delta_RC, 1), (delta_RC, -1), (delta_RC[:, 1:], 0), (delta_RC[0], 0)):
        with pytest.raises(ValueError, match=r"does not fit a weight of 50 x 33; give whole rows"):
            whole.add_(step, first_row)


def test_a_bf16_master_is_fp32_in_two_parts() -> None:
    bits = torch.arange(-(2**31), 2**31, 262_139, dtype=torch.int64).to(torch.int32)
    near_ties = (
        torch.tensor([1, 0x8000, 0x7FFF, 0x8001, 0x18000, 0], dtype=torch.int32) + 0x3F800000
    )
    every = torch.cat([bits, near_ties, near_ties | -(2**31)]).view(torch.float32)
    every = every[every.abs() < 3e38][None]
    master = Master(every, "bf16")
    assert torch.equal(master.full().view(torch.int32), every.view(torch.int32))
    value = master.value()
    assert value.dtype == torch.bfloat16
    lost, least = (every - value.float()).abs(), (every - every.bfloat16().float()).abs()
    assert torch.equal(lost, least)  # a nearest one
    again = Master(master.full(), "bf16")
    assert torch.equal(again.value(), value) and again.digest == master.digest
    assert again.digest == Master(every, "fp32").digest


def test_a_bf16_weight_is_taken_over_and_an_fp32_one_copied() -> None:
    engine_s = torch.ones(2, 3, dtype=torch.bfloat16)
    master = Master(engine_s, "bf16")
    for _ in range(64):
        master.add_(torch.full((2, 3), 2.0**-12))
    assert engine_s.tolist() == [[1 + 2.0**-6] * 3] * 2
    assert master.value().data_ptr() == engine_s.data_ptr()
    weight = torch.ones(2, 3)
    Master(weight, "fp32").add_(weight)
    assert weight.tolist() == [[1.0] * 3] * 2


def test_digests_know_dtype_shape_and_numbers() -> None:
    zeros = torch.zeros(2, 3, dtype=torch.bfloat16)
    others = [zeros.reshape(3, 2), zeros.half(), zeros.view(torch.int16), zeros + 1]
    digests = {tensor_digest(tensor) for tensor in (zeros, *others)}
    assert len(digests) == 5
    turned = torch.arange(6.0).reshape(2, 3).T
    assert tensor_digest(turned) == tensor_digest(turned.contiguous()) == digest(turned.numpy())


@pytest.mark.parametrize(
    ("message", "weight", "kind"),
    [
        (r"kind='fp8' is not a master; use fp32 or bf16", torch.ones(2, 2), "fp8"),
        (r"torch.int8 of shape \(2, 2\) has no master", torch.ones(2, 2, dtype=torch.int8), "fp32"),
        (r"torch.float32 of shape \(2,\) has no master; give a", torch.ones(2), "bf16"),
    ],
)
def test_what_has_no_master_is_refused(
    message: str, weight: torch.Tensor, kind: MasterKind
) -> None:
    with pytest.raises(ValueError, match=message):
        Master(weight, kind)
