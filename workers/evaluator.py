"""What a worker does with a chunk: render, generate and score beside it, or, with reward
`log_likelihood`, have references scored by the engine. No Ray here, so it runs anywhere.

Shape suffixes: _M members, _P prompts, _S samples of a prompt.
"""

import hashlib
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rewards.base import Prompted
from rewards.specs import RewardSpec, num_together
from workers.answers import Answered, chunk_result
from workers.engines.base import Completion, Forced, Likelihood, Request
from workers.layers import PerturbedLayer, save_factors
from workers.mean_files import catch_up, store_mean
from workers.means import Means
from workers.members import Members, NoiseMembers
from workers.overlap import ScoringBeside
from workers.protocol import (
    BASE_MEMBER,
    Chunk,
    ChunkResult,
    Move,
    Moved,
    Prompt,
    Sampling,
)
from workers.references import (
    check_references,
    likelihood_reward,
    likelihood_score,
    reference_tokens,
)
from workers.rendering import Renderer
from workers.starting import WorkerSpec, check_lengths, start_engine, start_means, start_scorers


class Evaluator:
    """An engine, the task's prompts and its reward."""

    def __init__(
        self, spec: WorkerSpec, factors: Sequence[PerturbedLayer], prompts: Sequence[Prompt]
    ) -> None:
        """Load the model and hook it.
        Raises EsAlignError if model, prompts or population do not fit.
        """
        self.likelihood = likelihood_reward(spec.rewards)
        self.has_verdict = not spec.rewards or spec.rewards[0].has_verdict
        self.num_together = num_together(spec.rewards)
        self.scoring_limit_s = spec.scoring_limit_s
        self.scorers = start_scorers(spec, prompts)
        self.mean_folder = spec.mean_folder
        self.prompts = {prompt.prompt_id: prompt for prompt in prompts}
        model_path = spec.locate_model()
        self.renderer = Renderer(model_path)
        self.tokens = {
            prompt.prompt_id: self.renderer.render(prompt.messages) for prompt in prompts
        }
        self.references: dict[str, tuple[int, ...]] = {}
        if self.likelihood is not None:
            own = [prompt for prompt in prompts if prompt.reward_name is None]
            self.references = reference_tokens(self.renderer, own, self.likelihood)
            check_references(self.tokens, self.references, spec.max_model_len)
        check_lengths({n: t for n, t in self.tokens.items() if n not in self.references}, spec)
        self.means = None if spec.means is None else start_means(spec, spec.means, factors)
        with tempfile.TemporaryDirectory() as folder:
            factors_path = Path(folder) / "factors.safetensors"
            save_factors(factors, factors_path)
            self.engine = start_engine(
                spec, model_path, factors_path if factors else None, self.renderer
            )

    def evaluate(self, chunk: Chunk) -> ChunkResult:
        """Complete and score every prompt of the chunk for every member of it."""
        if chunk.perturbed is not None:
            self._install(chunk.perturbed)
        prompts = [self.prompts[prompt_id] for prompt_id in chunk.prompt_ids]
        if self.likelihood is not None and prompts[0].reward_name is None:
            answered = self._given(chunk, self.likelihood)
        else:
            answered = self._generated(chunk)
        has_verdict = self.has_verdict or prompts[0].reward_name is not None
        result = chunk_result(chunk, prompts, answered, has_verdict=has_verdict)
        return (
            result if self.means is None else replace(result, mean_digest=self.means.moved.digest)
        )

    def _generated(self, chunk: Chunk) -> Answered:
        """Completions, scored while others are still being written."""
        asked = _asked(chunk)
        requests = [
            Request(
                self.tokens[prompt_id], slot, request_seed(chunk.sampling.seed, prompt_id, sample)
            )
            for slot, prompt_id, sample in asked
        ]
        prompts = [self.prompts[prompt_id] for _, prompt_id, _ in asked]
        reward_name = prompts[0].reward_name  # a chunk's prompts are of one task
        num_together = self.num_together if reward_name is None else 1
        started = time.perf_counter()
        with ScoringBeside(
            self.scorers[reward_name].score, len(asked), num_together, self.scoring_limit_s
        ) as scoring:

            def hand_over(place: int, completion: Completion) -> None:
                prompt = prompts[place]
                scoring.add(place, Prompted(completion.text, prompt.messages, prompt.columns))

            completions = self.engine.generate(requests, chunk.sampling, hand_over)
            generated = time.perf_counter()
            scores = scoring.scores()
        return Answered(
            completions,
            scores,
            num_prompt_tokens=sum(len(request.token_ids) for request in requests),
            generate_s=generated - started,
            score_s=time.perf_counter() - generated,
        )

    def _given(self, chunk: Chunk, reward: RewardSpec) -> Answered:
        """References, whose likelihood the engine says; what stands as completion is the reference,
        and no token is generated.
        """
        sequences = [
            Forced(self.tokens[prompt_id], self.references[prompt_id], slot)
            for slot, prompt_id, _ in _asked(chunk)
        ]
        started = time.perf_counter()
        likelihoods = self.engine.score(sequences)
        scored = time.perf_counter()
        return Answered(
            [Completion((), self.renderer.decode(s.answer_ids)) for s in sequences],
            [
                likelihood_score(likelihood.total, len(sequence.answer_ids), reward)
                for sequence, likelihood in zip(sequences, likelihoods, strict=True)
            ],
            num_prompt_tokens=sum(len(s.prompt_ids) + len(s.answer_ids) for s in sequences),
            generate_s=scored - started,
            score_s=0.0,
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

    def likelihoods(
        self, pairs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], member: Members | None
    ) -> list[Likelihood]:
        """How likely one model holds each answer after its prompt, token ids of any origin."""
        if member is not None:
            self._install(member)
        slot = BASE_MEMBER if member is None else 0
        return self.engine.score([Forced(prompt, answer, slot) for prompt, answer in pairs])

    def catch_up(self, moves: Sequence[Move]) -> None:
        """Make the run's moves so far, from where a stored mean is if this machine sees one; with
        none the engine holds the mean's own start.
        """
        if self.means is not None:
            self._write_means(catch_up(self.means, moves, self.mean_folder))

    def store_mean(self) -> str | None:
        """Store the mean where those that join later look for it; what went wrong, if it did."""
        if self.mean_folder is None or self.means is None or not self.mean_folder.is_dir():
            return None
        try:
            store_mean(self.mean_folder, self.means)
        except OSError as error:
            return f"the mean after {self.means.num_moves} moves is not stored: {error}"
        return None

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


def request_seed(seed: int, prompt_id: str, sample: int = 0) -> int:
    """The sampling seed of a prompt's sample, the same for every member (common random numbers).
    63 bits.
    """
    # The first sample's is the seed of runs that draw one: asking for more leaves it as it was.
    key = f"{seed}|{prompt_id}" if sample == 0 else f"{seed}|{prompt_id}|{sample}"
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


def _asked(chunk: Chunk) -> list[tuple[int, str, int]]:
    """Slot, prompt id and sample of each of a chunk's requests, in order."""
    is_base = chunk.perturbed is None
    return [
        (BASE_MEMBER if is_base else slot, prompt_id, sample)
        for slot in range(len(chunk.members))
        for prompt_id in chunk.prompt_ids
        for sample in range(chunk.num_samples)
    ]
