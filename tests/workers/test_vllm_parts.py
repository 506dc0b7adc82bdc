"""What the fast engine does on GPUs alone, without an engine: what it asks of vLLM, when graphs are
replayed, what becomes of a bias.

vLLM's own dispatcher, limits and reload answer; layers are packed by a stand-in, a bias as Marlin
does it.
"""

import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from es_align.plan_speed import GPUS
from kernels.errors import ModelError, WorkerError
from kernels.perturbation import Slice
from workers.engines.base import Completion, EngineSpec, Request
from workers.protocol import Sampling

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]
SPEC = EngineSpec("vllm", Path("model"), "bf16", None, 2, 4096, 0.5, 1)
LIMITS = {"max_num_seqs", "max_num_batched_tokens", "enable_chunked_prefill"}
INPUTS = 8


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from workers.engines import vllm_engine

    monkeypatch.setattr(vllm_engine, "is_on_cpu", lambda: False)


def started(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What an engine gives to `vllm.LLM`."""
    from workers.engines import vllm_engine

    given: dict[str, object] = {}
    monkeypatch.setattr(vllm_engine, "LLM", lambda **arguments: given.update(arguments))
    monkeypatch.setattr(vllm_engine, "Checkpoint", lambda path: None)
    vllm_engine.VllmEngine(SPEC, None)  # pyright: ignore[reportArgumentType]
    return given


def test_a_step_of_a_cpu_has_limits_and_whole_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert started(monkeypatch) == {
        "model": "model",
        "skip_tokenizer_init": True,
        "dtype": "bfloat16",
        "enforce_eager": True,
        "max_model_len": 4096,
        "max_num_seqs": 256,
        "max_num_batched_tokens": 4096,
        "enable_chunked_prefill": False,
        "kv_cache_memory_bytes": 2**29,
        "disable_log_stats": True,
        "seed": 0,
    }


def test_a_gpu_has_vllm_s_own_limits_and_is_shared(
    monkeypatch: pytest.MonkeyPatch, on_gpu: None
) -> None:
    from vllm.config import CacheConfig
    from vllm.v1.worker.utils import request_memory

    given = started(monkeypatch)
    assert not LIMITS & set(given)
    cache = CacheConfig(gpu_memory_utilization=given["gpu_memory_utilization"])  # pyright: ignore[reportArgumentType]
    snapshot = SimpleNamespace(total_memory=80 * 2**30, free_memory=2**30, device_="cuda:0")
    assert request_memory(snapshot, cache) < 2**28  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", GPUS)
def test_a_planned_gpu_has_as_many_sequences_as_vllm_gives_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.engine import arg_utils
    from vllm.usage.usage_lib import UsageContext

    platform = SimpleNamespace(
        # What a card's driver tells is a little less than its data sheet.
        get_device_total_memory=lambda: int(0.99 * GPUS[name].memory_gb * 2**30),
        get_device_name=lambda: f"NVIDIA {name}",
        is_tpu=lambda: False,
        is_cpu=lambda: False,
    )
    monkeypatch.setattr(arg_utils, "current_platform", platform)
    _, limits = arg_utils.EngineArgs.get_batch_defaults(world_size=1)
    assert limits[UsageContext.LLM_CLASS] == GPUS[name].max_sequences


def test_a_vllm_for_another_device_is_refused() -> None:
    from workers.engines import vllm_compat

    vllm_compat.check_device(None)
    vllm_compat.check_device("cpu")
    with pytest.raises(ModelError, match=r"computes on cpu here, .* given cuda; set workers\.gpus"):
        vllm_compat.check_device("cuda")


class Dispatched:
    """vLLM's own dispatcher with both kinds of graphs, in a worker without an engine."""

    def __init__(self) -> None:
        from vllm.config import CUDAGraphMode
        from vllm.v1.cudagraph_dispatcher import CudagraphDispatcher

        from workers.engines.vllm_compat import Graphs
        from workers.engines.vllm_worker import PopulationWorker

        mode = CUDAGraphMode.FULL_AND_PIECEWISE
        compilation = SimpleNamespace(
            cudagraph_mode=mode,
            is_attention_compiled_piecewise=lambda: True,
            cudagraph_capture_sizes=[1, 2, 4],
            max_cudagraph_capture_size=4,
            compile_sizes=None,
        )
        config: Any = SimpleNamespace(
            compilation_config=compilation,
            num_speculative_tokens=0,
            lora_config=None,
            scheduler_config=SimpleNamespace(max_num_seqs=4),
        )
        self.dispatcher = CudagraphDispatcher(config)
        self.dispatcher.initialize_cudagraph_keys(mode)
        self.worker = PopulationWorker.__new__(PopulationWorker)
        self.worker.sites = {}
        self.worker.graphs = Graphs(SimpleNamespace(cudagraph_dispatcher=self.dispatcher))

    def modes(self) -> list[str]:
        """Of a decoding step and of a prefill."""
        steps = (2, True), (3, False)
        return [self.dispatcher.dispatch(rows, is_decode)[0].name for rows, is_decode in steps]


def test_no_graph_is_replayed_while_sites_are_watched() -> None:
    found = Dispatched()
    assert (found.modes(), found.worker.replays_graphs()) == (["FULL", "PIECEWISE"], True)
    for _ in range(2):
        found.worker.watch(-1)
        assert (found.modes(), found.worker.replays_graphs()) == (["NONE", "NONE"], False)
    for _ in range(2):
        found.worker.watch(None)
        assert (found.modes(), found.worker.replays_graphs()) == (["FULL", "PIECEWISE"], True)


class Watched:
    """Two hooked modules, of which a member changes the first; graphs may have lost the members."""

    def __init__(self, *, has_graphs: bool, are_lost: bool) -> None:
        self.has_graphs, self.are_lost = has_graphs, are_lost
        self.asked: list[list[Request]] = []

    def collective_rpc(self, name: str, args: tuple[object, ...] = ()) -> list[object]:
        if name == "replays_graphs":
            return [self.has_graphs]
        assert name == "watch"
        return [{"first": 0.25, "second": 0.0}]

    def generate(self, requests: list[Request], sampling: Sampling) -> list[Completion]:
        self.asked.append(requests)
        slots = [0 if self.are_lost else request.slot for request in requests]
        return [Completion((7,), "", -1.0 - slot) for slot in slots]


@pytest.mark.parametrize(
    ("has_graphs", "are_lost", "lost"),
    [
        (False, False, ["second"]),
        (True, False, ["second"]),
        (True, True, ["first", "second"]),
    ],
)
def test_the_canary_asks_captured_graphs_too(
    has_graphs: bool, are_lost: bool, lost: list[str]
) -> None:
    from workers.engines.vllm_engine import VllmEngine

    watched: Any = Watched(has_graphs=has_graphs, are_lost=are_lost)
    engine = VllmEngine.__new__(VllmEngine)
    engine.llm, engine.generate = watched, watched.generate
    assert engine.canary([Request((5, 6), 0, 0)], reference=1) == lost
    one, several = ([[Request(ids, slot, 0)] for slot in (0, 1)] for ids in ((6,), (5, 6)))
    by_graphs = [*one, *([] if are_lost else several)] if has_graphs else []
    assert watched.asked == [[Request((5, 6), 0, 0)], *by_graphs]


class Layer(torch.nn.Module):
    """A linear layer as vLLM makes one: weight and bias, loaded and then packed."""

    def __init__(self, weight_OI: torch.Tensor, bias_O: torch.Tensor | None) -> None:
        super().__init__()
        self.params_dtype = torch.float32
        self.weight = torch.nn.Parameter(weight_OI, requires_grad=False)
        bias = None if bias_O is None else torch.nn.Parameter(bias_O, requires_grad=False)
        self.register_parameter("bias", bias)


def make_packing(num_outputs: int) -> Any:
    """A quantisation method that keeps rows padded to whole tiles, a bias as Marlin does."""
    from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase
    from vllm.model_executor.layers.quantization.utils.marlin_utils import (
        marlin_pad_dim,
        marlin_permute_bias,
    )

    class Packing(QuantizeMethodBase):
        num_packed = 0

        def create_weights(self, layer: torch.nn.Module, *args: object, **kwargs: object) -> None:
            raise NotImplementedError

        def process_weights_after_loading(self, layer: Any) -> None:
            self.num_packed += 1
            layer.weight.data = layer.weight.data.flip(0)
            if layer.bias is not None:
                padded = marlin_pad_dim(layer.bias, num_outputs, 64)
                layer.bias.data = marlin_permute_bias(padded)

        def apply(self, layer: Any, x: torch.Tensor, bias: Any = None) -> torch.Tensor:
            return x @ layer.weight.flip(0).T

    return Packing()


class Model:
    """Two such layers in a worker without an engine, after their first load."""

    def __init__(self, num_outputs: int, *, has_bias: bool) -> None:
        from vllm.model_executor.model_loader.reload import record_metadata_for_reloading

        from workers.engines.vllm_worker import Held, PopulationWorker

        self.model = torch.nn.Module()
        self.layers: dict[str, Any] = {}
        for name in ("first", "second"):
            bias_O = torch.arange(1.0, 1 + num_outputs) if has_bias else None
            self.layers[name] = Layer(torch.zeros(num_outputs, INPUTS), bias_O)
            self.model.add_module(name, self.layers[name])
        record_metadata_for_reloading(self.model)
        self.worker = PopulationWorker.__new__(PopulationWorker)
        self.worker.held = {}
        for name, layer in self.layers.items():
            layer.quant_method = make_packing(num_outputs)
            layer.quant_method.process_weights_after_loading(layer)
            bias_O = layer.bias.data.clone() if has_bias else None
            slices = [Slice(0, num_outputs, 0, INPUTS)]
            self.worker.held[name] = Held(layer, layer.quant_method, [name], slices, bias_O)
        model_config = SimpleNamespace(dtype=torch.bfloat16)
        self.worker.vllm_config = SimpleNamespace(model_config=model_config)  # pyright: ignore[reportAttributeAccessIssue]
        self.worker.model_runner = SimpleNamespace(device="cpu")  # pyright: ignore[reportAttributeAccessIssue]
        self.worker.reload_weights = self.reload_weights

    def reload_weights(self, weights_iterator: Iterable[tuple[str, torch.Tensor]]) -> None:
        """As vLLM's runner does it."""
        from vllm.model_executor.model_loader.reload import (
            finalize_layerwise_reload,
            initialize_layerwise_reload,
        )

        initialize_layerwise_reload(self.model)
        parameters = dict(self.model.named_parameters())
        for name, tensor in weights_iterator:
            parameters[name].weight_loader(parameters[name], tensor)  # pyright: ignore[reportCallIssue]
        finalize_layerwise_reload(self.model, None)

    def write(self, value: float) -> list[int]:
        """Write weights; how many layers were packed whenever another one came."""
        seen = []

        def weights() -> Iterator[tuple[str, torch.Tensor]]:
            for name, layer in self.layers.items():
                seen.append(sum(other.quant_method.num_packed for other in self.layers.values()))
                yield f"{name}.weight", torch.full(layer.weight.shape, value)

        self.worker.write_weights(weights())
        return seen

    def differing(self, value: float) -> list[str]:
        """Layers that do not hold these weights, or their biases."""
        from workers.engines.vllm_worker import Columns

        column_ON = torch.full((len(self.layers["first"].weight), 1), value)
        return self.worker.differing({name: Columns([2], column_ON) for name in self.layers})


@pytest.mark.parametrize("num_outputs", [64, 48], ids=["whole tiles", "padded"])
def test_a_bias_stays_as_its_kernel_wants_it_however_often_weights_are_written(
    num_outputs: int,
) -> None:
    model = Model(num_outputs, has_bias=True)
    bias = model.layers["first"].bias
    place, bits = bias.data_ptr(), bias.data.clone()
    assert len(bits) == 64 and not torch.equal(
        bits[:num_outputs], torch.arange(1.0, 1 + num_outputs)
    )
    for num_writes in (1, 2, 3):
        assert model.write(num_writes) == [2 * num_writes, 2 * num_writes + 1]  # none waits
        assert model.layers["first"].bias is bias
        assert bias.data_ptr() == place and torch.equal(bias.data, bits)
        assert model.differing(num_writes) == []
        assert model.differing(num_writes + 1) == ["first", "second"]
    model.layers["second"].bias.data = bits.flip(0)
    assert model.differing(3) == ["second"]


def test_layers_without_a_bias_are_written_as_before() -> None:
    model = Model(64, has_bias=False)
    assert model.write(3) == [2, 3]
    assert model.layers["first"].bias is None
    assert (model.differing(3), model.differing(4)) == ([], ["first", "second"])


def test_biases_are_back_if_writing_fails() -> None:
    model = Model(64, has_bias=True)
    bias = model.layers["first"].bias

    def fails(weights_iterator: object) -> None:
        assert model.layers["first"].bias is not bias
        raise WorkerError("no such tensor")

    model.worker.reload_weights = fails
    with pytest.raises(WorkerError, match="no such tensor"):
        model.write(1)
    assert model.layers["first"].bias is bias
