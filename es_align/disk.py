"""A disk that is full or cannot be written, told in one error.

Nothing is tried again and nothing has to be repaired: a generation counts by its whole line in the
ledger, and everything else is written beside its place or cut at the next start.
"""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from es_align.errors import StorageError
from es_align.run_folder import RunFolder
from kernels.cache import cache_root

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
UNWRITABLE = (errno.EROFS, errno.EIO)
NOT_ALLOWED = (errno.EACCES, errno.EPERM)


@contextmanager
def disk_faults_told(folder: RunFolder) -> Iterator[None]:
    """Raise StorageError for a disk that is full, read only or broken, whichever a run writes to.

    What may not be read elsewhere, such as a task's file, is not the disk's fault and goes through.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        number, file = _number(error), _file(error)
        is_ours = file is not None and _is_on_one_path(file.absolute(), folder.path.absolute())
        if number not in (*FULL, *UNWRITABLE) and not (number in NOT_ALLOWED and is_ours):
            raise
        raise StorageError(_told(folder, number, file)) from error


def _is_on_one_path(file: Path, folder: Path) -> bool:
    return file.is_relative_to(folder) or folder.is_relative_to(file)


def _told(folder: RunFolder, number: int, file: Path | None) -> str:
    remedy = "free some space" if number in FULL else "make it writable"
    again = f"{remedy}, then start again, or choose another --run-dir"
    if folder.has_run:
        again = (
            f"every finished generation is safe in {folder.ledger}: {remedy}, then go on with "
            "--resume"
        )
    # A write that fails names no file, and a run writes to more disks than the folder's.
    places = {
        "run folder": folder.path,
        "model cache": cache_root(),
        "temporary files": Path(tempfile.gettempdir()),
    }
    free = ", ".join(f"{name} {place}: {_free(place)}" for name, place in places.items())
    return (
        f"{file or folder.path} could not be written ({os.strerror(number)}). Free space: {free}. "
        f"{again[0].upper()}{again[1:]}"
    )


def _free(place: Path) -> str:
    there = next(path for path in (place.absolute(), *place.absolute().parents) if path.exists())
    usage = shutil.disk_usage(there)
    return f"{usage.free / 2**20:,.1f} of {usage.total / 2**20:,.1f} MiB"


def _number(error: OSError | SafetensorError) -> int:
    """The system's number of an error; 0 if it has none."""
    if isinstance(error, OSError):
        return error.errno or 0
    found = re.search(r"os error (\d+)", str(error))
    return int(found[1]) if found else 0


def _file(error: OSError | SafetensorError) -> Path | None:
    name = error.filename if isinstance(error, OSError) else None
    return Path(name) if isinstance(name, str) else None
