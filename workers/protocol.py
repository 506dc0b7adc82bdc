"""Everything that crosses the wire between the driver and a worker, and nothing else.

Shape suffixes: _M members, _P prompts, _D numbers of a member's vector. After start-up only `Chunk`
goes out and only `ChunkResult` comes back: no weights, no adapter files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from rewards.base import JsonValue

MEAN_MEMBER = -2  # the run's current mean, evaluated like a member
BASE_MEMBER = -1  # the model with nothing added; also padding rows


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt of a task: what is said to the model, and what its reward needs to know."""

    prompt_id: str  # "train/17": split and index
    messages: tuple[Mapping[str, str], ...]  # chat messages, role and content
    columns: Mapping[str, JsonValue]  # arguments of the reward


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn; with temperature 0 decoding is greedy and the seed unused."""

    max_new_tokens: int
    temperature: float = 0.0
    seed: int = 0  # with the prompt id, fixes the draw: the same for every member
    ignore_eos: bool = False  # always the full length, for measurements


@dataclass(frozen=True, slots=True)
class Chunk:
    """The unit of work, of retry and of determinism: some members, all their prompts."""

    chunk_id: int
    generation: int
    members: tuple[int, ...]
    vectors_MD: np.ndarray | None  # float32; None: every member is the unperturbed base
    prompt_ids: tuple[str, ...]
    sampling: Sampling
    sample_members: tuple[int, ...] = ()  # members whose texts come back, for samples.jsonl


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion kept for a person to read."""

    member: int
    prompt_id: str
    prompt: str
    completion: str
    reward: float | None
    passed: bool
    reason: str


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """What a worker returns for a chunk; NaN in `rewards_MP` means no score, never zero."""

    chunk_id: int
    members: tuple[int, ...]
    rewards_MP: np.ndarray  # float64
    passed_MP: np.ndarray  # bool
    metrics_MP: Mapping[str, np.ndarray]  # float64, one array a name
    reasons: Mapping[str, int]
    num_generated_tokens: int
    num_prompt_tokens: int
    generate_s: float
    score_s: float
    samples: tuple[Sample, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a worker says once it is ready."""

    worker: int
    pid: int
    engine: str
    load_s: float
    peak_rss_bytes: int
    num_hooked_layers: int
