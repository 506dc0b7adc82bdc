"""What a worker reads of and makes for a checkpoint folder: weights, and their stored form.

A layer's weight is stored plainly (`name.weight`), as int8 codes with one scale an output channel
(`name.weight`, `name.weight_scale`) or as int4 codes with one scale a group of inputs
(`name.weight_packed`, `name.weight_scale`): compressed-tensors' layouts, symmetric, as
`es-align quantize` writes them.

Shape suffixes: _O out features, _I in features, _G groups of inputs that share a scale.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open

from kernels import native
from kernels.errors import ModelError
from kernels.native.weights import encode

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
CODES_PER_BYTE = 2  # of 4 bits, the first in the lower half
ZERO_CODE = 8  # of 4 bits


class Header(NamedTuple):
    """What a safetensors file says about one tensor."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def read_headers(path: Path) -> dict[str, Header]:
    """Of all tensors of a checkpoint folder, by their names there."""
    headers = {}
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 (safe_open is no dict)
                part = tensors.get_slice(key)
                headers[key] = Header(file, part.get_dtype(), tuple(part.get_shape()))
    return headers


class Checkpoint:
    """Headers of a checkpoint's safetensors files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._headers = read_headers(path)

    def weight(self, name: str) -> torch.Tensor:
        """A layer's weight (out, in), of a checkpoint that is not quantised."""
        key = f"{name}.weight"
        with safe_open(self._header(key).file, framework="pt") as tensors:
            return tensors.get_tensor(key)

    def form(self, name: str) -> "StoredForm":
        """How a layer's weight is stored.

        Raises ModelError if it is in none of the ways that can be written.
        """
        scale = self._headers.get(f"{name}.weight_scale")
        if scale is None:
            return StoredForm(16, 0, self._dtype(f"{name}.weight"))
        bits = 4 if f"{name}.weight_packed" in self._headers else 8
        obstacles = {
            "with zero points": f"{name}.weight_zero_point" in self._headers,
            "with a fixed scale for its inputs": f"{name}.input_scale" in self._headers,
            "with one scale for the whole weight": len(scale.shape) != 2,
        }
        for what, is_there in obstacles.items():
            if is_there:
                raise ModelError(
                    f"layer {name} of {self.path} is quantised {what}, which a mean of whole "
                    "weights cannot be written to; name the full-precision original as model"
                )
        return StoredForm(bits, scale.shape[1], self._dtype(f"{name}.weight_scale"))

    def _header(self, key: str) -> Header:
        if key not in self._headers:
            raise ModelError(f"{self.path} has no tensor {key}; its layers have other names")
        return self._headers[key]

    def _dtype(self, key: str) -> torch.dtype:
        dtype = self._header(key).dtype
        if dtype not in DTYPES:
            raise ModelError(
                f"{key} of {self.path} is stored as {dtype}, which a mean of whole weights cannot "
                f"be written to; convert it to one of {', '.join(DTYPES)}"
            )
        return DTYPES[dtype]


class StoredForm(NamedTuple):
    """How one layer's weight is stored."""

    bits: int  # 16: not quantised
    num_groups: int  # scales of a row
    dtype: torch.dtype  # of the weight, or of its scales

    def encode(self, weight_OI: torch.Tensor) -> "StoredWeight":
        """Round a weight to what the form can hold: to nearest, scales just covering the range.

        On CPUs in one compiled pass with the same result, where scales are bf16.
        """
        if self.bits == 16:
            return StoredWeight(self, weight_OI.to(self.dtype), None)
        if self._is_native(weight_OI):
            return StoredWeight(self, *encode(weight_OI, self.bits, self.num_groups))
        # On a GPU a division by a Python number is a product with its inverse, a last bit apart.
        largest = weight_OI.new_tensor((2**self.bits - 1) / 2)
        grouped_OGI = weight_OI.unflatten(1, (self.num_groups, -1))
        scale_OG = (grouped_OGI.abs().amax(-1) / largest).to(self.dtype)
        scale_OG[scale_OG == 0] = torch.finfo(self.dtype).eps
        codes_OGI = grouped_OGI / scale_OG.float()[..., None]
        codes_OGI.round_().clamp_(-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1)
        codes_OI = codes_OGI.to(torch.int8).flatten(1)
        return StoredWeight(self, codes_OI if self.bits == 8 else _packed(codes_OI), scale_OG)

    def _is_native(self, weight_OI: torch.Tensor) -> bool:
        return (
            self.dtype == torch.bfloat16
            and weight_OI.dtype == torch.float32
            and weight_OI.is_cpu
            and weight_OI.is_contiguous()
            and native.library() is not None
        )


class StoredWeight(NamedTuple):
    """A weight as a checkpoint stores it."""

    form: StoredForm
    codes: torch.Tensor  # the weight (out, in), its int8 codes, or uint8 (out, in / 2) of two
    scale_OG: torch.Tensor | None

    def tensors(self, name: str) -> Iterator[tuple[str, torch.Tensor]]:
        """The checkpoint's tensors of this layer."""
        if self.scale_OG is None:
            yield f"{name}.weight", self.codes
            return
        yield f"{name}.weight_scale", self.scale_OG
        if self.form.bits == 8:
            yield f"{name}.weight", self.codes
            return
        num_rows, num_bytes = self.codes.shape
        yield f"{name}.weight_packed", self.codes.view(torch.int32)
        yield f"{name}.weight_shape", torch.tensor([num_rows, CODES_PER_BYTE * num_bytes])

    def columns(self, indices: Sequence[int]) -> torch.Tensor:
        """What these inputs are multiplied with, fp32 `(out, len(indices))`."""
        if self.scale_OG is None:
            return self.codes[:, indices].float()
        num_columns = self.codes.shape[1]
        if self.form.bits == 8:
            chosen_ON = self.codes[:, indices]
        else:
            num_columns *= CODES_PER_BYTE
            bytes_ON = self.codes[:, [index // CODES_PER_BYTE for index in indices]].int()
            shift_N = torch.tensor([4 * (index % CODES_PER_BYTE) for index in indices])
            chosen_ON = (bytes_ON >> shift_N & 15) - ZERO_CODE
        group_size = num_columns // self.form.num_groups
        scale_ON = self.scale_OG[:, [index // group_size for index in indices]]
        return chosen_ON.float() * scale_ON.float()


def _packed(codes_OI: torch.Tensor) -> torch.Tensor:
    """uint8 (out, in / 2) of 4-bit codes."""
    halves = (codes_OI + ZERO_CODE).to(torch.uint8).unflatten(1, (-1, CODES_PER_BYTE))
    return halves[..., 0] | halves[..., 1] << 4
