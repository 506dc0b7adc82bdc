"""Forward of a perturbed LoRA: the mean's two factors, each with low-rank noise of its own.

h  = A x + cA[m] sum_k aA_pk (bA_pk . x)
y += B h + cB[m] sum_k aB_pk (bB_pk . h)
c[m] = sign * sigma * unit / (variance sqrt K)

with m the member of each row and p its pair: EGGROLL (arXiv 2511.16652) on the factors A (R x in)
and B (out x R) of a LoRA (arXiv 2106.09685). A and B are the mean's, the same for everybody; the
LoRA's scaling is part of B and of cB. A side whose coefficient is 0 is not perturbed. Both noises
act at once, so a pair's members are opposite in first order only: the product of the two is in
both. A pair takes K (2 R + in + out) bytes a layer. Against the float64 definition the bf16 paths
stay within 2^-7 of the delta's own scale; h is kept in fp32 for the noise and rounded to bf16
before B, and y is rounded once.

Shape suffixes: _T rows, _I in features, _O out features, _S slices (in `coefficient_MS` two columns
a slice: A, B), _R rank of the LoRA, _K rank of the noise, _M members, _N pairs.
"""

from collections.abc import Sequence

import torch

from kernels import native
from kernels.perturbation import PairNoise
from kernels.shared_basis import FusedBasis, SharedBasis


class LoraNoise(PairNoise):
    """The mean's factors of a module, and every pair's noise on them: `down_*` of A, `up_*` of B.

    `mean` holds A as `right_QI` and B as `left_OR`. Rows of NOBODY get nothing, not even the mean's
    LoRA: they are the base model.
    """

    def __init__(self, mean: FusedBasis, noise_rank: int, max_members: int, max_pairs: int) -> None:
        self.mean = mean
        slices, rank, device = mean.num_slices, mean.rank, mean.left_OR.device
        out_features, in_features = len(mean.left_OR), mean.right_QI.shape[1]

        def table(*shape: int) -> torch.Tensor:
            return torch.zeros(max_pairs, *shape, dtype=torch.int8, device=device)

        self.down_left_NSKR = table(slices, noise_rank, rank)
        self.down_right_NSKI = table(slices, noise_rank, in_features)
        self.up_left_NKO = table(noise_rank, out_features)
        self.up_right_NSKR = table(slices, noise_rank, rank)
        factors = (self.down_left_NSKR, self.down_right_NSKI, self.up_left_NKO, self.up_right_NSKR)
        super().__init__(factors, noise_rank, 2 * slices, max_members)

    def set_mean(self, factors: Sequence[SharedBasis]) -> None:
        """Write the mean's A (as `right_IR`) and scaled B (as `left_OR`) of every slice, in place.

        They keep their shapes and are rounded to the tables' dtype.
        """
        self.mean.write_(factors)
        if isinstance(self._native, native.LoraCall):
            self._native.mean.write_(self.mean.right_QI, self.mean.left_OR)

    def _add_by_triton(
        self, y_TO: torch.Tensor, x_TI: torch.Tensor, member_T: torch.Tensor
    ) -> torch.Tensor:
        from kernels.gpu.lora import add_lora_noise_

        return add_lora_noise_(self, y_TO, x_TI, member_T)

    def _bind_native(self) -> native.NativeCall:
        return native.LoraCall(
            self.mean.right_QI,
            self.mean.left_OR,
            self.mean.widths,
            down_left_NSKR=self.down_left_NSKR,
            down_right_NSKI=self.down_right_NSKI,
            up_left_NKO=self.up_left_NKO,
            up_right_NSKR=self.up_right_NSKR,
            pair_M=self.pair_M,
            coefficient_MS=self.coefficient_MS,
        )

    def _add_by_torch(
        self, y_TO: torch.Tensor, x_TI: torch.Tensor, member_T: torch.Tensor
    ) -> torch.Tensor:
        size_TS = self.coefficient_MS[member_T]
        size_a_TS1, size_b_TS1 = size_TS[:, 0::2, None], size_TS[:, 1::2, None]
        hidden_TSR = self.mean.project(x_TI)
        down_TSK = self._inner(x_TI.float()[:, None], self.down_right_NSKI, member_T)
        hidden_TSR += self._outer(size_a_TS1 * down_TSK, self.down_left_NSKR, member_T)
        inner_TSK = size_b_TS1 * self._inner(hidden_TSR, self.up_right_NSKR, member_T)
        is_somebody_T1 = (member_T >= 0)[:, None]
        for index, columns in enumerate(self.mean.columns):
            delta_TO = hidden_TSR[:, index] @ self.mean.left_OR[columns].T.float()
            delta_TO += self._outer(inner_TSK[:, index], self.up_left_NKO[..., columns], member_T)
            y_TO[:, columns] = y_TO[:, columns] + delta_TO * is_somebody_T1
        return y_TO

    def definition(self, x_TI: torch.Tensor, member_T: torch.Tensor) -> torch.Tensor:
        """The same addend row by row in float64, from materialised matrices."""
        rows = []
        for x_I, member in zip(x_TI.double(), member_T.tolist(), strict=True):
            if member < 0:
                out_features = len(self.mean.left_OR)
                rows.append(torch.zeros(out_features, dtype=torch.float64, device=x_TI.device))
                continue
            pair, parts = int(self.pair_M[member]), []
            for index, columns in enumerate(self.mean.columns):
                size_a, size_b = self.coefficient_MS[member, 2 * index : 2 * index + 2].double()
                right_IR, left_OR = self.mean.in_float64(index)
                noise_RI = _matrix(
                    self.down_left_NSKR[pair, index], self.down_right_NSKI[pair, index]
                )
                noise_OR = _matrix(
                    self.up_left_NKO[pair][:, columns], self.up_right_NSKR[pair, index]
                )
                hidden_R = (right_IR.T + size_a * noise_RI) @ x_I
                parts.append((left_OR + size_b * noise_OR) @ hidden_R)
            rows.append(torch.cat(parts))
        return torch.stack(rows)


def _matrix(left_KO: torch.Tensor, right_KI: torch.Tensor) -> torch.Tensor:
    return left_KO.T.double() @ right_KI.double()
