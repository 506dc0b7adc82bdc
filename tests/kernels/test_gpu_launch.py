"""What the Triton forwards do before a kernel runs: compile, choose a form, refuse."""

import pytest
import torch

pytest.importorskip("triton")

from kernels.core import CoreNoise
from kernels.errors import ModelError
from kernels.gpu import common, directions, low_rank
from kernels.gpu.common import Form
from kernels.gpu.core import add_core_noise_
from kernels.gpu.factors import noise_origin, stored
from kernels.gpu.lora import add_lora_noise_
from kernels.gpu.low_rank import add_low_rank_, add_low_rank_made_
from kernels.gpu.shared_basis import add_scaled_basis_
from kernels.lora import LoraNoise
from kernels.low_rank import LowRankNoise
from kernels.perturbation import Slice
from kernels.shared_basis import FusedBasis, ScaledBasis, SharedBasis

SLICES = [Slice(0, 384, 0, 256), Slice(0, 128, 0, 256)]


def make_rows(num_rows: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    y_TO, x_TI = torch.zeros(num_rows, 512, dtype=dtype), torch.zeros(num_rows, 256, dtype=dtype)
    return y_TO, x_TI, torch.zeros(num_rows, dtype=torch.int32)


def make_basis(rank: int, dtype: torch.dtype) -> FusedBasis:
    core_RR = torch.zeros(rank, rank)
    bases = [
        SharedBasis(torch.zeros(256, rank), torch.zeros(part.num_rows, rank), core_RR)
        for part in SLICES
    ]
    return FusedBasis(bases, SLICES, dtype, "cpu")


def make_low_rank(rank: int) -> LowRankNoise:
    return LowRankNoise([384, 128], 256, rank, 2, 1)


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.parametrize(
    ("dtype", "form"),
    [(torch.bfloat16, "decode"), (torch.bfloat16, "prefill"), (torch.float32, "prefill")],
)
def test_every_kernel_compiles_for_hopper(
    hopper_ptx: dict[str, str], dtype: torch.dtype, form: Form
) -> None:
    # The compiler refuses things that the interpreter lets pass.
    rows, basis, layer = make_rows(8, dtype), make_basis(8, dtype), make_low_rank(1)
    add_scaled_basis_(ScaledBasis(basis, 2), *rows, form)
    add_core_noise_(CoreNoise(basis, 2, 2, 1), *rows, form)
    add_low_rank_(layer, *rows, form)
    add_lora_noise_(LoraNoise(basis, 1, 2, 1), *rows, form)
    suffix = "rows" if form == "decode" else "tiles"
    noise_kernels = (f"project_{suffix}", f"expand_{suffix}")
    expansions = ("_expand_scaled", "_expand_core", "_expand_lora")
    assert set(hopper_ptx) == {"_project", *expansions, *noise_kernels}
    for name, ptx in hopper_ptx.items():
        assert ("mma" in ptx) == (not name.endswith("_rows"))  # on tensor cores

    state_3, ids = torch.zeros(3, dtype=torch.int64), torch.zeros(1, dtype=torch.int32)
    for kind, has_popcount in (("binomial", True), ("rademacher", False)):
        origin = noise_origin(state_3, ids, kind, (0, 1), SLICES, [(384, 256), (128, 256)])
        add_low_rank_made_(layer, origin, *rows, form)
        for name in noise_kernels:
            assert ("popc.b32" in hopper_ptx[name]) == has_popcount


def test_the_number_of_rows_decides_between_the_forms() -> None:
    decode, prefill = directions.BLOCKS["decode"], directions.BLOCKS["prefill"]
    assert directions.choose_blocks(256, 8, None) is decode  # one of vLLM's captured sizes
    assert directions.choose_blocks(1024, 8, None) is decode
    assert directions.choose_blocks(1025, 8, None) is prefill
    assert directions.choose_blocks(4096, 8, "decode") is decode
    assert directions.choose_blocks(4096, 65, None).rows == 32
    assert common.choose_form(1024, None) == "decode"
    assert common.choose_form(1025, None) == "prefill"
    assert common.choose_form(8, "prefill") == "prefill"


def test_a_projection_is_split_until_its_programs_fill_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grids: list[tuple[int, ...]] = []

    def note(kernel: object, grid: tuple[int, ...], *arguments: object, **constants: object):
        assert constants["SPLIT"] * grid[1] == 4096
        grids.append(grid)

    monkeypatch.setattr(directions, "launch", note)
    monkeypatch.setattr(low_rank, "launch", note)
    part = Slice(0, 8, 0, 4096)
    basis = SharedBasis(torch.zeros(4096, 8), torch.zeros(8, 8))
    layer = LowRankNoise([8], 4096, 1, 2, 1)
    fused = FusedBasis([basis], [part], torch.bfloat16, "cpu")
    for num_rows in (256, 1025, 4096, 16384):
        x_TI = torch.zeros(1, 4096, dtype=torch.bfloat16).expand(num_rows, 4096)
        member_T = torch.zeros(num_rows, dtype=torch.int32)
        blocks = directions.choose_blocks(num_rows, 8, None)
        partial_PTQ = directions.project(fused, x_TI, member_T, blocks)
        assert len(partial_PTQ) == grids[-1][1]
        if num_rows > 1024:
            right = stored(layer.right_NSKI)
            low_rank.project_noise(
                right, layer.pair_M, x_TI, member_T, num_slices=1, rank=1, is_decode=False
            )
            assert grids.pop() == grids[-1]
    assert grids == [(16, 8, 1), (17, 8, 1), (64, 4, 1), (256, 1, 1)]


def test_no_rows_launch_nothing() -> None:
    basis, rows = make_basis(8, torch.float32), make_rows(0, torch.float32)
    assert add_scaled_basis_(ScaledBasis(basis, 2), *rows) is rows[0]
    assert add_core_noise_(CoreNoise(basis, 2, 2, 1), *rows) is rows[0]
    assert add_low_rank_(make_low_rank(1), *rows) is rows[0]
    assert add_lora_noise_(LoraNoise(basis, 1, 2, 1), *rows) is rows[0]


def test_tensors_that_a_kernel_would_misread_are_refused() -> None:
    y_TO, x_TI, member_T = make_rows(2, torch.float32)
    refused = [
        ("last stride of 1", x_TI.T.contiguous().T, member_T),
        ("last stride of 1", x_TI, torch.zeros(4, dtype=torch.int32)[::2]),
        ("one int32 a row", x_TI, member_T.long()),
        ("1 members .* for 2 rows of x", x_TI, member_T[:1]),
    ]
    for message, x, member in refused:
        with pytest.raises(ValueError, match=message):
            add_low_rank_(make_low_rank(1), y_TO, x, member)


def test_a_rank_beyond_the_tiles_is_refused() -> None:
    rows = make_rows(2, torch.float32)
    layer = ScaledBasis(make_basis(129, torch.float32), 2)
    with pytest.raises(ModelError, match="rank=129 is beyond the GPU kernels' limit of 128"):
        add_scaled_basis_(layer, *rows)
    with pytest.raises(ModelError, match="rank=129"):
        add_low_rank_(make_low_rank(129), *rows)
    with pytest.raises(ModelError, match="rank=129"):
        add_lora_noise_(LoraNoise(make_basis(129, torch.float32), 1, 2, 1), *rows)
