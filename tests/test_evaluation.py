"""Held-out evaluations: what counts, how sure it is, and that a row gives back what was written."""

import json

import numpy as np
import pytest

from es_align.config import Config
from es_align.evaluation import Evaluation, best_of, gains


def make(generation: int, rewards: list[float], passed: list[float]) -> Evaluation:
    return Evaluation(
        generation, np.array(rewards), np.array(passed), {"strict": 0.5}, {"ok": len(rewards)}
    )


def test_prompts_without_a_score_count_nowhere() -> None:
    evaluation = make(3, [1.0, np.nan, 0.5, 0.0], [1.0, np.nan, 0.0, 0.0])
    assert evaluation.reward == 0.5
    assert evaluation.pass_rate == pytest.approx(1 / 3)
    assert evaluation.num_prompts == 4
    nothing = make(3, [np.nan], [np.nan])
    assert np.isnan(nothing.reward) and np.isnan(nothing.pass_rate_ci95[0])


def test_wilson_interval_of_24_in_96() -> None:
    evaluation = make(0, [0.0] * 96, [1.0] * 24 + [0.0] * 72)
    assert evaluation.pass_rate_ci95 == pytest.approx((0.17414, 0.34510), abs=1e-4)


def test_a_row_gives_back_the_evaluation() -> None:
    written = make(7, [0.1, np.nan, 1.0], [0.0, np.nan, 1.0])
    read = Evaluation.from_row(json.loads(json.dumps(written.to_row(), allow_nan=False)))
    np.testing.assert_array_equal(read.rewards_P, written.rewards_P)
    np.testing.assert_array_equal(read.passed_P, written.passed_P)
    assert (read.generation, read.metrics, read.reasons) == (7, {"strict": 0.5}, {"ok": 3})


def test_the_earliest_of_equals_is_the_best() -> None:
    evaluations = [make(1, [0.2], [0.0]), make(5, [0.6], [1.0]), make(9, [0.6], [1.0])]
    assert best_of(evaluations).generation == 5


def test_an_evaluation_without_a_score_is_not_the_best() -> None:
    evaluations = [make(1, [np.nan], [np.nan]), make(5, [-0.6], [0.0]), make(9, [np.nan], [np.nan])]
    assert best_of(evaluations).generation == 5
    assert best_of(evaluations[::2]).generation == 1


def test_gains_are_paired() -> None:
    before = make(0, [0.0, 0.5, 1.0, 0.5], [0.0, 0.0, 1.0, 0.0])
    after = make(9, [0.25, 0.75, 1.25, 0.75], [0.0, 1.0, 1.0, 0.0])
    reward, passed = gains(before, after, Config())
    assert (reward.gain, reward.low, reward.high) == (0.25, 0.25, 0.25)
    assert passed.gain == 0.25 and passed.low == 0.0
