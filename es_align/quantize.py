"""Quantised checkpoints in compressed-tensors format, by the library of that name.

int8 is W8A8: weights symmetric per output channel, activations per token at run time. int4 is
W4A16: weights in groups along the input, activations untouched. Round to nearest, no calibration
data; embeddings and head stay.
"""

import shutil
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

from es_align.config import Precision
from es_align.errors import ModelError

PRESETS: dict[Precision, str] = {"int8": "W8A8", "int4": "W4A16"}
GROUP_SIZES = (128, 64, 32)
KEPT_FILES = (
    "tokenizer*",
    "*.jinja",
    "special_tokens_map.json",
    "generation_config.json",
    "vocab*",
    "merges*",
)


def quantize_model(source: Path, target: Path, precision: Precision) -> None:
    """Write the checkpoint in `source` to the folder `target` as int8 or int4.

    Raises ModelError if a layer's width is no multiple of any supported group size (int4).
    """
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    scheme = preset_name_to_scheme(PRESETS[precision], ["Linear"])
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings()
    }
    if precision == "int4":
        _choose_group_size(scheme, layers)
    config = QuantizationConfig(
        config_groups={"group_0": scheme},
        ignore=["lm_head"],
        quantization_status=QuantizationStatus.COMPRESSED,
    )
    apply_quantization_config(model, config)
    for layer in layers.values():
        _set_scales(layer, scheme)
    compressor = ModelCompressor.from_pretrained_model(model)
    assert compressor is not None
    compressor.compress_model(model)
    model.save_pretrained(target)
    compressor.update_config(str(target))
    for pattern in KEPT_FILES:
        for file in source.glob(pattern):
            shutil.copy(file, target / file.name)


def _choose_group_size(scheme: QuantizationScheme, layers: dict[str, torch.nn.Linear]) -> None:
    assert scheme.weights is not None
    for size in GROUP_SIZES:
        if all(layer.in_features % size == 0 for layer in layers.values()):
            scheme.weights.group_size = size
            return
    name, layer = next(
        (name, layer) for name, layer in layers.items() if layer.in_features % GROUP_SIZES[-1]
    )
    raise ModelError(
        f"int4 needs layer widths that are multiples of {GROUP_SIZES[-1]}, but {name} has "
        f"{layer.in_features} inputs; use precision=int8"
    )


def _set_scales(layer: torch.nn.Linear, scheme: QuantizationScheme) -> None:
    """Scales that just cover each channel's or group's range."""
    assert scheme.weights is not None
    weight = layer.weight.data.float()
    size = scheme.weights.group_size or weight.shape[1]
    groups = weight.view(weight.shape[0], -1, size)
    scale, _ = calculate_qparams(groups.amin(-1), groups.amax(-1), scheme.weights)
    target = layer.get_parameter("weight_scale").data
    target.copy_(scale.view_as(target))
