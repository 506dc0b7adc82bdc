"""PEFT LoRA folders: reading one as a starting point, writing one as a result."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from es_align.errors import ModelError
from es_align.models import linear_shapes

PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True)
class Adapter:
    """LoRA factors per layer under the checkpoint's names, fp32: `(down_RI, up_OR)`."""

    layers: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    scaling: float


def load_adapter(path: Path, model_path: Path) -> Adapter:
    """Read a PEFT LoRA folder and check it against the model it is to be put on.

    Raises ModelError if a file is missing, the adapter is no plain LoRA,
    or a layer's name or shape is not the model's.
    """
    config_file, weights_file = path / "adapter_config.json", path / "adapter_model.safetensors"
    for file in (config_file, weights_file):
        if not file.is_file():
            raise ModelError(
                f"adapter {path} has no {file.name}; "
                "name a folder written by PEFT's save_pretrained"
            )
    config = json.loads(config_file.read_text())
    _check_plain(path, config)
    tensors = load_file(weights_file)
    layers = {}
    for key in sorted(tensors):
        if key.endswith(".lora_A.weight"):
            stem = key.removesuffix(".lora_A.weight")
            up = tensors[f"{stem}.lora_B.weight"].float()
            layers[stem.removeprefix(PREFIX)] = (tensors[key].float(), up)
    _check_fits(path, layers, linear_shapes(model_path), model_path)
    rank = int(config["r"])
    divisor = rank**0.5 if config.get("use_rslora") else rank
    return Adapter(layers, float(config["lora_alpha"]) / divisor)


def _check_plain(path: Path, config: Mapping[str, object]) -> None:
    if config.get("peft_type") != "LORA":
        raise ModelError(
            f"adapter {path} has peft_type={config.get('peft_type')}; only LORA is supported"
        )
    for option in ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save"):
        if config.get(option):
            raise ModelError(
                f"adapter {path} sets {option}={config[option]}, "
                f"which a plain LoRA, B A on the weights, cannot carry; train it without {option}"
            )
    if not config.get("lora_alpha"):
        raise ModelError(
            f"adapter {path} has lora_alpha={config.get('lora_alpha')}, with which it changes "
            "nothing; set the one it was trained with"
        )
    if config.get("bias", "none") != "none":
        raise ModelError(f"adapter {path} trains biases (bias={config['bias']}); use bias=none")


def _check_fits(
    path: Path,
    layers: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    shapes: Mapping[str, tuple[int, int]],
    model_path: Path,
) -> None:
    if not layers:
        raise ModelError(f"adapter {path} holds no LoRA factors; was it saved with weights?")
    for name, (down_RI, up_OR) in layers.items():
        adapter_shape = (up_OR.shape[0], down_RI.shape[1])
        if shapes.get(name) != adapter_shape:
            found = "no such layer" if name not in shapes else f"a {shapes[name]} one"
            raise ModelError(
                f"adapter {path} belongs to another model: its layer {name} is {adapter_shape}, "
                f"{model_path} has {found}; name the model the adapter was trained on"
            )


def save_adapter(
    path: Path, layers: Mapping[str, tuple[torch.Tensor, torch.Tensor]], base_model: str
) -> None:
    """Write `(down_RI, up_OR)` per layer as a PEFT LoRA with scaling 1 on `base_model`.

    Layers of different rank are allowed: the largest is PEFT's `r`,
    the others stand in `rank_pattern`.
    """
    path.mkdir(parents=True, exist_ok=True)
    ranks = {name: len(down_RI) for name, (down_RI, _) in layers.items()}
    top = max(ranks.values())
    smaller = {name: rank for name, rank in ranks.items() if rank != top}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": top,
        "lora_alpha": top,
        "rank_pattern": smaller,
        "alpha_pattern": smaller,
        "target_modules": sorted(layers),
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
        "fan_in_fan_out": False,
    }
    tensors = {}
    for name, (down_RI, up_OR) in layers.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = down_RI.contiguous()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = up_OR.contiguous()
    save_file(tensors, path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
