"""Everything that crosses the wire between the driver and a worker, and nothing else.

Shape suffixes: _M members, _P prompts, _N pairs, _D numbers of a member's vector. After start-up
only `Chunk` and `Move` go out and only `ChunkResult` and `Moved` come back: no weights, no adapter
files. A chunk and its result pickle themselves as plain numbers and bytes, since the names of
classes and fields would be most of a small one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from rewards.base import JsonValue
from workers.members import Members, Packed, pack, unpack

LOG_LIKELIHOOD = "log_likelihood"  # in `metrics_MP`: mean natural log probability of a token
MEAN_MEMBER = -2  # the run's current mean, evaluated like a member
BASE_MEMBER = -1  # the model with nothing added; also padding rows

MOST_CODES = 256  # that a byte tells apart

PackedTable = bytes | tuple[bytes, bytes]  # float64 values; or those there are, and a code for each
Reduced = tuple[Callable[..., object], tuple[object, ...]]  # of `__reduce__`


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt of a task: what is said to the model, and what its reward needs to know."""

    prompt_id: str  # "train/17": split and index
    messages: tuple[Mapping[str, str], ...]  # chat messages, role and content
    columns: Mapping[str, JsonValue]  # arguments of the reward
    # Of another task than the one that is trained on: its reward. None: the worker's own rewards.
    reward_name: str | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn; with temperature 0 decoding is greedy and the seed unused."""

    max_new_tokens: int
    temperature: float = 0.0
    seed: int = 0  # with the prompt id, fixes the draw: the same for every member
    ignore_eos: bool = False  # always the full length, for measurements
    with_log_likelihood: bool = False  # asks the engine for its tokens' log probabilities


@dataclass(frozen=True, slots=True)
class Chunk:
    """The unit of work, of retry and of determinism: some members, all their prompts."""

    chunk_id: int
    generation: int
    members: tuple[int, ...]
    perturbed: Members | None  # what they are; None: every member is the unperturbed base
    prompt_ids: tuple[str, ...]
    sampling: Sampling
    sample_members: tuple[int, ...] = ()  # members whose texts come back, for samples.jsonl
    num_samples: int = 1  # completions of each prompt by each member
    pass_k: int | None = None  # score of a prompt: pass@k of its samples; None: their mean reward

    def __reduce__(self) -> Reduced:
        drawn = self.sampling
        sampling = (
            drawn.max_new_tokens,
            drawn.temperature,
            drawn.seed,
            drawn.ignore_eos,
            drawn.with_log_likelihood,
        )
        return _chunk, (
            self.chunk_id,
            self.generation,
            pack(self.members),
            self.perturbed,
            self.prompt_ids,
            sampling,
            self.sample_members,
            self.num_samples,
            self.pass_k,
        )


def _chunk(
    chunk_id: int,
    generation: int,
    members: Packed,
    perturbed: Members | None,
    prompt_ids: tuple[str, ...],
    sampling: tuple[int, float, int, bool, bool],
    sample_members: tuple[int, ...],
    num_samples: int,
    pass_k: int | None,
) -> Chunk:
    return Chunk(
        chunk_id,
        generation,
        unpack(members),
        perturbed,
        prompt_ids,
        Sampling(*sampling),
        sample_members,
        num_samples,
        pass_k,
    )


@dataclass(frozen=True, slots=True)
class Move:
    """One step of a mean that the workers hold themselves: scalars from which each makes the same.

    The gradient is `sum_p weight_N[p] E_p`, E_p the noise of pair p in units of one standard
    deviation; the mean moves by `sigma * unit * step`, with the optimiser's step for it.
    """

    generation: int  # of the fitness, counted from 0
    noise_generation: int  # of the noise, which may be used for several generations
    weight_N: np.ndarray  # float64, one a pair; 0 leaves a pair out
    sigma: float
    learning_rate: float
    max_step: float | None = None  # longest step, in units of sigma * sqrt(numbers)


@dataclass(frozen=True, slots=True)
class Moved:
    """What a worker holds after a move."""

    digest: str  # of the mean, the same on every worker
    step_norm: float  # L2 norm of the move, in units of each layer's own


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
    """What a worker returns for a chunk, the samples of each member and prompt taken together (see
    `workers.objectives`); NaN in `rewards_MP` means no score, never zero.
    """

    chunk_id: int
    members: tuple[int, ...]
    rewards_MP: np.ndarray  # float64
    passed_MP: np.ndarray  # float64, share of the samples that pass; NaN: the reward has no verdict
    metrics_MP: Mapping[str, np.ndarray]  # float64, one array a name
    reasons: Mapping[str, int]  # one a completion
    num_completions: int  # members times prompts times samples
    num_unscored: int  # completions without a score
    num_generated_tokens: int
    num_prompt_tokens: int
    generate_s: float  # until the last completion was there
    score_s: float  # that scoring, which goes on beside generation, took longer than it
    mean_digest: str | None = None  # of the mean that the worker held, in a seeded space
    samples: tuple[Sample, ...] = field(default=())

    def __reduce__(self) -> Reduced:
        tables = [self.rewards_MP, self.passed_MP, *self.metrics_MP.values()]
        counts = self.num_completions, self.num_unscored
        tokens = self.num_generated_tokens, self.num_prompt_tokens
        return _chunk_result, (
            self.chunk_id,
            pack(self.members),
            tuple(_packed_table(table_MP) for table_MP in tables),
            tuple(self.metrics_MP),
            dict(self.reasons),
            (*counts, *tokens, self.generate_s, self.score_s),
            None if self.mean_digest is None else bytes.fromhex(self.mean_digest),
            self.samples,
        )


def _chunk_result(
    chunk_id: int,
    packed: Packed,
    tables: tuple[PackedTable, ...],
    names: tuple[str, ...],
    reasons: Mapping[str, int],
    counts: tuple[int, int, int, int, float, float],
    mean_digest: bytes | None,
    samples: tuple[Sample, ...],
) -> ChunkResult:
    members = unpack(packed)
    rewards_MP, passed_MP, *metrics = (
        _unpacked_table(table).reshape(len(members), -1) for table in tables
    )
    named = dict(zip(names, metrics, strict=True))
    digest = None if mean_digest is None else mean_digest.hex()
    return ChunkResult(
        chunk_id, members, rewards_MP, passed_MP, named, reasons, *counts, digest, samples
    )


def _packed_table(table_MP: np.ndarray) -> PackedTable:
    """A byte a score where a table has few different ones, as verdicts and fractions are."""
    bits_MP = np.ascontiguousarray(table_MP, dtype=np.float64).view(np.uint64)
    different, codes = np.unique(bits_MP, return_inverse=True)
    if len(different) > MOST_CODES or different.nbytes + codes.size >= bits_MP.nbytes:
        return bits_MP.tobytes()
    return different.tobytes(), codes.astype(np.uint8).tobytes()


def _unpacked_table(packed: PackedTable) -> np.ndarray:
    if isinstance(packed, bytes):
        return np.frombuffer(packed, dtype=np.float64)
    different, codes = packed
    return np.frombuffer(different, np.float64)[np.frombuffer(codes, np.uint8)]


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a worker says once it is ready."""

    worker: int
    pid: int
    engine: str
    load_s: float
    peak_rss_bytes: int
    num_hooked_layers: int
    moved: Moved | None = None  # in a seeded space: the mean it holds
