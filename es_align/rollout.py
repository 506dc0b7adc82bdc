"""From members to scores: cut work into chunks, run them on the pool,
put the tables together again.

How work is cut depends on the configuration alone,
so the same numbers come back from one worker or a hundred.

Shape suffixes: _M members, _P prompts.
"""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from es_align.chunking import configured_chunks
from es_align.config import Config, heldout_new_tokens, pass_k
from es_align.strategies.base import Population
from workers.members import Members, some_members
from workers.protocol import BASE_MEMBER, MEAN_MEMBER, Chunk, ChunkResult, Sample, Sampling

if TYPE_CHECKING:  # Ray and torch, which `es-align plan` does without
    from workers.pool import Pool

EVALUATION_PROMPTS_PER_CHUNK = 128


@dataclass(frozen=True, slots=True)
class Rollout:
    """All scores of some members on some prompts, the samples of each taken together;
    NaN in `rewards_MP` is a prompt without a score.
    """

    rewards_MP: np.ndarray  # float64, in the unit of the objective
    passed_MP: np.ndarray  # float64, share of the samples that pass; NaN: the reward has no verdict
    metrics_MP: Mapping[str, np.ndarray]  # float64
    reasons: Mapping[str, int]
    samples: tuple[Sample, ...]
    num_completions: int  # members times prompts times samples
    num_failed: int  # completions without a score
    num_generated_tokens: int
    num_prompt_tokens: int
    generate_s: float  # summed over workers
    score_s: float  # that scoring took beyond that, summed over workers

    @property
    def reward_mean_M(self) -> np.ndarray:
        """Mean score of each member over what was scored; NaN for a member with nothing."""
        is_scored_MP = np.isfinite(self.rewards_MP)
        sums_M = np.where(is_scored_MP, self.rewards_MP, 0.0).sum(axis=1)
        counts_M = is_scored_MP.sum(axis=1)
        return np.where(counts_M > 0, sums_M / np.maximum(counts_M, 1), np.nan)


def run_population(
    pool: "Pool", config: Config, population: Population, prompt_ids: Sequence[str]
) -> Rollout:
    """Every member on every prompt of the generation."""
    chunks = population_chunks(config, population, prompt_ids)
    return _joined(pool.evaluate(chunks, config.workers.drop_slowest), axis=0)


def population_chunks(
    config: Config, population: Population, prompt_ids: Sequence[str]
) -> list[Chunk]:
    """A generation cut into units of work, in the order of its members."""
    sampling = _sampling(config, population.generation)
    kept = sample_members(len(population), config.samples_per_generation, population.generation)
    return [
        Chunk(
            chunk_id=chunk_id,
            generation=population.generation,
            members=tuple(members),
            perturbed=some_members(population.members, members.start, members.stop),
            prompt_ids=tuple(prompt_ids),
            sampling=sampling,
            sample_members=tuple(member for member in kept if member in members),
            num_samples=config.samples_per_prompt,
            pass_k=pass_k(config.objective),
        )
        for chunk_id, members in enumerate(configured_chunks(config))
    ]


def run_one(
    pool: "Pool",
    config: Config,
    one: Members | None,
    prompt_ids: Sequence[str],
    *,
    generation: int,
    with_samples: bool = False,
) -> Rollout:
    """One model, the mean or (None) the unperturbed base, on held-out prompts, greedy, one
    completion each.
    """
    greedy = [Sampling(heldout_new_tokens(config))]
    (rollout,) = run_samples(
        pool, config, one, prompt_ids, greedy, generation=generation, with_samples=with_samples
    )
    return rollout


def run_samples(
    pool: "Pool",
    config: Config,
    one: Members | None,
    prompt_ids: Sequence[str],
    samplings: Sequence[Sampling],
    *,
    generation: int,
    with_samples: bool = False,
) -> list[Rollout]:
    """As `run_one`, once for each way of sampling, so that every completion has its own score."""
    member = BASE_MEMBER if one is None else MEAN_MEMBER
    starts = range(0, len(prompt_ids), EVALUATION_PROMPTS_PER_CHUNK)
    chunks = [
        Chunk(
            chunk_id=index,
            generation=generation,
            members=(member,),
            perturbed=one,
            prompt_ids=tuple(prompt_ids[start : start + EVALUATION_PROMPTS_PER_CHUNK]),
            sampling=sampling,
            sample_members=(member,) if with_samples else (),
        )
        for index, (sampling, start) in enumerate(itertools.product(samplings, starts))
    ]
    results, num = pool.evaluate(chunks), len(starts)
    return [_joined(results[place : place + num], axis=1) for place in range(0, len(results), num)]


def run_base_copies(
    pool: "Pool", config: Config, num_copies: int, prompt_ids: Sequence[str]
) -> Rollout:
    """The unperturbed model several times in one batch, drawn as a generation is:
    the engine's own noise.
    """
    chunk = Chunk(
        chunk_id=0,
        generation=0,
        members=tuple(range(num_copies)),
        perturbed=None,
        prompt_ids=tuple(prompt_ids),
        sampling=_sampling(config, 0),
        num_samples=config.samples_per_prompt,
        pass_k=pass_k(config.objective),
    )
    return _joined(pool.evaluate([chunk]), axis=0)


def sample_members(num_members: int, num_kept: int, generation: int) -> tuple[int, ...]:
    """Members whose texts are kept: others each generation, so that in time every index is seen."""
    return tuple(sorted({(generation * num_kept + k) % num_members for k in range(num_kept)}))


def _sampling(config: Config, generation: int) -> Sampling:
    """How a generation's completions are drawn: on a seed of its own, the same for all members."""
    return Sampling(
        config.max_new_tokens,
        config.temperature,
        seed=(config.seed << 32) + generation,
        with_log_likelihood=config.strategy.tie_break > 0,
    )


def _joined(results: Sequence[ChunkResult], *, axis: int) -> Rollout:
    reasons: Counter[str] = Counter()
    for result in results:
        reasons.update(result.reasons)
    names = sorted({name for result in results for name in result.metrics_MP})
    return Rollout(
        rewards_MP=np.concatenate([result.rewards_MP for result in results], axis=axis),
        passed_MP=np.concatenate([result.passed_MP for result in results], axis=axis),
        metrics_MP={
            name: np.concatenate(
                [
                    result.metrics_MP.get(name, np.full_like(result.rewards_MP, np.nan))
                    for result in results
                ],
                axis=axis,
            )
            for name in names
        },
        reasons=reasons,
        samples=tuple(sample for result in results for sample in result.samples),
        num_completions=sum(result.num_completions for result in results),
        num_failed=sum(result.num_unscored for result in results),
        num_generated_tokens=sum(result.num_generated_tokens for result in results),
        num_prompt_tokens=sum(result.num_prompt_tokens for result in results),
        generate_s=sum(result.generate_s for result in results),
        score_s=sum(result.score_s for result in results),
    )
