"""Noise made in the low-rank kernels against stored noise, bit for bit.

See conftest.py for how the tests marked `gpu` run where there is no accelerator.
"""

from collections.abc import Callable, Sequence

import pytest
import torch

pytest.importorskip("triton")

from kernels.gpu.common import Form
from kernels.gpu.factors import MadeKind, NoiseOrigin, noise_origin, write_noise_state
from kernels.gpu.low_rank import add_low_rank_, add_low_rank_made_
from kernels.low_rank import LowRankNoise
from kernels.matrix_noise import NoiseStream, factor_noise
from kernels.perturbation import Slice

SEED, GENERATION = 2**63 + 11, 3
PAIR_IDS = [7, 2**31 + 5, 2**32 - 1]
PARAMETERS = (4, 9, 2**23 - 1)
SHAPES = ((300, 1500), (39, 1500), (700, 1500))  # of the whole layers
WHOLE = tuple(Slice(0, rows, 0, columns) for rows, columns in SHAPES)
# A shard that begins between two blocks of both kinds of noise, and within a block's lane.
SHARD = (Slice(150, 70, 130, 1100), Slice(6, 33, 130, 1100), Slice(259, 141, 130, 1100))
MEMBERS = [0, 1, 4, -1, 2, 5, 3, 1, 0, -1, 3]


def stored_layer(
    rank: int, kind: MadeKind, slices: Sequence[Slice], device: str, generation: int = GENERATION
) -> LowRankNoise:
    """A layer whose tables hold the reference's noise and whose coefficients are whole."""
    widths, stream = [part.num_rows for part in slices], NoiseStream(SEED, generation, kind)
    layer = LowRankNoise(widths, slices[0].num_columns, rank, 6, len(PAIR_IDS), device)
    start = 0
    for index, (part, parameter, (num_rows, num_columns)) in enumerate(
        zip(slices, PARAMETERS, SHAPES, strict=True)
    ):
        columns = (part.first_column, part.first_column + part.num_columns)
        rows = (part.first_row, part.first_row + part.num_rows)
        right = factor_noise(stream, PAIR_IDS, 2 * parameter + 1, rank, num_columns, columns)
        left = factor_noise(stream, PAIR_IDS, 2 * parameter, rank, num_rows, rows)
        layer.right_NSKI[:, index] = torch.from_numpy(right)
        layer.left_NKO[:, :, start : start + part.num_rows] = torch.from_numpy(left)
        start += part.num_rows
    layer.pair_M[:6] = torch.tensor([2, 2, 0, 0, 1, 1])
    layer.coefficient_MS[:6] = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0, -2.0])[:, None]
    return layer


def make_origin(kind: MadeKind, slices: Sequence[Slice], device: str) -> NoiseOrigin:
    state_3 = torch.zeros(3, dtype=torch.int64, device=device)
    ids = torch.tensor(PAIR_IDS).to(device, torch.int32)  # the high bit wraps
    write_noise_state(state_3, SEED, GENERATION)
    return noise_origin(state_3, ids, kind, PARAMETERS, slices, SHAPES)


def whole_numbers(*shape: int, seed: int, device: str) -> torch.Tensor:
    """So small that fp32 sums of them are exact: equal results mean equal noise."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-3, 4, shape, generator=generator).to(device, torch.float32)


def test_in_the_interpreter(run_in_interpreter: Callable[[str], None]) -> None:
    run_in_interpreter(__file__)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["binomial", "rademacher"])
@pytest.mark.parametrize("slices", [WHOLE, SHARD], ids=["whole", "shard"])
@pytest.mark.parametrize(("rank", "form"), [(1, "decode"), (1, "prefill"), (6, "prefill")])
def test_made_noise_is_the_stored_noise(
    triton_device: str, kind: MadeKind, slices: tuple[Slice, ...], rank: int, form: Form
) -> None:
    layer = stored_layer(rank, kind, slices, triton_device)
    member_T = torch.tensor(MEMBERS, dtype=torch.int32, device=triton_device)
    x_TI = whole_numbers(len(MEMBERS), slices[0].num_columns, seed=1, device=triton_device)
    y_TO = whole_numbers(len(MEMBERS), sum(layer.widths), seed=2, device=triton_device)
    wanted = y_TO.double() + layer.definition(x_TI, member_T)
    stored = add_low_rank_(layer, y_TO.clone(), x_TI, member_T, form)
    assert torch.equal(stored.double(), wanted)

    layer.right_NSKI.fill_(77)
    layer.left_NKO.fill_(77)
    origin = make_origin(kind, slices, triton_device)
    made = add_low_rank_made_(layer, origin, y_TO.clone(), x_TI, member_T, form)
    assert torch.equal(made, stored)


@pytest.mark.gpu
def test_made_noise_of_several_rows_at_once(triton_device: str) -> None:
    for rank in (2, 4):
        layer = stored_layer(rank, "binomial", SHARD, triton_device)
        member_T = torch.tensor([4, 0], dtype=torch.int32, device=triton_device)
        x_TI = whole_numbers(2, 1100, seed=1, device=triton_device)
        y_TO = torch.zeros(2, sum(layer.widths), device=triton_device)
        origin = make_origin("binomial", SHARD, triton_device)
        made = add_low_rank_made_(layer, origin, y_TO, x_TI, member_T, "decode")
        assert torch.equal(made.double(), layer.definition(x_TI, member_T))


@pytest.mark.gpu
@pytest.mark.parametrize("form", ["decode", "prefill"])
def test_a_new_generation_needs_no_new_launch(triton_device: str, form: Form) -> None:
    layer = stored_layer(1, "rademacher", WHOLE, triton_device, generation=GENERATION + 1)
    origin = make_origin("rademacher", WHOLE, triton_device)
    member_T = torch.tensor([0, 5], dtype=torch.int32, device=triton_device)
    x_TI = whole_numbers(2, 1500, seed=1, device=triton_device)
    y_TO = torch.zeros(2, sum(layer.widths), device=triton_device)

    def launch() -> None:
        add_low_rank_made_(layer, origin, y_TO, x_TI, member_T, form)

    replay = launch
    launch()
    if x_TI.is_cuda:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            launch()
        replay = graph.replay
    y_TO.zero_()
    write_noise_state(origin.state_3, SEED, GENERATION + 1)
    member_T.copy_(torch.tensor([3, 4]))
    replay()
    assert torch.equal(y_TO.double(), layer.definition(x_TI, member_T))


def test_origins_that_do_not_fit_are_refused() -> None:
    state_3 = torch.zeros(3, dtype=torch.int64)
    ids = torch.zeros(1, dtype=torch.int32)
    shifted = (*SHARD[:2], SHARD[2]._replace(first_column=4))
    beyond = (*SHARD[:2], SHARD[2]._replace(first_row=600))
    refused = [
        ("slices of one module share their input columns", PARAMETERS, shifted),
        (r"columns=\(600, 741\) is no part of width=700", PARAMETERS, beyond),
        ("parameter=16777216 does not fit", (4, 9, 2**23), SHARD),
    ]
    for message, parameters, slices in refused:
        with pytest.raises(ValueError, match=message):
            noise_origin(state_3, ids, "binomial", parameters, slices, SHAPES)
    for seed, generation in ((2**64, 0), (-1, 0), (0, 2**32)):
        with pytest.raises(ValueError, match="does not fit the noise counter"):
            write_noise_state(state_3, seed, generation)
    assert write_noise_state(state_3, 2**33 + 5, 7).tolist() == [5, 2, 7]
