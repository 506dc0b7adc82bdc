"""What a simulated worker answers, and how long that takes: made up, and never random.

An engine decodes its batch step by step, `max_sequences` at once; when one ends the next one takes
its place (continuous batching). A step takes `step_s`, mostly for reading the weights, and
`sequence_s` more for each sequence in it. How long an answer is depends on the generation, the
member and the prompt alone (Philox), so a completion has its length wherever it runs. Lengths come
from what was measured: `answer_lengths.txt` holds the tokens of the bundled model's answers (INT8,
greedy) to IFEval's 541 prompts, cut into tokens again; 53 % of them ran into the limit of 320.

Left out: what scoring takes (it goes on beside generation), prefix caching, memory for the cache.

Shape suffixes: _M members, _P prompts, _S samples of a prompt, _Q sequences.
"""

import hashlib
import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kernels.noise import Purpose, philox
from workers.protocol import BASE_MEMBER, MEAN_MEMBER, Chunk, ChunkResult, Sample

FIRST_MEMBER = min(BASE_MEMBER, MEAN_MEMBER)  # who has the first row of a table of lengths
KEPT_TABLES = 4  # of generations: a late chunk may be asked for again


def measured_lengths() -> np.ndarray:
    """Tokens of the measured answers, int64, sorted."""
    return np.loadtxt(Path(__file__).with_name("answer_lengths.txt"), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class EngineModel:
    """How fast one worker is."""

    step_s: float  # of a step, whatever is in it
    sequence_s: float  # of a step, for each sequence in it
    prefill_s: float  # a prompt's token
    max_sequences: int = 256  # decoded at once

    def seconds(self, tokens_Q: np.ndarray, num_prompt_tokens: int) -> float:
        """What a batch takes whose answers are so long."""
        steps_s = self.step_s * num_steps(tokens_Q, self.max_sequences)
        return steps_s + self.sequence_s * int(tokens_Q.sum()) + self.prefill_s * num_prompt_tokens

    def occupancy(self, tokens_Q: np.ndarray) -> float:
        """Share of the places in the batch that held a sequence, over all steps."""
        places = num_steps(tokens_Q, self.max_sequences) * self.max_sequences
        return int(tokens_Q.sum()) / places


def num_steps(tokens_Q: np.ndarray, max_sequences: int) -> int:
    """Steps until the last answer is written: the next one begins where one has ended."""
    tokens = tokens_Q.tolist()
    ends = tokens[:max_sequences]
    heapq.heapify(ends)
    for length in tokens[max_sequences:]:
        heapq.heapreplace(ends, ends[0] + length)
    return max(ends, default=0)


class MadeUpAnswers:
    """Lengths of all completions, and the results that are made of them."""

    def __init__(
        self,
        engine: EngineModel,
        lengths: Sequence[int] | np.ndarray | None = None,
        *,
        prompt_tokens: int = 100,
        seed: int = 0,
        num_distinct: int | None = None,
    ) -> None:
        """`lengths` are what answers are drawn from, in tokens; None: the measured ones. Beyond
        `num_distinct` members the lengths of the first ones come again, which saves time.
        """
        self.engine = engine
        self.prompt_tokens = prompt_tokens
        self._lengths = measured_lengths() if lengths is None else np.array(lengths, np.int64)
        self._seed, self._num_distinct = seed, num_distinct
        self._tables: dict[tuple[object, ...], np.ndarray] = {}
        self._seconds: dict[tuple[object, ...], float] = {}

    def tokens_MPS(self, chunk: Chunk) -> np.ndarray:
        """Tokens of a chunk's answers, int64 (M, P, S), at most its limit."""
        rows_M = self._rows(chunk)
        table_MPS = self._table(chunk, max(rows_M) + 1)
        return np.minimum(table_MPS[rows_M], chunk.sampling.max_new_tokens)

    def seconds(self, chunk: Chunk) -> float:
        """What a chunk takes on a worker of speed 1."""
        key = (tuple(self._rows(chunk)), *_drawn(chunk), chunk.sampling.max_new_tokens)
        if key not in self._seconds:
            tokens_Q = self.tokens_MPS(chunk).ravel()
            self._seconds[key] = self.engine.seconds(tokens_Q, self._num_prompt_tokens(chunk))
        return self._seconds[key]

    def result(self, chunk: Chunk, mean_digest: str | None, seconds: float) -> ChunkResult:
        """A worker's answer: an answer passes if it ends before the limit."""
        tokens_MPS = self.tokens_MPS(chunk)
        passed_MPS = tokens_MPS < chunk.sampling.max_new_tokens
        num_passed, num_completions = int(passed_MPS.sum()), passed_MPS.size
        passed_MP = passed_MPS.mean(axis=2)
        return ChunkResult(
            chunk_id=chunk.chunk_id,
            members=chunk.members,
            rewards_MP=passed_MP.copy(),
            passed_MP=passed_MP,
            metrics_MP={},
            reasons={"ok": num_passed, "too_long": num_completions - num_passed},
            num_completions=num_completions,
            num_unscored=0,
            num_generated_tokens=int(tokens_MPS.sum()),
            num_prompt_tokens=self._num_prompt_tokens(chunk),
            generate_s=seconds,
            score_s=0.0,
            mean_digest=mean_digest,
            samples=_samples(chunk, tokens_MPS),
        )

    def _rows(self, chunk: Chunk) -> list[int]:
        rows = [member - FIRST_MEMBER for member in chunk.members]
        num_distinct = self._num_distinct
        return rows if num_distinct is None else [row % num_distinct for row in rows]

    def _num_prompt_tokens(self, chunk: Chunk) -> int:
        num_completions = len(chunk.members) * len(chunk.prompt_ids) * chunk.num_samples
        return self.prompt_tokens * num_completions

    def _table(self, chunk: Chunk, num_rows: int) -> np.ndarray:
        """Lengths of the first members of a generation; more rows change none of them."""
        key = _drawn(chunk)
        table = self._tables.get(key)
        if table is None or len(table) < num_rows:
            table = self._drawn_table(chunk, max(num_rows, 0 if table is None else 2 * len(table)))
            self._tables.pop(key, None)
            self._tables[key] = table
            while len(self._tables) > KEPT_TABLES:
                del self._tables[next(iter(self._tables))]
        return table

    def _drawn_table(self, chunk: Chunk, num_rows: int) -> np.ndarray:
        table_MPS = np.empty((num_rows, len(chunk.prompt_ids), chunk.num_samples), dtype=np.int64)
        for place, prompt_id in enumerate(chunk.prompt_ids):
            word = int.from_bytes(hashlib.sha256(prompt_id.encode()).digest()[:8], "big")
            for sample in range(chunk.num_samples):
                stream = philox(self._seed, Purpose.SAMPLING, chunk.generation, word, sample)
                places_M = (stream.random(num_rows) * len(self._lengths)).astype(np.int64)
                table_MPS[:, place, sample] = self._lengths[places_M]
        return table_MPS


def _samples(chunk: Chunk, tokens_MPS: np.ndarray) -> tuple[Sample, ...]:
    """The first completion of each prompt by the members that are kept."""
    kept = [row for row, member in enumerate(chunk.members) if member in chunk.sample_members]
    return tuple(
        Sample(
            chunk.members[row], prompt_id, prompt_id, "word " * num_tokens, 0.0, False, "simulated"
        )
        for row in kept
        for prompt_id, num_tokens in zip(chunk.prompt_ids, tokens_MPS[row, :, 0], strict=True)
    )


def _drawn(chunk: Chunk) -> tuple[object, ...]:
    """What lengths depend on, beside the member."""
    return chunk.generation, chunk.prompt_ids, chunk.num_samples
