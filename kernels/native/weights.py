"""Whole weights on CPUs, compiled: the step of `kernels.descent`, the codes of
`workers.checkpoints` and the checksums of `kernels.checksums`, bit for bit what the torch paths
there give.
"""

import numpy as np
import torch

from kernels.native.build import library


def descend_(
    weight_RC: torch.Tensor,
    momentum_RC: torch.Tensor | None,
    left_PKR: torch.Tensor,
    right_PKC: torch.Tensor,
    integer_P: np.ndarray,
    *,
    grid: float,
    is_first: bool,
    decay: float,
    learning_rate: float,
    scale: float,
    unit: float,
) -> float:
    """Move `weight_RC` and its momentum, fp32 and contiguous; the squared length of the step.

    The gradient is `grid * sum_p integer_P[p] left_p^T right_p`, factors int8, integers float64;
    the step is that of torch.optim.SGD uphill times `scale`; the weight moves by `unit` times it.
    Without `momentum_RC` the gradient is the step; at the first one the momentum is only written.
    """
    native = library()
    assert native is not None, "ask library() first"
    num_pairs, rank = left_PKR.shape[:2]
    return native.es_descend(
        weight_RC.data_ptr(),
        None if momentum_RC is None else momentum_RC.data_ptr(),
        left_PKR.data_ptr(),
        right_PKC.data_ptr(),
        integer_P.ctypes.data,
        num_pairs,
        rank,
        *weight_RC.shape,
        grid,
        is_first,
        decay,
        -learning_rate,
        scale,
        unit,
    )


def encode(
    weight_OI: torch.Tensor, bits: int, num_groups: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and bf16 scales `(out, groups)` of an fp32 weight, contiguous.

    8 bits: int8 codes `(out, in)`. 4 bits: uint8 `(out, in / 2)`, two codes plus 8 in a byte, the
    first in the lower half.
    """
    native = library()
    assert native is not None, "ask library() first"
    rows, columns = weight_OI.shape
    codes = (
        torch.empty(rows, columns, dtype=torch.int8)
        if bits == 8
        else torch.empty(rows, columns // 2, dtype=torch.uint8)
    )
    scale_OG = torch.empty(rows, num_groups, dtype=torch.bfloat16)
    pointers = (codes.data_ptr(), scale_OG.data_ptr(), weight_OI.data_ptr())
    native.es_encode(*pointers, rows, columns, num_groups, bits)
    return codes, scale_OG


def row_checksums(matrix_RC: torch.Tensor, keys_C: torch.Tensor) -> torch.Tensor:
    """`kernels.checksums.row_checksums` of a contiguous fp32 matrix; keys int64."""
    native = library()
    assert native is not None, "ask library() first"
    sums_R = torch.empty(len(matrix_RC), dtype=torch.int64)
    pointers = (sums_R.data_ptr(), matrix_RC.data_ptr(), keys_C.data_ptr())
    native.es_row_checksums(*pointers, *matrix_RC.shape)
    return sums_R
