"""Where a model comes from: a hub id, a directory or a bundled name, in the precision that is run.

Conversions and quantised forms are made once, in a temporary folder that is renamed into the
cache when complete, so a killed run never leaves half a model. The full-precision weights
stay the reference: bases are computed from them and adapters are exported for them, whatever
the engine runs; only an adapter that repairs a quantised form belongs on that form
(`es_align.exporting`). Of a checkpoint that comes quantised (`es_align.layouts`) the
dequantised weights take the reference's place.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from es_align.bundled import BUNDLED_MODELS
from es_align.config import Precision
from es_align.errors import ConfigError, ModelError
from es_align.layouts import check_precision, stored_scheme
from es_align.quantizing import quantize_model
from es_align.stored_weights import StoredWeights
from kernels.cache import cache_root

CACHE_FORMAT = 1  # raised when what the cache holds is made differently
HUB_PATTERNS = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.json",
    "*.jinja",
    "tokenizer*",
    "*.model",
)


@dataclass(frozen=True, slots=True)
class ModelPaths:
    """One model on this machine."""

    name: str  # as the user wrote it, a directory as an absolute path
    source: Path  # as it was found: full precision, or quantised already
    engine: Path  # what the engine loads, in the asked precision

    @property
    def reference(self) -> Path:
        """Full precision: bases, export. Of a quantised checkpoint a dequantised copy, made at
        the first call.
        """
        return _plain(self.source)

    @property
    def dequantised(self) -> Path:
        """What the engine loads as a full-precision checkpoint, in which a quantised weight is the
        one that it computes with. Made at the first call.
        """
        return _plain(self.engine)


def resolve_model(name: str, precision: Precision) -> ModelPaths:
    """Find, fetch or convert the model, and quantise it if asked.

    Raises ModelError if it does not exist, cannot be fetched, or is quantised in a way that cannot
    be run; ConfigError if it is quantised and `precision` is another.
    """
    source = find_model(name)
    if Path(name).is_dir() and name not in BUNDLED_MODELS:
        name = str(Path(name).resolve())
    scheme = stored_scheme(source)
    check_precision(name, scheme, precision)
    if any(source.glob("*.safetensors")):
        StoredWeights(source).check()
    if scheme is not None or precision in ("fp32", "bf16"):
        return ModelPaths(name, source, source)
    engine = _made_from(source, precision, lambda f: quantize_model(source, f, precision))
    return ModelPaths(name, source, engine)


def reference_path(name: str) -> Path:
    """The model's weights in full precision on this machine, found, fetched or dequantised."""
    source = find_model(name)
    return ModelPaths(name, source, source).reference


def find_model(name: str) -> Path:
    """Folder of a bundled model, a directory, or a hub id's snapshot; fetched or made if need be.

    Raises ModelError if there is none.
    """
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


def _plain(path: Path) -> Path:
    """The checkpoint, or its dequantised copy."""
    if stored_scheme(path) is None:
        return path
    return _made_from(path, "dequantised", StoredWeights(path).write_plain)


def _made_from(source: Path, form: str, build: Callable[[Path], object]) -> Path:
    """The cached form of a checkpoint; a checkpoint that was overwritten has another place."""
    identity = f"{source.resolve()}|{_fingerprint(source)}"
    key = hashlib.sha256(identity.encode()).hexdigest()[:12]
    return build_once(cache_root() / f"v{CACHE_FORMAT}" / f"{source.name}-{key}-{form}", build)


def build_once(target: Path, build: Callable[[Path], object]) -> Path:
    """Make `target` by `build(folder)` unless it is there; complete or not at all."""
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    # Made inside the private folder, so that the result has the permissions of any other.
    private = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    folder = private / target.name
    folder.mkdir()
    try:
        build(folder)
        try:
            folder.rename(target)
        except OSError:
            if not target.is_dir():  # anything but another process having been faster
                raise
    finally:
        shutil.rmtree(private, ignore_errors=True)
    return target


def _fingerprint(path: Path) -> str:
    """Names, sizes and times of the weight files: changes when a checkpoint is overwritten."""
    files = sorted(path.glob("*.safetensors"))
    return "|".join(
        f"{file.name}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in files
    )


def linear_shapes(path: Path) -> dict[str, tuple[int, int]]:
    """`(out, in)` features of every matrix of the checkpoint, by layer name."""
    return StoredWeights(path).shapes()


def linear_weights(path: Path, targets: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and weight (out x in, dequantised) of every linear layer whose last name part is in
    `targets`, in name order.

    Raises ConfigError naming a target that matches nothing.
    """
    stored = StoredWeights(path)
    stored.check()
    for name in target_layers(path, targets):
        yield name, stored.matrix(name)


def target_layers(path: Path, targets: Sequence[str]) -> list[str]:
    """Names of the linear layers whose last part is in `targets`, in name order.

    Raises ConfigError naming a target that matches nothing.
    """
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
    return sorted((n for names in found.values() for n in names), key=_natural)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts layer 2 before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]
