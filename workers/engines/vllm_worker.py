"""The vLLM worker that carries a population: wraps every target layer's `quant_method`.

vLLM gets this class by name, so the wrapper stands before warm-up, profiling and compilation on
every rank, whatever the precision: the base product is the engine's own (bf16, W8A8, W4A16), the
perturbation is added behind it by one opaque operator. No LoRA slots are used (their cost:
docs/benchmarks.md). In a row-parallel layer the addition comes before the ranks' partial sums are
added up, which is right because the perturbation is linear. The member of every row comes from the
request's `extra_args`, in batch order.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from vllm.model_executor.layers.linear import LinearBase

from kernels.perturbation import Slice
from workers.engines.population_op import PopulationSettings, RowMap, Site
from workers.engines.vllm_compat import (
    Graphs,
    PlatformWorker,
    allow_compiled_reload,
    before_each_step,
    check_version,
    choose_greedily_without_copy,
    request_argument,
    score_answers_only,
    slices_of,
)
from workers.engines.vllm_reload import bias_of, kept_biases, replace_weights
from workers.layers import load_factors
from workers.members import Members
from workers.population import Population
from workers.protocol import BASE_MEMBER

MEMBER_ARGUMENT = "es_member"
ANSWER_ARGUMENT = "es_answer"  # how many of the prompt's last tokens are to be scored
# A column comes back as the product with a one: rounded to bf16, after its code and its scale.
COLUMN_TOLERANCE = 2.0**-8


class Columns(NamedTuple):
    """What some inputs of a layer are multiplied with."""

    indices: Sequence[int]
    values_ON: torch.Tensor  # fp32


class Held(NamedTuple):
    """A hooked module as vLLM made it."""

    module: LinearBase
    method: object  # its own product, without the population
    names: Sequence[str]  # the checkpoint layers it computes, one after the other
    slices: Sequence[Slice]  # what this rank has of each
    bias_O: torch.Tensor | None  # a copy, in the kernel's order


class PopulationMethod:
    """A layer's own quantisation method with the population's term added to its result."""

    def __init__(self, inner: object, site: Site) -> None:
        self.inner = inner
        self.site = site
        self.site_number = site.number

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def apply(
        self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        y = self.inner.apply(layer, x, bias)  # pyright: ignore[reportAttributeAccessIssue]
        torch.ops.es_align.add_population_(y, x, self.site_number)
        return y


class PopulationWorker(PlatformWorker):
    """The platform's worker with a population on its linear layers."""

    population: Population
    sites: dict[str, Site]
    held: dict[str, Held]
    rows: RowMap
    graphs: Graphs
    numbers: Iterator[int]

    def load_model(self, *args: object, **kwargs: object) -> None:
        """Load as usual, then hook every target layer before anything is compiled or profiled."""
        check_version()
        allow_compiled_reload()
        super().load_model(*args, **kwargs)
        settings = cast(PopulationSettings, self.vllm_config.additional_config)
        model = self.model_runner.get_model()
        device = self.model_runner.device
        self.population = Population(
            load_factors(settings.factors_path),
            settings.max_members,
            self.vllm_config.model_config.dtype,
            device,
        )
        self.rows = RowMap(self.vllm_config.scheduler_config.max_num_batched_tokens, device)
        self.graphs = Graphs(self.model_runner)
        self.sites, self.held = {}, {}
        self.numbers = itertools.count(settings.first_site)
        packed = cast(dict[str, list[str]], getattr(model, "packed_modules_mapping", {}))
        for name, layer in model.named_modules():
            if isinstance(layer, LinearBase):
                self._hook(name, layer, packed)
        self.population.check_all_hooked()
        before_each_step(self.model_runner, self._map_rows)
        choose_greedily_without_copy(self.model_runner)
        score_answers_only(self.model_runner, self._num_answer)

    def _hook(self, name: str, layer: LinearBase, packed: dict[str, list[str]]) -> None:
        parent, _, last = name.rpartition(".")
        names = [f"{parent}.{part}" for part in packed.get(last, [last])]
        hook = self.population.hook(name, names, slices_of(layer))
        if hook is None:
            return
        site = Site(name, next(self.numbers), hook.perturbation, self.rows)
        self.sites[name] = site
        bias = bias_of(layer)
        bias_O = None if bias is None else bias.data.clone()
        self.held[name] = Held(layer, layer.quant_method, names, slices_of(layer), bias_O)
        method = PopulationMethod(layer.quant_method, site)
        layer.quant_method = method  # pyright: ignore[reportAttributeAccessIssue]
        # A fused norm could otherwise hand the layer integer codes, which the term cannot read.
        layer.requires_unquantized_input = True  # pyright: ignore[reportAttributeAccessIssue]

    def _map_rows(self, request_ids: list[str], num_rows: np.ndarray) -> None:
        runner = self.model_runner
        slots = [request_argument(runner, name, MEMBER_ARGUMENT) for name in request_ids]
        numbers = [BASE_MEMBER if slot is None else cast(int, slot) for slot in slots]
        self.rows.set(torch.from_numpy(np.repeat(np.array(numbers, dtype=np.int32), num_rows)))

    def _num_answer(self, request_id: str) -> int | None:
        return cast(int | None, request_argument(self.model_runner, request_id, ANSWER_ARGUMENT))

    def set_members(self, members: Members) -> None:
        """Make these the members (called through `collective_rpc`)."""
        self.population.set_members(members)

    def write_weights(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Load checkpoint tensors of hooked layers, their weights alone."""
        hooked = {name: held.module.quant_method for name, held in self.held.items()}
        for held in self.held.values():  # only a method of vLLM's own packs what was loaded
            held.module.quant_method = held.method  # pyright: ignore[reportAttributeAccessIssue]
        num_outputs = {h.module: sum(s.num_rows for s in h.slices) for h in self.held.values()}
        try:
            with kept_biases(num_outputs):
                replace_weights(self, tensors)
        finally:
            for name, method in hooked.items():
                self.held[name].module.quant_method = method

    def differing(self, meant: Mapping[str, Columns]) -> list[str]:
        """Names of the layers whose columns are not these, or whose bias is not what it was."""
        device = self.model_runner.device
        return [name for held in self.held.values() for name in _differing(held, meant, device)]

    def replays_graphs(self) -> bool:
        """Whether steps may be replays of captured graphs."""
        return self.graphs.are_replayed

    def num_hooked_layers(self) -> int:
        """Modules that carry a perturbation."""
        return len(self.sites)

    def population_bytes(self) -> int:
        """Bytes of member state, for as many members as the engine has room for."""
        return self.population.member_bytes

    def watch(self, reference: int | None) -> dict[str, float]:
        """Start to compare each hooked module with what it gives the member `reference`, or stop;
        returns the largest difference seen so far. No graph is replayed until then: its replay
        would run nothing that compares.
        """
        if reference is None:
            self.graphs.go_on()
        else:
            self.graphs.pause()
        return {name: site.watch(reference) for name, site in self.sites.items()}


def _differing(held: Held, meant: Mapping[str, Columns], device: torch.device) -> Iterator[str]:
    """Multiply by unit vectors: each gives one column as the kernel in use reads it."""
    bias = bias_of(held.module)
    has_its_bias = held.bias_O is None or (bias is not None and torch.equal(bias, held.bias_O))
    start = 0
    for name, part in zip(held.names, held.slices, strict=True):
        rows = slice(start, start + part.num_rows)
        start += part.num_rows
        if name not in meant:
            continue
        indices, values_ON = meant[name]
        local = [(place, index - part.first_column) for place, index in enumerate(indices)]
        local = [(place, index) for place, index in local if 0 <= index < part.num_columns]
        ones_NI = torch.zeros(
            len(indices), part.num_columns, dtype=held.module.params_dtype, device=device
        )
        for place, index in local:
            ones_NI[place, index] = 1
        read_NO = held.method.apply(held.module, ones_NI)[:, rows]  # pyright: ignore[reportAttributeAccessIssue]
        values_NO = values_ON[part.first_row : part.first_row + part.num_rows].T
        places = [place for place, _ in local]
        gap_NO = (read_NO[places].float().cpu() - values_NO[places]).abs()
        # Not-a-number is not held, either.
        is_held = bool((gap_NO <= COLUMN_TOLERANCE * values_NO[places].abs()).all())
        if not (is_held and has_its_bias):
            yield name
