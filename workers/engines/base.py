"""What an engine is: it holds a model and a population,
and completes requests of many members at once.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeAlias

import torch

from workers.members import Members
from workers.protocol import BASE_MEMBER, Sampling


class Request(NamedTuple):
    """One prompt for one member."""

    token_ids: tuple[int, ...]
    slot: int  # row of the vectors given to `set_members`, or BASE_MEMBER
    seed: int  # of this request's own random numbers; the same for every member


class Completion(NamedTuple):
    """What a member answered."""

    token_ids: tuple[int, ...]
    text: str
    # Natural log probability of the tokens given the prompt, at temperature 1, summed; None: not
    # asked for (`Sampling.with_log_likelihood`).
    log_likelihood: float | None = None


# Told of each completion as soon as it is there, in any order, with its request's place. It must be
# quick and must not raise: the engine waits for it.
OnDone: TypeAlias = Callable[[int, Completion], None]


class Forced(NamedTuple):
    """A prompt and an answer that is given, for one member."""

    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]  # not empty
    slot: int  # as of a `Request`


class Likelihood(NamedTuple):
    """What an engine says of a given answer."""

    total: float  # natural log probability given the prompt, summed over the tokens
    is_greedy: bool  # whether each token is the likeliest one: what greedy decoding would write


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Everything an engine needs to start; the same on every worker."""

    kind: Literal["vllm", "torch"]
    model_path: Path  # directory with the weights in the precision that is run
    precision: str
    factors_path: Path | None  # perturbed layers (`workers.layers`); None: base model only
    max_members: int  # members resident at once
    max_model_len: int  # tokens of prompt and completion together
    kv_cache_gb: float
    num_threads: int
    is_compiled: bool = False  # vLLM only: compiles the model, slower to start and faster to run
    # What a worker was given: Ray leaves a GPU in sight of workers that asked for none. None: a GPU
    # where there is one; vLLM computes on what it was built for, and refuses another one.
    device: Literal["cpu", "cuda"] | None = None


class Engine(Protocol):
    """Complete requests of many perturbed copies of one model."""

    @property
    def num_hooked_layers(self) -> int:
        """Modules that carry a perturbation."""
        ...

    def set_members(self, members: Members) -> None:
        """Make these the members: number m becomes slot m."""
        ...

    def write_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Replace the weights (out, in) of these layers, fp32, in the precision that is run.

        Read back afterwards, column by column of a few; raises WorkerError naming a layer that
        holds something else.
        """
        ...

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, on_done: OnDone | None = None
    ) -> list[Completion]:
        """Complete all requests, in order, in one batch; `on_done` hears of each as it ends."""
        ...

    def score(self, sequences: Sequence[Forced]) -> list[Likelihood]:
        """How likely each answer is after its prompt, which must not be empty.

        Nothing is generated: one forward of prompt and answer together.
        """
        ...

    def canary(self, requests: Sequence[Request], reference: int = BASE_MEMBER) -> list[str]:
        """Names of hooked modules whose output is the same, for all requests, as with the member in
        slot `reference` in their place.
        """
        ...
