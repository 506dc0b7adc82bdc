"""Checkpoints: a strategy's state on disk, so that resume and replay need not start at the
beginning.

The ledger is the run; a checkpoint only makes it faster to reach, so a broken one is skipped and
said. Each is a folder `generation-000012` of `state.safetensors` and a sealed `manifest.json` with
scalars and digests, written beside its place, synced and renamed into it: whole or not there.
Generations are counted as completed, so `generation-000012` follows ledger record 11. No pickle.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import numpy as safetensors

from es_align.errors import RunFolderError
from es_align.sealed import digest, seal, sync_directory, unseal, write_synced
from es_align.strategies.base import StrategyState
from rewards.base import JsonValue

FORMAT_VERSION = 1
STATE_FILE = "state.safetensors"
MANIFEST_FILE = "manifest.json"
PINS_FILE = "pins.json"
_NAME = re.compile(r"generation-(\d{6,})")
_STATE_PREFIX = "state."
_MEAN = "mean"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint holds, verified."""

    path: Path
    generation: int  # completed generations
    state: StrategyState
    mean_D: np.ndarray  # float64
    mean_digest: str  # as in the ledger record of the last completed generation


class Latest(NamedTuple):
    """The newest checkpoint that is whole, and what is wrong with the newer ones."""

    checkpoint: Checkpoint | None
    skipped: tuple[str, ...]


def save(
    directory: Path, generation: int, state: StrategyState, mean_D: np.ndarray, *, keep: int = 3
) -> Path:
    """Write the checkpoint of `generation` completed generations and return its folder.

    Afterwards only the `keep` newest (at least this one) and the pinned ones are left.
    """
    directory.mkdir(parents=True, exist_ok=True)
    _remove_drafts(directory)
    arrays = {
        _STATE_PREFIX + name: np.array(array, order="C") for name, array in state.arrays.items()
    }
    arrays[_MEAN] = np.array(mean_D, order="C")
    tensors = safetensors.save(arrays)
    manifest, _ = seal(
        {
            "format": FORMAT_VERSION,
            "generation": generation,
            "scalars": dict(state.scalars),
            "mean_digest": digest(mean_D),
            "state_sha256": sha256(tensors).hexdigest(),
        }
    )
    draft = directory / f".draft-{generation}"
    draft.mkdir()
    write_synced(draft / STATE_FILE, tensors)
    write_synced(draft / MANIFEST_FILE, manifest + b"\n")
    sync_directory(draft)
    path = directory / _name(generation)
    if path.exists():
        # A folder cannot be renamed over a full one; a kill in between only costs a checkpoint.
        path.rename(directory / f".draft-{generation}-replaced")
    os.replace(draft, path)
    sync_directory(directory)
    _remove_drafts(directory)
    _prune(directory, max(keep, 1))
    return path


def load(path: Path) -> Checkpoint:
    """Read one checkpoint folder; raises RunFolderError if it is missing or damaged."""
    loaded = _read(path)
    if isinstance(loaded, str):
        raise RunFolderError(
            f"{loaded}; take another checkpoint, or none: the ledger rebuilds every generation"
        )
    return loaded


def latest(directory: Path, *, at_most: int | None = None) -> Latest:
    """The newest whole checkpoint, of no more than `at_most` completed generations if given.

    A directory that does not exist holds no checkpoint. Broken ones are left where they are.
    """
    skipped: list[str] = []
    for generation, path in reversed(_list(directory)):
        if at_most is not None and generation > at_most:
            continue
        loaded = _read(path)
        if isinstance(loaded, Checkpoint):
            return Latest(loaded, tuple(skipped))
        skipped.append(loaded)
    return Latest(None, tuple(skipped))


def pin(directory: Path, name: str, generation: int) -> None:
    """Keep the checkpoint of `generation` as `name` ("best"), letting go of the one before.

    Raises RunFolderError if there is no such checkpoint.
    """
    if not (directory / _name(generation)).is_dir():
        raise RunFolderError(
            f"{directory} has no checkpoint of generation={generation} to pin; save it first"
        )
    draft = directory / f".draft-{PINS_FILE}"
    write_synced(draft, json.dumps({**pinned(directory), name: generation}).encode())
    os.replace(draft, directory / PINS_FILE)
    sync_directory(directory)


def pinned(directory: Path) -> Mapping[str, int]:
    """Generations by the name they are pinned under."""
    path = directory / PINS_FILE
    return json.loads(path.read_bytes()) if path.is_file() else {}


def _list(directory: Path) -> list[tuple[int, Path]]:
    found = []
    for path in directory.iterdir() if directory.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match:
            found.append((int(match[1]), path))
    return sorted(found)


def _read(path: Path) -> Checkpoint | str:
    """The checkpoint, or what is wrong with it; checksums are compared before anything is
    parsed.
    """
    for name in (MANIFEST_FILE, STATE_FILE):
        if not (path / name).is_file():
            return f"{path / name} is missing"
    unsealed = unseal((path / MANIFEST_FILE).read_bytes().rstrip(b"\n"))
    if unsealed is None:
        return f"{path / MANIFEST_FILE} is damaged: its checksum does not fit its content"
    manifest, _ = unsealed
    if manifest["format"] != FORMAT_VERSION:
        return f"{path} has format {manifest['format']}, this es-align reads {FORMAT_VERSION}"
    tensors = (path / STATE_FILE).read_bytes()
    if sha256(tensors).hexdigest() != manifest["state_sha256"]:
        return f"{path / STATE_FILE} is damaged: its checksum is not the manifest's"
    generation, scalars = manifest["generation"], manifest["scalars"]
    if path.name != _name(generation) or not isinstance(scalars, dict):
        return f"{path} holds the checkpoint of generation {generation}: the folder was renamed"
    arrays = safetensors.load(tensors)
    mean_D = arrays.pop(_MEAN)
    state = StrategyState(
        {name.removeprefix(_STATE_PREFIX): array for name, array in arrays.items()}, scalars
    )
    return Checkpoint(path, int(str(generation)), state, mean_D, str(manifest["mean_digest"]))


def _name(generation: JsonValue) -> str:
    return f"generation-{generation:06d}" if isinstance(generation, int) else ""


def _remove_drafts(directory: Path) -> None:
    """What a killed driver left; only the holder of the ledger's lock writes here."""
    for draft in directory.glob(".draft-*"):
        if draft.is_dir():
            shutil.rmtree(draft)


def _prune(directory: Path, keep: int) -> None:
    kept = set(pinned(directory).values())
    for generation, path in _list(directory)[:-keep]:
        if generation not in kept:
            shutil.rmtree(path)
