"""One score from several samples: what a member's completions of one prompt amount to.

The worker takes the samples together, so that the wire carries one float per member and prompt,
however many samples there are. Either the mean reward, or pass@k: the probability that at least one
of k samples passes, estimated without bias from n >= k of them (Chen et al. 2021, arXiv 2107.03374,
section 2.1). A sample without a score counts for nothing: neither as a failure nor as a try.

Suffixes: _M members, _P prompts, _S samples.
"""

import math

import numpy as np


def pass_at_k(num_samples: int, num_passed: int, k: int) -> float:
    """`1 - C(n - c, k) / C(n, k)` for n samples with c passing; NaN if there are fewer than k.

    The binomials are whole numbers and divided once, so the result is the nearest float64.
    """
    if num_samples < k:
        return math.nan
    num_draws = math.comb(num_samples, k)
    return (num_draws - math.comb(num_samples - num_passed, k)) / num_draws


def sample_scores(
    rewards_MPS: np.ndarray, passed_MPS: np.ndarray, pass_k: int | None
) -> np.ndarray:
    """One score of each member on each prompt, float64 (M, P).

    Takes rewards, float64 (M, P, S), where a non-finite entry is a sample without a score, and
    whether each passed, bool (M, P, S). With `pass_k` None the score is the mean of the rewards
    there are, in the reward's own unit, otherwise pass@k of the samples that have a score, in
    [0, 1]. NaN where no sample has a score, or fewer than `pass_k` have one.
    """
    if pass_k is None:
        return sample_means(rewards_MPS)
    is_scored_MPS = np.isfinite(rewards_MPS)
    num_scored_MP = is_scored_MPS.sum(axis=2)
    num_passed_MP = (passed_MPS & is_scored_MPS).sum(axis=2)
    scores = [
        pass_at_k(num_scored, num_passed, pass_k)
        for num_scored, num_passed in zip(
            num_scored_MP.ravel().tolist(), num_passed_MP.ravel().tolist(), strict=True
        )
    ]
    return np.array(scores, dtype=np.float64).reshape(num_scored_MP.shape)


def sample_means(values_MPS: np.ndarray) -> np.ndarray:
    """Mean over the samples that have a finite value, float64 (M, P); NaN where none has one.

    Sums are exactly rounded, so the order of the samples changes no bit.
    """
    num_members, num_prompts, num_samples = values_MPS.shape
    means = [
        _mean([value for value in samples if math.isfinite(value)])
        for samples in values_MPS.reshape(-1, num_samples).tolist()
    ]
    return np.array(means, dtype=np.float64).reshape(num_members, num_prompts)


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
