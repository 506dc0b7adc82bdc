"""The one signature of every batched forward: what a layer's members add to its output.

A perturbation holds static tensors (so a captured graph stays valid) and is told per row which
member it belongs to. Three forms exist: `kernels.shared_basis.ScaledBasis`,
`kernels.core.CoreNoise` and `kernels.low_rank.LowRankNoise`. Each has a float64 definition, a torch
path that runs anywhere, a compiled path for CPUs (`kernels.native`) and a Triton path
(`kernels.gpu`).

Shape suffixes: _T rows (tokens), _I in features, _O out features, _M members.
"""

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
