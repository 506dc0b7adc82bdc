"""Digests, and JSON objects that carry their own checksum: what ledger and checkpoints stand on.

A sealed line is canonical JSON (sorted keys, no spaces) whose last key, `checksum`, is the SHA-256
of the object without it. It is checked as text, before anything is parsed.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rewards.base import JsonValue

_SEAL = re.compile(rb',"checksum":"([0-9a-f]{64})"}')
_SEAL_BYTES = len(b',"checksum":""}') + 64


def digest(array: np.ndarray) -> str:
    """SHA-256 over dtype, shape and bytes in row order, as 64 hex digits."""
    description = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(description + array.tobytes(order="C")).hexdigest()


def canonical_json(value: object) -> bytes:
    """JSON with sorted keys and no spaces; raises ValueError on NaN and infinities."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def json_digest(value: JsonValue) -> str:
    """SHA-256 of a value's canonical JSON, as 64 hex digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def seal(content: Mapping[str, object]) -> tuple[bytes, str]:
    """A non-empty object as one sealed line without newline; and its checksum."""
    body = canonical_json(content)
    checksum = hashlib.sha256(body).hexdigest()
    return body[:-1] + f',"checksum":"{checksum}"}}'.encode(), checksum


def unseal(line: bytes) -> tuple[dict[str, JsonValue], str] | None:
    """The content and checksum of a sealed line; None if it is not whole."""
    match = _SEAL.fullmatch(line[-_SEAL_BYTES:])
    if match is None:
        return None
    body = line[:-_SEAL_BYTES] + b"}"
    checksum = match[1].decode()
    if hashlib.sha256(body).hexdigest() != checksum:
        return None
    return json.loads(body), checksum


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(directory: Path) -> None:
    """Wait until names created in or renamed into a directory would last through a power cut."""
    handle = os.open(directory, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
