"""What `gpu_linear.py` adds to a base product: the repository's kernels and what they stand beside.

Stored noise is read as int8, made noise comes from the counter in the kernels, directions are the
shared singular vectors with a scale a member. Before the product, one kernel writes the noise and
the product accumulates onto it (`gpu_linear_before`). Naive is EGGROLL (arXiv 2511.16652) as its
paper describes it: each member's factors materialised in bf16, its rows together, two batched
products behind the base GEMM. vLLM's LoRA are its own Triton kernels with one adapter a member.
"""

import importlib.util
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import get_args

import torch

from benchmarks.gpu_linear_bases import BF16_BYTES
from benchmarks.gpu_linear_before import write_low_rank
from benchmarks.gpu_linear_layers import Problem, Variant, WrongResult, low_rank_addend
from benchmarks.gpu_linear_rows import Cost
from kernels.filling import fill_factor_noise_
from kernels.gpu.common import Form
from kernels.gpu.factors import MadeKind, noise_origin, write_noise_state
from kernels.gpu.low_rank import add_low_rank_, add_low_rank_made_
from kernels.gpu.shared_basis import add_scaled_basis_
from kernels.low_rank import LowRankNoise
from kernels.matrix_noise import VARIANCE, NoiseKind, NoiseStream, factor_noise
from kernels.perturbation import Slice
from kernels.shared_basis import FusedBasis, ScaledBasis, SharedBasis

SEED, GENERATION = 2**40 + 3, 5  # of the noise
UNREAD = 77  # in tables that made noise must not read
# The least a value takes: ten rounds of two wide products and two exclusive ors for each Philox
# call of 4 binomial or 128 +-1 values, then counting and centring, or a shift and a sum.
PHILOX_INSTRUCTIONS = 40
VALUE_INSTRUCTIONS: dict[MadeKind, float] = {
    "binomial": PHILOX_INSTRUCTIONS / 4 + 2,
    "rademacher": PHILOX_INSTRUCTIONS / 128 + 2,
}
BEFORE = ", before the product"
MADE_LABELS: dict[MadeKind, str] = {"binomial": "binomial", "rademacher": "+-1"}


class NotAvailable(Exception):
    """What a work needs is not here; says what."""


def stored_noise(problem: Problem, form: Form | None, *, is_before: bool = False) -> Variant:
    """int8 factors in tables, one a layer."""
    layers = [_noise_layer(problem, "binomial", index) for index in range(problem.num_layers)]
    first = layers[0]
    used = problem.cell.members // 2 * first.left_NKO[0].nbytes * 2  # left and right are alike

    def add_(index: int, y_TO: torch.Tensor) -> None:
        rows = (y_TO, problem.rows_TI[index], problem.member_T)
        if is_before:
            write_low_rank(layers[index], None, *rows)
        else:
            add_low_rank_(layers[index], *rows, form)

    return Variant(
        add_,
        partial(_noise_addend, problem, first),
        Cost(used, _products(problem, problem.cell.rank)),
        is_before=is_before,
    )


def made_noise(
    problem: Problem, kind: MadeKind, form: Form | None, *, is_before: bool = False
) -> Variant:
    """The same integers made in the kernels; the layers' tables hold something else."""
    cell, num_pairs = problem.cell, problem.cell.members // 2
    reference = _noise_layer(problem, kind, 0)
    whole = Slice(0, cell.width, 0, cell.width)
    state_3 = torch.zeros(3, dtype=torch.int64, device=problem.device)
    write_noise_state(state_3, SEED, GENERATION)
    pair_ids_N = torch.arange(num_pairs, dtype=torch.int32, device=problem.device)
    shapes = [(cell.width, cell.width)]
    layer = LowRankNoise([cell.width], cell.width, cell.rank, cell.members, 1, problem.device)
    _set_members(layer, kind, cell.width)
    layer.left_NKO.fill_(UNREAD)
    layer.right_NSKI.fill_(UNREAD)
    origins = [
        noise_origin(state_3, pair_ids_N, kind, [index], [whole], shapes)
        for index in range(problem.num_layers)
    ]

    def add_(index: int, y_TO: torch.Tensor) -> None:
        rows = (y_TO, problem.rows_TI[index], problem.member_T)
        if is_before:
            write_low_rank(layer, origins[index], *rows)
        else:
            add_low_rank_made_(layer, origins[index], *rows, form)

    num_values = num_pairs * cell.rank * 2 * cell.width
    instructions = round(num_values * VALUE_INSTRUCTIONS[kind])
    operations = {**_products(problem, cell.rank), "instructions": instructions}
    addend = partial(_noise_addend, problem, reference)
    return Variant(add_, addend, Cost(0, operations), is_before=is_before)


def directions(problem: Problem, form: Form | None) -> Variant:
    """Shared directions as many as the rank says, and every member's scales."""
    cell = problem.cell
    layers = []
    for _ in range(problem.num_layers):
        right_IR, left_OR = (problem.draw(cell.width, cell.rank).float() for _ in range(2))
        bases = [SharedBasis(right_IR * cell.width**-0.5, left_OR * cell.rank**-0.5)]
        whole = [Slice(0, cell.width, 0, cell.width)]
        basis = FusedBasis(bases, whole, torch.bfloat16, problem.device)
        layer = ScaledBasis(basis, cell.members)
        # Away from 0: a row whose few scales all vanish has no addend to be checked.
        layer.set_scales(0, 1 + 0.25 * problem.draw(cell.members, cell.rank).float(), None)
        layers.append(layer)

    def add_(index: int, y_TO: torch.Tensor) -> None:
        add_scaled_basis_(layers[index], y_TO, problem.rows_TI[index], problem.member_T, form)

    def wanted() -> torch.Tensor:
        right_IR, left_OR = layers[0].basis.in_float64(0)
        scale_TR = layers[0].scale_a_MSR[problem.member_T, 0].double()
        return (problem.rows_TI[0].double() @ right_IR * scale_TR) @ left_OR.T

    shared = layers[0].basis.right_QI.nbytes + layers[0].basis.left_OR.nbytes
    num_bytes = shared + layers[0].scale_a_MSR.nbytes
    return Variant(add_, wanted, Cost(num_bytes, _products(problem, cell.rank)))


def naive(problem: Problem) -> Variant:
    """A batched product a factor, the rows in the members' order whatever the cell's is."""
    cell = problem.cell
    tables = [_member_factors(problem) for _ in range(problem.num_layers)]

    def add_(index: int, y_TO: torch.Tensor) -> None:
        left_MKO, right_MKI = tables[index]
        x_MTI = problem.rows_TI[index].view(cell.members, -1, cell.width)
        inner_MTK = torch.bmm(x_MTI, right_MKI.mT)
        y_TO.view(cell.members, -1, cell.width).baddbmm_(inner_MTK, left_MKO)

    return Variant(
        add_,
        lambda: _member_addend(problem, problem.segments_T, *tables[0]),
        _member_cost(problem),
        takes_nobody=False,
        note="rows in the members' order",
    )


def vllm_lora(problem: Problem) -> Variant:
    """Shrink and expand as vLLM's multi-LoRA calls them. Raises NotAvailable."""
    if problem.device != "cuda":
        raise NotAvailable("not available: vLLM's LoRA kernels need CUDA")
    if importlib.util.find_spec("vllm") is None:
        raise NotAvailable("not available: vLLM is not installed")
    from vllm.lora.ops.triton_ops import LoRAKernelMeta, lora_expand, lora_shrink

    cell = problem.cell
    tables = [_member_factors(problem) for _ in range(problem.num_layers)]
    adapters = [([right_MKI], [left_MKO.mT.contiguous()]) for left_MKO, right_MKI in tables]
    meta = LoRAKernelMeta.make(cell.members, cell.batch, problem.device)
    meta.prepare_tensors(problem.member_T)
    hidden = torch.empty(1, cell.batch, cell.rank, dtype=torch.float32, device=problem.device)

    def add_(index: int, y_TO: torch.Tensor) -> None:
        down, up = adapters[index]
        arguments = meta.meta_args(cell.batch, True)
        lora_shrink(problem.rows_TI[index], down, hidden, *arguments, 1.0)
        lora_expand(hidden, up, y_TO, *arguments, offset_start=0, add_inputs=True)

    return Variant(
        add_,
        lambda: _member_addend(problem, problem.member_T, *tables[0]),
        _member_cost(problem),
        takes_nobody=False,
    )


def makers(problem: Problem, forms: Sequence[Form | None]) -> dict[str, Callable[[], Variant]]:
    """Everything that is timed on bf16, by the name of its row."""
    found: dict[str, Callable[[], Variant]] = {}
    for form in forms:
        label = "" if form is None else f", {form} form"
        found[f"stored noise{label}"] = partial(stored_noise, problem, form)
        for kind in get_args(MadeKind):
            found[f"made noise, {MADE_LABELS[kind]}{label}"] = partial(
                made_noise, problem, kind, form
            )
        found[f"directions{label}"] = partial(directions, problem, form)
    if problem.base.name == "bf16":
        found[f"stored noise{BEFORE}"] = partial(stored_noise, problem, None, is_before=True)
        for kind in get_args(MadeKind):
            found[f"made noise, {MADE_LABELS[kind]}{BEFORE}"] = partial(
                made_noise, problem, kind, None, is_before=True
            )
    return found | {
        "naive": partial(naive, problem),
        "vLLM's LoRA": partial(vllm_lora, problem),
    }


def _set_members(layer: LowRankNoise, kind: MadeKind, width: int) -> None:
    """Pairs of + and -, as large as the base's output where x has entries of variance 1."""
    num_members = len(layer.pair_M) - 1
    member_M = torch.arange(num_members, device=layer.pair_M.device)
    size = 1 / (VARIANCE[kind] * math.sqrt(layer.noise_rank * width))
    layer.pair_M[:num_members] = member_M // 2
    layer.coefficient_MS[:num_members, 0] = size * (1 - 2 * (member_M % 2))


def _noise_layer(problem: Problem, kind: MadeKind, index: int) -> LowRankNoise:
    """A layer with its tables. Raises WrongResult if they are not NumPy's."""
    cell, num_pairs, stream = problem.cell, problem.cell.members // 2, noise_stream(kind)
    layer = LowRankNoise(
        [cell.width], cell.width, cell.rank, cell.members, num_pairs, problem.device
    )
    _set_members(layer, kind, cell.width)
    for parameter, table in (
        (2 * index, layer.left_NKO),
        (2 * index + 1, layer.right_NSKI[:, 0]),
    ):
        fill_factor_noise_(table, stream, range(num_pairs), parameter, cell.width)
        for pair in {0, num_pairs - 1}:
            wanted = factor_noise(stream, [pair], parameter, cell.rank, cell.width)[0]
            if not torch.equal(table[pair].cpu(), torch.from_numpy(wanted)):
                raise WrongResult(f"the table of {kind} noise is not the reference's")
    return layer


def noise_stream(kind: NoiseKind) -> NoiseStream:
    """That of all made and stored noise here."""
    return NoiseStream(SEED, GENERATION, kind)


def _noise_addend(problem: Problem, layer: LowRankNoise) -> torch.Tensor:
    members = (layer.pair_M, layer.coefficient_MS[:, 0], layer.left_NKO, layer.right_NSKI[:, 0])
    return low_rank_addend(problem.rows_TI[0], problem.member_T, *members)


def _member_factors(problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
    """bf16 of every member: left `(M, K, O)` with the coefficient in it, right `(M, K, I)`."""
    cell = problem.cell
    left_MKO, right_MKI = (problem.draw(cell.members, cell.rank, cell.width) for _ in range(2))
    return left_MKO.mul_(1 / math.sqrt(cell.rank * cell.width)), right_MKI


def _member_addend(
    problem: Problem, member_T: torch.Tensor, left_MKO: torch.Tensor, right_MKI: torch.Tensor
) -> torch.Tensor:
    member_M = torch.arange(problem.cell.members, device=problem.device)
    ones_M = torch.ones(problem.cell.members, device=problem.device)
    return low_rank_addend(problem.rows_TI[0], member_T, member_M, ones_M, left_MKO, right_MKI)


def _member_cost(problem: Problem) -> Cost:
    """bf16 factors of every member."""
    cell = problem.cell
    num_bytes = cell.members * cell.rank * 2 * cell.width * BF16_BYTES
    return Cost(num_bytes, _products(problem, cell.rank))


def _products(problem: Problem, rank: int) -> dict[str, int]:
    """Both small products of every row, on the tensor cores at best."""
    return {"bf16": 2 * problem.cell.batch * rank * 2 * problem.cell.width}
