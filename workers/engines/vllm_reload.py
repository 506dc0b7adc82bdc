"""Weights written into a running vLLM; depends on vLLM's version, as `vllm_compat` does.

Tried with 0.31 on CPUs; of Marlin, which packs INT4 layers on GPUs, and what it does with a bias,
read in the source of 0.31. (On Hopper Machete comes first, which leaves a bias alone.)
"""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from vllm import _custom_ops
from vllm.model_executor.layers.linear import LinearBase
from vllm.model_executor.utils import set_weight_attrs
from vllm.utils.torch_utils import set_default_torch_dtype


def replace_weights(worker: Any, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Load these checkpoint tensors into a running engine, packed as its kernels want them.

    vLLM's own reload does it layer by layer and keeps the tensors that a compiled graph holds. What
    it leaves out: the dtype that is the default while a model is first loaded, and, of the int8
    kernel on CPUs, a scale that its handler reads from then on and nothing else keeps. Packing for
    that kernel is oneDNN's plain reordering, no faster with more threads and about half of the
    time: it goes on beside the loading of the next layers.
    """
    make_handler = _custom_ops.create_onednn_scaled_mm
    with ThreadPoolExecutor(1) as packing:
        handlers: list[_PackedLater] = []

        def make_later(weight: torch.Tensor, scale: torch.Tensor, *rest: Any) -> Any:
            made = packing.submit(make_handler, weight, scale, *rest)
            handler = _PackedLater(made, weight, scale)
            handlers.append(handler)
            return handler

        _custom_ops.create_onednn_scaled_mm = make_later
        try:
            with set_default_torch_dtype(worker.vllm_config.model_config.dtype):
                worker.reload_weights(weights_iterator=tensors)
            for handler in handlers:
                handler.wait()
        finally:
            _custom_ops.create_onednn_scaled_mm = make_handler


class _PackedLater(_custom_ops.CPUDNNLGEMMHandler):
    """An int8 product's handler whose weight is still being packed."""

    def __init__(self, made: Future[Any], weight_IO: torch.Tensor, scale: torch.Tensor) -> None:
        super().__init__()
        self.k, self.n = weight_IO.shape
        self.scale = scale  # which the product reads
        self.made = made

    def wait(self) -> None:
        """Become usable."""
        made = self.made.result()
        self.handler_tensor, made.handler_tensor = made.handler_tensor, None  # one owner frees it
        del self.made


def bias_of(layer: torch.nn.Module) -> torch.nn.Parameter | None:
    """The layer's own bias, in the order in which its kernel wants it."""
    return dict(layer.named_parameters(recurse=False)).get("bias")


@contextmanager
def kept_biases(num_outputs: Mapping[LinearBase, int]) -> Iterator[None]:
    """Give layers stand-ins for their biases, and at the end the biases back: the same tensors in
    the same memory, which captured graphs read.

    vLLM leaves a bias out of what it restores before it packs a layer anew, so Marlin, which brings
    it into an order of its own, would do so once more at each write, in other memory. A stand-in
    has the same numbers, for kernels that keep a copy of their own, but only as many as the layer
    has outputs: Marlin pads it again.
    """
    found = {layer: bias_of(layer) for layer in num_outputs}
    biases = {layer: bias for layer, bias in found.items() if bias is not None}
    for layer, bias in biases.items():
        numbers_O = bias.data[: num_outputs[layer]].clone()
        stand_in = torch.nn.Parameter(numbers_O, requires_grad=False)
        set_weight_attrs(stand_in, {"weight_loader_numel": 0})  # no layer waits for it to be loaded
        layer.bias = stand_in
    try:
        yield
    finally:
        for layer, bias in biases.items():
            layer.bias = bias
