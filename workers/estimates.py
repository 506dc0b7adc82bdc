"""How long a chunk should take, from what chunks took so far: deadlines, and who is late.

A chunk's cost is the number of tokens it may write or read at most, which its answer cannot change;
seconds a token are the median of the latest chunks of the same kind, so that neither one slow
worker nor one short answer moves them much. How slow a worker is beside the others is kept apart.
"""

import statistics
from collections import deque

from workers.protocol import Chunk

REMEMBERED = 63  # chunks of a kind
FEWEST = 3  # chunks before anything is estimated
# A chunk that takes so many times as long as others of its cost is given to an idle worker too,
LATE = 2.0
# and after so many its worker counts as hung. Answers may be twenty times as long as usual.
HUNG = 20.0
LEAST_DEADLINE_S = 30.0  # below, a pause of the machine would look like a hang
KEPT_SHARE = 0.7  # of what is known of a worker's slowness, at each of its chunks

Kind = tuple[int, int]  # of chunks: longest answer, members


def cost_of(chunk: Chunk) -> int:
    """Tokens that may be written, one more a completion for its prompt."""
    num_completions = len(chunk.members) * len(chunk.prompt_ids) * chunk.num_samples
    return num_completions * (chunk.sampling.max_new_tokens + 1)


class Estimates:
    """Seconds a unit of cost, by kind of chunk."""

    def __init__(self) -> None:
        self._rates: dict[Kind, deque[float]] = {}
        self._medians: dict[Kind, float] = {}
        self._slowness: dict[int, float] = {}

    def learn(self, chunk: Chunk, seconds: float, worker: int) -> None:
        """A chunk took a worker so long."""
        kind = _kind(chunk)
        expected_s = self.expected_s(chunk)
        if expected_s:
            latest = seconds / expected_s
            known = self._slowness.get(worker, latest)
            self._slowness[worker] = KEPT_SHARE * known + (1 - KEPT_SHARE) * latest
        rates = self._rates.setdefault(kind, deque(maxlen=REMEMBERED))
        rates.append(seconds / cost_of(chunk))
        if len(rates) >= FEWEST:
            self._medians[kind] = statistics.median(rates)

    def expected_s(self, chunk: Chunk) -> float | None:
        """What a chunk should take; None while too few are known."""
        rate = self._medians.get(_kind(chunk))
        return None if rate is None else rate * cost_of(chunk)

    def slowness(self, worker: int) -> float:
        """How many times as long as others a worker takes; 1 while nothing is known."""
        return self._slowness.get(worker, 1.0)

    def deadline_s(self, chunk: Chunk, longest_s: float, num_failures: int) -> float:
        """When its worker counts as hung; twice as late after each failure, at most `longest_s`."""
        expected_s = self.expected_s(chunk)
        if expected_s is None:
            return longest_s
        return min(longest_s, 2.0**num_failures * max(LEAST_DEADLINE_S, HUNG * expected_s))


def _kind(chunk: Chunk) -> Kind:
    """Chunks of one size and length of answers are alike: small ones fill an engine less, so a
    token of theirs takes longer.
    """
    return chunk.sampling.max_new_tokens, len(chunk.members)
