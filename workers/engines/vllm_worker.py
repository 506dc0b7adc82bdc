"""The vLLM worker that carries a population: wraps every target layer's `quant_method`.

vLLM gets this class by name, so the wrapper stands before warm-up and profiling on every rank,
whatever the precision: the base product is the engine's own (bf16, W8A8, W4A16), the perturbation
is added behind it. No LoRA slots are used: stock multi-LoRA ran at 0.22 of base speed on a CPU,
this at 0.95 (see docs/benchmarks.md). The member of every row comes from the request's
`extra_args`, in batch order.
"""

from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from vllm.model_executor.layers.linear import LinearBase
from vllm.platforms import current_platform
from vllm.v1.core.sched.output import SchedulerOutput

from kernels.errors import ModelError
from workers.population import HookedLayer, Population, load_factors
from workers.protocol import BASE_MEMBER

if TYPE_CHECKING or current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as PlatformWorker
else:
    from vllm.v1.worker.gpu_worker import Worker as PlatformWorker

MEMBER_ARGUMENT = "es_member"
CONFIG_KEY = "es_align"


class PopulationMethod:
    """A layer's own quantisation method with the population's term added to its result."""

    def __init__(self, inner: object, hooked: HookedLayer, member_T: torch.Tensor) -> None:
        self.inner = inner
        self.hooked = hooked
        self.member_T = member_T
        self.is_watched = False
        self.max_difference = 0.0

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def apply(
        self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        y = self.inner.apply(layer, x, bias)  # pyright: ignore[reportAttributeAccessIssue]
        before = y.clone() if self.is_watched else None
        num_rows = x.numel() // x.shape[-1]
        self.hooked.add_(y.view(num_rows, -1), x.reshape(num_rows, -1), self.member_T[:num_rows])
        if before is not None:
            self.max_difference = max(self.max_difference, float((y - before).abs().max()))
        return y


class PopulationWorker(PlatformWorker):
    """The platform's worker with a population on its linear layers."""

    population: Population
    methods: dict[str, PopulationMethod]
    member_T: torch.Tensor

    def load_model(self, *args: object, **kwargs: object) -> None:
        """Load as usual, then hook every target layer before anything is compiled or profiled."""
        super().load_model(*args, **kwargs)
        settings = cast(dict[str, object], self.vllm_config.additional_config)[CONFIG_KEY]
        settings = cast(dict[str, object], settings)
        if self.vllm_config.parallel_config.tensor_parallel_size > 1:
            raise ModelError(
                "tensor_parallel_size above 1 is not supported by the population; "
                "use one engine per device"
            )
        model = self.model_runner.get_model()
        device = self.model_runner.device
        self.population = Population(
            load_factors(Path(str(settings["factors_path"]))),
            int(cast(int, settings["max_members"])),
            self.vllm_config.model_config.dtype,
            device,
        )
        max_tokens = self.vllm_config.scheduler_config.max_num_batched_tokens
        self.member_T = torch.full((max_tokens,), self.population.base_row, device=device)
        self.methods = {}
        packed = cast(dict[str, list[str]], getattr(model, "packed_modules_mapping", {}))
        for name, layer in model.named_modules():
            if isinstance(layer, LinearBase):
                self._hook(name, layer, packed)
        self.population.check_all_hooked()
        self._map_rows_to_members()

    def _hook(self, name: str, layer: LinearBase, packed: dict[str, list[str]]) -> None:
        parent, _, last = name.rpartition(".")
        hooked = self.population.hook(
            name, [f"{parent}.{part}" for part in packed.get(last, [last])]
        )
        if hooked is not None:
            method = PopulationMethod(layer.quant_method, hooked, self.member_T)
            self.methods[name] = method
            layer.quant_method = method  # pyright: ignore[reportAttributeAccessIssue]

    def _map_rows_to_members(self) -> None:
        runner = self.model_runner
        prepare_inputs = runner._prepare_inputs

        def prepare_with_members(
            scheduler_output: SchedulerOutput, num_scheduled_tokens: np.ndarray
        ):
            slots = [self._slot(request) for request in runner.input_batch.req_ids]
            rows = np.repeat(slots[: len(num_scheduled_tokens)], num_scheduled_tokens)
            self.member_T[: len(rows)].copy_(torch.from_numpy(rows))
            self.member_T[len(rows) :].fill_(self.population.base_row)
            return prepare_inputs(scheduler_output, num_scheduled_tokens)

        runner._prepare_inputs = prepare_with_members

    def _slot(self, request_id: str) -> int:
        parameters = self.model_runner.requests[request_id].sampling_params
        extra = None if parameters is None else parameters.extra_args
        slot = BASE_MEMBER if extra is None else int(extra[MEMBER_ARGUMENT])
        return self.population.base_row if slot == BASE_MEMBER else slot

    def set_members(self, vectors_MD: np.ndarray) -> None:
        """Make these the members (called through `collective_rpc`)."""
        self.population.set_members(vectors_MD)

    def num_hooked_layers(self) -> int:
        """Modules that carry a perturbation."""
        return len(self.methods)

    def watch(self, is_on: bool) -> dict[str, float]:
        """Start or stop measuring what each hooked module adds;
        returns the largest change seen so far.
        """
        seen = {name: method.max_difference for name, method in self.methods.items()}
        for method in self.methods.values():
            method.is_watched, method.max_difference = is_on, 0.0
        return seen
