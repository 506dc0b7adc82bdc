"""The perturbation of one module of an engine, which may fuse several layers of the checkpoint.

A hook owns the static tables of its kernel and writes the members into them; what differs between
engines is only how rows are mapped to members.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from kernels.core import CoreNoise
from kernels.errors import ModelError, WorkerError
from kernels.filling import fill_factor_noise_
from kernels.low_rank import LowRankNoise
from kernels.matrix_noise import VARIANCE, NoiseStream
from kernels.perturbation import Perturbation, Slice
from kernels.shared_basis import FusedBasis, ScaledBasis
from workers.layers import CoreLayer, LayerFactors, NoiseLayer, PerturbedLayer
from workers.members import Members, NoiseMembers

OUTPUT_SIDE, INPUT_SIDE = 0, 1  # a layer's two factors are two parameters of the noise stream


@dataclass(frozen=True, slots=True)
class Capacity:
    """What an engine makes room for."""

    max_members: int
    dtype: torch.dtype
    device: torch.device | str

    @property
    def max_pairs(self) -> int:
        """Pairs of noise held at once; both members of a pair are in one chunk."""
        return (self.max_members + 1) // 2


class Hook(Protocol):
    """A module's perturbation and the way members get into it."""

    @property
    def perturbation(self) -> Perturbation:
        """The tables and the forward that reads them."""
        ...

    def set_members(self, members: Members) -> None:
        """Write the members into slots 0 to M-1."""
        ...


class ScaledHook:
    """Singular values: each member's scales, from its own part of the vector."""

    def __init__(
        self,
        layers: Sequence[LayerFactors],
        starts: Sequence[int],
        slices: Sequence[Slice],
        capacity: Capacity,
    ) -> None:
        self.layers, self.starts = layers, starts
        self.perturbation = ScaledBasis(_fuse(layers, slices, capacity), capacity.max_members)

    def set_members(self, members: Members) -> None:
        """Write the members' scale tables."""
        if isinstance(members, NoiseMembers):
            raise WorkerError("singular values take vectors, not seeds")
        vectors_MD = torch.from_numpy(np.ascontiguousarray(members, dtype=np.float32))
        for index, (layer, start) in enumerate(zip(self.layers, self.starts, strict=True)):
            numbers_MK = vectors_MD[:, start : start + layer.num_numbers]
            self.perturbation.set_scales(index, *layer.scales(numbers_MK))


class CoreHook:
    """Cores: the mean's core, and the noise of every pair on it."""

    def __init__(
        self,
        layers: Sequence[CoreLayer],
        starts: Sequence[int],
        slices: Sequence[Slice],
        capacity: Capacity,
    ) -> None:
        self.layers, self.starts = layers, starts
        self.perturbation = CoreNoise(
            _fuse(layers, slices, capacity),
            layers[0].noise_rank,
            capacity.max_members,
            capacity.max_pairs,
        )

    def set_members(self, members: Members) -> None:
        """Write the mean's cores, the pairs' factors and the members' coefficients."""
        seeds = _seeds(members)
        pairs = _write_pairs(self.perturbation, self.layers, seeds)
        stream = NoiseStream(seeds.seed, seeds.generation, seeds.kind)
        for index, (layer, start) in enumerate(zip(self.layers, self.starts, strict=True)):
            rank = layer.basis.right_IR.shape[1]
            if seeds.mean_D is not None:
                core = seeds.mean_D[start : start + rank * rank].reshape(rank, rank)
                self.perturbation.core_SRR[index, :rank, :rank] = torch.from_numpy(core)
            for side, table in (
                (OUTPUT_SIDE, self.perturbation.left_NSKR),
                (INPUT_SIDE, self.perturbation.right_NSKR),
            ):
                rows = table[: len(pairs), index, :, :rank]
                fill_factor_noise_(rows, stream, pairs, 2 * layer.parameter + side, rank)


class NoiseHook:
    """Whole weights: the noise factors of every pair, cut to this rank's rows and columns."""

    def __init__(
        self, layers: Sequence[NoiseLayer], slices: Sequence[Slice], capacity: Capacity
    ) -> None:
        self.layers, self.slices = layers, slices
        self.perturbation = LowRankNoise(
            [part.num_rows for part in slices],
            slices[0].num_columns,
            layers[0].noise_rank,
            capacity.max_members,
            capacity.max_pairs,
            capacity.device,
        )

    def set_members(self, members: Members) -> None:
        """Write the pairs' factors and the members' coefficients."""
        seeds = _seeds(members)
        pairs = _write_pairs(self.perturbation, self.layers, seeds)
        stream = NoiseStream(seeds.seed, seeds.generation, seeds.kind)
        start = 0
        for index, (layer, part) in enumerate(zip(self.layers, self.slices, strict=True)):
            left = self.perturbation.left_NKO[: len(pairs), :, start : start + part.num_rows]
            right = self.perturbation.right_NSKI[: len(pairs), index]
            start += part.num_rows
            for rows, side, width, first in (
                (left, OUTPUT_SIDE, layer.out_features, part.first_row),
                (right, INPUT_SIDE, layer.in_features, part.first_column),
            ):
                parameter = 2 * layer.parameter + side
                fill_factor_noise_(rows, stream, pairs, parameter, width, first)


def make_hook(
    module_name: str,
    layers: Sequence[PerturbedLayer],
    starts: Sequence[int],
    slices: Sequence[Slice],
    capacity: Capacity,
) -> Hook:
    """The hook of a module that computes these layers together.

    Raises ModelError if they are of different kinds or have different noise ranks.
    """
    scaled = [layer for layer in layers if isinstance(layer, LayerFactors)]
    cores = [layer for layer in layers if isinstance(layer, CoreLayer)]
    noises = [layer for layer in layers if isinstance(layer, NoiseLayer)]
    if len(scaled) == len(layers):
        return ScaledHook(scaled, starts, slices, capacity)
    if len({layer.noise_rank for layer in (*cores, *noises)}) > 1:
        raise ModelError(f"the layers of module {module_name} have noise of different ranks")
    if len(cores) == len(layers):
        return CoreHook(cores, starts, slices, capacity)
    if len(noises) == len(layers):
        return NoiseHook(noises, slices, capacity)
    raise ModelError(f"the layers of module {module_name} are perturbed in different ways")


def _fuse(
    layers: Sequence[LayerFactors] | Sequence[CoreLayer],
    slices: Sequence[Slice],
    capacity: Capacity,
) -> FusedBasis:
    return FusedBasis([layer.basis for layer in layers], slices, capacity.dtype, capacity.device)


def _seeds(members: Members) -> NoiseMembers:
    if not isinstance(members, NoiseMembers):
        raise WorkerError("this space takes seeds, not vectors")
    return members


def _write_pairs(
    perturbation: CoreNoise | LowRankNoise,
    layers: Sequence[CoreLayer] | Sequence[NoiseLayer],
    seeds: NoiseMembers,
) -> list[int]:
    """Give every pair a row and every member its coefficients; returns the pairs in row order."""
    pairs = sorted({p for p, sign in zip(seeds.pairs, seeds.signs, strict=True) if sign})
    max_pairs = perturbation.max_pairs
    if len(pairs) > max_pairs:
        raise WorkerError(
            f"{len(seeds)} members of {len(pairs)} pairs do not fit the engine's {max_pairs} "
            "pairs; keep both members of a pair in one chunk"
        )
    row = {pair: index for index, pair in enumerate(pairs)}
    numbers = [row.get(pair, 0) for pair in seeds.pairs]
    perturbation.pair_M[: len(seeds)] = torch.tensor(numbers, dtype=torch.int32)
    signs_M = torch.tensor(seeds.signs, dtype=torch.float32)
    for index, layer in enumerate(layers):
        scale = seeds.sigma * layer.unit / (VARIANCE[seeds.kind] * layer.noise_rank**0.5)
        perturbation.coefficient_MS[: len(seeds), index] = signs_M * scale
    return pairs
