"""The population inside an engine: all hooked layers and the members they currently hold.

Engines hook their linear layers here; what differs between them is only how rows are mapped to
members. Vectors hold the numbers of all layers one after the other, in the order of the layers.

Shape suffixes: _M members, _D numbers of a vector.
"""

from collections.abc import Sequence

import numpy as np
import torch

from kernels.errors import ModelError, WorkerError
from kernels.perturbation import Slice
from workers.hooks import Capacity, Hook, make_hook
from workers.layers import PerturbedLayer
from workers.members import Members


class Population:
    """All hooked layers of one engine and the members they currently hold."""

    def __init__(
        self,
        layers: Sequence[PerturbedLayer],
        max_members: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        self.capacity = Capacity(max_members, dtype, device)
        self.hooks: dict[str, Hook] = {}
        starts = np.cumsum([0, *(layer.num_numbers for layer in layers)]).tolist()
        self.dimension = int(starts.pop())
        self._waiting = {
            layer.name: (layer, start) for layer, start in zip(layers, starts, strict=True)
        }

    def hook(
        self,
        module_name: str,
        layer_names: Sequence[str],
        slices: Sequence[Slice] | None = None,
    ) -> Hook | None:
        """The perturbation of a module that computes these checkpoint layers;
        None if none is perturbed.

        `slices` says what part of each layer this rank computes; None: all of it.
        Raises ModelError if only some of the layers of a fused module are perturbed, or a layer is
        smaller than its slice.
        """
        found = [self._waiting.pop(name) for name in layer_names if name in self._waiting]
        if not found:
            return None
        layers = [layer for layer, _ in found]
        if len(found) < len(layer_names):
            raise ModelError(
                f"module {module_name} computes {', '.join(layer_names)} together, but only "
                f"{', '.join(layer.name for layer in layers)} are targets; "
                "name all of them in space.targets"
            )
        parts = slices or [Slice(0, layer.shape[0], 0, layer.shape[1]) for layer in layers]
        for layer, part in zip(layers, parts, strict=True):
            needed = (part.first_row + part.num_rows, part.first_column + part.num_columns)
            if needed[0] > layer.shape[0] or needed[1] > layer.shape[1]:
                raise ModelError(
                    f"layer {layer.name} is {layer.shape[0]} x {layer.shape[1]}, but module "
                    f"{module_name} computes up to {needed[0]} x {needed[1]}; "
                    "the basis belongs to another model"
                )
        hook = make_hook(module_name, layers, [start for _, start in found], parts, self.capacity)
        self.hooks[module_name] = hook
        return hook

    def check_all_hooked(self) -> None:
        """Raise ModelError naming the first layers that no module of the engine computes."""
        if self._waiting:
            missing = sorted(self._waiting)
            raise ModelError(
                f"{len(missing)} perturbed layers are computed by no linear layer of the engine's "
                f"model, first {missing[:3]}; the basis belongs to another model, or these layers "
                "cannot be hooked (fused experts): leave them out of space.targets"
            )

    def set_members(self, members: Members) -> None:
        """Install the members, number m in slot m.

        Raises WorkerError if there are more members than slots or the vectors have another length.
        """
        vector = members if isinstance(members, np.ndarray) else members.mean_D
        dimension = self.dimension if vector is None else vector.shape[-1]
        max_members = self.capacity.max_members
        if len(members) > max_members or dimension != self.dimension:
            raise WorkerError(
                f"vectors of shape {len(members)} x {dimension} do not fit {max_members} slots "
                f"x {self.dimension} numbers; start the worker with the run's own settings"
            )
        for hook in self.hooks.values():
            hook.set_members(members)

    @property
    def member_bytes(self) -> int:
        """Bytes of member state of all layers, for `max_members` members."""
        return sum(hook.perturbation.member_bytes for hook in self.hooks.values())
