"""Forward of EGGROLL noise on whole weights: a low-rank product of its own for every pair.

y += c[m] sum_k (x b_pk) a_pk^T,   c[m] = sign * sigma * unit / (variance sqrt K)

with m the member of each row and p its pair: W + sigma E with E = (1/sqrt K) A B^T
(arXiv 2511.16652), which is never formed. The factors are small integers (`kernels.matrix_noise`),
exact in int8, bf16 and fp16, so forward and update use the same numbers; variance is that of one
integer. Against the float64 definition the bf16 paths stay within 2^-7 of the delta's own scale.

Shape suffixes: _T rows, _I in features, _O out features, _S slices, _K rank of the noise,
_M members, _N pairs.
"""

from collections.abc import Sequence

import torch

from kernels import native
from kernels.perturbation import PairNoise


class LowRankNoise(PairNoise):
    """The factors of every pair for one module, `left_NKO` and `right_NSKI`.

    The slices share the input but not the noise.
    """

    def __init__(
        self,
        widths: Sequence[int],
        in_features: int,
        noise_rank: int,
        max_members: int,
        max_pairs: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.widths = list(widths)
        slices, out_features = len(self.widths), sum(self.widths)
        self.right_NSKI = torch.zeros(
            max_pairs, slices, noise_rank, in_features, dtype=torch.int8, device=device
        )
        self.left_NKO = torch.zeros(
            max_pairs, noise_rank, out_features, dtype=torch.int8, device=device
        )
        super().__init__((self.left_NKO, self.right_NSKI), noise_rank, slices, max_members)

    def _add_by_triton(
        self, y_TO: torch.Tensor, x_TI: torch.Tensor, member_T: torch.Tensor
    ) -> torch.Tensor:
        from kernels.gpu.low_rank import add_low_rank_

        return add_low_rank_(self, y_TO, x_TI, member_T)

    def _bind_native(self) -> native.NativeCall:
        return native.LowRankCall(
            self.right_NSKI, self.left_NKO, self.widths, self.pair_M, self.coefficient_MS
        )

    def _add_by_torch(
        self, y_TO: torch.Tensor, x_TI: torch.Tensor, member_T: torch.Tensor
    ) -> torch.Tensor:
        x_float_TI, start = x_TI.float(), 0
        for index, width in enumerate(self.widths):
            y_slice, left_NKO = (t[..., start : start + width] for t in (y_TO, self.left_NKO))
            inner_TK = self._inner(x_float_TI, self.right_NSKI[:, index], member_T)
            inner_TK *= self.coefficient_MS[member_T, index, None]
            y_slice.copy_(y_slice + self._outer(inner_TK, left_NKO, member_T))
            start += width
        return y_TO

    def definition(self, x_TI: torch.Tensor, member_T: torch.Tensor) -> torch.Tensor:
        """The same addend row by row in float64, from materialised matrices."""
        rows = []
        for x_I, member in zip(x_TI.double(), member_T.tolist(), strict=True):
            pair = int(self.pair_M[member])
            parts = []
            left = self.left_NKO[pair].double().split(self.widths, dim=1)
            for index, left_KO in enumerate(left):
                noise_OI = left_KO.T @ self.right_NSKI[pair, index].double()
                parts.append(float(self.coefficient_MS[member, index]) * (noise_OI @ x_I))
            rows.append(torch.cat(parts))
        return torch.stack(rows)
