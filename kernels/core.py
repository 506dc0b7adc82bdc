"""Forward of a core perturbation: a small matrix between frozen directions, with low-rank noise.

y += ((x V) C + c[m] sum_k ((x V) b_pk) a_pk^T) U^T
c[m] = sign * sigma * unit / (variance sqrt K)

with m the member of each row and p its pair. C is the mean's core, the same for everybody
(LoRA-XS, Fed-SB); a and b are the int8 factors of EGGROLL noise (arXiv 2511.16652) on it, so the
noise of a pair takes 2 K R bytes a layer. Against the float64 definition the bf16 paths stay within
2^-7 of the delta's own scale.

Shape suffixes: _T rows, _I in features, _O out features, _S slices, _R directions, _K rank of the
noise, _M members, _N pairs.
"""

import torch

from kernels import native
from kernels.perturbation import PairNoise
from kernels.shared_basis import FusedBasis


class CoreNoise(PairNoise):
    """The mean's core of a module and every pair's noise on it, `left_NSKR` and `right_NSKR`.

    Rows of NOBODY get nothing, not even the mean's core: they are the base model.
    """

    def __init__(
        self, basis: FusedBasis, noise_rank: int, max_members: int, max_pairs: int
    ) -> None:
        self.basis = basis
        device = basis.left_OR.device
        slices, rank = basis.num_slices, basis.rank
        self.core_SRR = torch.zeros(slices, rank, rank, device=device)
        self.left_NSKR = torch.zeros(
            max_pairs, slices, noise_rank, rank, dtype=torch.int8, device=device
        )
        self.right_NSKR = torch.zeros_like(self.left_NSKR)
        super().__init__((self.left_NSKR, self.right_NSKR), noise_rank, slices, max_members)

    def _add_by_triton(
        self, y_TO: torch.Tensor, x_TI: torch.Tensor, member_T: torch.Tensor
    ) -> torch.Tensor:
        from kernels.gpu.core import add_core_noise_

        return add_core_noise_(self, y_TO, x_TI, member_T)

    def _bind_native(self) -> native.NativeCall:
        return native.SharedBasisCall(
            self.basis.right_QI,
            self.basis.left_OR,
            self.basis.widths,
            core_SRR=self.core_SRR,
            noise_left_NSKR=self.left_NSKR,
            noise_right_NSKR=self.right_NSKR,
            pair_M=self.pair_M,
            coefficient_MS=self.coefficient_MS,
        )

    def _add_by_torch(
        self, y_TO: torch.Tensor, x_TI: torch.Tensor, member_T: torch.Tensor
    ) -> torch.Tensor:
        hidden_TSR = self.basis.project(x_TI)
        mixed_TSR = torch.einsum("tsr,srq->tsq", hidden_TSR, self.core_SRR)
        inner_TSK = self._inner(hidden_TSR, self.right_NSKR, member_T)
        inner_TSK *= self.coefficient_MS[member_T][..., None]
        mixed_TSR += self._outer(inner_TSK, self.left_NSKR, member_T)
        return self.basis.expand_(y_TO, mixed_TSR * (member_T >= 0)[:, None, None])

    def definition(self, x_TI: torch.Tensor, member_T: torch.Tensor) -> torch.Tensor:
        """The same addend row by row in float64, from materialised matrices."""
        rows = []
        for x_I, member in zip(x_TI.double(), member_T.tolist(), strict=True):
            parts = []
            for index, width in enumerate(self.basis.widths):
                if member < 0:
                    parts.append(torch.zeros(width, dtype=torch.float64, device=x_TI.device))
                    continue
                right_IR, left_OR = self.basis.in_float64(index)
                pair = int(self.pair_M[member])
                right_KR = self.right_NSKR[pair, index].double()
                left_KR = self.left_NSKR[pair, index].double()
                noise = float(self.coefficient_MS[member, index]) * (right_KR.T @ left_KR)
                middle = self.core_SRR[index].double() + noise
                parts.append(left_OR @ (right_IR @ middle).T @ x_I)
            rows.append(torch.cat(parts))
        return torch.stack(rows)
