"""What only a perturbed LoRA does; tests it shares with all forms are in test_forwards.py, those of
its Triton path in test_gpu_forward.py.
"""

from collections.abc import Callable

import pytest
import torch

from kernels import native
from kernels.lora import LoraNoise
from kernels.perturbation import NOBODY, Slice
from kernels.shared_basis import FusedBasis, SharedBasis

IN, WIDTHS, RANKS, NOISE_RANK = 40, (33, 20), (5, 3), 2
ROWS, OUT = 9, sum(WIDTHS)
PLUS, MINUS, MEAN = 0, 1, 2  # both members of a pair, and the mean itself
SIZE_A, SIZE_B = (0.001, 0.0005), (0.0015, -0.001)  # of each slice
TOLERANCE = {"torch_fp32": 1e-5, "native_bf16": 2**-7}

needs_native = pytest.mark.skipif(
    native.library() is None, reason="no C++ compiler: kernels/native cannot be built"
)
paths = pytest.mark.parametrize(
    "path", ["torch_fp32", pytest.param("native_bf16", marks=needs_native)]
)


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def factors(seed: int = 0) -> list[SharedBasis]:
    """A and B of two layers of different rank."""
    return [
        SharedBasis(
            draw(rank, IN, seed=seed + n).T / IN**0.5, draw(width, rank, seed=seed + 10 + n)
        )
        for n, (rank, width) in enumerate(zip(RANKS, WIDTHS, strict=True))
    ]


def make(dtype: torch.dtype, size: float = 1.0) -> LoraNoise:
    slices = [Slice(0, width, 0, IN) for width in WIDTHS]
    layer = LoraNoise(FusedBasis(factors(), slices, dtype, "cpu"), NOISE_RANK, 3, 2)
    for seed, table in enumerate(tables(layer)):
        table.random_(-16, 17, generator=torch.Generator().manual_seed(seed))
    layer.pair_M[:2] = 1
    sizes_S = torch.tensor([SIZE_A, SIZE_B]).T.flatten()
    layer.coefficient_MS[PLUS], layer.coefficient_MS[MINUS] = size * sizes_S, -size * sizes_S
    return layer


def tables(layer: LoraNoise) -> list[torch.Tensor]:
    names = (layer.down_left_NSKR, layer.down_right_NSKI, layer.up_left_NKO, layer.up_right_NSKR)
    return list(names)


def rows(dtype: torch.dtype) -> torch.Tensor:
    return draw(ROWS, IN, seed=30).to(dtype)


def added(layer: LoraNoise, member: int, dtype: torch.dtype) -> torch.Tensor:
    member_T = torch.full((ROWS,), member, dtype=torch.int32)
    return layer.add_(torch.zeros(ROWS, OUT, dtype=dtype), rows(dtype), member_T).double()


def defined(layer: LoraNoise, member: int) -> torch.Tensor:
    return layer.definition(rows(torch.float32), torch.full((ROWS,), member, dtype=torch.int32))


def test_the_definition_is_the_formula() -> None:
    layer, x_TI = make(torch.float32), rows(torch.float32).double()
    parts = []
    for s, columns in enumerate(layer.mean.columns):
        right_IR, left_OR = layer.mean.in_float64(s)
        size_a, size_b = (float(layer.coefficient_MS[PLUS, 2 * s + side]) for side in (0, 1))
        hidden_TR = x_TI @ right_IR
        for k in range(NOISE_RANK):
            inner_T = x_TI @ layer.down_right_NSKI[1, s, k].double()
            hidden_TR = hidden_TR + size_a * inner_T[:, None] * layer.down_left_NSKR[1, s, k]
        y_TO = hidden_TR @ left_OR.T
        for k in range(NOISE_RANK):
            inner_T = hidden_TR @ layer.up_right_NSKR[1, s, k].double()
            y_TO = y_TO + size_b * inner_T[:, None] * layer.up_left_NKO[1, k, columns]
        parts.append(y_TO)
    torch.testing.assert_close(defined(layer, PLUS), torch.cat(parts, dim=1))


@paths
def test_without_a_sign_a_row_is_the_mean_s_and_nobody_s_is_the_base_s(
    path: str, on: Callable[[str], torch.dtype]
) -> None:
    dtype = on(path)
    layer = make(dtype)
    wanted = [
        rows(dtype).double() @ right @ left.T for right, left in map(layer.mean.in_float64, (0, 1))
    ]
    mean_TO = torch.cat(wanted, dim=1)
    got = added(layer, MEAN, dtype)
    assert float((got - mean_TO).abs().max()) <= TOLERANCE[path] * float(mean_TO.abs().max())
    assert not added(layer, NOBODY, dtype).any()


@paths
def test_a_pair_is_opposite_in_first_order(path: str, on: Callable[[str], torch.dtype]) -> None:
    dtype = on(path)
    for size in (1.0, 0.25):
        layer = make(dtype, size)
        plus, minus, mean = (added(layer, member, dtype) for member in (PLUS, MINUS, MEAN))
        down, up = make(dtype, size), make(dtype, size)
        down.coefficient_MS[:, 1::2] = 0
        up.coefficient_MS[:, 0::2] = 0
        base = defined(layer, MEAN)
        first = defined(down, PLUS) + defined(up, PLUS) - 2 * base
        second = defined(layer, PLUS) - base - first
        # The product of both noises is the same for both members, and shrinks with the square.
        allowed = 2 * TOLERANCE[path] * float(plus.abs().max())
        assert float(((plus - minus) / 2 - first).abs().max()) <= allowed
        assert float(((plus + minus) / 2 - mean - second).abs().max()) <= allowed
        assert 0.1 < float(second.abs().max() / first.abs().max()) / size < 1.0


@paths
@pytest.mark.parametrize(
    ("silent", "names"), [(0, (0, 1)), (1, (2, 3))], ids=["B alone", "A alone"]
)
def test_a_side_without_a_coefficient_is_the_mean_s(
    path: str, silent: int, names: tuple[int, int], on: Callable[[str], torch.dtype]
) -> None:
    dtype = on(path)
    layer = make(dtype)
    layer.coefficient_MS[:, silent::2] = 0
    before = added(layer, PLUS, dtype)
    for name in names:
        tables(layer)[name].random_(-16, 17, generator=torch.Generator().manual_seed(99))
    assert torch.equal(added(layer, PLUS, dtype), before)
    plus, minus, mean = (defined(layer, member) for member in (PLUS, MINUS, MEAN))
    torch.testing.assert_close(plus - mean, mean - minus)
    assert float((before - mean).abs().max()) > 0.05


@paths
def test_noise_on_a_changes_nothing_while_b_is_zero(
    path: str, on: Callable[[str], torch.dtype]
) -> None:
    dtype = on(path)
    layer = make(dtype)
    layer.set_mean([SharedBasis(f.right_IR, torch.zeros_like(f.left_OR)) for f in factors()])
    layer.coefficient_MS[:, 1::2] = 0
    assert not added(layer, PLUS, dtype).any()


@paths
def test_a_new_mean_goes_into_the_same_tensors(path: str, on: Callable[[str], torch.dtype]) -> None:
    dtype = on(path)
    layer, fresh = make(dtype), make(dtype)
    fresh.set_mean(factors(seed=70))
    before = added(layer, PLUS, dtype)
    places = [t.data_ptr() for t in (layer.mean.right_QI, layer.mean.left_OR)]
    layer.set_mean(factors(seed=70))
    assert [t.data_ptr() for t in (layer.mean.right_QI, layer.mean.left_OR)] == places
    after = added(layer, PLUS, dtype)
    assert torch.equal(after, added(fresh, PLUS, dtype))
    assert not torch.equal(after, before)


def test_a_pair_takes_the_bytes_of_its_four_vectors() -> None:
    layer = make(torch.bfloat16)
    of_pair = NOISE_RANK * (2 * 2 * max(RANKS) + 2 * IN + OUT)
    assert layer.member_bytes == 2 * of_pair + 4 * (4 + 4 * 4)
