"""Digests, JSON objects that carry their own checksum, and files that are whole or not there: what
ledger and checkpoints stand on.

A sealed line is canonical JSON (sorted keys, no spaces) whose last key, `checksum`, is the SHA-256
of the object without it. It is checked as text, before anything is parsed.
"""

import errno
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from rewards.base import JsonValue

_SEAL = re.compile(rb',"checksum":"([0-9a-f]{64})"}')
_DRAFT = ".draft"
# What file systems say that have no hard links, such as object stores mounted as folders.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
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


def replace_file(path: Path, content: bytes) -> None:
    """Write a file beside its place and rename it into it, over one that is there."""
    with _draft(path, content) as draft:
        os.replace(draft, path)
    sync_directory(path.parent)


def link_new(path: Path, content: bytes) -> None:
    """Write a file beside its place and link it into it; FileExistsError if there is one."""
    with _draft(path, content) as draft:
        link_draft(draft, path)
    sync_directory(path.parent)


def link_draft(draft: Path, path: Path) -> None:
    """Link a file into its place; FileExistsError if there is one.

    On a file system without links a look goes first, and the draft's own name is gone.
    """
    try:
        os.link(draft, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        os.replace(draft, path)


def is_draft(name: str) -> bool:
    """Whether a file is what a killed process left beside the place of another."""
    return name.startswith(".") and name.endswith(_DRAFT)


@contextmanager
def _draft(path: Path, content: bytes) -> Iterator[Path]:
    """The content in a file beside `path`, gone at the end if it was not renamed."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_DRAFT}")
    try:
        write_synced(draft, content)
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Wait until names created in or renamed into a directory would last through a power cut."""
    handle = os.open(directory, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
