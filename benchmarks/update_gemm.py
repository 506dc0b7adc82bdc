"""The update of one layer against plain GEMMs of the same size, as a Markdown table.

    OMP_NUM_THREADS=1 python benchmarks/update_gemm.py

Times are this process's processor time in milliseconds, the least of several runs: with one thread
they are the layer's own, whatever else the machine does. The plain GEMMs find their operands ready
and write into memory they have; the update makes its noise from seeds and returns a new matrix.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from kernels.master import Master
from kernels.matrix_noise import NoiseKind, NoiseStream
from kernels.update import NoisyMatrix, matrix_update

SHAPES = ((576, 1536), (1536, 576))  # of SmolLM2-135M's MLP
MS_PER_S = 1000


def least_ms(work: Callable[[], object], repeats: int) -> float:
    """Processor time of the quickest of several runs, after one that is not timed."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return MS_PER_S * min(times)


def plain_gemm_ms(
    num_pairs: int, shape: tuple[int, int], dtype: torch.dtype, repeats: int
) -> float:
    """`left.T @ right` over `num_pairs`, both of that dtype."""
    left, right = (torch.randn(num_pairs, width, dtype=dtype) for width in shape)
    out = torch.empty(shape, dtype=dtype)
    return least_ms(lambda: torch.mm(left.T, right, out=out), repeats)


def row(num_pairs: int, shape: tuple[int, int], kind: NoiseKind, repeats: int) -> str:
    """One line of the table."""
    matrix, stream = NoisyMatrix(0, *shape, noise_rank=1), NoiseStream(1, 2, kind)
    weight_P = np.random.default_rng(0).standard_normal(num_pairs)
    update = least_ms(lambda: matrix_update(stream, range(num_pairs), weight_P, matrix), repeats)
    single = plain_gemm_ms(num_pairs, shape, torch.float32, repeats)
    double = plain_gemm_ms(num_pairs, shape, torch.float64, repeats)
    delta = matrix_update(stream, range(num_pairs), weight_P, matrix, scale=1e-6)
    masters = [Master(torch.randn(shape), "fp32"), Master(torch.randn(shape), "bf16")]
    adds = [least_ms(lambda master=master: master.add_(delta), repeats) for master in masters]
    return (
        f"| {shape[0]} x {shape[1]} | {num_pairs} | {update:.1f} | {double:.1f} "
        f"| {update / double:.2f} | {single:.1f} | {update / single:.2f} "
        f"| {adds[0]:.2f} | {adds[1]:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the update of one layer.")
    parser.add_argument("--pairs", type=int, nargs="+", default=[32, 512, 1024])
    parser.add_argument("--noise", choices=("binomial", "rademacher"), default="binomial")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    gemms = ["float64 GEMM", "ratio", "float32 GEMM", "ratio"]
    columns = ["layer", "pairs", "update", *gemms, "add to fp32", "add to bf16"]
    print("| " + " | ".join(columns) + " |", "|---" * len(columns) + "|", sep="\n")
    for shape in SHAPES:
        for num_pairs in options.pairs:
            print(row(num_pairs, shape, options.noise, options.repeats), flush=True)


if __name__ == "__main__":
    main()
