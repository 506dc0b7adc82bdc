"""Write noise factors into an engine's tables, by the fastest path of the device.

All paths give the integers of `kernels.matrix_noise.factor_noise`.
"""

from collections.abc import Sequence

import torch

from kernels import native
from kernels.matrix_noise import NoiseStream, factor_noise_torch, plan_fill


def fill_factor_noise_(
    out_PRW: torch.Tensor,
    stream: NoiseStream,
    pairs: Sequence[int],
    parameter: int,
    width: int,
    first_column: int = 0,
) -> torch.Tensor:
    """Fill `(pairs, rank, columns)` with columns `first_column` onwards of each pair's factor.

    `out_PRW` is int8, may be a view, and has stride 1 along the columns; `width` is that of the
    whole factor. Raises ValueError for Gaussian noise, which is no integer, and for numbers that do
    not fit the counter.
    """
    if stream.kind == "gaussian":
        raise ValueError("gaussian noise is not kept in int8 tables; use binomial or rademacher")
    rank, num_columns = out_PRW.shape[1:]
    columns = (first_column, first_column + num_columns)
    plan = plan_fill(stream, pairs, parameter, rank, width, columns)
    if out_PRW.is_cuda:
        from kernels.gpu.philox import fill_factor_noise

        numbers = torch.tensor(pairs, dtype=torch.int64).to(torch.int32).to(out_PRW.device)
        return fill_factor_noise(out_PRW, stream, numbers, parameter, width, columns)
    if native.library() is None:
        return out_PRW.copy_(factor_noise_torch(stream, pairs, parameter, rank, width, columns))
    return native.fill_noise_(
        out_PRW,
        pairs,
        width,
        first_column,
        plan.parameter_word,
        stream.generation,
        plan.key,
        stream.kind,
    )
