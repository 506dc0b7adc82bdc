"""The Triton forwards against their float64 definitions, natively or in the interpreter.

See conftest.py for how the tests marked `gpu` run where there is no accelerator.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
import torch

pytest.importorskip("triton")

from kernels import perturbation
from kernels.core import CoreNoise
from kernels.gpu import directions, low_rank
from kernels.gpu.common import Form
from kernels.gpu.core import add_core_noise_
from kernels.gpu.lora import add_lora_noise_
from kernels.gpu.low_rank import add_low_rank_
from kernels.gpu.shared_basis import add_scaled_basis_
from kernels.lora import LoraNoise
from kernels.low_rank import LowRankNoise
from kernels.perturbation import NOBODY, Perturbation, Slice
from kernels.shared_basis import FusedBasis, ScaledBasis, SharedBasis

# Slices end within a block, one needs several; the input fills no whole number of steps or splits.
WIDTHS, IN_FEATURES = (70, 33, 140), 1100
MEMBERS, PAIRS = 6, 3
CASES = ["one factor", "two factors", "core", "rank 1", "rank 6", "lora"]
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2**-7, torch.bfloat16: 2**-7}


class Case(NamedTuple):
    layer: Perturbation
    add: Callable[..., torch.Tensor]


class Rows(NamedTuple):
    """What a forward is given; x and y are views into wider tensors, NaN in rows of NOBODY."""

    y_TO: torch.Tensor
    x_TI: torch.Tensor
    member_T: torch.Tensor


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_basis(ranks: Sequence[int], has_core: bool, dtype: torch.dtype, device: str) -> FusedBasis:
    bases = [
        SharedBasis(
            draw(IN_FEATURES, rank, seed=index) / 30,
            draw(width, rank, seed=index + 10),
            draw(rank, rank, seed=index + 20) if has_core else None,
        )
        for index, (rank, width) in enumerate(zip(ranks, WIDTHS, strict=True))
    ]
    slices = [Slice(0, width, 0, IN_FEATURES) for width in WIDTHS]
    return FusedBasis(bases, slices, dtype, device)


def make_case(name: str, dtype: torch.dtype, device: str) -> Case:
    if name in ("one factor", "two factors"):
        ranks, has_core = (5, 3, 5), name == "two factors"
        scaled = ScaledBasis(make_basis(ranks, has_core, dtype, device), MEMBERS)
        for index, rank in enumerate(ranks):
            scale_b = draw(MEMBERS, rank, seed=index + 40) if has_core else None
            scaled.set_scales(index, draw(MEMBERS, rank, seed=index + 30), scale_b)
        return Case(scaled, add_scaled_basis_)
    layer: CoreNoise | LoraNoise | LowRankNoise
    if name == "core":
        layer = CoreNoise(make_basis((18, 18, 7), False, dtype, device), 3, MEMBERS, PAIRS)
        layer.core_SRR.copy_(draw(*layer.core_SRR.shape, seed=1))
        tables, add = (layer.left_NSKR, layer.right_NSKR), add_core_noise_
    elif name == "lora":
        layer = LoraNoise(make_basis((18, 18, 7), False, dtype, device), 3, MEMBERS, PAIRS)
        tables = (layer.down_left_NSKR, layer.down_right_NSKI, layer.up_left_NKO)
        tables, add = (*tables, layer.up_right_NSKR), add_lora_noise_
    else:
        rank = int(name.removeprefix("rank "))
        layer = LowRankNoise(WIDTHS, IN_FEATURES, rank, MEMBERS, PAIRS, device)
        tables, add = (layer.left_NKO, layer.right_NSKI), add_low_rank_
    for seed, table in enumerate(tables, start=2):
        table.copy_((5 * draw(*table.shape, seed=seed)).round().clamp(-16, 16))
    layer.pair_M[:MEMBERS] = torch.tensor([2, 2, 0, 0, 1, 1])
    size = 0.1 if name == "lora" else 1.0  # its two noises multiply
    sizes = size * draw(MEMBERS, layer.coefficient_MS.shape[1], seed=50)
    if name == "lora":
        sizes[4], sizes[5, 0::2], sizes[2, 1::2] = 0, 0, 0  # the mean, B alone, A alone
    layer.coefficient_MS[:MEMBERS] = sizes.to(layer.pair_M.device)
    return Case(layer, add)


def mixed_members(num_rows: int) -> list[int]:
    generator = torch.Generator().manual_seed(8)
    return torch.randint(NOBODY, MEMBERS, (num_rows,), generator=generator).tolist()


def segments(num_rows: int) -> list[int]:
    """A whole tile of one member, both members of a pair, another one, and padding."""
    return [*[3] * 64, *[2, 3] * 20, *[4] * 12, *[NOBODY] * num_rows][:num_rows]


@pytest.fixture(autouse=True)
def poisoned_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel should have written before another reads it is NaN at first."""
    monkeypatch.setattr(torch, "empty", lambda *shape, **kw: torch.full(shape, torch.nan, **kw))


def make_rows(members: Sequence[int], dtype: torch.dtype, device: str) -> Rows:
    num_rows, width = len(members), sum(WIDTHS)
    y = draw(num_rows, width + 9, seed=6).to(device, dtype)[:, 5 : 5 + width]
    x = draw(num_rows, IN_FEATURES + 7, seed=7).to(device, dtype)[:, 3 : 3 + IN_FEATURES]
    member_T = torch.tensor(members, dtype=torch.int32, device=device)
    y[member_T < 0] = x[member_T < 0] = torch.nan
    return Rows(y, x, member_T)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """Numbers to be compared exactly, NaN too."""
    return tensor.cpu().view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)


def check_forward(name: str, dtype: torch.dtype, device: str, rows: Rows, form: Form | None):
    base, y_before = rows.y_TO._base, rows.y_TO.clone()
    assert base is not None
    margins_before = base[:, :5].clone(), base[:, -4:].clone()
    case = make_case(name, dtype, device)
    assert case.add(case.layer, *rows, form=form) is rows.y_TO

    is_somebody = (rows.member_T >= 0).cpu()
    assert torch.equal(bits(rows.y_TO)[~is_somebody], bits(y_before)[~is_somebody])
    for before, now in zip(margins_before, (base[:, :5], base[:, -4:]), strict=True):
        assert torch.equal(bits(now.contiguous()), bits(before))

    y, before, x, member = (
        tensor.cpu()[is_somebody] for tensor in (rows.y_TO, y_before, rows.x_TI, rows.member_T)
    )
    definition = make_case(name, dtype, "cpu").layer.definition(x, member)
    wanted = before.double() + definition
    rounding = wanted.abs() * torch.finfo(dtype).eps / 2  # of y, once
    scale = float(definition.abs().max())
    assert scale > 0.1
    excess = (y.double() - wanted).abs() - rounding
    assert float(excess.max()) < TOLERANCE[dtype] * scale


def test_in_the_interpreter(run_in_interpreter: Callable[[str], None]) -> None:
    run_in_interpreter(__file__)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("form", "members"),
    [
        *(("decode", mixed_members(19)), ("decode", [5])),
        *(("prefill", mixed_members(30)), ("prefill", segments(140))),
        (None, mixed_members(3)),
    ],
)
def test_a_forward_is_its_definition(
    triton_device: str, name: str, dtype: torch.dtype, form: Form | None, members: list[int]
) -> None:
    rows = make_rows(members, dtype, triton_device)
    check_forward(name, dtype, triton_device, rows, form)


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_many_programs_share_a_sum(
    triton_device: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Splits of the input and groups of directions as real widths and ranks have them.
    small = directions.Blocks(rows=16, step=64, split=256, columns=32)
    monkeypatch.setitem(directions.BLOCKS, "prefill", small)
    monkeypatch.setattr(directions, "MAX_DIRECTIONS_PER_PROGRAM", 16)
    monkeypatch.setattr(low_rank, "TILE_SPLIT", 256)
    monkeypatch.setattr(low_rank, "MAX_FACTORS_PER_PROGRAM", 8)
    rows = make_rows(mixed_members(20), torch.float16, triton_device)
    check_forward(name, torch.float16, triton_device, rows, "prefill")


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_both_forms_agree(triton_device: str, name: str) -> None:
    decoded = make_rows([3, 3, 3, 3, 2, 2, 5, 4, 4], torch.float32, triton_device)
    prefilled = decoded._replace(y_TO=decoded.y_TO.clone())
    case = make_case(name, torch.float32, triton_device)
    case.add(case.layer, *decoded, form="decode")
    case.add(case.layer, *prefilled, form="prefill")
    scale = float(decoded.y_TO.abs().max())
    torch.testing.assert_close(decoded.y_TO, prefilled.y_TO, rtol=0, atol=1e-5 * scale)


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_members_beyond_the_rows_are_left_out(
    triton_device: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An engine hands over its whole buffer, which no batch is as long as.
    monkeypatch.setattr(perturbation, "choose_path", lambda x_TI: "triton")
    rows = make_rows([3, NOBODY, 5], torch.float16, triton_device)
    case = make_case(name, torch.float16, triton_device)
    wanted = case.add(case.layer, rows.y_TO.clone(), rows.x_TI, rows.member_T)
    buffer = torch.cat([rows.member_T, torch.full_like(rows.member_T, 4)])
    assert case.layer.add_(rows.y_TO, rows.x_TI, buffer) is rows.y_TO
    assert torch.equal(bits(rows.y_TO.contiguous()), bits(wanted))


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_a_decoded_row_does_not_depend_on_how_many_there_are(triton_device: str, name: str) -> None:
    members = mixed_members(19)
    together = make_rows(members, torch.float32, triton_device)
    alone = Rows(*(tensor[16:17].clone() for tensor in together))
    case = make_case(name, torch.float32, triton_device)
    for rows in (together, alone):
        case.add(case.layer, *rows, form="decode")
    assert members[16] != NOBODY
    assert torch.equal(bits(alone.y_TO), bits(together.y_TO[16:17].contiguous()))


@pytest.mark.gpu
@pytest.mark.parametrize("form", ["decode", "prefill"])
@pytest.mark.parametrize("name", CASES)
def test_rows_of_nobody_keep_their_bits(triton_device: str, name: str, form: Form) -> None:
    rows = make_rows([NOBODY] * 20, torch.bfloat16, triton_device)
    rows.y_TO[0] = -0.0
    before = rows.y_TO.clone()
    case = make_case(name, torch.bfloat16, triton_device)
    case.add(case.layer, *rows, form=form)
    assert torch.equal(bits(rows.y_TO), bits(before))
