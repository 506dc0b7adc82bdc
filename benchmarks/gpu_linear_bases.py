"""The base products of `gpu_linear.py`: bf16, INT8 and INT4 weights, with torch alone.

INT8 is `torch._int_mm` on codes of x that are given, then both scales in one pass; INT4 is
`torch._weight_int4pack_mm`, which is made for few rows. vLLM has products of its own for both:
`es-align bench population` measures those, with the whole engine around them.

Shape suffixes: _T rows, _I in features, _O out features, _G groups of inputs that share a scale.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
import triton
import triton.language as tl

from benchmarks.gpu_linear_rows import Cost
from kernels.gpu.common import launch

BF16_BYTES = 2
INT8_LARGEST, INT4_LARGEST, INT4_ZERO = 127, 7, 8
INT4_GROUP = 128
INT4_INNER_TILES = {"cuda": 8, "cpu": 1}
RESCALE_COLUMNS = 1024


class Base(Protocol):
    """The layers without a population."""

    name: str
    cost: Cost  # of one layer

    def product(self, index: int) -> torch.Tensor:
        """y of a layer, bf16 `(T, O)`; where the product allows it, into the output given."""
        ...

    def wanted(self) -> torch.Tensor:
        """Layer 0's y in float64, from the same numbers."""
        ...


class Bf16Base:
    """`x W^T` by the library's GEMM."""

    name = "bf16"

    def __init__(
        self,
        weights_OI: Sequence[torch.Tensor],
        rows_TI: Sequence[torch.Tensor],
        outputs_TO: Sequence[torch.Tensor],
    ) -> None:
        self._weights, self._rows, self._outputs = weights_OI, rows_TI, outputs_TO
        num_rows, (out_features, in_features) = len(rows_TI[0]), weights_OI[0].shape
        self.cost = product_cost(num_rows, in_features, out_features, BF16_BYTES, "bf16")

    def product(self, index: int) -> torch.Tensor:
        return torch.mm(self._rows[index], self._weights[index].T, out=self._outputs[index])

    def accumulate(self, index: int) -> torch.Tensor:
        """The product added to what the layer's output holds."""
        y_TO = self._outputs[index]
        return torch.addmm(y_TO, self._rows[index], self._weights[index].T, out=y_TO)

    def wanted(self) -> torch.Tensor:
        return self._rows[0].double() @ self._weights[0].double().T


class Int8Base:
    """Codes by codes; one scale a row of x, one an output channel."""

    name = "int8"

    def __init__(
        self,
        weights_OI: Sequence[torch.Tensor],
        rows_TI: Sequence[torch.Tensor],
        outputs_TO: Sequence[torch.Tensor],
    ) -> None:
        self._weights = [_int8_codes(weight) for weight in weights_OI]
        self._rows = [_int8_codes(rows) for rows in rows_TI]
        self._outputs = outputs_TO
        shape = outputs_TO[0].shape
        self._sums = [
            torch.empty(shape, dtype=torch.int32, device=rows.device) for rows in outputs_TO
        ]
        num_rows, (out_features, in_features) = len(rows_TI[0]), weights_OI[0].shape
        self.cost = product_cost(num_rows, in_features, out_features, 1, "int8", row_bytes=1)

    def product(self, index: int) -> torch.Tensor:
        (x_codes, x_scale), (codes, scale) = self._rows[index], self._weights[index]
        sums, y = self._sums[index], self._outputs[index]
        torch._int_mm(x_codes, codes.T, out=sums)
        grid = (len(y), triton.cdiv(y.shape[1], RESCALE_COLUMNS))
        launch(_rescale, grid, y, sums, x_scale, scale, y.shape[1], BLOCK=RESCALE_COLUMNS)
        return y

    def wanted(self) -> torch.Tensor:
        (x_codes, x_scale), (codes, scale) = self._rows[0], self._weights[0]
        sums = x_codes.double() @ codes.double().T
        return sums * x_scale.double()[:, None] * scale.double()


class Int4Base:
    """Two codes in a byte, one bf16 scale for each group of inputs; x is bf16."""

    name = "int4"

    def __init__(
        self,
        weights_OI: Sequence[torch.Tensor],
        rows_TI: Sequence[torch.Tensor],
        outputs_TO: Sequence[torch.Tensor],
    ) -> None:
        """`outputs_TO` stay unused: the product has no form that writes into a given tensor."""
        self._rows = rows_TI
        self._device = rows_TI[0].device.type
        self._codes = [_int4_codes(weight) for weight in weights_OI]
        self._packed = [_int4_packed(codes, self._device) for codes, _ in self._codes]
        # A scale and an offset for each group, inputs outermost; ours are symmetric.
        self._scales = [
            torch.stack([scale, torch.zeros_like(scale)], dim=2).transpose(0, 1).contiguous()
            for _, scale in self._codes
        ]
        num_rows, (out_features, in_features) = len(rows_TI[0]), weights_OI[0].shape
        self.cost = product_cost(num_rows, in_features, out_features, 0.5, "bf16")

    def product(self, index: int) -> torch.Tensor:
        arguments = (self._rows[index], self._packed[index], INT4_GROUP, self._scales[index])
        if self._device == "cpu":
            return torch.ops.aten._weight_int4pack_mm_for_cpu(*arguments)
        return torch.ops.aten._weight_int4pack_mm(*arguments)

    def wanted(self) -> torch.Tensor:
        codes_OI, scale_OG = self._codes[0]
        weight_OI = (codes_OI.double() - INT4_ZERO) * scale_OG.double().repeat_interleave(
            INT4_GROUP, dim=1
        )
        return self._rows[0].double() @ weight_OI.T


BASES = {"bf16": Bf16Base, "int8": Int8Base, "int4": Int4Base}


def product_cost(
    num_rows: int,
    in_features: int,
    out_features: int,
    weight_bytes: float,
    unit: str,
    *,
    row_bytes: int = BF16_BYTES,
) -> Cost:
    """Weights and x read, y written as bf16; scales are left out."""
    weights = round(in_features * out_features * weight_bytes)
    rows = num_rows * (in_features * row_bytes + out_features * BF16_BYTES)
    return Cost(weights + rows, {unit: 2 * num_rows * in_features * out_features})


def _int8_codes(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and one fp32 scale a row."""
    scale = matrix.abs().amax(dim=1).float() / INT8_LARGEST
    return (matrix.float() / scale[:, None]).round_().to(torch.int8), scale


def _int4_codes(weight_OI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes plus 8 as int32, and bf16 scales `(O, G)`."""
    grouped_OGI = weight_OI.float().unflatten(1, (-1, INT4_GROUP))
    scale_OG = (grouped_OGI.abs().amax(dim=2) / INT4_LARGEST).to(torch.bfloat16)
    codes_OGI = (grouped_OGI / scale_OG.float()[..., None]).round_()
    codes_OGI = codes_OGI.clamp_(-INT4_ZERO, INT4_LARGEST)
    return (codes_OGI + INT4_ZERO).to(torch.int32).flatten(1), scale_OG


def _int4_packed(codes_OI: torch.Tensor, device: str) -> torch.Tensor:
    """As the device's product wants them; CUDA takes bytes, the first code in the upper half."""
    tiles = INT4_INNER_TILES[device]
    if device == "cpu":
        return torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes_OI, tiles)
    pairs_OI = (codes_OI[:, ::2] << 4 | codes_OI[:, 1::2]).to(torch.uint8)
    return torch.ops.aten._convert_weight_to_int4pack(pairs_OI, tiles)


@triton.jit
def _rescale(y_ptr, sums_ptr, x_scale_ptr, scale_ptr, width, BLOCK: tl.constexpr):
    """One row's run of columns: `y = sums * x_scale * scale`, as a fused epilogue would."""
    row = tl.program_id(0).to(tl.int64)
    o = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    sums = tl.load(sums_ptr + row * width + o, mask=o < width, other=0).to(tl.float32)
    scale = tl.load(scale_ptr + o, mask=o < width, other=0.0) * tl.load(x_scale_ptr + row)
    where = y_ptr + row * width + o
    tl.store(where, (sums * scale).to(y_ptr.dtype.element_ty), mask=o < width)
