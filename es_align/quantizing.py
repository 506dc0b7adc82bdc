"""Quantised checkpoints in compressed-tensors format, by the library of that name.

int8 is W8A8: weights symmetric per output channel, activations per token at run time. int4 is
W4A16: weights in groups along the input, activations untouched. Round to nearest, no calibration
data; embeddings and head stay.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import (
    QuantizationConfig,
    QuantizationScheme,
    QuantizationStatus,
    apply_quantization_config,
    preset_name_to_scheme,
)
from compressed_tensors.quantization.utils import calculate_qparams
from transformers import AutoModelForCausalLM

from es_align.errors import ModelError
from es_align.layouts import GROUP_SIZES, Scheme, copy_tokenizer

PRESETS: dict[Scheme, str] = {"int8": "W8A8", "int4": "W4A16"}


@dataclass(frozen=True, slots=True)
class QuantizeResult:
    """A quantised checkpoint that was written."""

    model: str
    out: str
    scheme: Scheme
    group_size: int | None  # inputs that share a scale; None: a whole output channel
    bytes_before: int  # weight files on disk
    bytes_after: int
    seconds: float


def quantize_model(
    source: Path, target: Path, scheme: Scheme, group_size: int | None = None
) -> int | None:
    """Write the checkpoint in `source` to the folder `target`; returns the group size.

    int4 takes the largest of the supported group sizes that divides every layer's width unless one
    is given. Raises ModelError naming a layer that no group size, or not the given one, divides.
    """
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    preset = preset_name_to_scheme(PRESETS[scheme], ["Linear"])
    assert preset.weights is not None
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings()
    }
    if scheme == "int4":
        widths = {name: layer.in_features for name, layer in layers.items()}
        preset.weights.group_size = choose_group_size(widths, group_size)
    config = QuantizationConfig(
        config_groups={"group_0": preset},
        ignore=["lm_head"],
        quantization_status=QuantizationStatus.COMPRESSED,
    )
    apply_quantization_config(model, config)
    for layer in layers.values():
        _set_scales(layer, preset)
    compressor = ModelCompressor.from_pretrained_model(model)
    assert compressor is not None
    compressor.compress_model(model)
    model.save_pretrained(target)
    compressor.update_config(str(target))
    copy_tokenizer(source, target)
    return preset.weights.group_size


def choose_group_size(widths: dict[str, int], asked: int | None) -> int:
    """`asked`, or the largest supported size, if it divides every layer's width.

    Raises ModelError naming the first layer it does not divide, and what fits instead.
    """
    fitting = [size for size in GROUP_SIZES if all(w % size == 0 for w in widths.values())]
    if asked in fitting or (asked is None and fitting):
        return asked if asked is not None else fitting[0]
    size = asked if asked is not None else GROUP_SIZES[-1]
    name = next(name for name, width in widths.items() if width % size)
    step = f"use group size {' or '.join(map(str, fitting))}, or int8" if fitting else "use int8"
    raise ModelError(
        f"int4 in groups of {size} needs widths that are multiples of {size}, but {name} has "
        f"{widths[name]} inputs; {step}"
    )


def weight_bytes(path: Path) -> int:
    """Bytes of a checkpoint's weight files on disk."""
    return sum(file.stat().st_size for file in path.glob("*.safetensors"))


def _set_scales(layer: torch.nn.Linear, scheme: QuantizationScheme) -> None:
    """Scales that just cover each channel's or group's range."""
    assert scheme.weights is not None
    weight = layer.weight.data.float()
    size = scheme.weights.group_size or weight.shape[1]
    groups = weight.view(weight.shape[0], -1, size)
    scale, _ = calculate_qparams(groups.amin(-1), groups.amax(-1), scheme.weights)
    target = layer.get_parameter("weight_scale").data
    target.copy_(scale.view_as(target))
