"""From rewards (a completion) to fitness (a member) to the shaped fitness a strategy uses.

Prompts differ in difficulty more than members differ in skill, so each prompt is centred over the
members first: with common prompts that removes the prompt's share of the variance (the baseline of
GRPO, Shao et al. 2024, across members instead of samples). It only matters where members miss
scores: with all of them the averages of all members move by the same amount. Shaping then fixes the
scale: z-scores, the leave-one-out baseline of RLOO (Ahmadian et al. 2024, arXiv 2402.14740) and
LOREN, or the centred ranks of Wierstra et al. 2014 and Salimans et al. 2017 (arXiv 1703.03864).

Rewards of 0 and 1 leave many members equal, and a strategy learns nothing from equals. If asked
(`strategy.tie_break`), they are spread by how likely each held its own completions. That is a
heuristic which rewards confidence, right or wrong, in the spirit of rewards from the model's own
certainty (Prabhudesai et al. 2025, arXiv 2505.22660; Zhao et al. 2025, arXiv 2505.19590); as it
only acts between equals, the reward always has the last word.

Sums are exactly rounded (`math.fsum`): equal scores in another order give equal bits, so ties stay
ties, and replay computes the same shaped fitness on any machine. Not-a-number means no score, and
is never a zero.

Suffixes: _M members, _P prompts.
"""

import math
from collections.abc import Callable

import numpy as np

Shaping = Callable[[np.ndarray], np.ndarray]

# Members further apart than this differ; closer, they differ by the rounding of an average of
# rewards.
MIN_SPREAD = 1e-12


def centre_prompts(rewards_MP: np.ndarray) -> np.ndarray:
    """Fitness of each member: the mean of its scores less the mean of those prompts' averages.

    Takes float64 (M, P) where a non-finite entry is a completion without a score; a prompt's
    average runs over the members that have a score there, so a member is compared on its own
    prompts only. Returns float64 (M,), NaN for a member without any score.
    """
    rewards_MP = np.asarray(rewards_MP, dtype=np.float64)
    is_scored_MP = np.isfinite(rewards_MP)
    average_P = np.array(
        [_mean(column[scored]) for column, scored in zip(rewards_MP.T, is_scored_MP.T, strict=True)]
    )
    return np.array(
        [
            _mean(row[scored]) - _mean(average_P[scored])
            for row, scored in zip(rewards_MP, is_scored_MP, strict=True)
        ]
    )


def average_rewards(rewards_MP: np.ndarray) -> np.ndarray:
    """Fitness of each member without centring: the mean of its scores, in the reward's own unit.

    Takes and returns what `centre_prompts` does. A member that misses the score of a hard prompt
    gains by it here.
    """
    rewards_MP = np.asarray(rewards_MP, dtype=np.float64)
    return np.array([_mean(row[np.isfinite(row)]) for row in rewards_MP])


CENTRINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "prompt": centre_prompts,
    "none": average_rewards,
}
"""By the name in `strategy.centring`: rewards float64 (M, P) to fitness float64 (M,)."""


def shape_centred(fitness_M: np.ndarray) -> np.ndarray:
    """Fitness less its mean over the members, in the reward's own unit."""
    return _on_finite(fitness_M, lambda values: _spread_or_zeros(values, is_scaled=False))


def shape_leave_one_out(fitness_M: np.ndarray) -> np.ndarray:
    """Fitness less the mean of the other members, in the reward's own unit.

    A member's baseline does not contain its own fitness, so it is independent of it; n / (n - 1)
    times `shape_centred`. A member alone has nobody to be compared with and gets 0.
    """
    return _on_finite(fitness_M, _leave_one_out)


def shape_z_score(fitness_M: np.ndarray) -> np.ndarray:
    """Fitness less its mean, divided by its standard deviation over the members (divisor n)."""
    return _on_finite(fitness_M, lambda values: _spread_or_zeros(values, is_scaled=True))


def shape_centred_ranks(fitness_M: np.ndarray) -> np.ndarray:
    """Ranks spread evenly over -0.5 to 0.5; equal fitness shares the average of its ranks."""
    return _on_finite(fitness_M, _centred_ranks)


def shape_none(fitness_M: np.ndarray) -> np.ndarray:
    """Fitness as it is; infinities become NaN."""
    return _on_finite(fitness_M, lambda values: values)


def break_ties(fitness_M: np.ndarray, likelihood_M: np.ndarray, tie_break: float) -> np.ndarray:
    """Fitness with members of equal fitness spread by the likelihood of their completions.

    Takes fitness and mean log-likelihood, both float64 (M,), and the share `tie_break` in
    [0, 0.5]. Each group of equals gets `tie_break * gap` times the centred ranks, -0.5 to 0.5, of
    its log-likelihoods, so it keeps its middle; `gap` is the smallest between two groups, or one
    unit of the reward if all members are equal. Groups therefore stay at least half of a gap apart
    and never change places. Equal is what differs by no more than `MIN_SPREAD`, the rounding of
    an average. A member without a finite log-likelihood keeps its fitness, one without a finite
    fitness stays NaN.
    """
    broken_M = np.where(np.isfinite(fitness_M), fitness_M, np.nan)
    order = np.argsort(broken_M, kind="stable")[: int(np.isfinite(broken_M).sum())]
    gaps = np.diff(broken_M[order])
    is_gap = gaps > MIN_SPREAD
    width = tie_break * min(gaps[is_gap].tolist(), default=1.0)
    for group in np.split(order, np.flatnonzero(is_gap) + 1):
        ranks = _on_finite(likelihood_M[group], _centred_ranks)
        broken_M[group] += width * np.where(np.isnan(ranks), 0.0, ranks)
    return broken_M


SHAPINGS: dict[str, Shaping] = {
    "centred": shape_centred,
    "leave_one_out": shape_leave_one_out,
    "z_score": shape_z_score,
    "centred_ranks": shape_centred_ranks,
    "none": shape_none,
}
"""By name: float64 (M,) to float64 (M,); NaN stays NaN, and a population of equals becomes zeros,
except under `none`."""


def _on_finite(fitness_M: np.ndarray, shape: Shaping) -> np.ndarray:
    is_finite_M = np.isfinite(fitness_M)
    shaped_M = np.full(len(fitness_M), np.nan)
    if is_finite_M.any():
        shaped_M[is_finite_M] = shape(np.asarray(fitness_M, dtype=np.float64)[is_finite_M])
    return shaped_M


def _spread_or_zeros(values: np.ndarray, *, is_scaled: bool) -> np.ndarray:
    if values.max() - values.min() <= MIN_SPREAD:
        return np.zeros(len(values))
    centred = values - _mean(values)
    return centred / math.sqrt(_mean(centred * centred)) if is_scaled else centred


def _leave_one_out(values: np.ndarray) -> np.ndarray:
    num_others = max(len(values) - 1, 1)
    return _spread_or_zeros(values, is_scaled=False) * (len(values) / num_others)


def _centred_ranks(values: np.ndarray) -> np.ndarray:
    ordered = np.sort(values)
    num_below = np.searchsorted(ordered, values, side="left")
    num_up_to = np.searchsorted(ordered, values, side="right")
    average_rank = (num_below + num_up_to - 1) / 2
    return average_rank / max(len(values) - 1, 1) - 0.5 * (len(values) > 1)


def _mean(values: np.ndarray) -> float:
    return math.fsum(values.tolist()) / len(values) if len(values) else math.nan
