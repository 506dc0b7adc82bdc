"""Where a model comes from: a hub id, a directory or a bundled name, in the precision that is run.

Conversions and quantised forms are made once, in a temporary folder that is renamed into the
cache when complete, so a killed run never leaves half a model. The full-precision weights
stay the reference: bases are computed from them and adapters are exported for them, whatever
the engine runs.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import safe_open

from es_align.bundled import BUNDLED_MODELS
from es_align.config import Precision
from es_align.errors import ConfigError, ModelError
from es_align.quantize import quantize_model

CACHE_VARIABLE = "ES_ALIGN_CACHE"
CACHE_FORMAT = 1  # raised when what the cache holds is made differently
HUB_PATTERNS = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.json",
    "*.jinja",
    "tokenizer*",
    "*.model",
)
FLOAT_TYPES = {"F64", "F32", "F16", "BF16"}


@dataclass(frozen=True, slots=True)
class ModelPaths:
    """One model on this machine."""

    name: str  # as the user wrote it, a directory as an absolute path
    reference: Path  # full precision: bases, export
    engine: Path  # what the engine loads, in the asked precision


def cache_root() -> Path:
    """Folder for converted models: $ES_ALIGN_CACHE, else ~/.cache/es-align."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen) if chosen else Path.home() / ".cache" / "es-align"


def resolve_model(name: str, precision: Precision) -> ModelPaths:
    """Find, fetch or convert the model, and quantise it if asked.

    Raises ModelError if it does not exist, cannot be fetched,
    or holds no plain floating-point weights.
    """
    reference = _reference_path(name)
    if Path(name).is_dir() and name not in BUNDLED_MODELS:
        name = str(Path(name).resolve())
    if precision in ("fp32", "bf16"):
        return ModelPaths(name, reference, reference)
    check_float_weights(reference)
    identity = f"{reference.resolve()}|{_fingerprint(reference)}"
    key = hashlib.sha256(identity.encode()).hexdigest()[:12]
    target = cache_root() / f"v{CACHE_FORMAT}" / f"{reference.name}-{key}-{precision}"
    engine = build_once(target, lambda folder: quantize_model(reference, folder, precision))
    return ModelPaths(name, reference, engine)


def _reference_path(name: str) -> Path:
    if name in BUNDLED_MODELS:
        target = cache_root() / f"v{CACHE_FORMAT}" / name
        return build_once(target, BUNDLED_MODELS[name])
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise ModelError(
                f"model directory {name} has no config.json; name a checkpoint directory"
            )
        return Path(name)
    return _from_hub(name)


def _from_hub(name: str) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=list(HUB_PATTERNS)))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        bundled = ", ".join(BUNDLED_MODELS)
        raise ModelError(
            f"model {name!r} is no directory, no bundled name ({bundled}) and could not be fetched "
            f"from the hub ({type(error).__name__}); check the spelling, log in with "
            "`hf auth login` if it is gated, or unset HF_HUB_OFFLINE"
        ) from error


def build_once(target: Path, build: Callable[[Path], None]) -> Path:
    """Make `target` by `build(folder)` unless it is there; complete or not at all."""
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        build(folder)
        try:
            folder.rename(target)
        except OSError:
            if not target.is_dir():  # anything but another process having been faster
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return target


def _fingerprint(path: Path) -> str:
    """Names, sizes and times of the weight files: changes when a checkpoint is overwritten."""
    files = sorted(path.glob("*.safetensors"))
    return "|".join(
        f"{file.name}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in files
    )


def weight_headers(path: Path) -> Mapping[str, tuple[Path, str, tuple[int, ...]]]:
    """File, safetensors dtype and shape of every tensor of a checkpoint; no weights are read.

    Raises ModelError if there are no safetensors files.
    """
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise ModelError(
            f"model {path} has no .safetensors weights; "
            "convert it with transformers' save_pretrained"
        )
    headers = {}
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 (safe_open is no dict)
                part = tensors.get_slice(key)
                headers[key] = (file, part.get_dtype(), tuple(part.get_shape()))
    return headers


def check_float_weights(path: Path) -> None:
    """Raise ModelError if the checkpoint is quantised already."""
    for key, (_, dtype, shape) in weight_headers(path).items():
        if len(shape) == 2 and dtype not in FLOAT_TYPES:
            raise ModelError(
                f"model {path} is quantised already ({key} is {dtype}); "
                "name its full-precision original as model"
            )


def linear_shapes(path: Path) -> dict[str, tuple[int, int]]:
    """`(out, in)` features of every matrix of the checkpoint, by layer name."""
    return {
        key.removesuffix(".weight"): (shape[0], shape[1])
        for key, (_, _, shape) in weight_headers(path).items()
        if key.endswith(".weight") and len(shape) == 2
    }


def linear_weights(path: Path, targets: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and weight (out x in) of every linear layer whose last name part is in `targets`,
    in name order.

    Raises ConfigError naming a target that matches nothing.
    """
    check_float_weights(path)
    headers = weight_headers(path)
    shapes = linear_shapes(path)
    found = {target: [n for n in shapes if n.rpartition(".")[2] == target] for target in targets}
    for target, names in found.items():
        if not names:
            known = sorted(
                {name.rpartition(".")[2] for name in shapes} - {"embed_tokens", "lm_head"}
            )
            raise ConfigError(
                f"space.targets names {target!r}, which matches no layer of {path.name}; "
                f"its layers are {', '.join(known)}"
            )
    for name in sorted((n for names in found.values() for n in names), key=_natural):
        with safe_open(headers[f"{name}.weight"][0], framework="pt") as tensors:
            yield name, tensors.get_tensor(f"{name}.weight")


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts layer 2 before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]
