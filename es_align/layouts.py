"""Which quantised layout a checkpoint folder holds, told by its config.json alone.

Neither torch nor a weight is loaded, so a precision that is not the checkpoint's is refused at
once. Accepted is what vLLM loads as it stands and `es_align.dequantize` can take apart:
compressed-tensors W8A8 and W4A16, GPTQ and AWQ in 4 bits. The bounds on GPTQ and AWQ are those of
vLLM 0.31's `auto_gptq.py` and `auto_awq.py`.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from es_align.config import Precision
from es_align.errors import ConfigError, ModelError

Layout = Literal["int-quantized", "pack-quantized", "gptq", "awq"]
Scheme = Literal["int8", "int4"]
Settings = Mapping[str, object]

GROUP_SIZES = (128, 64, 32)  # of our own int4 checkpoints

REMEDY = (
    "use a compressed-tensors (W8A8, W4A16), GPTQ or AWQ checkpoint, "
    "or make one of the full-precision model with `es-align quantize`"
)
GPTQ_GROUP_SIZES = (-1, 32, 64, 128)
GPTQ_V1, GPTQ_V2 = "gptq", "gptq_v2"
REORDERED = ("group", "dynamic")
KEPT_FILES = (
    "tokenizer*",
    "*.jinja",
    "special_tokens_map.json",
    "generation_config.json",
    "vocab*",
    "merges*",
)


@dataclass(frozen=True, slots=True)
class StoredScheme:
    """How a ready-made checkpoint is quantised."""

    layout: Layout
    precision: Scheme  # the one to write into a configuration
    zero_offset: int = 0  # what stored zero points lack: 1 in the first GPTQ format
    has_zero_points: bool = False  # compressed-tensors; GPTQ and AWQ always store some


def stored_scheme(path: Path) -> StoredScheme | None:
    """The scheme of the checkpoint in folder `path`; None if it is not quantised.

    Raises ModelError naming the setting that makes it a layout which cannot be run.
    """
    if any(path.glob("*.gguf")) and not any(path.glob("*.safetensors")):
        raise ModelError(f"model {path} holds GGUF weights, which are not supported; {REMEDY}")
    try:
        config = _mapping(json.loads((path / "config.json").read_text(encoding="utf-8")))
    except ValueError as error:
        raise ModelError(f"{path}/config.json is no JSON ({error}); fetch it again") from error
    settings = _mapping(config.get("quantization_config") or config.get("compression_config"))
    if not settings:
        return None
    method = str(settings.get("quant_method", "")).lower().replace("_", "-")
    match method:
        case "compressed-tensors":
            return _compressed_tensors(path, settings)
        case "gptq":
            return _gptq(path, settings)
        case "awq":
            return _awq(path, settings)
    raise _unsupported(path, "quant_method", settings.get("quant_method"))


def check_precision(name: str, scheme: StoredScheme | None, precision: Precision) -> None:
    """Raise ConfigError unless the run's precision is what a quantised checkpoint holds."""
    if scheme is not None and scheme.precision != precision:
        raise ConfigError(
            f"model {name} is quantised already ({scheme.layout}), and precision={precision} is "
            f"not what it holds; set precision={scheme.precision} (with workers.engine=vllm), "
            "or name its full-precision original as model"
        )


def check_plain(name: str, scheme: StoredScheme | None) -> None:
    """Raise ModelError if a checkpoint that is to be quantised already is."""
    if scheme is not None:
        raise ModelError(
            f"model {name} is quantised already ({scheme.layout}); run it as it is with "
            f"precision={scheme.precision}, or name its full-precision original"
        )


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy what a checkpoint holds beside weights and config.json to the folder `target`."""
    for pattern in KEPT_FILES:
        for file in source.glob(pattern):
            shutil.copy(file, target / file.name)


def _compressed_tensors(path: Path, settings: Settings) -> StoredScheme:
    for key in ("transform_config", "sparsity_config"):
        value = _mapping(settings.get(key))
        if value and value.get("format") != "dense":
            raise _unsupported(path, key, dict(value))
    groups = _mapping(settings.get("config_groups"))
    schemes = {_group_scheme(path, settings, name, groups[name]) for name in groups}
    if len(schemes) != 1:
        raise _unsupported(path, "config_groups", f"{len(schemes)} different schemes")
    weights = (_mapping(_mapping(group).get("weights")) for group in groups.values())
    is_symmetric = all(settings.get("symmetric", True) for settings in weights)
    return replace(schemes.pop(), has_zero_points=not is_symmetric)


def _group_scheme(path: Path, settings: Settings, name: str, group: object) -> StoredScheme:
    group = _mapping(group)
    weights, activations = _mapping(group.get("weights")), _mapping(group.get("input_activations"))
    stored = group.get("format") or settings.get("format")
    kind = (weights.get("type", "int"), weights.get("num_bits"), stored)
    if weights.get("actorder") in REORDERED:
        raise _unsupported(path, f"{name}.actorder", weights["actorder"])
    if kind == ("int", 4, "pack-quantized") and not activations:
        return StoredScheme("pack-quantized", "int4")
    takes_int8 = (activations.get("type", "int"), activations.get("num_bits")) == ("int", 8)
    if kind[:2] == ("int", 8) and stored in ("int-quantized", "naive-quantized") and takes_int8:
        return StoredScheme("int-quantized", "int8")
    inputs = f"{activations.get('num_bits', 16)}-bit activations"
    raise _unsupported(path, name, f"{kind[0]}{kind[1]} weights as {stored}, {inputs}")


def _gptq(path: Path, settings: Settings) -> StoredScheme:
    group_size, stored = settings.get("group_size"), settings.get("checkpoint_format", GPTQ_V1)
    _require(path, settings, "bits", (4,))
    _require(path, settings, "sym", (True,))
    _require(path, settings, "group_size", GPTQ_GROUP_SIZES)
    if settings.get("desc_act") and group_size != -1:
        raise _unsupported(path, "desc_act", True)
    if stored not in (GPTQ_V1, GPTQ_V2) or settings.get("is_marlin_format"):
        raise _unsupported(path, "checkpoint_format", stored)
    return StoredScheme("gptq", "int4", zero_offset=1 if stored == GPTQ_V1 else 0)


def _awq(path: Path, settings: Settings) -> StoredScheme:
    _require(path, settings, "w_bit" if "w_bit" in settings else "bits", (4,))
    _require(path, settings, "zero_point", (True,))
    version = settings.get("version", "gemm")
    if str(version).lower() != "gemm":
        raise _unsupported(path, "version", version)
    return StoredScheme("awq", "int4")


def _require(path: Path, settings: Settings, key: str, accepted: tuple[object, ...]) -> None:
    if settings.get(key) not in accepted:
        raise _unsupported(path, key, settings.get(key))


def _unsupported(path: Path, key: str, value: object) -> ModelError:
    return ModelError(
        f"model {path}: its quantization_config has {key}={value}, which is not supported; {REMEDY}"
    )


def _mapping(value: object) -> Settings:
    return value if isinstance(value, Mapping) else {}
