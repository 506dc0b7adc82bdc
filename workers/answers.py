"""What came back for a chunk, and the tables that its result is made of.

Shape suffixes: _M members, _P prompts, _S samples of a prompt.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rewards.base import Score
from workers.engines.base import Completion
from workers.objectives import sample_means, sample_scores
from workers.protocol import LOG_LIKELIHOOD, Chunk, ChunkResult, Prompt, Sample


class Answered(NamedTuple):
    """What came back for a chunk, in the order of its requests."""

    completions: Sequence[Completion]
    scores: Sequence[Score]
    num_prompt_tokens: int
    generate_s: float
    score_s: float  # that scoring added


def chunk_result(
    chunk: Chunk, prompts: Sequence[Prompt], answered: Answered, *, has_verdict: bool
) -> ChunkResult:
    """The samples of each member and prompt taken together; without a verdict nothing passes or
    fails.
    """
    completions, scores = answered.completions, answered.scores
    shape = (len(chunk.members), len(prompts), chunk.num_samples)
    rewards_MPS = _table([score.reward for score in scores], shape)
    passed_MPS = np.array([score.passed for score in scores]).reshape(shape)
    return ChunkResult(
        chunk_id=chunk.chunk_id,
        members=chunk.members,
        rewards_MP=sample_scores(rewards_MPS, passed_MPS, chunk.pass_k),
        passed_MP=passed_MPS.mean(axis=2) if has_verdict else np.full(shape[:2], np.nan),
        metrics_MP=_metric_tables(scores, completions, shape),
        reasons=Counter(score.reason for score in scores),
        num_completions=len(completions),
        num_unscored=int(np.isnan(rewards_MPS).sum()),
        num_generated_tokens=sum(len(completion.token_ids) for completion in completions),
        num_prompt_tokens=answered.num_prompt_tokens,
        generate_s=answered.generate_s,
        score_s=answered.score_s,
        samples=_samples(chunk, prompts, completions, scores),
    )


def _samples(
    chunk: Chunk,
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    scores: Sequence[Score],
) -> tuple[Sample, ...]:
    """The first completion of each prompt by the members that are kept."""
    wanted = set(chunk.sample_members)
    asked = [(member, prompt) for member in chunk.members for prompt in prompts]
    firsts = completions[:: chunk.num_samples], scores[:: chunk.num_samples]
    return tuple(
        Sample(
            member=member,
            prompt_id=prompt.prompt_id,
            prompt=prompt.messages[-1]["content"],
            completion=completion.text,
            reward=score.reward,
            passed=score.passed,
            reason=score.reason,
        )
        for (member, prompt), completion, score in zip(asked, *firsts, strict=True)
        if member in wanted
    )


def _table(values: Sequence[float | None], shape: tuple[int, int, int]) -> np.ndarray:
    """Values of all completions as float64 (M, P, S); NaN for None."""
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64).reshape(shape)


def _metric_tables(
    scores: Sequence[Score], completions: Sequence[Completion], shape: tuple[int, int, int]
) -> dict[str, np.ndarray]:
    """By name the mean over the samples, float64 (M, P): what the reward measures beside itself,
    and the log-likelihood where it was asked for.
    """
    names = sorted({name for score in scores for name in score.metrics})
    columns = {name: [score.metrics.get(name) for score in scores] for name in names}
    likelihoods = [_per_token(completion) for completion in completions]
    if any(likelihood is not None for likelihood in likelihoods):
        columns[LOG_LIKELIHOOD] = likelihoods
    return {name: sample_means(_table(values, shape)) for name, values in columns.items()}


def _per_token(completion: Completion) -> float | None:
    """Mean log probability of a completion's tokens; None if there is none."""
    if completion.log_likelihood is None or not completion.token_ids:
        return None
    return completion.log_likelihood / len(completion.token_ids)
