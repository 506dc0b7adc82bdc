"""The compiled CPU path of the batched forwards, called through plain C pointers.

A call object keeps the tensors its pointers refer to, so they stay where they are: tables are
written in place and never replaced. bf16 only; everything else takes the torch path.
"""

import ctypes
from collections.abc import Sequence

import torch

from kernels.native.build import library

MAX_SLICES = 8
KINDS = {"binomial": 0, "rademacher": 1}

_POINTER, _INT = ctypes.c_void_p, ctypes.c_int64


class _Directions(ctypes.Structure):
    _fields_ = [
        *((name, _POINTER) for name in ("right", "left")),
        *((name, _INT) for name in ("in_features", "rank", "num_slices")),
        ("widths", _INT * MAX_SLICES),
    ]


class _SharedBasis(ctypes.Structure):
    _fields_ = [
        ("shared", _Directions),
        *((name, _POINTER) for name in ("core", "scale_a", "scale_b")),
        *((name, _POINTER) for name in ("noise_left", "noise_right", "pair", "coefficient")),
        ("noise_rank", _INT),
    ]


class _LowRank(ctypes.Structure):
    _fields_ = [
        *((name, _POINTER) for name in ("right", "left", "pair", "coefficient")),
        *((name, _INT) for name in ("in_features", "out_features", "rank", "num_slices")),
        ("widths", _INT * MAX_SLICES),
    ]


class _Lora(ctypes.Structure):
    _fields_ = [
        ("mean", _Directions),
        *((name, _POINTER) for name in ("down_left", "down_right", "up_left", "up_right")),
        *((name, _POINTER) for name in ("pair", "coefficient")),
        *((name, _INT) for name in ("out_features", "noise_rank")),
    ]


class PackedDirections:
    """Shared directions as the C functions read them: bf16, the left ones packed in blocks."""

    def __init__(
        self, right_QI: torch.Tensor, left_OR: torch.Tensor, widths: Sequence[int]
    ) -> None:
        self._widths = _widths(widths)
        self._right = right_QI.bfloat16().contiguous()
        rank, num_slices = left_OR.shape[1], len(widths)
        num_packed = _library().es_packed_size(self._widths, num_slices, rank)
        self._packed = torch.empty(num_packed, dtype=torch.bfloat16)
        right, packed = self._right.data_ptr(), self._packed.data_ptr()
        in_features = right_QI.shape[1]
        self.structure = _Directions(right, packed, in_features, rank, num_slices, self._widths)
        self.write_(right_QI, left_OR)

    def write_(self, right_QI: torch.Tensor, left_OR: torch.Tensor) -> None:
        """Take new directions of the same shapes."""
        self._right.copy_(right_QI)
        left, layout = left_OR.bfloat16().contiguous(), self.structure
        _library().es_pack_left(
            layout.left, left.data_ptr(), self._widths, layout.num_slices, layout.rank
        )


class NativeCall:
    """A C function bound to one layer's tensors."""

    def __init__(self, function: str, layer: ctypes.Structure, kept: Sequence[object]) -> None:
        self._function = getattr(_library(), function)
        self._layer = layer
        self._pointer = ctypes.addressof(layer)
        self._kept = kept

    def add_(self, y_TO: torch.Tensor, x_TI: torch.Tensor, member_T: torch.Tensor) -> torch.Tensor:
        """Add every row's perturbation to `y_TO` in place; bf16, `member_T` int32 contiguous."""
        if x_TI.stride(1) != 1:
            x_TI = x_TI.contiguous()
        if y_TO.stride(1) != 1:
            return y_TO.copy_(self.add_(y_TO.contiguous(), x_TI, member_T))
        self._function(
            self._pointer,
            y_TO.data_ptr(),
            x_TI.data_ptr(),
            member_T.data_ptr(),
            len(x_TI),
            y_TO.stride(0),
            x_TI.stride(0),
        )
        return y_TO


class SharedBasisCall(NativeCall):
    """`kernels.shared_basis.ScaledBasis` and `kernels.core.CoreNoise`; unused tables stay None."""

    def __init__(
        self,
        right_QI: torch.Tensor,
        left_OR: torch.Tensor,
        widths: Sequence[int],
        *,
        core_SRR: torch.Tensor | None = None,
        scale_a_MSR: torch.Tensor | None = None,
        scale_b_MSR: torch.Tensor | None = None,
        noise_left_NSKR: torch.Tensor | None = None,
        noise_right_NSKR: torch.Tensor | None = None,
        pair_M: torch.Tensor | None = None,
        coefficient_MS: torch.Tensor | None = None,
    ) -> None:
        shared = PackedDirections(right_QI, left_OR, widths)
        tables = (core_SRR, scale_a_MSR, scale_b_MSR)
        noise = (noise_left_NSKR, noise_right_NSKR, pair_M, coefficient_MS)
        layer = _SharedBasis(
            shared.structure,
            *(None if table is None else table.data_ptr() for table in (*tables, *noise)),
            0 if noise_left_NSKR is None else noise_left_NSKR.shape[2],
        )
        super().__init__("es_add_shared_basis", layer, (shared, *tables, *noise))


class LowRankCall(NativeCall):
    """`kernels.low_rank.LowRankNoise`; the factors must lie in [-32, 31]."""

    def __init__(
        self,
        right_NSKI: torch.Tensor,
        left_NKO: torch.Tensor,
        widths: Sequence[int],
        pair_M: torch.Tensor,
        coefficient_MS: torch.Tensor,
    ) -> None:
        kept = (right_NSKI, left_NKO, pair_M, coefficient_MS)
        layer = _LowRank(
            *(table.data_ptr() for table in kept),
            right_NSKI.shape[3],
            left_NKO.shape[2],
            left_NKO.shape[1],
            len(widths),
            _widths(widths),
        )
        super().__init__("es_add_low_rank", layer, kept)


class LoraCall(NativeCall):
    """`kernels.lora.LoraNoise`; `mean` is told when it moves, the factors lie in [-32, 31]."""

    def __init__(
        self,
        right_QI: torch.Tensor,
        left_OR: torch.Tensor,
        widths: Sequence[int],
        *,
        down_left_NSKR: torch.Tensor,
        down_right_NSKI: torch.Tensor,
        up_left_NKO: torch.Tensor,
        up_right_NSKR: torch.Tensor,
        pair_M: torch.Tensor,
        coefficient_MS: torch.Tensor,
    ) -> None:
        mean = PackedDirections(right_QI, left_OR, widths)
        noise = (down_left_NSKR, down_right_NSKI, up_left_NKO, up_right_NSKR)
        tables = (*noise, pair_M, coefficient_MS)
        layer = _Lora(
            mean.structure,
            *(table.data_ptr() for table in tables),
            up_left_NKO.shape[2],
            up_left_NKO.shape[1],
        )
        super().__init__("es_add_lora", layer, (mean, *tables))
        self.mean = mean


def fill_noise_(
    out_NKW: torch.Tensor,
    pairs: Sequence[int],
    width: int,
    first: int,
    parameter_word: int,
    generation: int,
    key: tuple[int, int],
    kind: str,
) -> torch.Tensor:
    """Write columns `first` onwards of the pairs' factors (see `kernels.matrix_noise`), int8.

    `out_NKW` may be a view; its last dimension has stride 1.
    """
    numbers = (_INT * len(pairs))(*pairs)
    _library().es_fill_noise(
        out_NKW.data_ptr(),
        ctypes.addressof(numbers),
        len(pairs),
        out_NKW.shape[1],
        width,
        first,
        first + out_NKW.shape[2],
        out_NKW.stride(0),
        out_NKW.stride(1),
        parameter_word,
        generation,
        *key,
        KINDS[kind],
    )
    return out_NKW


def argmax(values_BV: torch.Tensor) -> torch.Tensor:
    """First index of the largest number of every row, int64 `(B,)`; bf16 without NaN.

    What `argmax` of the fp32 copy gives, without making the copy.
    """
    index_B = torch.empty(len(values_BV), dtype=torch.int64)
    _library().es_argmax(
        index_B.data_ptr(),
        values_BV.data_ptr(),
        values_BV.shape[0],
        values_BV.shape[1],
        values_BV.stride(0),
    )
    return index_B


def _widths(widths: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
    if len(widths) > MAX_SLICES:
        raise ValueError(f"{len(widths)} fused layers; the limit is {MAX_SLICES}")
    return (_INT * MAX_SLICES)(*widths)


def _library() -> ctypes.CDLL:
    found = library()
    assert found is not None, "ask library() first"
    return found


__all__ = ["LowRankCall", "NativeCall", "SharedBasisCall", "argmax", "fill_noise_", "library"]
