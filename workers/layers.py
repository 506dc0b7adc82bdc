"""What the driver tells an engine about the layers it perturbs: frozen, sent once.

One class a kind of perturbation; every layer stands under its checkpoint name, e.g.
`model.layers.0.self_attn.q_proj`. All tensors are fp32.

Shape suffixes: _M members, _K numbers of one layer, _R directions.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from kernels.shared_basis import SharedBasis


@dataclass(frozen=True, slots=True)
class LayerFactors:
    """A layer whose members scale frozen singular directions (`kernels.shared_basis`).

    A member's scales are `base + unit * numbers` on the first `num_moving` directions and `base` on
    the rest. `base_b_R` and `unit_b_R` are None in the one-factor form.
    """

    name: str
    basis: SharedBasis
    num_moving: int
    base_a_R: torch.Tensor
    unit_a_R: torch.Tensor
    base_b_R: torch.Tensor | None = None
    unit_b_R: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """`(out_features, in_features)` of the layer."""
        return len(self.basis.left_OR), len(self.basis.right_IR)

    @property
    def num_numbers(self) -> int:
        """Numbers of a member's vector that belong to this layer."""
        return self.num_moving * (1 if self.base_b_R is None else 2)

    def scales(self, numbers_MK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Scale tables `(a_MR, b_MR or None)`, fp32, of the members whose numbers these are."""
        moving = self.num_moving
        scale_a_MR = _moved(self.base_a_R, self.unit_a_R, numbers_MK[:, :moving])
        if self.base_b_R is None or self.unit_b_R is None:
            return scale_a_MR, None
        return scale_a_MR, _moved(self.base_b_R, self.unit_b_R, numbers_MK[:, moving:])


@dataclass(frozen=True, slots=True)
class CoreLayer:
    """A layer whose members perturb the small core between frozen directions (`kernels.core`).

    The numbers of this layer in the mean's vector are its core, row by row. A member's noise has
    standard deviation `sigma * unit` per entry of the core; `parameter` is the layer's number in
    the noise stream. The mean starts with the core `start_RR`; None is zero.
    """

    name: str
    basis: SharedBasis
    noise_rank: int
    unit: float
    parameter: int
    start_RR: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """`(out_features, in_features)` of the layer."""
        return len(self.basis.left_OR), len(self.basis.right_IR)

    @property
    def num_numbers(self) -> int:
        """Entries of the core."""
        return self.basis.right_IR.shape[1] ** 2

    @property
    def start_K(self) -> torch.Tensor:
        """The numbers that the mean starts with, fp32."""
        if self.start_RR is None:
            return torch.zeros(self.num_numbers)
        return self.start_RR.flatten()


@dataclass(frozen=True, slots=True)
class NoiseLayer:
    """A layer whose members add low-rank noise to the whole weight (`kernels.low_rank`).

    A member's noise has standard deviation `sigma * unit` per weight; `parameter` is the layer's
    number in the noise stream.
    """

    name: str
    out_features: int
    in_features: int
    noise_rank: int
    unit: float
    parameter: int

    @property
    def shape(self) -> tuple[int, int]:
        """`(out_features, in_features)` of the layer."""
        return self.out_features, self.in_features

    @property
    def num_numbers(self) -> int:
        """None in a vector: the mean is the engine's own weights."""
        return 0


@dataclass(frozen=True, slots=True)
class LoraLayer:
    """A layer whose members perturb the two factors of a LoRA (`kernels.lora`).

    The layer computes `W x + scaling * B A x`; the mean starts with A `down_RI` and B `up_OR`. The
    numbers of this layer in the mean's vector are A row by row, then B. A member's noise has
    standard deviation `sigma * unit_a` per entry of A and `sigma * unit_b` per entry of B; a unit
    of 0 leaves that factor alone. Each factor is a matrix of the noise stream: A has number
    `parameter` and B the next, so a layer takes two.
    """

    name: str
    down_RI: torch.Tensor
    up_OR: torch.Tensor
    scaling: float
    noise_rank: int
    unit_a: float
    unit_b: float
    parameter: int

    @property
    def shape(self) -> tuple[int, int]:
        """`(out_features, in_features)` of the layer."""
        return len(self.up_OR), self.down_RI.shape[1]

    @property
    def rank(self) -> int:
        """Directions of the LoRA."""
        return len(self.down_RI)

    @property
    def num_numbers(self) -> int:
        """Entries of both factors."""
        return self.down_RI.numel() + self.up_OR.numel()

    @property
    def start_K(self) -> torch.Tensor:
        """The numbers that the mean starts with, fp32."""
        return torch.cat([self.down_RI.flatten(), self.up_OR.flatten()])

    def factors(self, numbers_K: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`(down_RI, up_OR)` with these numbers, as views."""
        down_K, up_K = numbers_K.split([self.down_RI.numel(), self.up_OR.numel()])
        return down_K.view_as(self.down_RI), up_K.view_as(self.up_OR)


PerturbedLayer = LayerFactors | CoreLayer | NoiseLayer | LoraLayer
_KINDS = {kind.__name__: kind for kind in (LayerFactors, CoreLayer, NoiseLayer, LoraLayer)}


def save_factors(layers: Sequence[PerturbedLayer], path: Path) -> None:
    """Write the layers to one safetensors file, in order."""
    tensors: dict[str, torch.Tensor] = {}
    described = []
    for index, layer in enumerate(layers):
        plain: dict[str, object] = {"kind": type(layer).__name__}
        for field, value in _fields(layer):
            if isinstance(value, torch.Tensor):  # a copy: safetensors refuses shared memory
                contiguous = torch.contiguous_format
                tensors[f"{index:05d}|{field}"] = value.clone(memory_format=contiguous)
            elif value is not None:
                plain[field] = value
        described.append(plain)
    save_file(tensors, path, metadata={"layers": json.dumps(described)})


def load_factors(path: Path) -> list[PerturbedLayer]:
    """Read what `save_factors` wrote."""
    with safe_open(path, framework="pt") as file:
        described = json.loads(file.metadata()["layers"])
        parts: list[dict[str, object]] = [dict(plain) for plain in described]
        for key in file.keys():  # noqa: SIM118 (safe_open is no dict)
            index, field = key.split("|")
            parts[int(index)][field] = file.get_tensor(key)
    return [_built(fields) for fields in parts]


def layers_digest(layers: Sequence[PerturbedLayer]) -> str:
    """sha256 of everything the layers are: a run belongs to one of these."""
    total = hashlib.sha256()
    for layer in layers:
        total.update(type(layer).__name__.encode())
        for field, value in _fields(layer):
            total.update(field.encode())
            if isinstance(value, torch.Tensor):
                total.update(f"{tuple(value.shape)}".encode())
                total.update(value.contiguous().numpy().tobytes())
            else:
                total.update(repr(value).encode())
    return total.hexdigest()


def layer_names(path: Path) -> list[str]:
    """Names of the layers in a file of `save_factors`; their tensors are not read."""
    with safe_open(path, framework="pt") as file:
        return [str(plain["name"]) for plain in json.loads(file.metadata()["layers"])]


def _fields(layer: PerturbedLayer) -> list[tuple[str, object]]:
    fields: list[tuple[str, object]] = []
    for name in type(layer).__slots__:
        value = getattr(layer, name)
        if isinstance(value, SharedBasis):
            fields += [(part, getattr(value, part)) for part in SharedBasis.__slots__]
        else:
            fields.append((name, value))
    return fields


def _built(fields: Mapping[str, object]) -> PerturbedLayer:
    given = dict(fields)
    kind = _KINDS[str(given.pop("kind"))]
    basis = {part: given.pop(part) for part in SharedBasis.__slots__ if part in given}
    if basis:
        given["basis"] = SharedBasis(**basis)  # pyright: ignore[reportArgumentType]
    return kind(**given)  # pyright: ignore[reportArgumentType]


def _moved(base_R: torch.Tensor, unit_R: torch.Tensor, numbers_MK: torch.Tensor) -> torch.Tensor:
    scale_MR = base_R.repeat(len(numbers_MK), 1)
    moving = numbers_MK.shape[1]
    scale_MR[:, :moving] += unit_R[:moving] * numbers_MK
    return scale_MR
