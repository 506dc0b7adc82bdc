"""The population inside an engine: frozen directions a layer,
and one small table of numbers a member.

Both engines hook their linear layers with `HookedLayer`; what differs is only how rows are mapped
to members. Vectors hold the numbers of all layers one after the other, in the order of `factors`:
the moving part of `a`, then of `b` where the layer has two factors.

Shape suffixes: _M members, _D numbers of a vector, _R directions, _T rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from kernels.errors import ModelError, WorkerError
from kernels.shared_basis import SharedBasis, add_shared_basis_, fuse


@dataclass(frozen=True, slots=True)
class LayerFactors:
    """One perturbed linear layer under its checkpoint name, e.g. `model.layers.0.self_attn.q_proj`.

    A member's scales are `base + unit * numbers` on the first `num_moving` directions and `base` on
    the rest. All tensors are fp32; `base_b_R` and `unit_b_R` are None in the one-factor form.
    """

    name: str
    basis: SharedBasis
    num_moving: int
    base_a_R: torch.Tensor
    unit_a_R: torch.Tensor
    base_b_R: torch.Tensor | None = None
    unit_b_R: torch.Tensor | None = None

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


def _moved(base_R: torch.Tensor, unit_R: torch.Tensor, numbers_MK: torch.Tensor) -> torch.Tensor:
    scale_MR = base_R.repeat(len(numbers_MK), 1)
    moving = numbers_MK.shape[1]
    scale_MR[:, :moving] += unit_R[:moving] * numbers_MK
    return scale_MR


class HookedLayer:
    """The perturbation of one module of an engine,
    which may fuse several layers of the checkpoint.
    """

    def __init__(
        self,
        factors: Sequence[LayerFactors],
        offsets: Sequence[int],
        max_members: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        self.factors = factors
        self.offsets = offsets
        self.basis = fuse([layer.basis for layer in factors]).to(dtype, device)
        num_directions = self.basis.right_IR.shape[1]
        self.scale_a_MR = torch.zeros(max_members + 1, num_directions, device=device)
        has_b = self.basis.core_RR is not None
        self.scale_b_MR = torch.zeros_like(self.scale_a_MR) if has_b else None

    def set_members(self, vectors_MD: torch.Tensor) -> None:
        """Write the members' tables into rows 0 to M-1;
        the last row stays zero for the base model.
        """
        parts = [
            layer.scales(vectors_MD[:, start : start + layer.num_numbers])
            for layer, start in zip(self.factors, self.offsets, strict=True)
        ]
        self.scale_a_MR[: len(vectors_MD)] = torch.cat([a for a, _ in parts], dim=1)
        if self.scale_b_MR is not None:
            columns = [b for _, b in parts if b is not None]
            self.scale_b_MR[: len(vectors_MD)] = torch.cat(columns, dim=1)

    def add_(self, y_TO: torch.Tensor, x_TI: torch.Tensor, member_T: torch.Tensor) -> torch.Tensor:
        """Add every row's perturbation to `y_TO` in place (see `kernels.shared_basis`)."""
        return add_shared_basis_(y_TO, x_TI, self.basis, self.scale_a_MR, self.scale_b_MR, member_T)


class Population:
    """All hooked layers of one engine and the members they currently hold."""

    def __init__(
        self,
        factors: Sequence[LayerFactors],
        max_members: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        self.max_members = max_members
        self.base_row = max_members
        self.dtype = dtype
        self.device = device
        self.layers: dict[str, HookedLayer] = {}
        starts = np.cumsum([0, *(layer.num_numbers for layer in factors)]).tolist()
        self.dimension = int(starts.pop())
        self._waiting = {
            layer.name: (layer, start) for layer, start in zip(factors, starts, strict=True)
        }

    def hook(self, module_name: str, layer_names: Sequence[str]) -> HookedLayer | None:
        """The perturbation of a module that computes these checkpoint layers;
        None if none is perturbed.

        Raises ModelError if only some of the layers of a fused module are perturbed.
        """
        found = [self._waiting.pop(name) for name in layer_names if name in self._waiting]
        if not found:
            return None
        if len(found) < len(layer_names):
            raise ModelError(
                f"module {module_name} computes {', '.join(layer_names)} together, but only "
                f"{', '.join(layer.name for layer, _ in found)} are targets; "
                "name all of them in space.targets"
            )
        hooked = HookedLayer(
            [layer for layer, _ in found],
            [start for _, start in found],
            self.max_members,
            self.dtype,
            self.device,
        )
        self.layers[module_name] = hooked
        return hooked

    def check_all_hooked(self) -> None:
        """Raise ModelError naming the first layers that no module of the engine computes."""
        if self._waiting:
            missing = sorted(self._waiting)
            raise ModelError(
                f"{len(missing)} perturbed layers are not in the engine's model, "
                f"first {missing[:3]}; "
                "the basis belongs to another model, or the layer's type cannot be hooked"
            )

    def set_members(self, vectors_MD: np.ndarray) -> None:
        """Install the members' vectors, row m for member slot m.

        Raises WorkerError if there are more members than slots or the vectors have another length.
        """
        num_members, dimension = vectors_MD.shape
        if num_members > self.max_members or dimension != self.dimension:
            raise WorkerError(
                f"vectors of shape {num_members} x {dimension} do not fit {self.max_members} slots "
                f"x {self.dimension} numbers; start the worker with the run's own settings"
            )
        vectors = torch.from_numpy(np.ascontiguousarray(vectors_MD, dtype=np.float32))
        for layer in self.layers.values():
            layer.set_members(vectors)


def save_factors(factors: Sequence[LayerFactors], path: Path) -> None:
    """Write the factors to one safetensors file, in order, fp32."""
    tensors: dict[str, torch.Tensor] = {}
    for index, layer in enumerate(factors):
        parts = {
            "right": layer.basis.right_IR,
            "left": layer.basis.left_OR,
            "core": layer.basis.core_RR,
            "base_a": layer.base_a_R,
            "unit_a": layer.unit_a_R,
            "base_b": layer.base_b_R,
            "unit_b": layer.unit_b_R,
        }
        stem = f"{index:05d}|{layer.name}|{layer.num_moving}"
        tensors |= {
            f"{stem}|{part}": value.clone(memory_format=torch.contiguous_format)  # may be shared
            for part, value in parts.items()
            if value is not None
        }
    save_file(tensors, path)


def load_factors(path: Path) -> list[LayerFactors]:
    """Read what `save_factors` wrote."""
    layers: dict[str, dict[str, torch.Tensor]] = {}
    with safe_open(path, framework="pt") as file:
        for key in sorted(file.keys()):
            stem, part = key.rsplit("|", 1)
            layers.setdefault(stem, {})[part] = file.get_tensor(key)
    return [
        LayerFactors(
            name=stem.split("|")[1],
            basis=SharedBasis(parts["right"], parts["left"], parts.get("core")),
            num_moving=int(stem.split("|")[2]),
            base_a_R=parts["base_a"],
            unit_a_R=parts["unit_a"],
            base_b_R=parts.get("base_b"),
            unit_b_R=parts.get("unit_b"),
        )
        for stem, parts in layers.items()
    ]
