"""Basis `activations`: the directions that a layer's inputs have on the task's training prompts.

EVA (arXiv 2410.07170): V holds the leading eigenvectors of the inputs' second moment, sum of x x^T
over all tokens. It is not centred: the layer multiplies the mean input as well, so the direction
that all tokens share is one that a change of the weight acts on. The space works between the
singular directions of W V V^T, the weight as those inputs see it: right directions inside the span
of V, left ones orthonormal, and a number is relative to the direction's singular value. Left out:
EVA's sharing out of ranks between layers; every layer has `space.rank`.

The prompts are rendered as workers render them and read by the full-precision model in fp32,
without answers. Layers with the same input (q, k, v; gate, up) share one moment. A moment takes 8
in^2 bytes; what does not fit `MOMENT_BYTES` at once waits for another pass over the prompts.

Shape suffixes: _I in features, _R directions, _T tokens.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from es_align.config_search import SpaceConfig
from es_align.errors import ModelError
from es_align.models import linear_weights, target_layers
from es_align.spaces.bases.base import BasisSource, LayerBasis
from kernels.shared_basis import SharedBasis
from kernels.svd import leading_svd
from kernels.threads import each_on_one_thread
from workers.protocol import Prompt
from workers.rendering import Renderer

NUM_PROMPTS = 64  # the first of the task's training prompts, or all if there are fewer
MOMENT_BYTES = 2**31  # beside the model itself, which takes 4 bytes a weight here


def activation_bases(config: SpaceConfig, source: BasisSource) -> Iterator[LayerBasis]:
    """The basis of every target layer, in name order.

    Raises ConfigError if a target matches no layer, ModelError if one is no linear layer of
    transformers' model.
    """
    names = target_layers(source.reference, config.targets)
    directions = input_directions(source.reference, names, source.prompts, config.rank)
    for name, weight_OI in linear_weights(source.reference, config.targets):
        span_IR = directions[name]
        small = leading_svd(weight_OI.double() @ span_IR, config.rank)
        right_IR = (span_IR @ small.right_IR.double()).float()
        start_R = torch.zeros(config.rank)
        yield LayerBasis(name, SharedBasis(right_IR, small.left_OR), start_R, small.values_R)


def input_directions(
    model_path: Path, names: Sequence[str], prompts: Sequence[Prompt], rank: int
) -> Mapping[str, torch.Tensor]:
    """Leading eigenvectors of each layer's second moment, float64 (I, R), largest first.

    Raises ModelError as `activation_bases` does.
    """
    renderer = Renderer(model_path)
    tokens = [renderer.render(prompt.messages) for prompt in prompts[:NUM_PROMPTS]]
    assert tokens  # a task without training prompts is refused when it is made
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()
    leaders = shared_inputs(model, names, tokens[0])
    found = {}
    for group in memory_groups(model, sorted(set(leaders.values()))):
        moments = second_moments(model, group, tokens)
        vectors = each_on_one_thread(
            lambda moment_II: torch.linalg.eigh(moment_II)[1], moments.values()
        )
        for leader, vectors_II in zip(moments, vectors, strict=True):
            found[leader] = vectors_II[:, -rank:].flip(1).contiguous()
    return {name: found[leader] for name, leader in leaders.items()}


@torch.inference_mode()
def second_moments(
    model: torch.nn.Module, names: Sequence[str], tokens: Sequence[Sequence[int]]
) -> dict[str, torch.Tensor]:
    """Sum of x x^T over the inputs of each of these layers at every token, float64 (I, I)."""
    moments, handles = {}, []
    for name in names:
        layer = _linear(model, name)
        width = layer.in_features
        moments[name] = torch.zeros(width, width, dtype=torch.float64)

        def add(_: object, inputs: tuple[torch.Tensor, ...], name: str = name) -> None:
            x_TI = inputs[0].flatten(0, -2).double()
            moments[name].addmm_(x_TI.T, x_TI)

        handles.append(layer.register_forward_pre_hook(add))
    for ids in tokens:
        model(input_ids=torch.tensor([ids]), use_cache=False)
    for handle in handles:
        handle.remove()
    return moments


@torch.inference_mode()
def shared_inputs(
    model: torch.nn.Module, names: Sequence[str], ids: Sequence[int]
) -> dict[str, str]:
    """For each layer the first one that is given the very same tensor, by a forward of `ids`.

    Raises ModelError naming a layer that transformers' model has not, or does not call.
    """
    seen: list[tuple[str, torch.Tensor]] = []  # the tensors stay alive, so none takes another's id
    leaders, handles = {}, []
    for name in names:

        def note(_: object, inputs: tuple[torch.Tensor, ...], name: str = name) -> None:
            known = (leader for leader, tensor in seen if tensor is inputs[0])
            leaders[name] = next(known, name)
            seen.append((leaders[name], inputs[0]))

        handles.append(_linear(model, name).register_forward_pre_hook(note))
    model(input_ids=torch.tensor([ids]), use_cache=False)
    for handle in handles:
        handle.remove()
    for name in names:
        if name not in leaders:
            raise _no_input(name)
    return leaders


def memory_groups(model: torch.nn.Module, names: Sequence[str]) -> Iterator[list[str]]:
    """The layers in groups whose moments fit `MOMENT_BYTES`; at least one layer a group."""
    group, free = [], MOMENT_BYTES
    for name in names:
        size = 8 * _linear(model, name).in_features ** 2
        if group and size > free:
            yield group
            group, free = [], MOMENT_BYTES
        group.append(name)
        free -= size
    yield group


def _linear(model: torch.nn.Module, name: str) -> torch.nn.Linear:
    layer = dict(model.named_modules()).get(name)
    if not isinstance(layer, torch.nn.Linear):
        raise _no_input(name)
    return layer


def _no_input(name: str) -> ModelError:
    return ModelError(
        f"space.basis=activations cannot see the inputs of {name}: transformers' model calls no "
        "linear layer of that name on a prompt; leave it out of space.targets, or use "
        "space.basis=weight"
    )
