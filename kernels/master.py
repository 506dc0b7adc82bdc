"""The master copy of a weight, which takes steps far below what bf16 can show.

A step of EGGROLL is some 2^-10 to 2^-20 of a weight, bf16 resolves 2^-8: added in place, most
numbers of a bf16 weight never move. A master is therefore fp32, or bf16 with error feedback as in
Kahan summation and QES: the bf16 value and a residual of what rounding lost.

The residual is an int16 in units of 2^-16 of the value's last place: the value's bits followed by
it, as one number, are the fp32 bits. A bf16 residual, as others keep, costs the same two bytes and
rounds every step to some 2^-18 of the weight; this one loses nothing, so both kinds hold the same
numbers after the same steps. Both take 4 bytes a number; of the bf16 kind, two are the tensor that
a bf16 engine holds anyway.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Literal

import torch

from kernels.checksums import row_checksums

MasterKind = Literal["fp32", "bf16"]
BYTES_PER_NUMBER: dict[MasterKind, int] = {"fp32": 4, "bf16": 2 + 2}
NUMBERS_AT_ONCE = 2**18  # of a bf16 master: its fp32 form for the length of a step, in cache

RESIDUAL_BITS = 16
HALF = 1 << (RESIDUAL_BITS - 1)


class Master:
    """A weight (rows, columns) that is moved by small steps.

    fp32 copies the weight. bf16 takes a bf16 weight over and moves it in place, so that an engine
    can hold the same tensor, and makes one from any other dtype. Raises ValueError if the weight is
    no matrix of floating-point numbers.
    """

    def __init__(self, weight_RC: torch.Tensor, kind: MasterKind = "fp32") -> None:
        if kind not in BYTES_PER_NUMBER:
            raise ValueError(f"kind={kind!r} is not a master; use {' or '.join(BYTES_PER_NUMBER)}")
        if weight_RC.dim() != 2 or not weight_RC.is_floating_point():
            raise ValueError(
                f"{weight_RC.dtype} of shape {tuple(weight_RC.shape)} has no master; "
                "give a matrix of floating-point numbers"
            )
        self.kind: MasterKind = kind
        weight_RC = weight_RC.detach()
        self._residual_RC: torch.Tensor | None = None
        if kind == "fp32":
            self._value_RC = weight_RC.to(torch.float32, copy=True)
        elif weight_RC.dtype == torch.bfloat16:
            self._value_RC = weight_RC
            self._residual_RC = torch.zeros_like(weight_RC, dtype=torch.int16)
        else:
            self._value_RC, self._residual_RC = _split(weight_RC.float())

    def add_(self, delta_RC: torch.Tensor, first_row: int = 0) -> None:
        """Move rows `first_row` onwards by `delta_RC`, fp32 or float64 (rows, all columns).

        The step is rounded to fp32 and the sum to fp32, on every device alike. Raises ValueError if
        the rows are not there or the columns differ.
        """
        num_rows, num_columns = self._value_RC.shape
        stop = first_row + len(delta_RC)
        if first_row < 0 or stop > num_rows or delta_RC.shape[1:] != (num_columns,):
            raise ValueError(
                f"a step of shape {tuple(delta_RC.shape)} at row {first_row} does not fit a weight "
                f"of {num_rows} x {num_columns}; give whole rows of it"
            )
        if self._residual_RC is None:
            self._value_RC[first_row:stop] += delta_RC.float()
            return
        rows_at_once = max(1, NUMBERS_AT_ONCE // num_columns)
        for start in range(first_row, stop, rows_at_once):
            rows = slice(start, min(start + rows_at_once, stop))
            full_RC = _join(self._value_RC[rows], self._residual_RC[rows])
            full_RC += delta_RC[rows.start - first_row : rows.stop - first_row].float()
            self._value_RC[rows], self._residual_RC[rows] = _split(full_RC)

    def value(self) -> torch.Tensor:
        """What a bf16 or fp32 engine should hold: the master's own tensor, fp32 or bf16.

        The bf16 value is the nearest to the full number, of two equally near the larger magnitude.
        """
        return self._value_RC

    def full(self) -> torch.Tensor:
        """All that the master knows, fp32: what to quantise, and what to save.

        `Master(full, kind)` is this master again. The fp32 kind gives its own tensor.
        """
        if self._residual_RC is None:
            return self._value_RC
        return _join(self._value_RC, self._residual_RC)

    def state(self) -> dict[str, torch.Tensor]:
        """Its own tensors by name, to be stored; a master of the same kind takes them back."""
        if self._residual_RC is None:
            return {"value": self._value_RC}
        return {"value": self._value_RC, "residual": self._residual_RC}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Hold what `state` gave, in the tensors that there are."""
        for name, tensor_RC in self.state().items():
            tensor_RC.copy_(state[name])

    @property
    def num_bytes(self) -> int:
        """Memory of the master, the bf16 value that an engine may hold included."""
        return BYTES_PER_NUMBER[self.kind] * self._value_RC.numel()

    @property
    def digest(self) -> str:
        """SHA-256 over the shape and the checksums of the rows of `full`, as 64 hex digits: equal
        numbers have equal digests in both kinds.
        """
        num_rows, num_columns = self._value_RC.shape
        total = hashlib.sha256(f"{(num_rows, num_columns)}".encode())
        for part_RC in self._parts(max(1, NUMBERS_AT_ONCE // num_columns)):
            total.update(row_checksums(part_RC).numpy().data)
        return total.hexdigest()

    def _parts(self, rows_at_once: int) -> Iterator[torch.Tensor]:
        """`full` in parts of that many rows, or as it is where it costs nothing."""
        if self._residual_RC is None:
            yield self._value_RC
            return
        parts = self._value_RC.split(rows_at_once), self._residual_RC.split(rows_at_once)
        for value_RC, residual_RC in zip(*parts, strict=True):
            yield _join(value_RC, residual_RC)


def tensor_digest(tensor: torch.Tensor) -> str:
    """SHA-256 over dtype, shape and bytes in row order, as 64 hex digits.

    For every dtype that NumPy has it is the digest that ledger and checkpoints give the array.
    """
    plain = tensor.detach().cpu().contiguous()
    is_bf16 = plain.dtype == torch.bfloat16
    array = (plain.view(torch.int16) if is_bf16 else plain).numpy()
    name = "bfloat16" if is_bf16 else array.dtype.str
    total = hashlib.sha256(f"{name}{array.shape}".encode())
    total.update(array.data)
    return total.hexdigest()


def _split(full_RC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """bf16 value and int16 residual of fp32 numbers.

    Added to the bits, half of a last place carries into the value where that is nearer, whatever
    the sign: the bits below the sign are the magnitude.
    """
    bits_RC = full_RC.view(torch.int32)
    upper_RC = (bits_RC + HALF) >> RESIDUAL_BITS
    residual_RC = bits_RC - (upper_RC << RESIDUAL_BITS)
    return upper_RC.to(torch.int16).view(torch.bfloat16), residual_RC.to(torch.int16)


def _join(value_RC: torch.Tensor, residual_RC: torch.Tensor) -> torch.Tensor:
    """The fp32 numbers that `_split` took apart."""
    upper_RC = value_RC.view(torch.int16).to(torch.int32) << RESIDUAL_BITS
    return (upper_RC + residual_RC).view(torch.float32)
