"""What EGGROLL's update is in theory (arXiv 2511.16652), and is here with integer noise.

E = (1 / sqrt r) A^T B of m x n with independent, symmetric entries of variance 1 and kurtosis c
(3 Gaussian, 2.9375 binomial, 1 Rademacher). Derivations, all by counting which indices meet:

- `E[E_ij^4] = (r c^2 + 3 r (r - 1)) / r^2 = 3 + (c^2 - 3) / r`: of the r^4 terms, r have four equal
  indices (c of a times c of b) and 3 r (r - 1) two pairs. Gaussian: 3 + 6 / r.
- `E[E_ij^2 E_kl^2]` is 1 where i != k and j != l, and 1 + (c - 1) / r where one of them is equal;
  a sign flip of one row removes every mixed product. Summed over the matrix,
  `E[|E|^2 <G, E>^2] = |G|^2 (mn + 2 + ((c - 1)(m + n) + c^2 - 2c - 1) / r)`.
  Gaussian: mn + 2 + (2m + 2n + 2) / r.
- On f(W) = W_ij^3 at 0 the gradient estimate is f(sigma E) E_ij / sigma = sigma^2 E_ij^4: beside
  the 3 sigma^2 of dense Gaussian noise a bias of exactly sigma^2 (c^2 - 3) / r.

Samples are held to `NUM_ERRORS` standard errors, which each test shows to be small enough to tell
the formula from its neighbours; whatever can be enumerated is compared exactly.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np
import pytest
import torch

from es_align.fitness import shape_z_score
from kernels.matrix_noise import KURTOSIS, VARIANCE, NoiseKind, NoiseStream, factor_noise
from kernels.update import NoisyMatrix, matrix_update

KINDS: tuple[NoiseKind, ...] = ("binomial", "rademacher", "gaussian")
INTEGER_KINDS: tuple[NoiseKind, ...] = ("binomial", "rademacher")
NUM_ERRORS = 4.5

Distribution = dict[Fraction, Fraction]  # value to probability


def noise_factors(
    kind: NoiseKind, num_pairs: int, rank: int, rows: int, columns: int, seed: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Factors of variance 1, float64: `(pairs, rank, rows)` and `(pairs, rank, columns)`."""
    stream, unit = NoiseStream(seed, 0, kind), math.sqrt(VARIANCE[kind])
    left, right = (
        factor_noise(stream, range(num_pairs), parameter, rank, width) / unit
        for parameter, width in ((0, rows), (1, columns))
    )
    return left, right


def perturbations(
    kind: NoiseKind, num_pairs: int, rank: int, rows: int, columns: int, seed: int = 1
) -> np.ndarray:
    """Every E_p, float64 `(pairs, rows, columns)`."""
    left_PKR, right_PKC = noise_factors(kind, num_pairs, rank, rows, columns, seed)
    return np.einsum("pkr,pkc->prc", left_PKR, right_PKC, optimize=True) / math.sqrt(rank)


def require_mean(samples: np.ndarray, wanted: float | np.ndarray, largest_error: float) -> None:
    """The mean over axis 0 is as wanted, and its standard error small enough to mean it."""
    error = samples.std(axis=0) / math.sqrt(len(samples))
    assert NUM_ERRORS * np.max(error) < largest_error
    assert np.all(np.abs(samples.mean(axis=0) - wanted) <= NUM_ERRORS * error + 1e-12)


def entry(kind: NoiseKind) -> Distribution:
    """The exact distribution of one integer of the noise."""
    if kind == "rademacher":
        return {Fraction(sign): Fraction(1, 2) for sign in (-1, 1)}
    return {Fraction(k - 16): Fraction(math.comb(32, k), 2**32) for k in range(33)}


def joined(
    first: Distribution, second: Distribution, join: Callable[[Fraction, Fraction], Fraction]
) -> Distribution:
    result: Distribution = {}
    for (x, p), (y, q) in itertools.product(first.items(), second.items()):
        result[join(x, y)] = result.get(join(x, y), Fraction(0)) + p * q
    return result


def sign_matrices(rank: int, rows: int, columns: int) -> Iterator[np.ndarray]:
    """sqrt(r) E for every way the signs of Rademacher noise can fall, int64."""
    for signs in itertools.product((-1, 1), repeat=rank * (rows + columns)):
        left, right = np.split(np.array(signs), [rank * rows])
        yield left.reshape(rank, rows).T @ right.reshape(rank, columns)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [1, 3])
def test_first_and_second_moments(kind: NoiseKind, rank: int) -> None:
    """E[E_ij] = 0 and E[E_ij E_kl] = delta_ik delta_jl, for all 136 pairs of 16 entries."""
    flat = perturbations(kind, 60_000, rank, 4, 4).reshape(-1, 16)
    require_mean(flat, 0.0, 0.03)
    for index in range(16):
        wanted = np.zeros(16)
        wanted[index] = 1.0
        require_mean(flat[:, index, None] * flat, wanted, 0.07)


@pytest.mark.parametrize("kind", INTEGER_KINDS)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_fourth_moment_exactly(kind: NoiseKind, rank: int) -> None:
    product = joined(entry(kind), entry(kind), lambda x, y: x * y)
    total: Distribution = {Fraction(0): Fraction(1)}
    for _ in range(rank):
        total = joined(total, product, lambda x, y: x + y)
    assert sum(total.values()) == 1
    fourth = sum(value**4 * chance for value, chance in total.items())
    kurtosis, variance = Fraction(KURTOSIS[kind]), Fraction(VARIANCE[kind])
    assert fourth / variance**4 / rank**2 == 3 + (kurtosis**2 - 3) / rank


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [1, 2, 8])
def test_the_fourth_moment_of_the_noise(kind: NoiseKind, rank: int) -> None:
    left, right = noise_factors(kind, 1000, rank, 2000, 2000)
    diagonal = np.einsum("pki,pki->pi", left, right).ravel() / math.sqrt(rank)
    require_mean(diagonal**4, 3 + (KURTOSIS[kind] ** 2 - 3) / rank, 0.45 / rank**0.5)


@pytest.mark.parametrize("kind", INTEGER_KINDS)
def test_the_bias_on_a_cubic_falls_as_one_over_the_rank(kind: NoiseKind) -> None:
    """The update of f(W) = W_11^3 at 0, by antithetic pairs and the real update."""
    sigma, num_pairs, ranks = 0.1, 150_000, (1, 2, 4)
    biases = []
    for rank in ranks:
        noise_P = perturbations(kind, num_pairs, rank, 2, 3, seed=rank)[:, 1, 1]
        weight_P = ((sigma * noise_P) ** 3 - (-sigma * noise_P) ** 3) / 2 / sigma / num_pairs
        matrix = NoisyMatrix(0, 2, 3, rank)
        got = matrix_update(NoiseStream(rank, 0, kind), range(num_pairs), weight_P, matrix)
        error = sigma**2 * (noise_P**4).std() / math.sqrt(num_pairs)
        bias = float(got[1, 1]) - 3 * sigma**2
        wanted = sigma**2 * (KURTOSIS[kind] ** 2 - 3) / rank
        assert abs(bias - wanted) <= NUM_ERRORS * error + 1e-12
        assert NUM_ERRORS * error < abs(wanted) / 2
        biases.append(bias)
    slope = np.polyfit(np.log(ranks), np.log(np.abs(biases)), 1)[0]
    assert slope == pytest.approx(-1, abs=0.15)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_antithetic", [True, False])
def test_rank_one_is_unbiased_on_linear_and_quadratic_objectives(
    kind: NoiseKind, is_antithetic: bool
) -> None:
    """f(W) = <L, W> + <W, H W> / 2 at some W: the estimate's mean is L + H W, without any bias."""
    generator = np.random.default_rng(3)
    linear, weight = generator.standard_normal((2, 5, 4))
    half = generator.standard_normal((5, 5))
    hessian = half + half.T
    noise = perturbations(kind, 100_000, 1, 5, 4)
    sigma = 0.5

    def objective(matrices: np.ndarray, is_quadratic: bool) -> np.ndarray:
        value = np.einsum("rc,prc->p", linear, matrices)
        if is_quadratic:
            value += np.einsum("prc,rs,psc->p", matrices, hessian, matrices, optimize=True) / 2
        return value

    for is_quadratic in (False, True):
        gradient = linear + hessian @ weight if is_quadratic else linear
        above = objective(weight + sigma * noise, is_quadratic)
        # Without the partner any constant may be taken off; the value at the mean keeps it quiet.
        below = objective(weight - sigma * noise, is_quadratic) if is_antithetic else 0.0
        base = 0.0 if is_antithetic else objective(weight[None], is_quadratic)
        slope = (above - below) / (2 * sigma) if is_antithetic else (above - base) / sigma
        scale = float(np.linalg.norm(gradient))
        require_mean(slope[:, None, None] * noise, gradient, 0.08 * scale)


def variance_factor(kurtosis: float, rank: int, rows: int, columns: int) -> float:
    """`E[|E|^2 <G, E>^2] / |G|^2`."""
    first = (kurtosis - 1) * (rows + columns) + kurtosis**2 - 2 * kurtosis - 1
    return rows * columns + 2 + first / rank


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [1, 4])
def test_the_variance_identity(kind: NoiseKind, rank: int) -> None:
    rows, columns = 7, 4
    slope = np.random.default_rng(4).standard_normal((rows, columns))
    noise = perturbations(kind, 150_000, rank, rows, columns)
    inner = np.einsum("rc,prc->p", slope, noise)
    samples = (noise**2).sum(axis=(1, 2)) * inner**2 / (slope**2).sum()
    wanted = variance_factor(KURTOSIS[kind], rank, rows, columns)
    require_mean(samples, wanted, 3.0 if rank == 1 else 1.2)
    gaussian = rows * columns + 2 + (2 * rows + 2 * columns + 2) / rank
    assert variance_factor(3, rank, rows, columns) == pytest.approx(gaussian, rel=1e-15)


def mean_of_product(kurtosis: Fraction, *entries: tuple[int, int]) -> Fraction:
    """Mean of a product of four entries of a factor, named by (row, column)."""
    counts = sorted(entries.count(entry) for entry in set(entries))
    return {(4,): kurtosis, (2, 2): Fraction(1)}.get(tuple(counts), Fraction(0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_variance_identity_exactly(kind: NoiseKind, rank: int) -> None:
    """Every term of `sum_ij E[E_ij^2 E_00^2]` for m, n = 3, 2, from the moments of one entry."""
    kurtosis, total = Fraction(KURTOSIS[kind]), Fraction(0)
    for i, j in itertools.product(range(3), range(2)):
        for s, t, u, v in itertools.product(range(rank), repeat=4):
            left = mean_of_product(kurtosis, (s, i), (t, i), (u, 0), (v, 0))
            total += left * mean_of_product(kurtosis, (s, j), (t, j), (u, 0), (v, 0))
    assert float(total / rank**2) == pytest.approx(variance_factor(KURTOSIS[kind], rank, 3, 2))


@pytest.mark.parametrize(("rank", "rows", "columns"), [(1, 3, 4), (2, 2, 3), (3, 2, 2)])
def test_all_signs_enumerated(rank: int, rows: int, columns: int) -> None:
    """Second moments and the variance identity of Rademacher noise, in integers."""
    matrices = np.array(list(sign_matrices(rank, rows, columns)))
    flat = matrices.reshape(len(matrices), -1)
    assert not flat.sum(axis=0).any()
    assert np.array_equal(flat.T @ flat, len(flat) * rank * np.eye(rows * columns, dtype=int))
    slope = np.arange(1, rows * columns + 1).reshape(rows, columns)
    inner = (slope * matrices).sum(axis=(1, 2))
    total = int(((matrices**2).sum(axis=(1, 2)) * inner**2).sum())
    measured = Fraction(total, len(flat) * rank**2 * int((slope**2).sum()))
    assert measured == rows * columns + 2 - Fraction(2, rank)


@pytest.mark.parametrize("kind", INTEGER_KINDS)
@pytest.mark.parametrize(
    ("rank", "num_pairs", "rows", "columns"),
    [
        (1, 1, 20, 30),
        (1, 7, 20, 30),
        (3, 4, 20, 30),
        (1, 25, 20, 30),
        (4, 10, 30, 20),
        (2, 6, 9, 40),
    ],
)
def test_the_rank_of_the_update(
    kind: NoiseKind, rank: int, num_pairs: int, rows: int, columns: int
) -> None:
    weight_P = np.random.default_rng(0).standard_normal(num_pairs)
    matrix = NoisyMatrix(2, rows, columns, rank)
    delta = matrix_update(NoiseStream(3, 1, kind), range(num_pairs), weight_P, matrix)
    assert int(torch.linalg.matrix_rank(delta)) == min(rank * num_pairs, rows, columns)


@pytest.mark.parametrize("kind", INTEGER_KINDS)
def test_antithetic_noise_cancels_exactly(kind: NoiseKind) -> None:
    stream, matrix = NoiseStream(6, 0, kind), NoisyMatrix(0, 33, 18, 2)
    weight_P = np.random.default_rng(0).standard_normal(20)
    both = [*range(20), *range(20)]
    assert not matrix_update(stream, both, np.concatenate([weight_P, -weight_P]), matrix).any()
    fitness_N2 = np.random.default_rng(1).standard_normal((20, 2))
    is_equal_N = np.arange(20) % 3 == 0
    fitness_N2[is_equal_N, 1] = fitness_N2[is_equal_N, 0]
    shaped_N2 = shape_z_score(fitness_N2.ravel()).reshape(-1, 2)
    weight_P = (shaped_N2[:, 0] - shaped_N2[:, 1]) / 2
    others = np.flatnonzero(~is_equal_N)
    wanted = matrix_update(stream, others.tolist(), weight_P[others], matrix)
    assert wanted.any() and torch.equal(matrix_update(stream, range(20), weight_P, matrix), wanted)
    assert not matrix_update(stream, range(0, 20, 3), weight_P[is_equal_N], matrix).any()


@pytest.mark.parametrize("kind", INTEGER_KINDS)
@pytest.mark.parametrize("rank", [1, 4])
def test_equality_with_a_dense_strategy(kind: NoiseKind, rank: int) -> None:
    """Every member's matrix made, evaluated and averaged as the paper writes it, in float64."""
    sigma, num_pairs, rows, columns = 0.05, 40, 48, 31
    generator = np.random.default_rng(8)
    weight, target = generator.standard_normal((2, rows, columns))
    noise_P = perturbations(kind, num_pairs, rank, rows, columns, seed=12)
    noise_M = np.stack([noise_P, -noise_P], axis=1).reshape(-1, rows, columns)
    fitness_M = -np.abs(np.sin(weight + sigma * noise_M) - target).sum(axis=(1, 2))
    shaped_M = shape_z_score(fitness_M)
    dense = sum(shaped * noise for shaped, noise in zip(shaped_M, noise_M, strict=True))
    dense = sigma * dense / len(noise_M)

    weight_P = (shaped_M[0::2] - shaped_M[1::2]) / 2 / num_pairs
    matrix = NoisyMatrix(0, rows, columns, rank)
    got = matrix_update(NoiseStream(12, 0, kind), range(num_pairs), weight_P, matrix, scale=sigma)
    # The grid of the weights: 2^-37 of the largest here.
    np.testing.assert_allclose(got.numpy(), dense, rtol=0, atol=1e-10 * np.abs(dense).max())


@pytest.mark.parametrize("kind", INTEGER_KINDS)
def test_no_factor_row_comes_twice(kind: NoiseKind) -> None:
    """Neither at the next seed, generation, parameter and pair, nor with the other sign."""
    rows = [
        factor_noise(NoiseStream(seed, generation, kind), range(8), parameter, 4, 64).reshape(
            -1, 64
        )
        for seed in (41, 42, 43)
        for generation in (0, 1)
        for parameter in range(6)
    ]
    every = np.concatenate(rows)
    every = np.concatenate([every, -every])
    assert len(every) == 2 * 3 * 2 * 6 * 8 * 4
    assert len(np.unique(every, axis=0)) == len(every)
