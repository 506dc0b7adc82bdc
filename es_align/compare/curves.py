"""Scores against what training took: curves of several seeds on common places, with a band.

Between two evaluations a prompt's score is drawn as a straight line. The band is a bootstrap over
the held-out prompts and the seeds: 95 % of the means of what is drawn with repetition.

Shape suffixes: _S seeds, _P prompts, _X places on the axis.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from es_align.bootstrap import interval_of, resampled_means
from es_align.compare.config import HeldoutScore
from es_align.compare.records import Point, Result

NUM_PLACES = 60
NUM_RESAMPLES = 1000

Axis = Callable[[Point], float]


class Band(NamedTuple):
    """A curve and its 95 % interval."""

    x_X: np.ndarray
    mean_X: np.ndarray
    low_X: np.ndarray
    high_X: np.ndarray


def band(results: Sequence[Result], axis: Axis, score: HeldoutScore) -> Band:
    """The mean over seeds and prompts, from the start to where the shortest run ended."""
    end = min(axis(result.last) for result in results)
    x_X = np.linspace(0.0, end, NUM_PLACES)
    scores_SPX = np.stack([_interpolated(result, axis, score, x_X) for result in results])
    low_X, high_X = interval_of(resampled_means(scores_SPX, samples=NUM_RESAMPLES, seed=0))
    return Band(x_X, np.nanmean(scores_SPX, axis=(0, 1)), low_X, high_X)


def _interpolated(result: Result, axis: Axis, score: HeldoutScore, x_X: np.ndarray) -> np.ndarray:
    at = np.array([axis(point) for point in result.points])
    scores_TP = np.stack([point.scores(score) for point in result.points])
    return np.stack([np.interp(x_X, at, scores_T) for scores_T in scores_TP.T])
