"""The requests all arms answer: random token ids, the same for every arm and none twice.

Every prompt of a round begins with another token, so no two share a prefix, and every round has
prompts of its own: no arm gains from its prefix cache, whatever the size of a block.
"""

from collections.abc import Sequence
from typing import NamedTuple

from kernels.noise import Purpose, philox


class BenchRequest(NamedTuple):
    """One prompt for one member."""

    token_ids: tuple[int, ...]
    member: int


def make_requests(
    *, seed: int, round_index: int, members: int, requests: int, prompt_tokens: int, vocabulary: int
) -> list[BenchRequest]:
    """Requests of one round; request q belongs to member `q * members // requests`.

    Raises ValueError if there are more requests than tokens to begin with, or fewer than members.
    """
    if not members <= requests <= vocabulary:
        raise ValueError(f"requests={requests} must be from {members} to {vocabulary}")
    generator = philox(seed, Purpose.PROMPTS, round_index)
    first_Q = generator.permutation(vocabulary)[:requests]
    rest_QT = generator.integers(0, vocabulary, size=(requests, prompt_tokens - 1))
    return [
        BenchRequest((int(first), *rest.tolist()), index * members // requests)
        for index, (first, rest) in enumerate(zip(first_Q, rest_QT, strict=True))
    ]


def num_members(requests: Sequence[BenchRequest]) -> int:
    """Members these requests belong to."""
    return 1 + max(request.member for request in requests)
