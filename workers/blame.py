"""Which members a chunk fails for, once it has failed too often: halves are tried in turn.

A chunk that kills every worker it meets usually does so for one of its members; the name of that
one, and not of the sixty beside it, is what its owner can look into.
"""

from collections.abc import Callable
from dataclasses import replace

from workers.members import some_members
from workers.protocol import Chunk


def smallest_failing(chunk: Chunk, works: Callable[[Chunk], bool]) -> Chunk:
    """The part of a chunk that fails alone and no half of which does.

    `works` evaluates a part once; a chunk of 64 members takes at most twelve such calls.
    """
    while len(chunk.members) > 1:
        failing = next((half for half in _halves(chunk) if not works(half)), None)
        if failing is None:
            return chunk
        chunk = failing
    return chunk


def _halves(chunk: Chunk) -> list[Chunk]:
    middle = len(chunk.members) // 2
    return [_part(chunk, 0, middle), _part(chunk, middle, len(chunk.members))]


def _part(chunk: Chunk, start: int, stop: int) -> Chunk:
    perturbed = None if chunk.perturbed is None else some_members(chunk.perturbed, start, stop)
    return replace(chunk, members=chunk.members[start:stop], perturbed=perturbed, sample_members=())
