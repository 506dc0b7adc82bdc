"""The gain's interval: paired, deterministic, of the right width."""

import math

import numpy as np
import pytest

from es_align import bootstrap
from es_align.bootstrap import Gain, paired_gain, resampled_means

BEFORE_P = np.array([0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0])
AFTER_P = np.array([1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0])


def test_interval_is_that_of_the_exact_distribution() -> None:
    gain = paired_gain(BEFORE_P, AFTER_P, samples=10_000, seed=0, confidence=0.9)
    # Three up, one down, four unchanged: by the exact multinomial, resampled gains are at most
    # -1/4 in 3.2 % and -1/8 in 9.2 %, at most 1/2 in 91.3 % and 5/8 in 97.5 %.
    assert gain == Gain(gain=0.25, low=-0.125, high=0.625, num_prompts=8, num_dropped=0)


def test_verdicts_count_as_zero_and_one() -> None:
    as_verdicts = paired_gain(BEFORE_P > 0.5, AFTER_P > 0.5, samples=500, seed=1)
    assert as_verdicts == paired_gain(BEFORE_P, AFTER_P, samples=500, seed=1)


def test_the_same_shift_everywhere_has_no_width() -> None:
    before_P = np.array([0.0, 8.0, -4.0, 100.0])
    gain = paired_gain(before_P, before_P + 0.5, samples=200, seed=0)
    assert (gain.gain, gain.low, gain.high) == (0.5, 0.5, 0.5)


def test_prompts_without_both_scores_are_dropped_and_counted() -> None:
    before_P = np.array([0.0, np.nan, 1.0, np.inf, 2.0])
    after_P = np.array([1.0, 5.0, 2.0, np.inf, np.nan])
    gain = paired_gain(before_P, after_P, samples=100, seed=0)
    assert gain == Gain(1.0, 1.0, 1.0, num_prompts=2, num_dropped=3)


def test_nothing_in_common_is_not_a_number() -> None:
    gain = paired_gain(np.array([np.nan, 1.0]), np.array([1.0, np.nan]), samples=100, seed=0)
    assert [math.isnan(number) for number in (gain.gain, gain.low, gain.high)] == [True] * 3
    assert (gain.num_prompts, gain.num_dropped) == (0, 2)


def test_the_seed_alone_decides_and_blocks_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(4)
    before_P, after_P = random.random((2, 50))
    first = paired_gain(before_P, after_P, samples=1000, seed=7)
    assert paired_gain(before_P, after_P, samples=1000, seed=7) == first
    assert paired_gain(before_P, after_P, samples=1000, seed=8) != first
    monkeypatch.setattr(bootstrap, "BLOCK_NUMBERS", 64)
    assert paired_gain(before_P, after_P, samples=1000, seed=7) == first


def test_width_is_that_of_the_normal_approximation() -> None:
    random = np.random.default_rng(0)
    before_P = random.random(400)
    after_P = before_P + random.normal(0.1, 0.5, 400)
    gain = paired_gain(before_P, after_P, samples=10_000, seed=0)
    standard_error = (after_P - before_P).std(ddof=1) / 20
    assert gain.high - gain.low == pytest.approx(2 * 1.96 * standard_error, rel=0.05)
    assert gain.low < gain.gain < gain.high


def test_a_wider_confidence_holds_the_narrower() -> None:
    narrow = paired_gain(BEFORE_P, AFTER_P, samples=2000, seed=0, confidence=0.5)
    wide = paired_gain(BEFORE_P, AFTER_P, samples=2000, seed=0, confidence=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize(
    ("num_after", "samples", "confidence"), [(7, 100, 0.95), (8, 0, 0.95), (8, 100, 1.0)]
)
def test_what_cannot_be_resampled_is_refused(
    num_after: int, samples: int, confidence: float
) -> None:
    with pytest.raises(ValueError, match="give one shape, samples >= 1"):
        paired_gain(BEFORE_P, AFTER_P[:num_after], samples=samples, seed=0, confidence=confidence)


def test_seeds_are_drawn_as_prompts_are() -> None:
    # Two seeds that differ by 1 on every prompt: a mean is 0, 1/2 or 1 with chances 1, 2, 1 of 4.
    scores_SPX = np.stack([np.zeros((6, 1)), np.ones((6, 1))])
    means_N = resampled_means(scores_SPX, samples=2000, seed=0)[:, 0]
    shares = [float(np.mean(means_N == mean)) for mean in (0.0, 0.5, 1.0)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.03)
    assert not resampled_means(scores_SPX[:1], samples=50, seed=0).any()


def test_a_resampled_prompt_without_a_score_is_left_out() -> None:
    scores_SPX = np.array([[[0.5, 1.0], [np.nan, np.nan]]])
    assert np.unique(resampled_means(scores_SPX, samples=50, seed=0)).tolist() == [0.5, 1.0]
    assert np.isnan(resampled_means(scores_SPX[:, 1:], samples=3, seed=0)).all()
