"""Scores against what training took: curves of several seeds on common places, with a band.

Between two evaluations a prompt's score is drawn as a straight line. The band is a bootstrap over
the held-out prompts and the seeds: 95 % of the means of what is drawn with repetition.

Shape suffixes: _S seeds, _P prompts, _X places on the axis.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from es_align.compare.config import HeldoutScore
from es_align.compare.records import Point, Result, as_array
from kernels.noise import Purpose, philox

NUM_PLACES = 60
NUM_RESAMPLES = 1000

Axis = Callable[[Point], float]


class Band(NamedTuple):
    """A curve and its 95 % interval."""

    x_X: np.ndarray
    mean_X: np.ndarray
    low_X: np.ndarray
    high_X: np.ndarray


def paired_scores(point: Point, score: HeldoutScore) -> np.ndarray:
    """Of each prompt, the reward, or passed or not where the reward has verdicts. float64 (P,)."""
    passed_P = as_array(point.passed_P)
    has_verdicts = score == "pass_rate" and np.isfinite(passed_P).any()
    return passed_P if has_verdicts else as_array(point.rewards_P)


def band(results: Sequence[Result], axis: Axis, score: HeldoutScore) -> Band:
    """The mean over seeds and prompts, from the start to where the shortest run ended."""
    end = min(axis(result.last) for result in results)
    x_X = np.linspace(0.0, end, NUM_PLACES)
    scores_SPX = np.stack([_interpolated(result, axis, score, x_X) for result in results])
    random = philox(0, Purpose.BOOTSTRAP)
    num_seeds, num_prompts, _ = scores_SPX.shape
    means = []
    for _ in range(NUM_RESAMPLES):
        seeds = random.integers(num_seeds, size=num_seeds)
        prompts = random.integers(num_prompts, size=num_prompts)
        means.append(np.nanmean(scores_SPX[seeds][:, prompts], axis=(0, 1)))
    low_X, high_X = np.quantile(np.stack(means), [0.025, 0.975], axis=0)
    return Band(x_X, np.nanmean(scores_SPX, axis=(0, 1)), low_X, high_X)


def _interpolated(result: Result, axis: Axis, score: HeldoutScore, x_X: np.ndarray) -> np.ndarray:
    at = np.array([axis(point) for point in result.points])
    scores_TP = np.stack([paired_scores(point, score) for point in result.points])
    return np.stack([np.interp(x_X, at, scores_T) for scores_T in scores_TP.T])
