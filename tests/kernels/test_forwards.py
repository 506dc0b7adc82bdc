"""The four batched forwards against their float64 definitions, on every path of a CPU."""

import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest
import torch

from kernels import native
from kernels.core import CoreNoise
from kernels.filling import fill_factor_noise_
from kernels.lora import LoraNoise
from kernels.low_rank import LowRankNoise
from kernels.matrix_noise import NoiseStream, factor_noise
from kernels.perturbation import NOBODY, Perturbation, Slice
from kernels.shared_basis import FusedBasis, ScaledBasis, SharedBasis

IN, WIDTHS, RANK, MEMBERS, ROWS = 72, (50, 17, 33), 5, 6, 37
OUT = sum(WIDTHS)
KINDS = ("one_factor", "two_factors", "core", "low_rank", "lora")
PATHS = {"torch_fp32": 1e-5, "torch_bf16": 2**-6, "native_bf16": 2**-7}

needs_native = pytest.mark.skipif(
    native.library() is None, reason="no C++ compiler: kernels/native cannot be built"
)
paths = pytest.mark.parametrize(
    "path", ["torch_fp32", "torch_bf16", pytest.param("native_bf16", marks=needs_native)]
)
kinds = pytest.mark.parametrize("kind", KINDS)


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def integers(table: torch.Tensor, seed: int) -> None:
    table.random_(-16, 17, generator=torch.Generator().manual_seed(seed))


def whole(in_features: int = IN, widths: Sequence[int] = WIDTHS) -> list[Slice]:
    return [Slice(0, width, 0, in_features) for width in widths]


def make(kind: str, dtype: torch.dtype, slices: Sequence[Slice] | None = None) -> Perturbation:
    """A layer of three slices; `slices` cuts it for one rank."""
    parts = slices or whole()
    if kind == "low_rank":
        layer = LowRankNoise([p.num_rows for p in parts], parts[0].num_columns, 2, MEMBERS, 3)
        fill(layer.left_NKO, layer.right_NSKI, parts)
        layer.pair_M[:MEMBERS] = torch.arange(MEMBERS) // 2
        layer.coefficient_MS[:MEMBERS] = coefficients()
        return layer
    two = kind == "two_factors"
    bases = [
        SharedBasis(
            draw(IN, RANK, seed=10 * n),
            draw(width, RANK, seed=10 * n + 1),
            draw(RANK, RANK, seed=10 * n + 2) if two else None,
        )
        for n, width in enumerate(WIDTHS)
    ]
    fused = FusedBasis(bases, parts, dtype, "cpu")
    if kind == "core":
        core = CoreNoise(fused, 2, MEMBERS, 3)
        core.core_SRR.copy_(draw(3, RANK, RANK, seed=40))
        integers(core.left_NSKR, 41)
        integers(core.right_NSKR, 42)
        core.pair_M[:MEMBERS] = torch.arange(MEMBERS) // 2
        core.coefficient_MS[:MEMBERS] = coefficients()
        return core
    if kind == "lora":
        lora = LoraNoise(fused, 2, MEMBERS, 3)
        fill(lora.up_left_NKO, lora.down_right_NSKI, parts)
        integers(lora.down_left_NSKR, 43)
        integers(lora.up_right_NSKR, 44)
        lora.pair_M[:MEMBERS] = torch.arange(MEMBERS) // 2
        lora.coefficient_MS[:MEMBERS, 0::2] = coefficients()
        lora.coefficient_MS[:MEMBERS, 1::2] = 0.7 * coefficients()
        return lora
    scaled = ScaledBasis(fused, MEMBERS)
    for index in range(3):
        scale_b = draw(MEMBERS, RANK, seed=60 + index) if two else None
        scaled.set_scales(index, draw(MEMBERS, RANK, seed=50 + index), scale_b)
    return scaled


def fill(left_NKO: torch.Tensor, right_NSKI: torch.Tensor, parts: Sequence[Slice]) -> None:
    """The noise of three pairs at each slice's place in the whole layer."""
    stream, start = NoiseStream(7, 3), 0
    for index, (part, width) in enumerate(zip(parts, WIDTHS, strict=True)):
        left, right = left_NKO[:, :, start : start + part.num_rows], right_NSKI[:, index]
        fill_factor_noise_(left, stream, range(3), 2 * index, width, part.first_row)
        fill_factor_noise_(right, stream, range(3), 2 * index + 1, IN, part.first_column)
        start += part.num_rows


def coefficients() -> torch.Tensor:
    """Opposite signs within a pair, its own size for every slice."""
    sign_M1 = torch.tensor([1.0, -1.0]).repeat(MEMBERS // 2)[:, None]
    return sign_M1 * torch.tensor([0.01, 0.02, 0.03])


def members() -> torch.Tensor:
    """Every member, nobody among them, in no order; longer than the rows."""
    member_T = (torch.arange(ROWS + 3) * 5) % (MEMBERS + 1) - 1
    return member_T.to(torch.int32)


@kinds
@paths
def test_forward_is_the_definition(kind: str, path: str, on: Callable[[str], torch.dtype]) -> None:
    dtype = on(path)
    layer = make(kind, dtype)
    x_TI, y_TO = draw(ROWS, IN, seed=7).to(dtype), draw(ROWS, OUT, seed=8).to(dtype)
    delta = layer.definition(x_TI, members()[:ROWS])
    got = layer.add_(y_TO.clone(), x_TI, members())
    # One rounding of y beside the delta's own error.
    allowed = PATHS[path] * delta.abs().max() + torch.finfo(dtype).eps * y_TO.abs()
    assert bool(((got.double() - (y_TO.double() + delta)).abs() <= allowed).all())
    assert float(delta.abs().max()) > 0.5


@kinds
@paths
def test_nobody_s_rows_keep_every_bit(
    kind: str, path: str, on: Callable[[str], torch.dtype]
) -> None:
    dtype = on(path)
    y_TO, x_TI = draw(ROWS, OUT, seed=1).to(dtype), draw(ROWS, IN, seed=2).to(dtype)
    got = make(kind, dtype).add_(y_TO.clone(), x_TI, members())
    is_nobody = members()[:ROWS] == NOBODY
    assert torch.equal(got[is_nobody], y_TO[is_nobody])
    assert bool((got[~is_nobody] != y_TO[~is_nobody]).any(dim=1).all())


@kinds
@needs_native
def test_a_row_does_not_depend_on_the_rows_beside_it(kind: str) -> None:
    layer, x_TI = make(kind, torch.bfloat16), draw(ROWS, IN, seed=2).bfloat16()
    zeros = torch.zeros(ROWS, OUT, dtype=torch.bfloat16)
    together = layer.add_(zeros.clone(), x_TI, members())
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))
    shuffled = layer.add_(zeros.clone(), x_TI[order], members()[:ROWS][order])
    assert torch.equal(shuffled, together[order])
    alone = layer.add_(zeros[:1].clone(), x_TI[5:6], members()[5:6].contiguous())
    assert torch.equal(alone, together[5:6])


@pytest.mark.parametrize("kind", ["core", "low_rank"])
@paths
def test_the_noise_of_a_pair_sums_to_exactly_nothing(
    kind: str, path: str, on: Callable[[str], torch.dtype]
) -> None:
    dtype = on(path)
    layer = make(kind, dtype)
    if isinstance(layer, CoreNoise):
        layer.core_SRR.zero_()
    x_TI = draw(4, IN, seed=3).to(dtype)
    plus, minus = (
        layer.add_(torch.zeros(4, OUT, dtype=dtype), x_TI, torch.full((4,), m, dtype=torch.int32))
        for m in (2, 3)
    )
    assert torch.equal(plus, -minus)
    assert float(plus.abs().max()) > 0


@kinds
@paths
def test_strided_rows_are_served(kind: str, path: str, on: Callable[[str], torch.dtype]) -> None:
    dtype = on(path)
    layer, wide = make(kind, dtype), draw(ROWS, IN + 9, seed=2).to(dtype)
    plain = layer.add_(torch.zeros(ROWS, OUT, dtype=dtype), wide[:, :IN].contiguous(), members())
    buffer = torch.zeros(ROWS, OUT + 5, dtype=dtype)
    strided = layer.add_(buffer[:, :OUT], wide[:, :IN], members())
    torch.testing.assert_close(strided, plain)
    assert torch.equal(buffer[:, OUT:], torch.zeros(ROWS, 5, dtype=dtype))


@kinds
@pytest.mark.parametrize("path", ["torch_fp32", pytest.param("native_bf16", marks=needs_native)])
def test_two_ranks_of_a_split_layer_make_the_whole(
    kind: str, path: str, on: Callable[[str], torch.dtype]
) -> None:
    """Rows of the weight are concatenated, columns are summed; noise is keyed by global place."""
    dtype = on(path)
    x_TI = draw(ROWS, IN, seed=2).to(dtype)
    expected = make(kind, dtype).add_(torch.zeros(ROWS, OUT, dtype=dtype), x_TI, members())
    upper = [Slice(0, 30, 0, IN), Slice(0, 8, 0, IN), Slice(0, 20, 0, IN)]
    lower = [Slice(30, 20, 0, IN), Slice(8, 9, 0, IN), Slice(20, 13, 0, IN)]
    parts = []
    for slices in (upper, lower):
        rows = sum(part.num_rows for part in slices)
        y_TO = make(kind, dtype, slices).add_(torch.zeros(ROWS, rows, dtype=dtype), x_TI, members())
        parts.append(y_TO.split([part.num_rows for part in slices], dim=1))
    stitched = torch.cat([half for slices in zip(*parts, strict=True) for half in slices], dim=1)
    torch.testing.assert_close(stitched, expected)
    total = torch.zeros(ROWS, OUT, dtype=torch.float64)
    for first, stop in ((0, 40), (40, IN)):
        cut = [Slice(0, width, first, stop - first) for width in WIDTHS]
        layer = make(kind, dtype, cut)
        y_TO = torch.zeros(ROWS, OUT, dtype=dtype)
        total += layer.add_(y_TO, x_TI[:, first:stop], members()).double()
    allowed = 2 * PATHS[path] * float(expected.abs().max())
    assert float((total - expected.double()).abs().max()) <= allowed


@needs_native
@pytest.mark.parametrize("kind", ["binomial", "rademacher"])
def test_compiled_noise_is_the_reference_s(kind: str) -> None:
    stream = NoiseStream(2**40 + 17, 5, kind)  # pyright: ignore[reportArgumentType]
    pairs = (0, 3, 2**31 + 1)
    parts = ((1, (0, 1)), (130, (0, 130)), (577, (3, 258)), (576, (575, 576)), (9000, (131, 8999)))
    for width, columns in parts:
        out = torch.zeros(3, 2, columns[1] - columns[0] + 4, dtype=torch.int8)
        view = out[:, :, 1:-3]
        fill_factor_noise_(view, stream, pairs, 9, width, columns[0])
        assert (view.numpy() == factor_noise(stream, pairs, 9, 2, width, columns)).all()
        assert not out[:, :, 0].any() and not out[:, :, -3:].any()


@needs_native
def test_the_largest_number_is_the_first_of_its_kind() -> None:
    values = draw(9, 1003, seed=1).bfloat16()
    values[1, 40] = values[1, 900] = values[1].max() + 1
    values[2] = -values[2].abs() - 1
    values[3], values[3, 7], values[3, 9] = -1.0, -0.0, 0.0
    values[4, 5] = float("inf")
    values[5] = float("-inf")
    assert torch.equal(native.argmax(values), values.float().argmax(dim=1))
    assert torch.equal(native.argmax(values[:, :500]), values[:, :500].float().argmax(dim=1))


def test_gaussian_noise_is_refused_where_integers_are_kept() -> None:
    out = torch.zeros(1, 1, 4, dtype=torch.int8)
    with pytest.raises(ValueError, match="gaussian noise is not kept in int8 tables"):
        fill_factor_noise_(out, NoiseStream(0, 0, "gaussian"), (0,), 0, 4)


def test_one_and_two_factor_layers_do_not_fuse() -> None:
    one = SharedBasis(draw(IN, RANK, seed=1), draw(WIDTHS[0], RANK, seed=2))
    two = SharedBasis(one.right_IR, one.left_OR, draw(RANK, RANK, seed=3))
    with pytest.raises(ValueError, match="cannot fuse"):
        FusedBasis([one, two], whole(widths=(50, 50)), torch.float32, "cpu")


def test_layers_of_different_rank_fuse() -> None:
    bases = [
        SharedBasis(draw(IN, rank, seed=rank), draw(width, rank, seed=rank + 50))
        for rank, width in ((2, 50), (5, 17))
    ]
    layer = ScaledBasis(FusedBasis(bases, whole(widths=(50, 17)), torch.float32, "cpu"), MEMBERS)
    layer.set_scales(0, draw(MEMBERS, 2, seed=3), None)
    layer.set_scales(1, draw(MEMBERS, 5, seed=4), None)
    x_TI, member_T = draw(ROWS, IN, seed=5), members()[:ROWS]
    got = layer.add_(torch.zeros(ROWS, 67), x_TI, member_T)
    torch.testing.assert_close(got.double(), layer.definition(x_TI, member_T), atol=1e-4, rtol=1e-4)


PLAIN_PROCESSOR = """
import sys
from kernels.native import build
build.FLAGS = tuple(flag.replace("native", "x86-64-v2") for flag in build.FLAGS)
import pytest
assert build.library() is not None and build.library().es_has_bf16_dot() == 0
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "-k", "native_bf16 or beside or compiled",
                      "--deselect", sys.argv[1] + "::test_the_plain_loops", sys.argv[1]]))
"""


@pytest.mark.slow
@needs_native
def test_the_plain_loops_of_older_processors_compute_the_same() -> None:
    """The whole file again, compiled for a processor without AVX-512."""
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_PROCESSOR, __file__],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
