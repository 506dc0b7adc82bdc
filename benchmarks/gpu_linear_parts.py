"""The other rows of `gpu_linear.py`: the update of one weight, its quantised form, noise alone.

The update draws its noise from seeds and is exact in float64 (`kernels.update`); beside it stand
GEMMs of the same size that find their operands ready. Its part of rows is compared bit for bit with
what this processor makes, and so are the codes. Noise is filled into an int8 table, as many values
a second, next to torch's own generators.

Shape suffixes: _P pairs, _O out features, _I in features, _N values.
"""

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.gpu_linear_layers import WrongResult, poisoned_scratch
from benchmarks.gpu_linear_rows import Cost
from benchmarks.gpu_linear_timing import Work
from benchmarks.gpu_linear_variants import VALUE_INSTRUCTIONS, NotAvailable, noise_stream
from kernels.gpu.philox import fill_factor_noise
from kernels.master import Master
from kernels.matrix_noise import NoiseKind, factor_noise
from kernels.update import NoisyMatrix, matrix_update

UPDATE_SCALE = 1e-4
COMPARED_ROWS = 64  # of an update, with the processor's
INT4_GROUP = 128
BASELINES = {"update": "float64 GEMM", "weight": "copy", "noise": "fill with one byte"}


class Part(NamedTuple):
    """One work of this kind; those that launch long kernels one by one need no graph."""

    work: Work
    cost: Cost
    is_captured: bool = False
    num_values: int | None = None
    note: str = ""


Maker = Callable[[], Part]


def update_makers(width: int, num_pairs: int, device: str) -> dict[str, Maker]:
    """The update of one square weight at rank 1, by the names of its rows."""
    return {
        BASELINES["update"]: partial(_gemm, width, num_pairs, torch.float64, "float64", device),
        "bf16 GEMM": partial(_gemm, width, num_pairs, torch.bfloat16, "bf16", device),
        "update from seeds": partial(_update, width, num_pairs, device),
    }


def weight_makers(width: int, device: str) -> dict[str, Maker]:
    """What follows an update: the fp32 master's sum and its quantised forms."""
    generator = torch.Generator(device).manual_seed(3)
    weight_OI = torch.randn(width, width, generator=generator, device=device)
    return {
        BASELINES["weight"]: partial(_copy, weight_OI),
        "update added to an fp32 master": partial(_addition, weight_OI),
        "INT8 codes of the master": partial(_encoding, weight_OI, 8),
        "INT4 codes of the master": partial(_encoding, weight_OI, 4),
    }


def noise_makers(width: int, num_pairs: int, device: str) -> dict[str, Maker]:
    """Tables of that many pairs at rank 1; `plain` is what memory can take."""
    return {
        BASELINES["noise"]: partial(_torch_fill, "fill_", torch.int8, width, num_pairs, device),
        "torch, uniform int8": partial(
            _torch_fill, "random_", torch.int8, width, num_pairs, device
        ),
        "torch, normals in bf16": partial(
            _torch_fill, "normal_", torch.bfloat16, width, num_pairs, device
        ),
        "Philox, binomial": partial(_fill, "binomial", width, num_pairs, device),
        "Philox, +-1": partial(_fill, "rademacher", width, num_pairs, device),
        "Philox, gaussian in fp32": partial(_fill, "gaussian", width, num_pairs, device),
    }


def _torch_fill(method: str, dtype: torch.dtype, width: int, num_pairs: int, device: str) -> Part:
    """torch's own, with a generator of its own, which a graph would have to be told of."""
    generator = torch.Generator(device).manual_seed(0)
    table_PI = torch.empty(num_pairs, width, dtype=dtype, device=device)
    works: dict[str, Work] = {
        "fill_": lambda: table_PI.fill_(1),
        "random_": lambda: table_PI.random_(generator=generator),
        "normal_": lambda: table_PI.normal_(generator=generator),
    }
    return Part(works[method], Cost(table_PI.nbytes, {}), num_values=table_PI.numel())


def _gemm(width: int, num_pairs: int, dtype: torch.dtype, unit: str, device: str) -> Part:
    generator = torch.Generator(device).manual_seed(1)
    left_PO, right_PI = (
        torch.randn(num_pairs, width, generator=generator, device=device).to(dtype)
        for _ in range(2)
    )
    out_OI = torch.empty(width, width, dtype=dtype, device=device)
    num_bytes = left_PO.nbytes + right_PI.nbytes + out_OI.nbytes
    cost = Cost(num_bytes, {unit: 2 * num_pairs * width**2})
    return Part(lambda: torch.mm(left_PO.T, right_PI, out=out_OI), cost, is_captured=True)


def _update(width: int, num_pairs: int, device: str) -> Part:
    """Raises WrongResult if rows of it are not the processor's, bit for bit."""
    weight_P = np.random.default_rng(2).standard_normal(num_pairs)
    matrix = NoisyMatrix(0, width, width, noise_rank=1)
    make = partial(
        matrix_update, noise_stream("binomial"), range(num_pairs), weight_P, matrix,
        scale=UPDATE_SCALE,
    )  # fmt: skip
    rows = (width - min(width, COMPARED_ROWS), width)
    with poisoned_scratch():
        update_OI = make(device=device)
    if not torch.equal(update_OI[rows[0] :].cpu(), make(rows=rows)):
        raise WrongResult("the update's bits are not the processor's")
    cost = Cost(update_OI.nbytes, {"float64": 2 * num_pairs * width**2})
    return Part(lambda: make(device=device), cost, note="bits are the processor's")


def _copy(weight_OI: torch.Tensor) -> Part:
    target_OI = torch.empty_like(weight_OI)
    return Part(lambda: target_OI.copy_(weight_OI), Cost(2 * weight_OI.nbytes, {}))


def _addition(weight_OI: torch.Tensor) -> Part:
    """Of a float64 update. Raises WrongResult if the sum is not the rounded one."""
    master, delta_OI = Master(weight_OI), weight_OI.double().mul_(UPDATE_SCALE)
    master.add_(delta_OI)
    if not torch.equal(master.value(), weight_OI + delta_OI.float()):
        raise WrongResult("the master's sum is not the rounded one")
    return Part(lambda: master.add_(delta_OI), Cost(delta_OI.nbytes + 2 * weight_OI.nbytes, {}))


def _encoding(weight_OI: torch.Tensor, bits: int) -> Part:
    """As `workers.checkpoints` stores it. Raises WrongResult, NotAvailable."""
    if importlib.util.find_spec("safetensors") is None:
        raise NotAvailable("not available: workers.checkpoints needs safetensors")
    from workers.checkpoints import StoredForm

    num_groups = 1 if bits == 8 else max(1, weight_OI.shape[1] // INT4_GROUP)
    form = StoredForm(bits, num_groups, torch.bfloat16)
    mine, processors = form.encode(weight_OI), form.encode(weight_OI.cpu())
    if not torch.equal(mine.codes.cpu(), processors.codes):
        raise WrongResult("the codes are not the processor's")
    cost = Cost(weight_OI.nbytes + mine.codes.nbytes, {})
    return Part(lambda: form.encode(weight_OI), cost, note="codes are the processor's")


def _fill(kind: NoiseKind, width: int, num_pairs: int, device: str) -> Part:
    """Raises WrongResult if the last pair's values are not NumPy's."""
    stream = noise_stream(kind)
    dtype = torch.float32 if kind == "gaussian" else torch.int8
    pair_P = torch.arange(num_pairs, dtype=torch.int32, device=device)
    out_P1I = torch.full((num_pairs, 1, width), 77, dtype=dtype, device=device)
    fill_factor_noise(out_P1I, stream, pair_P, 0, width)
    wanted = torch.from_numpy(factor_noise(stream, [num_pairs - 1], 0, 1, width))
    tolerance = 1e-6 if kind == "gaussian" else 0
    if not torch.allclose(out_P1I[-1:].cpu(), wanted, rtol=tolerance, atol=tolerance):
        raise WrongResult(f"{kind} noise is not the reference's")
    instructions = 0 if kind == "gaussian" else round(out_P1I.numel() * VALUE_INSTRUCTIONS[kind])
    return Part(
        lambda: fill_factor_noise(out_P1I, stream, pair_P, 0, width),
        Cost(out_P1I.nbytes, {"instructions": instructions}),
        is_captured=True,
        num_values=out_P1I.numel(),
    )
