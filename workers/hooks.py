"""The perturbation of one module of an engine, which may fuse several layers of the checkpoint.

A hook owns the static tables of its kernel and writes the members into them; what differs between
engines is only how rows are mapped to members.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch

from kernels.core import CoreNoise
from kernels.errors import ModelError, WorkerError
from kernels.filling import fill_factor_noise_
from kernels.lora import LoraNoise
from kernels.low_rank import LowRankNoise
from kernels.matrix_noise import VARIANCE, NoiseStream
from kernels.perturbation import PairNoise, Perturbation, Slice
from kernels.shared_basis import FusedBasis, ScaledBasis, SharedBasis
from workers.layers import CoreLayer, LayerFactors, LoraLayer, NoiseLayer, PerturbedLayer
from workers.members import Members, NoiseMembers

OUTPUT_SIDE, INPUT_SIDE = 0, 1  # a matrix's two factors are two parameters of the noise stream


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
        seeds, perturbation = _seeds(members), self.perturbation
        noise = _write_pairs(perturbation, [layer.unit for layer in self.layers], seeds)
        perturbation.core_SRR.zero_()
        for index, (layer, start) in enumerate(zip(self.layers, self.starts, strict=True)):
            rank, numbers_K = layer.basis.right_IR.shape[1], layer.start_K
            if seeds.mean_D is not None:
                numbers_K = torch.tensor(seeds.mean_D[start : start + layer.num_numbers])
            perturbation.core_SRR[index, :rank, :rank] = numbers_K.view(rank, rank)
            tables = (perturbation.left_NSKR, perturbation.right_NSKR)
            left, right = (table[:, index, :, :rank] for table in tables)
            noise.fill_(left, right, layer.parameter, (rank, rank), Slice(0, rank, 0, rank))


class LoraHook:
    """LoRAs: the mean's factors, and the noise of every pair on both."""

    def __init__(
        self,
        layers: Sequence[LoraLayer],
        starts: Sequence[int],
        slices: Sequence[Slice],
        capacity: Capacity,
    ) -> None:
        self.layers, self.starts, self.slices = layers, starts, slices
        bases = [_mean_factors(layer, layer.start_K) for layer in layers]
        self.perturbation = LoraNoise(
            FusedBasis(bases, slices, capacity.dtype, capacity.device),
            layers[0].noise_rank,
            capacity.max_members,
            capacity.max_pairs,
        )

    def set_members(self, members: Members) -> None:
        """Write the mean's factors, the pairs' noise and the members' coefficients."""
        seeds, perturbation = _seeds(members), self.perturbation
        units = [u for layer in self.layers for u in (layer.unit_a, layer.scaling * layer.unit_b)]
        noise = _write_pairs(perturbation, units, seeds)
        bases = []
        for index, (layer, part) in enumerate(zip(self.layers, self.slices, strict=True)):
            start, (out_features, in_features) = self.starts[index], layer.shape
            numbers_K = layer.start_K
            if seeds.mean_D is not None:
                numbers_K = torch.tensor(seeds.mean_D[start : start + layer.num_numbers])
            bases.append(_mean_factors(layer, numbers_K))
            left = perturbation.down_left_NSKR[:, index, :, : layer.rank]
            right = perturbation.down_right_NSKI[:, index]
            held = part._replace(first_row=0, num_rows=layer.rank)
            noise.fill_(left, right, layer.parameter, (layer.rank, in_features), held)
            left = perturbation.up_left_NKO[..., perturbation.mean.columns[index]]
            right = perturbation.up_right_NSKR[:, index, :, : layer.rank]
            held = part._replace(first_column=0, num_columns=layer.rank)
            noise.fill_(left, right, layer.parameter + 1, (out_features, layer.rank), held)
        perturbation.set_mean(bases)


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
        units = [layer.unit for layer in self.layers]
        noise = _write_pairs(self.perturbation, units, _seeds(members))
        start = 0
        for index, (layer, part) in enumerate(zip(self.layers, self.slices, strict=True)):
            left = self.perturbation.left_NKO[..., start : start + part.num_rows]
            right = self.perturbation.right_NSKI[:, index]
            start += part.num_rows
            noise.fill_(left, right, layer.parameter, layer.shape, part)


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
    loras = [layer for layer in layers if isinstance(layer, LoraLayer)]
    if len(scaled) == len(layers):
        return ScaledHook(scaled, starts, slices, capacity)
    if len({layer.noise_rank for layer in (*cores, *noises, *loras)}) > 1:
        raise ModelError(f"the layers of module {module_name} have noise of different ranks")
    if len(cores) == len(layers):
        return CoreHook(cores, starts, slices, capacity)
    if len(noises) == len(layers):
        return NoiseHook(noises, slices, capacity)
    if len(loras) == len(layers):
        return LoraHook(loras, starts, slices, capacity)
    raise ModelError(f"the layers of module {module_name} are perturbed in different ways")


def _fuse(
    layers: Sequence[LayerFactors] | Sequence[CoreLayer],
    slices: Sequence[Slice],
    capacity: Capacity,
) -> FusedBasis:
    return FusedBasis([layer.basis for layer in layers], slices, capacity.dtype, capacity.device)


def _mean_factors(layer: LoraLayer, numbers_K: torch.Tensor) -> SharedBasis:
    down_RI, up_OR = layer.factors(numbers_K)
    return SharedBasis(down_RI.T, layer.scaling * up_OR)


def _seeds(members: Members) -> NoiseMembers:
    if not isinstance(members, NoiseMembers):
        raise WorkerError("this space takes seeds, not vectors")
    return members


class _FactorNoise(NamedTuple):
    """The noise of some pairs, which stand in the tables' rows in this order."""

    stream: NoiseStream
    pairs: Sequence[int]

    def fill_(
        self,
        left_NKO: torch.Tensor,
        right_NKI: torch.Tensor,
        parameter: int,
        shape: tuple[int, int],
        part: Slice,
    ) -> None:
        """Write both factors of the noise on `part` of matrix number `parameter`."""
        for table, side, width, first in (
            (left_NKO, OUTPUT_SIDE, shape[0], part.first_row),
            (right_NKI, INPUT_SIDE, shape[1], part.first_column),
        ):
            rows, number = table[: len(self.pairs)], 2 * parameter + side
            fill_factor_noise_(rows, self.stream, self.pairs, number, width, first)


def _write_pairs(
    perturbation: PairNoise, units: Sequence[float], seeds: NoiseMembers
) -> _FactorNoise:
    """Give every pair a row and every member its coefficients, one for each matrix's unit."""
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
    divisor = VARIANCE[seeds.kind] * perturbation.noise_rank**0.5
    for index, unit in enumerate(units):
        perturbation.coefficient_MS[: len(seeds), index] = signs_M * (seeds.sigma * unit / divisor)
    return _FactorNoise(NoiseStream(seeds.seed, seeds.generation, seeds.kind), pairs)
