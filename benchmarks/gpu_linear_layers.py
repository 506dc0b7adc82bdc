"""Layers, rows and members of one cell of `gpu_linear.py`, and the check that comes before a time.

Everything is drawn afresh for a cell, and the perturbation is as large as the base's own output, so
that an error in it cannot hide in the base's rounding. A check poisons outputs and scratch with
NaN, leaves some rows to nobody and holds a work to: every row right against float64, rows of nobody
with the bits of the base, nothing written beyond the last row.

Shape suffixes: _T rows, _I in features, _O out features, _M members, _P pairs, _K rank.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple
from unittest import mock

import torch

from benchmarks.gpu_linear_bases import BASES, Base
from benchmarks.gpu_linear_rows import Cost, Errors, error_limit
from benchmarks.gpu_linear_sizes import Cell
from kernels.perturbation import NOBODY

GUARD_ROWS = 8  # beyond the last row; must stay as they are
EVERY_NOBODY = 7  # every so many rows belong to nobody while a work is checked
ROWS_AT_ONCE = 64  # of a float64 reference, whose factors are gathered row by row
POISON_CODE = 77


class WrongResult(Exception):
    """A work that may not be timed; says what is wrong."""


class Variant(NamedTuple):
    """What is added to the base's output."""

    add_: Callable[[int, torch.Tensor], object]  # layer, y; before: written, the base adds to it
    wanted: Callable[[], torch.Tensor]  # layer 0's addend in float64, for the members as they are
    cost: Cost  # beyond the base's
    takes_nobody: bool = True
    note: str = ""
    is_before: bool = False  # a product that accumulates may round its sums otherwise


class Problem:
    """Several layers of one cell, each with rows and outputs of its own, and who the rows are.

    `member_T` is read when a work runs, so a captured graph follows it.
    """

    def __init__(
        self, cell: Cell, num_layers: int, device: str, seed: int, base: str = "bf16"
    ) -> None:
        self.cell, self.num_layers, self.device = cell, num_layers, device
        self._generator = torch.Generator(device).manual_seed(seed)
        weights_OI = [self.draw(cell.width, cell.width) for _ in range(num_layers)]
        for weight_OI in weights_OI:
            weight_OI.mul_(cell.width**-0.5)
        self.rows_TI = [self.draw(cell.batch, cell.width) for _ in range(num_layers)]
        self._guarded = [self.draw(cell.batch + GUARD_ROWS, cell.width) for _ in range(num_layers)]
        self.outputs_TO = [guarded[: cell.batch] for guarded in self._guarded]
        self.base: Base = BASES[base](weights_OI, self.rows_TI, self.outputs_TO)
        self.base_wanted_TO = self.base.wanted()
        self.segments_T = torch.arange(cell.batch, device=device, dtype=torch.int32)
        self.segments_T //= cell.batch // cell.members
        self.member_T = self.segments_T.clone()
        if cell.order == "mixed":
            order = torch.randperm(cell.batch, generator=self._generator, device=device)
            self.member_T = self.segments_T[order].contiguous()

    def draw(self, *shape: int) -> torch.Tensor:
        """bf16 normals."""
        numbers = torch.randn(shape, generator=self._generator, device=self.device)
        return numbers.to(torch.bfloat16)

    def poison_(self) -> None:
        """Fill outputs and what lies behind them with NaN."""
        for guarded in self._guarded:
            guarded.fill_(torch.nan)

    def is_guard_intact(self) -> bool:
        """Whether all rows beyond the last are still NaN."""
        return all(bool(guarded[self.cell.batch :].isnan().all()) for guarded in self._guarded)

    @contextmanager
    def some_rows_of_nobody(self) -> Iterator[torch.Tensor]:
        """Which rows they are, while they are."""
        kept = self.member_T.clone()
        self.member_T[::EVERY_NOBODY] = NOBODY
        try:
            yield self.member_T < 0
        finally:
            self.member_T.copy_(kept)


class LayerWork:
    """Base and addend of every layer; the results of the latest call, or of the one captured."""

    def __init__(self, problem: Problem, variant: Variant | None) -> None:
        self._problem, self.variant = problem, variant
        self.results_TO: list[torch.Tensor] = []

    def __call__(self) -> None:
        self.results_TO = [self._run(index) for index in range(self._problem.num_layers)]

    def _run(self, index: int) -> torch.Tensor:
        base, variant = self._problem.base, self.variant
        if variant is not None and variant.is_before:
            variant.add_(index, self._problem.outputs_TO[index])
            return base.accumulate(index)
        y_TO = base.product(index)
        if variant is not None:
            variant.add_(index, y_TO)
        return y_TO

    def errors(self) -> Errors:
        """Of layer 0's result as it is now."""
        wanted_TO = self._problem.base_wanted_TO
        if self.variant is not None:
            wanted_TO = wanted_TO + self.variant.wanted()
        return errors_of(self.results_TO[0], wanted_TO)


def errors_of(y_TO: torch.Tensor, wanted_TO: torch.Tensor) -> Errors:
    """Norms of the difference over norms of what is wanted; NaN where a result is."""
    off_TO = y_TO.double() - wanted_TO
    worst = (off_TO.norm(dim=1) / wanted_TO.norm(dim=1)).max()
    return Errors(float(off_TO.norm() / wanted_TO.norm()), float(worst))


def check(problem: Problem, work: LayerWork) -> Errors:
    """Run the work on poisoned memory. Raises WrongResult, and what the work raises."""
    variant = work.variant
    problem.poison_()
    base_TO = problem.base.product(0).clone()
    problem.poison_()
    if variant is not None and not variant.takes_nobody:
        with poisoned_scratch():
            work()
        return judge(problem, work)
    with problem.some_rows_of_nobody() as is_nobody, poisoned_scratch():
        work()
        found = judge(problem, work)
        if variant is not None and variant.is_before:
            return found
        mine, base = (y[is_nobody].view(torch.int16) for y in (work.results_TO[0], base_TO))
        if not torch.equal(mine, base):
            raise WrongResult("rows of nobody differ from the base's")
        return found


def judge(problem: Problem, work: LayerWork) -> Errors:
    """The errors of results on poisoned memory. Raises WrongResult if they are not right."""
    found = work.errors()
    if not (found.whole < error_limit() and found.worst_row < error_limit()):  # NaN too
        raise WrongResult(
            f"relative error {found.whole:.1e}, worst row {found.worst_row:.1e}; "
            f"less than {error_limit():.0e} is right"
        )
    if not problem.is_guard_intact():
        raise WrongResult("rows beyond the last were written")
    return found


@contextmanager
def poisoned_scratch() -> Iterator[None]:
    """What `torch.empty` gives holds NaN, or a code that noise never has."""
    empty = torch.empty

    def poisoned(*shape: object, **options: object) -> torch.Tensor:
        tensor = empty(*shape, **options)
        return tensor.fill_(torch.nan if tensor.is_floating_point() else POISON_CODE)

    with mock.patch.object(torch, "empty", poisoned):
        yield


def low_rank_addend(
    x_TI: torch.Tensor,
    member_T: torch.Tensor,
    pair_M: torch.Tensor,
    coefficient_M: torch.Tensor,
    left_PKO: torch.Tensor,
    right_PKI: torch.Tensor,
) -> torch.Tensor:
    """`c[m] (x b_p) a_p^T` in float64; the last of pairs and coefficients is NOBODY's, with 0."""
    parts = []
    for rows_TI, rows_T in zip(x_TI.split(ROWS_AT_ONCE), member_T.split(ROWS_AT_ONCE), strict=True):
        pair_T = pair_M[rows_T]
        inner_TK = torch.einsum("ti,tki->tk", rows_TI.double(), right_PKI[pair_T].double())
        inner_TK *= coefficient_M[rows_T].double()[:, None]
        parts.append(torch.einsum("tk,tko->to", inner_TK, left_PKO[pair_T].double()))
    return torch.cat(parts)
