"""Forward of a shared-basis perturbation: every member scales the same frozen singular directions.

One factor   (SVD of a weight, or of any update): y += ((x V) * a[m]) U^T
Two factors  (ESSA, arXiv 2507.04453, LoRA B A):  y += (((x V) * a[m]) C * b[m]) U^T,  C = U_A^T V_B

with m the member of each row. The two outer products are the same for every member, so a member
costs only its 2 R numbers a layer. Against the float64 definition the bf16 paths stay within 2^-7
of the delta's own scale; accumulation is fp32 and y is rounded once.

An engine computes some layers together (q, k, v; gate, up): they share the input, so their right
directions stand side by side, while each output row keeps only the directions of its own slice.

Shape suffixes: _T rows (tokens), _I in features, _O out features, _S slices, _R directions,
_M members (in tables plus one zero row, which NOBODY = -1 picks).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kernels import native
from kernels.perturbation import BatchedForward, Slice


@dataclass(frozen=True, slots=True)
class SharedBasis:
    """Directions of one linear layer of the checkpoint, the same for all members.

    `core_RR` is None in the one-factor form.
    """

    right_IR: torch.Tensor
    left_OR: torch.Tensor
    core_RR: torch.Tensor | None = None


class FusedBasis:
    """Directions of the layers one module computes, as a rank of the engine needs them.

    `right_QI` stacks the slices' right directions (Q = S R), `left_OR` their left ones; a slice of
    lower rank is padded with zeros.
    """

    def __init__(
        self,
        bases: Sequence[SharedBasis],
        slices: Sequence[Slice],
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        """Raises ValueError if one-factor and two-factor layers are mixed."""
        if len({basis.core_RR is None for basis in bases}) > 1:
            raise ValueError("cannot fuse one-factor and two-factor layers")
        self.rank = max(basis.right_IR.shape[1] for basis in bases)
        self.widths = [part.num_rows for part in slices]
        stops = itertools.accumulate(self.widths)
        self.columns = [slice(s - w, s) for s, w in zip(stops, self.widths, strict=True)]  # of y
        self._slices = list(slices)
        stacked = self._stacked(bases)
        self.right_QI, self.left_OR = (directions.to(device, dtype) for directions in stacked)
        cores = [basis.core_RR for basis in bases if basis.core_RR is not None]
        self.core_SRR: torch.Tensor | None = None
        if cores:
            self.core_SRR = torch.stack([_pad(_pad(c, self.rank).T, self.rank).T for c in cores])
            self.core_SRR = self.core_SRR.to(device, torch.float32).contiguous()

    @property
    def num_slices(self) -> int:
        """Checkpoint layers computed together."""
        return len(self.widths)

    def write_(self, bases: Sequence[SharedBasis]) -> None:
        """Put other directions of the same shapes into the same tensors, where graphs find them."""
        for kept, given in zip((self.right_QI, self.left_OR), self._stacked(bases), strict=True):
            kept.copy_(given)

    def _stacked(self, bases: Sequence[SharedBasis]) -> tuple[torch.Tensor, torch.Tensor]:
        """`(right_QI, left_OR)`, fp32."""
        first = self._slices[0].first_column
        stop = first + self._slices[0].num_columns
        rights, lefts = [], []
        for basis, part in zip(bases, self._slices, strict=True):
            left_OR = basis.left_OR[part.first_row : part.first_row + part.num_rows]
            rights.append(_pad(basis.right_IR[first:stop], self.rank).T)
            lefts.append(_pad(left_OR, self.rank))
        return torch.cat(rights), torch.cat(lefts)

    def project(self, x_TI: torch.Tensor) -> torch.Tensor:
        """`x V` of every slice, fp32 `(T, S, R)`."""
        hidden_TQ = x_TI @ self.right_QI.T
        return hidden_TQ.float().view(len(x_TI), self.num_slices, self.rank)

    def expand_(self, y_TO: torch.Tensor, hidden_TSR: torch.Tensor) -> torch.Tensor:
        """Add `hidden U^T` of every slice to its columns of `y_TO`."""
        hidden = hidden_TSR.to(y_TO.dtype)
        for index, columns in enumerate(self.columns):
            y_TO[:, columns].addmm_(hidden[:, index], self.left_OR[columns].T)
        return y_TO

    def in_float64(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """`(V, U)` of one slice, `(I, R)` and `(O, R)`."""
        rows = slice(index * self.rank, (index + 1) * self.rank)
        return self.right_QI[rows].T.double(), self.left_OR[self.columns[index]].double()


class ScaledBasis(BatchedForward):
    """Every member's own scales on the directions of a module (see the module's formulas)."""

    def __init__(self, basis: FusedBasis, max_members: int) -> None:
        super().__init__()
        self.basis = basis
        shape = (max_members + 1, basis.num_slices, basis.rank)
        self.scale_a_MSR = torch.zeros(shape, device=basis.left_OR.device)
        self.scale_b_MSR = None if basis.core_SRR is None else torch.zeros_like(self.scale_a_MSR)

    def set_scales(
        self, index: int, scale_a_MR: torch.Tensor, scale_b_MR: torch.Tensor | None
    ) -> None:
        """Write the scales of slice `index` for the members in slots 0 to M-1, fp32."""
        num_members, rank = scale_a_MR.shape
        self.scale_a_MSR[:num_members, index, :rank] = scale_a_MR.to(self.scale_a_MSR.device)
        if self.scale_b_MSR is not None and scale_b_MR is not None:
            self.scale_b_MSR[:num_members, index, :rank] = scale_b_MR.to(self.scale_b_MSR.device)

    @property
    def member_bytes(self) -> int:
        """Bytes of the scale tables."""
        tables = [self.scale_a_MSR, self.scale_b_MSR]
        return sum(table.nbytes for table in tables if table is not None)

    def _add_by_triton(
        self, y_TO: torch.Tensor, x_TI: torch.Tensor, member_T: torch.Tensor
    ) -> torch.Tensor:
        from kernels.gpu.shared_basis import add_scaled_basis_

        return add_scaled_basis_(self, y_TO, x_TI, member_T)

    def _bind_native(self) -> native.NativeCall:
        return native.SharedBasisCall(
            self.basis.right_QI,
            self.basis.left_OR,
            self.basis.widths,
            core_SRR=self.basis.core_SRR,
            scale_a_MSR=self.scale_a_MSR,
            scale_b_MSR=self.scale_b_MSR,
        )

    def _add_by_torch(
        self, y_TO: torch.Tensor, x_TI: torch.Tensor, member_T: torch.Tensor
    ) -> torch.Tensor:
        hidden_TSR = self.basis.project(x_TI) * self.scale_a_MSR[member_T]
        if self.basis.core_SRR is not None and self.scale_b_MSR is not None:
            hidden_TSR = torch.einsum("tsr,srq->tsq", hidden_TSR, self.basis.core_SRR)
            hidden_TSR = hidden_TSR * self.scale_b_MSR[member_T]
        return self.basis.expand_(y_TO, hidden_TSR)

    def definition(self, x_TI: torch.Tensor, member_T: torch.Tensor) -> torch.Tensor:
        """The same addend row by row in float64, from materialised matrices."""
        rows = []
        for x_I, member in zip(x_TI.double(), member_T.tolist(), strict=True):
            parts = []
            for index in range(self.basis.num_slices):
                right_IR, left_OR = self.basis.in_float64(index)
                middle = torch.diag(self.scale_a_MSR[member, index].double())
                if self.basis.core_SRR is not None and self.scale_b_MSR is not None:
                    scale_b = torch.diag(self.scale_b_MSR[member, index].double())
                    middle = middle @ self.basis.core_SRR[index].double() @ scale_b
                parts.append(left_OR @ (right_IR @ middle).T @ x_I)
            rows.append(torch.cat(parts))
        return torch.stack(rows)


def _pad(columns: torch.Tensor, rank: int) -> torch.Tensor:
    return torch.nn.functional.pad(columns.float(), (0, rank - columns.shape[1]))
