"""Weights of ready-made quantised layers as plain matrices, one function a layout.

A basis of a model whose full-precision original is not at hand comes from these. Every layout holds
`scale * (code - zero)`; they differ in what is packed into the eight 4-bit fields of an int32, and
in the order of the fields. The results have the dtype of the stored scales and are held against
matrices packed independently in the tests.

Shape suffixes: _O out features, _I in features, _G groups of inputs that share a scale; a number
after a letter says that so many neighbours lie in one int32.
"""

from collections.abc import Mapping

import torch

from es_align.errors import ModelError
from es_align.layouts import Layout, StoredScheme

FIELDS = 8  # 4-bit codes in an int32
SYMMETRIC_ZERO = 8
# Column of the eight that each 4-bit field of an AWQ word holds, lowest bits first, undone.
AWQ_FIELD_OF_COLUMN = (0, 4, 1, 5, 2, 6, 3, 7)

CODES: Mapping[Layout, str] = {
    "int-quantized": "weight",
    "pack-quantized": "weight_packed",
    "gptq": "qweight",
    "awq": "qweight",
}
SCALES: Mapping[Layout, str] = {
    "int-quantized": "weight_scale",
    "pack-quantized": "weight_scale",
    "gptq": "scales",
    "awq": "scales",
}


def matrix_shape(layout: Layout, codes_shape: tuple[int, ...]) -> tuple[int, int]:
    """`(out, in)` features of a layer whose codes are stored in this shape."""
    rows, columns = codes_shape
    match layout:
        case "int-quantized":
            return rows, columns
        case "pack-quantized":
            return rows, columns * FIELDS
        case "gptq":
            return columns, rows * FIELDS
        case "awq":
            return columns * FIELDS, rows


def check_shapes(name: str, layout: Layout, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ModelError unless the shapes of a layer's parts are those of 4 bits (8 in
    `int-quantized`) in whole groups.
    """
    out, width = matrix_shape(layout, shapes[CODES[layout]])
    scale = shapes.get(SCALES[layout], ())
    if layout == "int-quantized":
        fits = scale in ((), (1,), (out,), (out, 1))
    else:
        is_transposed = layout != "pack-quantized"
        num_groups = scale[0 if is_transposed else -1] if len(scale) == 2 else 0
        fits = num_groups > 0 and width % num_groups == 0
        fits &= scale == ((num_groups, out) if is_transposed else (out, num_groups))
        packed = -(-out // FIELDS)
        zeros = (num_groups, packed) if is_transposed else (packed, num_groups)
        fits &= shapes.get("qzeros" if is_transposed else "weight_zero_point", zeros) == zeros
    if not fits:
        found = ", ".join(f"{part} {list(shape)}" for part, shape in sorted(shapes.items()))
        raise ModelError(
            f"layer {name} is not quantised as its checkpoint says ({layout}): it has {found}; "
            "mixed bit widths are not supported, so use a checkpoint of one width"
        )


def dequantize(name: str, scheme: StoredScheme, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Weight (out x in) of layer `name` from its stored parts, in the dtype of the scales.

    Raises ModelError if GPTQ's zero points or order of inputs are not those the engine computes
    with.
    """
    match scheme.layout:
        case "int-quantized":
            return int_quantized(parts["weight"], parts["weight_scale"])
        case "pack-quantized":
            zeros = parts.get("weight_zero_point")
            return pack_quantized(parts["weight_packed"], parts["weight_scale"], zeros)
        case "gptq":
            _check_gptq(name, scheme, parts)
            return gptq(parts["qweight"], parts["scales"])
        case "awq":
            return awq(parts["qweight"], parts["qzeros"], parts["scales"])


def int_quantized(codes_OI: torch.Tensor, scale_O: torch.Tensor) -> torch.Tensor:
    """compressed-tensors, int8 codes with one scale an output channel (or one for all)."""
    return codes_OI.to(scale_O.dtype) * scale_O.reshape(-1, 1)


def pack_quantized(
    codes_OI8: torch.Tensor, scale_OG: torch.Tensor, zeros_O8G: torch.Tensor | None
) -> torch.Tensor:
    """compressed-tensors, 4 bits along the inputs, codes and zero points stored plus 8."""
    codes_OI = unpack(codes_OI8)
    if zeros_O8G is None:
        zeros_OG = torch.full(scale_OG.shape, SYMMETRIC_ZERO, dtype=torch.int32)
    else:
        zeros_OG = unpack(zeros_O8G.T).T[: len(scale_OG)]
    return _scaled(codes_OI, zeros_OG, scale_OG)


def gptq(codes_I8O: torch.Tensor, scale_GO: torch.Tensor) -> torch.Tensor:
    """GPTQ, 4 bits along the inputs, symmetric."""
    zeros_OG = torch.full(scale_GO.T.shape, SYMMETRIC_ZERO, dtype=torch.int32)
    return _scaled(unpack(codes_I8O.T), zeros_OG, scale_GO.T)


def awq(codes_IO8: torch.Tensor, zeros_GO8: torch.Tensor, scale_GO: torch.Tensor) -> torch.Tensor:
    """AWQ, 4 bits along the outputs in its own order of fields, with zero points."""
    codes_IO, zeros_GO = (_in_column_order(unpack(packed)) for packed in (codes_IO8, zeros_GO8))
    return _scaled(codes_IO.T, zeros_GO.T, scale_GO.T)


def unpack(packed: torch.Tensor) -> torch.Tensor:
    """The 4-bit fields of an int32 matrix along its last dimension, lowest bits first; int32."""
    shifts = torch.arange(0, 4 * FIELDS, 4, dtype=torch.int32)
    return ((packed.unsqueeze(-1) >> shifts) & 15).flatten(-2)


def _in_column_order(fields: torch.Tensor) -> torch.Tensor:
    rows = fields.view(len(fields), -1, FIELDS)
    return rows[:, :, list(AWQ_FIELD_OF_COLUMN)].flatten(-2)


def _scaled(codes_OI: torch.Tensor, zeros_OG: torch.Tensor, scale_OG: torch.Tensor) -> torch.Tensor:
    size = codes_OI.shape[1] // scale_OG.shape[1]
    offsets_OI = codes_OI - zeros_OG.repeat_interleave(size, dim=1)
    return (offsets_OI.to(scale_OG.dtype) * scale_OG.repeat_interleave(size, dim=1)).contiguous()


def _check_gptq(name: str, scheme: StoredScheme, parts: Mapping[str, torch.Tensor]) -> None:
    """vLLM leaves out the zero points of a symmetric checkpoint and the order of its inputs."""
    zeros = unpack(parts["qzeros"]) + scheme.zero_offset if "qzeros" in parts else None
    if zeros is not None and not bool((zeros == SYMMETRIC_ZERO).all()):
        raise ModelError(
            f"layer {name} says it is symmetric but has zero points other than {SYMMETRIC_ZERO} "
            f"({int(zeros.min())} to {int(zeros.max())}); quantise the model again with sym=true"
        )
    order, width = parts.get("g_idx"), parts["qweight"].shape[0] * FIELDS
    size = width // len(parts["scales"])
    if order is not None and not torch.equal(order.long(), torch.arange(width) // size):
        raise ModelError(
            f"layer {name} has its inputs reordered (g_idx); "
            "quantise the model again with desc_act=false"
        )
