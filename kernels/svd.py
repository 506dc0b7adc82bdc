"""Leading singular directions of a matrix, the same bits on every call.

By eigenvectors of the smaller Gram matrix in float64: only the leading directions are wanted, and
they are exact to about 1e-8 of the largest singular value, which is far below what fp32 factors
keep. Signs are fixed so that the largest entry of each right vector is positive.
"""

from typing import NamedTuple

import torch


class Svd(NamedTuple):
    """`left_OR @ diag(values_R) @ right_IR.T`, fp32, values in decreasing order."""

    left_OR: torch.Tensor
    values_R: torch.Tensor
    right_IR: torch.Tensor


def leading_svd(weight_OI: torch.Tensor, rank: int) -> Svd:
    """The `rank` largest singular values of `weight_OI` (any float dtype) and their vectors.

    Raises ValueError if `rank` is larger than the smaller side.
    """
    out_features, in_features = weight_OI.shape
    if not 1 <= rank <= min(out_features, in_features):
        raise ValueError(f"rank {rank} does not fit a {out_features} x {in_features} matrix")
    weight = weight_OI.double()
    is_tall = out_features >= in_features
    gram = weight.T @ weight if is_tall else weight @ weight.T
    squares, vectors = torch.linalg.eigh(gram)
    order = squares.argsort(descending=True)[:rank]
    values = squares[order].clamp_min(0).sqrt()
    known = vectors[:, order]
    floor = values[0].clamp_min(torch.finfo(torch.float32).tiny) * 1e-12
    other = (weight if is_tall else weight.T) @ known / values.clamp_min(floor)
    left, right = (other, known) if is_tall else (known, other)
    largest = right.abs().argmax(dim=0)
    signs = right[largest, torch.arange(rank)].sign()
    signs[signs == 0] = 1
    return Svd((left * signs).float(), values.float(), (right * signs).float())
