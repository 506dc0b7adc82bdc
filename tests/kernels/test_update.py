"""The update is exact, the same everywhere, and made of the noise that members have."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import update
from kernels.low_rank import LowRankNoise
from kernels.matrix_noise import VARIANCE, NoiseKind, NoiseStream, factor_noise
from kernels.perturbation import Slice
from kernels.shared_basis import SharedBasis
from kernels.update import NoisyMatrix, matrix_update, round_weights, vector_update
from workers.hooks import Capacity, CoreHook, NoiseHook, make_hook
from workers.layers import CoreLayer, NoiseLayer
from workers.members import NoiseMembers

INTEGER_KINDS: tuple[NoiseKind, ...] = ("binomial", "rademacher")
kinds = pytest.mark.parametrize("kind", INTEGER_KINDS)


def draw_weights(num_pairs: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(num_pairs)


def exact_update(
    stream: NoiseStream, pairs: list[int], weight_P: np.ndarray, matrix: NoisyMatrix, scale: float
) -> np.ndarray:
    """The documented update in Python's integers, and one rounded multiplication."""
    largest = {"binomial": 16, "rademacher": 1}[stream.kind]
    used = [index for index, weight in enumerate(weight_P) if weight]
    bits = 53 - math.ceil(math.log2(len(used) * matrix.noise_rank * largest**2))
    exponent = math.frexp(max(abs(weight) for weight in weight_P))[1] - bits
    total = np.zeros((matrix.rows, matrix.columns), dtype=object)
    for index in used:
        integer = round(Fraction(float(weight_P[index])) / Fraction(2) ** exponent)
        sides = []
        for side, width in ((matrix.row_side, matrix.rows), (1 - matrix.row_side, matrix.columns)):
            parameter = 2 * matrix.parameter + side
            sides.append(
                factor_noise(stream, [pairs[index]], parameter, matrix.noise_rank, width)[0]
            )
        left_KR, right_KC = (side.astype(object) for side in sides)
        total += integer * (left_KR.T @ right_KC)
    assert max(abs(int(number)) for number in total.flat) <= 2**53
    unit = math.ldexp(scale / (VARIANCE[stream.kind] * math.sqrt(matrix.noise_rank)), exponent)
    return total.astype(np.float64) * unit


@kinds
@pytest.mark.parametrize("noise_rank", [1, 3])
def test_the_update_is_that_of_python_s_integers(kind: NoiseKind, noise_rank: int) -> None:
    stream, pairs = NoiseStream(3, 8, kind), list(range(5, 70))
    matrix = NoisyMatrix(4, 37, 21, noise_rank)
    weight_P = draw_weights(len(pairs)) * np.exp(3 * draw_weights(len(pairs), seed=1))
    weight_P[[3, 11]] = 0
    got = matrix_update(stream, pairs, weight_P, matrix, scale=0.3)
    assert got.dtype == torch.float64
    assert np.array_equal(got.numpy(), exact_update(stream, pairs, weight_P, matrix, 0.3))


@kinds
def test_the_largest_sum_there_can_be_is_exact(
    kind: NoiseKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = {"binomial": 16, "rademacher": 1}[kind]

    def fill(out_PRW: torch.Tensor, *_: object) -> torch.Tensor:
        return out_PRW.fill_(largest)

    monkeypatch.setattr(update, "fill_factor_noise_", fill)
    weight_P = 1 - np.random.default_rng(0).random(1024) / 100
    weight_P[0] = np.nextafter(1.0, 0.0)
    weights = round_weights(weight_P, range(1024), 1, kind)
    assert weights.integer_P.max() == 2.0 ** (53 - 10 - (8 if kind == "binomial" else 0))
    got = matrix_update(NoiseStream(0, 0, kind), range(1024), weight_P, NoisyMatrix(0, 2, 2, 1))
    total = sum(map(int, weights.integer_P)) * largest**2
    assert 2**52 < total <= 2**53
    assert got.tolist() == [[math.ldexp(total / VARIANCE[kind], weights.exponent)] * 2] * 2


@given(
    weight_P=st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=40),
    noise_rank=st.integers(1, 64),
    kind=st.sampled_from(INTEGER_KINDS),
)
def test_weights_go_to_the_nearest_point_of_a_fine_grid(
    weight_P: list[float], noise_rank: int, kind: NoiseKind
) -> None:
    pairs, integer_P, exponent = round_weights(weight_P, range(len(weight_P)), noise_rank, kind)
    assert pairs == [index for index, weight in enumerate(weight_P) if weight]
    step = Fraction(2) ** exponent
    for pair, integer in zip(pairs, integer_P, strict=True):
        assert abs(Fraction(weight_P[pair]) - int(integer) * step) <= step / 2
    num_products = max(len(pairs), 1) * noise_rank * (256 if kind == "binomial" else 1)
    assert num_products * max(map(abs, integer_P), default=0) <= 2**53
    bits = 53 - math.ceil(math.log2(num_products))
    assert step <= Fraction(max(map(abs, weight_P))) / 2 ** (bits - 1) or not pairs


@kinds
def test_chunks_threads_order_and_idle_pairs_leave_the_bits(
    kind: NoiseKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, matrix, num_pairs = NoiseStream(1, 2, kind), NoisyMatrix(6, 130, 75, 2), 90
    weight_P = draw_weights(num_pairs)
    weight_P[40:60] = 0
    wanted = matrix_update(stream, range(num_pairs), weight_P, matrix)
    used = np.flatnonzero(weight_P)
    shuffled = np.random.default_rng(5).permutation(used)
    for order in (used, shuffled):
        got = matrix_update(stream, order.tolist(), weight_P[order], matrix)
        assert torch.equal(got, wanted)
    monkeypatch.setattr(update, "CHUNK_BYTES", 20_000)  # five pairs at a time
    assert torch.equal(matrix_update(stream, range(num_pairs), weight_P, matrix), wanted)
    monkeypatch.setattr(update, "CHUNK_BYTES", 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    again = matrix_update(stream, range(num_pairs), weight_P, matrix)
    torch.set_num_threads(threads)
    assert torch.equal(again, wanted)


@settings(max_examples=30)
@given(data=st.data(), kind=st.sampled_from(INTEGER_KINDS), row_side=st.sampled_from([0, 1]))
def test_a_shard_has_the_bits_of_the_whole(
    data: st.DataObject, kind: NoiseKind, row_side: int
) -> None:
    stream, matrix = NoiseStream(9, 1, kind), NoisyMatrix(2, 140, 61, 2, row_side)
    whole = matrix_update(stream, range(12), draw_weights(12), matrix)
    first, left = data.draw(st.integers(0, 139)), data.draw(st.integers(0, 60))
    stop, right = data.draw(st.integers(first + 1, 140)), data.draw(st.integers(left + 1, 61))
    shard = matrix_update(
        stream, range(12), draw_weights(12), matrix, rows=(first, stop), columns=(left, right)
    )
    assert torch.equal(shard, whole[first:stop, left:right])


@kinds
def test_the_update_on_every_device(kind: NoiseKind, torch_device: str) -> None:
    stream, matrix = NoiseStream(4, 4, kind), NoisyMatrix(1, 200, 90, 2)
    wanted = matrix_update(stream, range(64), draw_weights(64), matrix)
    got = matrix_update(stream, range(64), draw_weights(64), matrix, device=torch_device)
    assert torch.equal(got.cpu(), wanted)


def test_a_member_s_noise_is_the_update_of_its_pair_alone() -> None:
    sigma, pair = 0.02, 11
    layer = NoiseLayer("layer", 24, 40, noise_rank=3, unit=0.5, parameter=5)
    capacity = Capacity(2, torch.float32, "cpu")
    hook = make_hook("module", [layer], [0], [Slice(0, 24, 0, 40)], capacity)
    assert isinstance(hook, NoiseHook) and isinstance(hook.perturbation, LowRankNoise)
    hook.set_members(NoiseMembers(7, 2, (pair, pair), (1, -1), sigma))
    member_T = torch.tensor([0, 1], dtype=torch.int32)
    x_TI = torch.randn(1, 40, generator=torch.Generator().manual_seed(0)).repeat(2, 1)
    added_TO = hook.perturbation.definition(x_TI, member_T)
    scale = sigma * layer.unit
    delta_OI = matrix_update(
        NoiseStream(7, 2), [pair], [1.0], NoisyMatrix(5, 24, 40, 3), scale=scale
    )
    # The coefficient of a member is fp32.
    torch.testing.assert_close(added_TO[0], delta_OI @ x_TI[0].double(), rtol=1e-6, atol=1e-9)
    assert torch.equal(added_TO[0], -added_TO[1])


def test_a_vector_of_cores_is_in_the_order_that_members_read() -> None:
    """A core's rows are the input's directions; the mean's vector holds it row by row."""
    generator = torch.Generator().manual_seed(0)
    right_IR, left_OR = (torch.randn(n, 6, generator=generator) for n in (40, 24))
    layer = CoreLayer("layer", SharedBasis(right_IR, left_OR), 2, unit=0.5, parameter=3)
    capacity = Capacity(2, torch.float32, "cpu")
    hook = make_hook("module", [layer], [0], [Slice(0, 24, 0, 40)], capacity)
    assert isinstance(hook, CoreHook)
    stream, sigma = NoiseStream(1, 9), 0.1
    cores = [NoisyMatrix.core(8, 4, 2), NoisyMatrix.core(3, 6, 2)]
    vector_D = vector_update(stream, [4], [1.0], cores, [1.0, sigma * layer.unit])
    assert vector_D.shape == (16 + 36,) and vector_D.dtype == np.float64
    member_T, x_TI = torch.zeros(1, dtype=torch.int32), torch.randn(1, 40, generator=generator)
    zero = np.zeros(36, dtype=np.float32)
    hook.set_members(NoiseMembers(1, 9, (4,), (1,), sigma, mean_D=zero))
    by_noise = hook.perturbation.definition(x_TI, member_T)
    mean = vector_D[16:].astype(np.float32)
    hook.set_members(NoiseMembers(1, 9, (4,), (0,), sigma, mean_D=mean))
    by_mean = hook.perturbation.definition(x_TI, member_T)
    torch.testing.assert_close(by_mean, by_noise, rtol=1e-5, atol=1e-6)


def test_no_weights_no_update() -> None:
    matrix = NoisyMatrix(0, 3, 4, 1)
    for pairs, weight_P in (([], []), ([1, 2], [0.0, -0.0])):
        assert not matrix_update(NoiseStream(0, 0), pairs, weight_P, matrix).any()
    assert vector_update(NoiseStream(0, 0), [], [], []).shape == (0,)


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        (r"weight nan of pair 8 is not finite; use 0 to", {"weight_P": [1.0, math.nan]}),
        (r"weight -inf of pair 7 is not finite", {"weight_P": [-math.inf, 1.0]}),
        (r"weights of shape \(1,\) do not fit 2 pairs", {"weight_P": [1.0]}),
        (r"kind='gaussian' has no exact update; use binomial or", {"kind": "gaussian"}),
        (r"scale=inf is not finite", {"scale": math.inf}),
        (r"rows=\(2, 6\) is no part of 5; use 0 <= start < stop <= 5", {"rows": (2, 6)}),
        (r"columns=\(3, 3\) is no part of 4", {"columns": (3, 3)}),
    ],
)
def test_what_has_no_update_is_refused(message: str, changes: dict) -> None:
    arguments = {"weight_P": [1.0, 2.0], "kind": "binomial"} | changes
    stream, weight_P = NoiseStream(0, 0, arguments.pop("kind")), arguments.pop("weight_P")
    with pytest.raises(ValueError, match=message):
        matrix_update(stream, [7, 8], weight_P, NoisyMatrix(0, 5, 4, 1), **arguments)
    with pytest.raises(ValueError, match="1 scales for 2 matrices; give one a matrix"):
        vector_update(NoiseStream(0, 0), [7], [1.0], [NoisyMatrix.core(0, 2, 1)] * 2, [1.0])
