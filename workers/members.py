"""Who the members are: vectors of numbers, or seeds from which workers make the same noise.

Pickled, numbers that count up by one are the first and how many, and whole pairs are theirs: what a
chunk of seeds takes on the wire does not grow with its members.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # the arithmetic needs torch, which the driver's own checks do without
    from kernels.matrix_noise import NoiseKind

SIGNS = (1, -1)  # of a pair's two members, in this order
Packed = tuple[int, int] | list[int]  # the first number and how many, or all


@dataclass(frozen=True, slots=True)
class NoiseMembers:
    """Members of a seeded space: slot m is `mean + signs[m] * sigma * noise of pairs[m]`.

    `mean_D` is the mean's vector where the space has one (cores, LoRAs), float32; None is the mean
    that the space starts with. A sign is 1, -1 or 0, the mean itself: its core or LoRA without
    noise, or the plain weights.
    """

    seed: int
    generation: int  # of the noise, which may be used for several generations
    pairs: tuple[int, ...]
    signs: tuple[int, ...]
    sigma: float
    kind: "NoiseKind" = "binomial"
    mean_D: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        pairs, signs = self.pairs, self.signs
        if pairs[::2] == pairs[1::2] and signs == SIGNS * (len(signs) // 2):
            pairs, signs = pairs[::2], ()
        rest = self.sigma, self.kind, self.mean_D
        return _noise_members, (self.seed, self.generation, pack(pairs), signs, *rest)


def _noise_members(
    seed: int,
    generation: int,
    packed: Packed,
    signs: tuple[int, ...],
    sigma: float,
    kind: "NoiseKind",
    mean_D: np.ndarray | None,
) -> NoiseMembers:
    """What was pickled; without signs both members of each pair are there."""
    pairs = unpack(packed)
    if not signs:
        pairs, signs = tuple(pair for pair in pairs for _ in SIGNS), SIGNS * len(pairs)
    return NoiseMembers(seed, generation, pairs, signs, sigma, kind, mean_D)


def pack(numbers: tuple[int, ...]) -> Packed:
    """Numbers in short, if they count up by one."""
    first, num = numbers[0] if numbers else 0, len(numbers)
    return (first, num) if numbers == tuple(range(first, first + num)) else list(numbers)


def unpack(packed: Packed) -> tuple[int, ...]:
    """The numbers that were packed."""
    if isinstance(packed, list):
        return tuple(packed)
    first, num = packed
    return tuple(range(first, first + num))


Members = np.ndarray | NoiseMembers  # vectors_MD (float32), or seeds


def some_members(members: Members, start: int, stop: int) -> Members:
    """Members `start` to `stop` - 1; vectors become float32, as an engine takes them."""
    if isinstance(members, np.ndarray):
        return members[start:stop].astype(np.float32)
    return replace(members, pairs=members.pairs[start:stop], signs=members.signs[start:stop])


def beside_mean(members: Members, member: int, mean: Members, scale: float = 1.0) -> Members:
    """One member, its distance from the mean times `scale`, and after it the mean, one member of
    the same space.
    """
    if isinstance(members, np.ndarray):
        assert isinstance(mean, np.ndarray)
        both_MD = np.stack([mean[0] + scale * (members[member] - mean[0]), mean[0]])
        return both_MD.astype(np.float32)
    return replace(
        members,
        pairs=(members.pairs[member],) * 2,
        signs=(members.signs[member], 0),
        sigma=scale * members.sigma,
    )


def identities(members: Members) -> list[str]:
    """A digest a member, equal only for equal perturbations: salts the prefix cache."""
    if isinstance(members, np.ndarray):
        return [hashlib.sha256(row.tobytes()).hexdigest() for row in members]
    mean = b"" if members.mean_D is None else members.mean_D.tobytes()
    shared = hashlib.sha256(mean).hexdigest()
    stream = f"{members.seed}|{members.generation}|{members.sigma!r}|{members.kind}|{shared}"
    return [
        hashlib.sha256(f"{stream}|{pair if sign else None}|{sign}".encode()).hexdigest()
        for pair, sign in zip(members.pairs, members.signs, strict=True)
    ]
