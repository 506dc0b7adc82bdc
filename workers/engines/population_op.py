"""The torch operator through which a compiled model adds its population.

Opaque to Dynamo and safe in a captured graph: it mutates its first argument, reads only static
tables, and finds them by number. Watching what it changes (the canary) happens inside it, so it
works in compiled models too, but not while a captured graph is replayed, which runs no Python:
whoever watches has to run the model without graphs.
"""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from kernels.perturbation import NOBODY, Perturbation

_sites: "dict[int, Site]" = {}  # a compiled graph knows only the number
_engines = itertools.count()
SITES_PER_ENGINE = 1_000_000
_library = torch.library.Library("es_align", "DEF")
_library.define("add_population_(Tensor(a!) y, Tensor x, int site) -> ()")


def first_site() -> int:
    """Numbers for the sites of one more engine of this process, this one and those after it.

    A new process starts at 0 again, so that the compiled graph of its first engine, which holds
    these numbers, can come from the cache.
    """
    return next(_engines) * SITES_PER_ENGINE


def forget_sites(first: int) -> None:
    """Let go of an engine's sites, and with them of its population's tables."""
    for number in [n for n in _sites if first <= n < first + SITES_PER_ENGINE]:
        del _sites[number]


@dataclass(frozen=True, slots=True)
class PopulationSettings:
    """What an engine's workers are told about the population before they load the model."""

    factors_path: Path
    max_members: int
    first_site: int
    layer_names: Sequence[str]

    def compute_hash(self) -> str:
        """What of this a compiled graph depends on (vLLM puts it into the key of its cache)."""
        parts = [str(self.first_site), *self.layer_names]
        return hashlib.sha256("|".join(parts).encode()).hexdigest()


class RowMap:
    """Which member each row of the engine's current step belongs to; one int32 buffer.

    That of a GPU is filled from one in pinned memory: from any other the copy would keep the host
    waiting for the step before.
    """

    def __init__(self, max_rows: int, device: torch.device | str) -> None:
        self.member_T = torch.full((max_rows,), NOBODY, dtype=torch.int32, device=device)
        self._pinned = _Pinned(max_rows) if self.member_T.is_cuda else None

    def set(self, slots_T: torch.Tensor) -> None:
        """The first rows belong to these slots, int32 on the host; all further rows to nobody.

        A larger batch than ever before gets a larger buffer, which only an engine without captured
        graphs may ask for.
        """
        if len(slots_T) > len(self.member_T):
            self.member_T = self.member_T.new_empty(len(slots_T))
            self._pinned = _Pinned(len(slots_T)) if self.member_T.is_cuda else None
        if self._pinned is not None:
            self._pinned.copy_to(self.member_T, slots_T)
            return
        self.member_T[: len(slots_T)].copy_(slots_T)
        self.member_T[len(slots_T) :].fill_(NOBODY)


class _Pinned:
    """An int32 buffer of the host that a GPU reads by itself."""

    def __init__(self, max_rows: int) -> None:
        self.member_T = torch.full((max_rows,), NOBODY, dtype=torch.int32, pin_memory=True)
        self.is_read = torch.cuda.Event()

    def copy_to(self, member_T: torch.Tensor, slots_T: torch.Tensor) -> None:
        """Put the slots, and NOBODY after them, into a GPU's buffer of the same length."""
        self.is_read.synchronize()  # by the copy before, which a GPU a step behind may still owe
        self.member_T[: len(slots_T)].copy_(slots_T)
        self.member_T[len(slots_T) :].fill_(NOBODY)
        member_T.copy_(self.member_T, non_blocking=True)
        self.is_read.record()


class Site:
    """One hooked module: its perturbation, the engine's rows, and whether it is watched."""

    def __init__(self, name: str, number: int, perturbation: Perturbation, rows: RowMap) -> None:
        self.name = name
        self.perturbation = perturbation
        self.rows = rows
        self.reference: int | None = None
        self.max_difference = 0.0
        self.number = number
        _sites[self.number] = self

    def add_(self, y: torch.Tensor, x: torch.Tensor) -> None:
        """Add the current rows' perturbation to `y` in place."""
        if y.dim() != 2:
            y, x = y.view(-1, y.shape[-1]), x.reshape(-1, x.shape[-1])
        member_T = self.rows.member_T
        others = None if self.reference is None else y.clone()
        self.perturbation.add_(y, x, member_T)
        if others is not None:
            other_T = member_T.masked_fill(member_T != NOBODY, cast(int, self.reference))
            self.perturbation.add_(others, x, other_T)
            self.max_difference = max(self.max_difference, float((y - others).abs().max()))

    def watch(self, reference: int | None) -> float:
        """Start to compare the rows' own members with the member `reference`, or stop with None;
        returns the largest difference seen since the last call.
        """
        seen, self.max_difference = self.max_difference, 0.0
        self.reference = reference
        return seen


def _add_population(y: torch.Tensor, x: torch.Tensor, site: int) -> None:
    _sites[site].add_(y, x)


def _nothing(y: torch.Tensor, x: torch.Tensor, site: int) -> None:
    """Shapes do not change: all that tracing needs to know."""


_library.impl("add_population_", _add_population, "CPU")
_library.impl("add_population_", _add_population, "CUDA")
torch.library.register_fake("es_align::add_population_", _nothing, lib=_library)
