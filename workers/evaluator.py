"""What a worker does with a chunk: render, generate, score. No Ray here, so it runs anywhere.

Shape suffixes: _M members, _P prompts, _S samples of a prompt.
"""

import hashlib
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from kernels.errors import WorkerError
from rewards.base import Prompted, Score, score_batch
from rewards.registry import get_reward
from rewards.scoring import DEFAULT_LIMIT_S, Scorer
from rewards.specs import RewardSpec
from workers.checkpoints import Checkpoint
from workers.engines.base import Completion, Engine, EngineSpec, Request
from workers.layers import PerturbedLayer, save_factors
from workers.means import Means, MeanSettings
from workers.members import Members, NoiseMembers
from workers.objectives import sample_means, sample_scores
from workers.protocol import (
    BASE_MEMBER,
    LOG_LIKELIHOOD,
    Chunk,
    ChunkResult,
    Move,
    Moved,
    Prompt,
    Sample,
    Sampling,
)
from workers.rendering import Renderer

RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """Everything a worker needs to start, sent once."""

    engine: Literal["vllm", "torch"]
    # Run on the worker's machine, so each converts or fetches its own.
    locate_model: Callable[[], Path]
    precision: str
    reward_name: str
    max_members: int
    max_model_len: int
    max_new_tokens: int
    kv_cache_gb: float
    num_threads: int
    is_compiled: bool = False
    means: MeanSettings | None = None  # of a seeded space, whose mean each worker moves itself
    locate_reference: Callable[[], Path] | None = None  # full precision, where the mean is weights
    rewards: tuple[RewardSpec, ...] = ()  # instead of `reward_name`
    scoring_limit_s: float = DEFAULT_LIMIT_S  # of a chunk; what is not reached has no score


class Evaluator:
    """An engine, the task's prompts and its reward."""

    def __init__(
        self, spec: WorkerSpec, factors: Sequence[PerturbedLayer], prompts: Sequence[Prompt]
    ) -> None:
        """Load the model and hook it.
        Raises EsAlignError if model, prompts or population do not fit.
        """
        self.reward = get_reward(spec.reward_name)
        self.scorer = _start_scorer(spec)
        self.prompts = {prompt.prompt_id: prompt for prompt in prompts}
        model_path = spec.locate_model()
        self.renderer = Renderer(model_path)
        self.tokens = {
            prompt.prompt_id: self.renderer.render(prompt.messages) for prompt in prompts
        }
        _check_lengths(self.tokens, spec)
        self.means = None if spec.means is None else _start_means(spec, spec.means, factors)
        with tempfile.TemporaryDirectory() as folder:
            factors_path = Path(folder) / "factors.safetensors"
            save_factors(factors, factors_path)
            self.engine = _start_engine(
                spec, model_path, factors_path if factors else None, self.renderer
            )

    def evaluate(self, chunk: Chunk) -> ChunkResult:
        """Complete and score every prompt of the chunk for every member of it."""
        is_base = chunk.perturbed is None
        if chunk.perturbed is not None:
            self._install(chunk.perturbed)
        prompts = [self.prompts[prompt_id] for prompt_id in chunk.prompt_ids]
        requests = [
            Request(
                self.tokens[prompt.prompt_id],
                BASE_MEMBER if is_base else slot,
                request_seed(chunk.sampling.seed, prompt.prompt_id, sample),
            )
            for slot in range(len(chunk.members))
            for prompt in prompts
            for sample in range(chunk.num_samples)
        ]
        started = time.perf_counter()
        completions = self.engine.generate(requests, chunk.sampling)
        generated = time.perf_counter()
        asked = [
            prompt for _ in chunk.members for prompt in prompts for _ in range(chunk.num_samples)
        ]
        texts = [completion.text for completion in completions]
        scores = self._scores(texts, asked)
        shape = (len(chunk.members), len(prompts), chunk.num_samples)
        rewards_MPS = _table([score.reward for score in scores], shape)
        passed_MPS = np.array([score.passed for score in scores]).reshape(shape)
        return ChunkResult(
            chunk_id=chunk.chunk_id,
            members=chunk.members,
            rewards_MP=sample_scores(rewards_MPS, passed_MPS, chunk.pass_k),
            passed_MP=passed_MPS.mean(axis=2),
            metrics_MP=_metric_tables(scores, completions, shape),
            reasons=Counter(score.reason for score in scores),
            num_completions=len(completions),
            num_unscored=int(np.isnan(rewards_MPS).sum()),
            num_generated_tokens=sum(len(completion.token_ids) for completion in completions),
            num_prompt_tokens=sum(len(request.token_ids) for request in requests),
            generate_s=generated - started,
            score_s=time.perf_counter() - generated,
            samples=self._samples(chunk, prompts, completions, scores),
        )

    def _scores(self, texts: Sequence[str], asked: Sequence[Prompt]) -> list[Score]:
        reward_name = asked[0].reward_name  # a chunk's prompts are of one task
        if self.scorer is None or reward_name is not None:
            reward = self.reward if reward_name is None else get_reward(reward_name)
            return score_batch(reward, texts, [prompt.columns for prompt in asked])
        return self.scorer.score(
            [
                Prompted(text, prompt.messages, prompt.columns)
                for text, prompt in zip(texts, asked, strict=True)
            ]
        )

    def canary(self, members: Members, prompt_id: str) -> list[str]:
        """Names of hooked modules where the first of two members is the same as the second, the
        mean: a sigma too small to act, or a lost hook.
        """
        self._install(members)
        return self.engine.canary([Request(self.tokens[prompt_id], 0, 0)], reference=1)

    def complete(
        self,
        prompts: Sequence[tuple[int, ...]],
        seeds: Sequence[int],
        member: Members | None,
        sampling: Sampling,
    ) -> list[Completion]:
        """Complete token ids of any origin with one model: the one of `member`, or the base."""
        if member is not None:
            self._install(member)
        slot = BASE_MEMBER if member is None else 0
        requests = [Request(ids, slot, seed) for ids, seed in zip(prompts, seeds, strict=True)]
        return self.engine.generate(requests, sampling)

    def catch_up(self, moves: Sequence[Move]) -> None:
        """Make the run's moves so far; with none the engine holds the mean's own start."""
        if self.means is not None:
            for move in moves:
                self.means.move(move)
            self._write_means(self.means)

    def move(self, move: Move) -> Moved:
        """Take a step with the mean that this worker holds."""
        assert self.means is not None
        self.means.move(move)
        self._write_means(self.means)
        return self.means.moved

    def _write_means(self, means: Means) -> None:
        """Whole weights go into the engine; smaller means go with the members."""
        if means.has_weights:
            self.engine.write_weights(means.weights())

    def _install(self, members: Members) -> None:
        means = self.means
        if isinstance(members, NoiseMembers) and means is not None and not means.has_weights:
            members = replace(members, mean_D=means.vector_D.astype(np.float32))
        self.engine.set_members(members)

    def _samples(
        self,
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


def request_seed(seed: int, prompt_id: str, sample: int = 0) -> int:
    """The sampling seed of a prompt's sample, the same for every member (common random numbers).
    63 bits.
    """
    # The first sample's is the seed of runs that draw one: asking for more leaves it as it was.
    key = f"{seed}|{prompt_id}" if sample == 0 else f"{seed}|{prompt_id}|{sample}"
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


def peak_rss_bytes() -> int:
    """Largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT_BYTES


def _start_engine(
    spec: WorkerSpec, model_path: Path, factors_path: Path | None, renderer: Renderer
) -> Engine:
    engine_spec = EngineSpec(
        kind=spec.engine,
        model_path=model_path,
        precision=spec.precision,
        factors_path=factors_path,
        max_members=spec.max_members,
        max_model_len=spec.max_model_len,
        kv_cache_gb=spec.kv_cache_gb,
        num_threads=spec.num_threads,
        is_compiled=spec.is_compiled,
    )
    # Imported here: either engine's libraries may be absent, and vLLM takes seconds to import.
    if spec.engine == "vllm":
        from workers.engines.vllm_engine import VllmEngine

        return VllmEngine(engine_spec, renderer)
    from workers.engines.torch_engine import TorchEngine

    return TorchEngine(engine_spec, renderer)


def _start_scorer(spec: WorkerSpec) -> Scorer | None:
    """The configured rewards, loaded; None where the task's own scores."""
    if not spec.rewards:
        return None
    scorer = Scorer(spec.rewards, spec.num_threads, spec.scoring_limit_s)
    scorer.start()
    return scorer


def _start_means(
    spec: WorkerSpec, settings: MeanSettings, layers: Sequence[PerturbedLayer]
) -> Means:
    reference = None if spec.locate_reference is None else spec.locate_reference()
    return Means(layers, settings, None if reference is None else Checkpoint(reference).weight)


def _check_lengths(tokens: Mapping[str, Sequence[int]], spec: WorkerSpec) -> None:
    longest = max(tokens, key=lambda prompt_id: len(tokens[prompt_id]))
    needed = len(tokens[longest]) + spec.max_new_tokens
    if needed > spec.max_model_len:
        raise WorkerError(
            f"prompt {longest} has {len(tokens[longest])} tokens, with "
            f"max_new_tokens={spec.max_new_tokens} that is {needed}; "
            f"workers.max_model_len is {spec.max_model_len}: set it to {needed} or more"
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
