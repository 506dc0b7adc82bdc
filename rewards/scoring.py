"""All rewards of a run on a batch of completions: each scored in its place, then added up.

Cheap shipped rewards run right here, the others in processes that can be killed. The sum is TRL's:
a reward that gives no score to a completion (None) is left out of its sum. One that failed is not:
then the completion has no score, because a sum without a penalty would be a prize for breaking it.
"""

import functools
import time
from collections.abc import Sequence

from rewards.base import Prompted, Score, score_batch, unscored
from rewards.models import RewardModel
from rewards.processes import ProcessPool
from rewards.registry import REWARD_MODEL, get_reward
from rewards.specs import RewardSpec

DEFAULT_LIMIT_S = 300.0
FAULT = "error:"  # how reasons of what failed begin


class Scorer:
    """Some rewards with weights; use as a context manager, or close it."""

    def __init__(
        self, specs: Sequence[RewardSpec], num_processes: int, limit_s: float = DEFAULT_LIMIT_S
    ) -> None:
        """`num_processes` for each shipped reward that needs them; `limit_s` for a whole batch.

        ModelError if a reward model cannot be loaded.
        """
        self._specs = tuple(specs)
        self._limit_s = limit_s
        self._pools = {
            index: ProcessPool(
                spec, spec.num_processes or (num_processes if spec.is_shipped else 1)
            )
            for index, spec in enumerate(specs)
            if spec.is_isolated
        }
        self._models = {
            index: RewardModel(spec)
            for index, spec in enumerate(specs)
            if spec.is_shipped and spec.name == REWARD_MODEL
        }

    def __enter__(self) -> "Scorer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Load every reward once; ConfigError if one cannot be."""
        for pool in self._pools.values():
            pool.start()

    def close(self) -> None:
        """End all processes."""
        for pool in self._pools.values():
            pool.close()

    def score(self, items: Sequence[Prompted], limit_s: float | None = None) -> list[Score]:
        """One score for every item, in order; `limit_s` for these, in place of the usual one."""
        ends = time.monotonic() + (self._limit_s if limit_s is None else limit_s)
        columns = [self._one(index, items, ends) for index in range(len(self._specs))]
        return [combine(self._specs, scores) for scores in zip(*columns, strict=True)]

    def _one(self, index: int, items: Sequence[Prompted], ends: float) -> list[Score]:
        spec = self._specs[index]
        if index in self._models:
            scores = self._models[index].score(items)
        elif index not in self._pools:
            reward = functools.partial(get_reward(spec.name), **spec.options)
            texts, rows = [item.completion for item in items], [item.columns for item in items]
            scores = score_batch(reward, texts, rows)
        else:
            scores = self._in_processes(index, items, ends)
        return scores if spec.pass_at is None else [_passed(s, spec.pass_at) for s in scores]

    def _in_processes(self, index: int, items: Sequence[Prompted], ends: float) -> list[Score]:
        """A fault of a call is put down to the items that fail when asked alone, call by call until
        a whole one fails that way, which is then the function's fault and not an item's.
        """
        spec, pool = self._specs[index], self._pools[index]
        size = 1 if spec.is_shipped else spec.batch_size
        starts = range(0, len(items), size)
        calls = [items[start : start + size] for start in starts]
        scores = [score for done in pool.run(calls, ends - time.monotonic()) for score in done]
        for start, call in zip(starts, calls, strict=True):
            places = slice(start, start + len(call))
            left_s = ends - time.monotonic()
            if len(call) == 1 or left_s <= 0 or not _has_failed(scores[places]):
                continue
            alone = pool.run([[item] for item in call], left_s)
            scores[places] = [score for (score,) in alone]
            if _has_failed(scores[places]):
                break
        return scores


def _has_failed(scores: Sequence[Score]) -> bool:
    """Whether none of a call's items has a score, for a fault."""
    return all(score.reason.startswith(FAULT) for score in scores)


def combine(specs: Sequence[RewardSpec], scores: Sequence[Score]) -> Score:
    """One completion's score: the weighted sum; the first reward decides whether it passes.

    With several, each one's reward is a metric under its label, and the reason is the first one's
    that failed, else the first one's.
    """
    if len(specs) == 1:
        score, weight = scores[0], specs[0].weight
        return score if score.reward is None else score._replace(reward=weight * score.reward)
    labels = _labels(specs)
    for label, score in zip(labels, scores, strict=True):
        if score.reason.startswith(FAULT):
            return unscored(f"{score.reason}:{label}")
    known = [
        (spec, s.reward) for spec, s in zip(specs, scores, strict=True) if s.reward is not None
    ]
    metrics = {
        label: score.reward
        for label, score in zip(labels, scores, strict=True)
        if score.reward is not None
    }
    for label, score in zip(labels, scores, strict=True):
        metrics |= {f"{label}/{name}": value for name, value in score.metrics.items()}
    total = sum(spec.weight * reward for spec, reward in known) if known else None
    return Score(total, scores[0].passed, metrics, scores[0].reason)


def _labels(specs: Sequence[RewardSpec]) -> list[str]:
    labels = [spec.label for spec in specs]
    return [
        label if labels.count(label) == 1 else f"{label}-{place}"
        for place, label in enumerate(labels, 1)
    ]


def _passed(score: Score, pass_at: float) -> Score:
    return score._replace(passed=score.reward is not None and score.reward >= pass_at)
