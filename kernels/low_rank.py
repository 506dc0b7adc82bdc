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
from kernels.perturbation import choose_path


class LowRankNoise:
    """The factors of every pair for one module.

    `right_NSKI` (the slices share the input but not the noise) and `left_NKO` are int8;
    `coefficient_MS` is fp32 with one row of zeros at the end, which NOBODY picks; `pair_M` is int32
    and gives the row of each member's pair.
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
        self.rank = noise_rank
        slices, out_features = len(self.widths), sum(self.widths)
        self.right_NSKI = torch.zeros(
            max_pairs, slices, noise_rank, in_features, dtype=torch.int8, device=device
        )
        self.left_NKO = torch.zeros(
            max_pairs, noise_rank, out_features, dtype=torch.int8, device=device
        )
        self.pair_M = torch.zeros(max_members + 1, dtype=torch.int32, device=device)
        self.coefficient_MS = torch.zeros(max_members + 1, slices, device=device)
        self._native: native.LowRankCall | None = None

    @property
    def max_pairs(self) -> int:
        """Pairs there is room for."""
        return len(self.left_NKO)

    @property
    def member_bytes(self) -> int:
        """Bytes of the pairs' factors and the members' coefficients."""
        tables = (self.left_NKO, self.right_NSKI, self.pair_M, self.coefficient_MS)
        return sum(table.nbytes for table in tables)

    def add_(self, y_TO: torch.Tensor, x_TI: torch.Tensor, member_T: torch.Tensor) -> torch.Tensor:
        """Add every row's perturbation (see `kernels.perturbation.Perturbation.add_`)."""
        if self._native is not None and x_TI.dtype == torch.bfloat16:
            return self._native.add_(y_TO, x_TI, member_T)
        path = choose_path(x_TI)
        if path == "triton":
            from kernels.gpu.low_rank import add_low_rank_

            return add_low_rank_(self, y_TO, x_TI, member_T)
        if path == "native":
            self._native = native.LowRankCall(
                self.right_NSKI, self.left_NKO, self.widths, self.pair_M, self.coefficient_MS
            )
            return self._native.add_(y_TO, x_TI, member_T)
        member_T = member_T[: len(x_TI)]
        pair_T, x_float_TI = self.pair_M[member_T], x_TI.float()
        start = 0
        for index, width in enumerate(self.widths):
            y_slice = y_TO[:, start : start + width]
            right_TKI = self.right_NSKI[:, index][pair_T].float()
            left_TKO = self.left_NKO[:, :, start : start + width][pair_T].float()
            inner_TK = torch.einsum("ti,tki->tk", x_float_TI, right_TKI)
            inner_TK *= self.coefficient_MS[member_T, index, None]
            y_slice.copy_(y_slice + torch.einsum("tk,tko->to", inner_TK, left_TKO))
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
