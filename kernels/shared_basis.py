"""Forward of a shared-basis perturbation: every member scales the same frozen singular directions.

One factor   (SVD of a weight, or of any update): y += ((x V) * a[m]) U^T
Two factors  (ESSA, arXiv 2507.04453, LoRA B A):  y += (((x V) * a[m]) C * b[m]) U^T,  C = U_A^T V_B

with m the member of each row. The two outer products are GEMMs every member shares, so a member
costs only its 2 R numbers a layer. Rows of nobody (base model, padding) point at a row of zeros.
Against the float64 reference the bf16 path stays within 2^-7 of the delta's own scale; accumulation
is fp32 and y is rounded once.

Shape suffixes: _T rows (tokens), _I in features, _O out features, _R directions,
_M members (plus one zero row).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class SharedBasis:
    """Frozen directions of one linear layer.

    `core_RR` is None in the one-factor form.
    """

    right_IR: torch.Tensor
    left_OR: torch.Tensor
    core_RR: torch.Tensor | None = None

    def to(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> "SharedBasis":
        """The same directions, contiguous, in another dtype or place."""
        core = self.core_RR
        return SharedBasis(
            self.right_IR.to(device, dtype).contiguous(),
            self.left_OR.to(device, dtype).contiguous(),
            None if core is None else core.to(device, dtype).contiguous(),
        )


def fuse(bases: Sequence[SharedBasis]) -> SharedBasis:
    """One basis for layers whose outputs an engine computes together (q, k, v; gate, up).

    Inputs are shared, outputs are stacked, so U and C become block diagonal and the directions line
    up in order.

    Raises ValueError if one-factor and two-factor layers are mixed.
    """
    if len({basis.core_RR is None for basis in bases}) > 1:
        raise ValueError("cannot fuse one-factor and two-factor layers")
    cores = [basis.core_RR for basis in bases if basis.core_RR is not None]
    return SharedBasis(
        torch.cat([basis.right_IR for basis in bases], dim=1),
        torch.block_diag(*[basis.left_OR for basis in bases]),
        torch.block_diag(*cores) if cores else None,
    )


def add_shared_basis_(
    y_TO: torch.Tensor,
    x_TI: torch.Tensor,
    basis: SharedBasis,
    scale_a_MR: torch.Tensor,
    scale_b_MR: torch.Tensor | None,
    member_T: torch.Tensor,
) -> torch.Tensor:
    """Add each row's member's perturbation to `y_TO` in place and return it.

    `x_TI` and `y_TO` have the basis's dtype (bf16, fp16 or fp32); the scales are fp32; `member_T`
    is int64 and indexes rows of the scale tables. `scale_b_MR` and `basis.core_RR` are both given
    or both None.
    """
    hidden_TR = (x_TI @ basis.right_IR).mul_(scale_a_MR.index_select(0, member_T))
    if basis.core_RR is not None and scale_b_MR is not None:
        hidden_TR = (hidden_TR @ basis.core_RR).mul_(scale_b_MR.index_select(0, member_T))
    return y_TO.addmm_(hidden_TR, basis.left_OR.T)


def reference(
    x_TI: torch.Tensor,
    basis: SharedBasis,
    scale_a_MR: torch.Tensor,
    scale_b_MR: torch.Tensor | None,
    member_T: torch.Tensor,
) -> torch.Tensor:
    """The same delta row by row in float64, from materialised matrices:
    the definition the others are held to.
    """
    right, left = basis.right_IR.double(), basis.left_OR.double()
    rows = []
    for x_I, member in zip(x_TI.double(), member_T.tolist(), strict=True):
        middle = torch.diag(scale_a_MR[member].double())
        if basis.core_RR is not None and scale_b_MR is not None:
            middle = middle @ basis.core_RR.double() @ torch.diag(scale_b_MR[member].double())
        rows.append(left @ (right @ middle).T @ x_I)
    return torch.stack(rows)
