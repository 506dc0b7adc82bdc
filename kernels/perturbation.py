"""The one signature of every batched forward: what a layer's members add to its output.

A perturbation holds static tensors (so a captured graph stays valid) and is told per row which
member it belongs to. Four forms exist: `kernels.shared_basis.ScaledBasis`,
`kernels.core.CoreNoise`, `kernels.low_rank.LowRankNoise` and `kernels.lora.LoraNoise`. Each has a
float64 definition, a torch path that runs anywhere, a compiled path for CPUs (`kernels.native`) and
a Triton path (`kernels.gpu`).

Shape suffixes: _T rows (tokens), _I in features, _O out features, _M members, _N pairs, _S columns
of coefficients, _K rank of the noise.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import torch

from kernels import native

NOBODY = -1  # the base model, padding and warm-up rows: nothing is added


class Perturbation(Protocol):
    """What the members add to one (possibly fused) linear layer."""

    def add_(self, y_TO: torch.Tensor, x_TI: torch.Tensor, member_T: torch.Tensor) -> torch.Tensor:
        """Add every row's perturbation to `y_TO` in place and return it.

        `x_TI` and `y_TO` are bf16, fp16 or fp32 with a last dimension of stride 1; `member_T` is
        int32 with member slots, or NOBODY, and may be longer than the rows. The sum is kept in fp32
        and rounded once.
        """
        ...

    def definition(self, x_TI: torch.Tensor, member_T: torch.Tensor) -> torch.Tensor:
        """The same addend row by row in float64, from materialised matrices."""
        ...

    @property
    def member_bytes(self) -> int:
        """Bytes resident for all members together, the shared directions left out."""
        ...


class Slice(NamedTuple):
    """What one rank computes of one checkpoint layer inside a fused module.

    Without tensor parallelism that is all of it: `Slice(0, out_features, 0, in_features)`.
    """

    first_row: int
    num_rows: int
    first_column: int
    num_columns: int


Path = Literal["triton", "native", "torch"]


def choose_path(x_TI: torch.Tensor) -> Path:
    """Which implementation serves these rows."""
    if x_TI.is_cuda:
        return "triton"
    if x_TI.dtype == torch.bfloat16 and native.library() is not None:
        return "native"
    return "torch"


class BatchedForward(ABC):
    """A perturbation's three implementations, one of which serves a call (`choose_path`)."""

    def __init__(self) -> None:
        self._native: native.NativeCall | None = None  # made by the first call that needs it

    def add_(self, y_TO: torch.Tensor, x_TI: torch.Tensor, member_T: torch.Tensor) -> torch.Tensor:
        """Add every row's perturbation to `y_TO` in place (see `Perturbation.add_`)."""
        if self._native is not None and x_TI.dtype == torch.bfloat16:
            return self._native.add_(y_TO, x_TI, member_T)
        path = choose_path(x_TI)
        if path == "triton":
            return self._add_by_triton(y_TO, x_TI, member_T[: len(x_TI)])
        if path == "native":
            self._native = self._bind_native()
            return self._native.add_(y_TO, x_TI, member_T)
        return self._add_by_torch(y_TO, x_TI, member_T[: len(x_TI)])

    @abstractmethod
    def _add_by_triton(
        self, y_TO: torch.Tensor, x_TI: torch.Tensor, member_T: torch.Tensor
    ) -> torch.Tensor: ...

    @abstractmethod
    def _bind_native(self) -> native.NativeCall: ...

    @abstractmethod
    def _add_by_torch(
        self, y_TO: torch.Tensor, x_TI: torch.Tensor, member_T: torch.Tensor
    ) -> torch.Tensor: ...


class PairNoise(BatchedForward):
    """int8 factors of every pair, and which pair and coefficients each member has.

    `coefficient_MS` is fp32 with a column for each perturbed matrix and one row of zeros at the
    end, which NOBODY picks; `pair_M` is int32 and gives the row of each member's pair in every one
    of `factors`.
    """

    def __init__(
        self,
        factors: Sequence[torch.Tensor],
        noise_rank: int,
        num_matrices: int,
        max_members: int,
    ) -> None:
        super().__init__()
        self.noise_rank = noise_rank
        self._factors = tuple(factors)
        device = self._factors[0].device
        self.pair_M = torch.zeros(max_members + 1, dtype=torch.int32, device=device)
        self.coefficient_MS = torch.zeros(max_members + 1, num_matrices, device=device)

    @property
    def max_pairs(self) -> int:
        """Pairs there is room for."""
        return len(self._factors[0])

    @property
    def member_bytes(self) -> int:
        """Bytes of the pairs' factors and the members' coefficients."""
        return sum(table.nbytes for table in (*self._factors, self.pair_M, self.coefficient_MS))

    def _inner(
        self, x_TI: torch.Tensor, right_NKI: torch.Tensor, member_T: torch.Tensor
    ) -> torch.Tensor:
        """`x b` of each row's pair, `(T, K)`; between _T and _K or _I more dimensions may stand."""
        right_TKI = right_NKI[self.pair_M[member_T]].to(x_TI.dtype)
        return torch.einsum("t...i,t...ki->t...k", x_TI, right_TKI)

    def _outer(
        self, inner_TK: torch.Tensor, left_NKO: torch.Tensor, member_T: torch.Tensor
    ) -> torch.Tensor:
        """`inner a^T` of each row's pair, `(T, O)`, with the same dimensions between."""
        left_TKO = left_NKO[self.pair_M[member_T]].to(inner_TK.dtype)
        return torch.einsum("t...k,t...ko->t...o", inner_TK, left_TKO)
