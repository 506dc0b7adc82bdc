"""The ledger: the append-only file from which any machine rebuilds a run.

One JSON object a line: a header, then one record a generation with everything the update was made
from, scalars only. Each line ends with the SHA-256 of what stands before it and names the checksum
of the line above, so a change anywhere is found. A line counts once it is complete and synced: what
a killed driver left of its last line is dropped, said in `dropped_tail`, and that generation is run
again to the same numbers. Damage anywhere else is an error, never repaired.

Floats are written in Python's shortest exact form, so fitness reads back bit for bit.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from es_align.errors import LedgerError, RunFolderError
from es_align.records import (
    LedgerHeader,
    LedgerRecord,
    optional_floats,
    seal_header,
    seal_record,
    verify_lines,
)
from es_align.sealed import digest, json_digest, link_draft, sync_directory, unseal

# What file systems say that have no locks, such as object stores mounted as folders.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


class Ledger:
    """A verified ledger, open for reading, or for appending under an exclusive lock."""

    def __init__(
        self,
        path: Path,
        handle: int | None,
        header: LedgerHeader,
        records: list[LedgerRecord],
        *,
        head: str,
        num_bytes: int,
        dropped_tail: str | None,
    ) -> None:
        """For `create` and `open`, which say what the arguments must agree with."""
        self.path = path
        self.header = header
        self.dropped_tail = dropped_tail
        self._handle = handle
        self._records = records
        self._head = head
        self._num_bytes = num_bytes

    @classmethod
    def create(cls, path: Path, header: LedgerHeader) -> Self:
        """A new ledger with its header on disk, locked for appending.

        Raises RunFolderError if the path exists: a ledger is never overwritten.
        """
        if path.exists():
            raise _taken(path)
        line, checksum = seal_header(header)
        # Linked into place complete and locked: a kill leaves no ledger without a header.
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        handle = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
        _lock(handle, draft)
        num_bytes = _write(handle, line + b"\n")
        link_draft(draft, path)
        draft.unlink(missing_ok=True)
        sync_directory(path.parent)
        return cls(path, handle, header, [], head=checksum, num_bytes=num_bytes, dropped_tail=None)

    @classmethod
    def open(cls, path: Path, *, for_append: bool = False) -> Self:
        """Read and verify a ledger; for appending also lock it and cut off a torn last line.

        Raises RunFolderError if there is none or another process appends to it, LedgerError naming
        the line if anything but the end of the file is damaged.
        """
        if not path.is_file():
            raise RunFolderError(
                f"{path} does not exist, so there is no run to read; check the run folder's name"
            )
        with ExitStack() as on_error:
            handle = os.open(path, os.O_RDWR | os.O_APPEND) if for_append else None
            if handle is not None:
                on_error.callback(os.close, handle)
                _lock(handle, path)
            content = path.read_bytes()
            *lines, tail = content.split(b"\n")
            # Without a newline a line was never acknowledged; with one, a power cut can still have
            # kept its end and lost its middle.
            if len(lines) > 1 and not tail and unseal(lines[-1]) is None:
                tail = lines.pop() + b"\n"
            header, records, head = verify_lines(path, lines)
            num_bytes = len(content) - len(tail)
            if handle is not None and tail:
                os.ftruncate(handle, num_bytes)
                os.fsync(handle)
            on_error.pop_all()
        dropped = (
            f"{path}: the last record, of generation {len(records)}, was cut short after "
            f"{len(tail)} bytes and is left out; that generation runs again"
        )
        return cls(
            path,
            handle,
            header,
            records,
            head=head,
            num_bytes=num_bytes,
            dropped_tail=dropped if tail else None,
        )

    @property
    def records(self) -> tuple[LedgerRecord, ...]:
        """All generations so far, in order."""
        return tuple(self._records)

    @property
    def next_generation(self) -> int:
        """The number of completed generations, which is the number of the next one."""
        return len(self._records)

    def append(self, record: LedgerRecord) -> None:
        """Write one generation; when this returns it is on disk.

        Raises LedgerError if the ledger is read only or the generation is not the next one, OSError
        if the disk refuses; nothing of a failed record stays.
        """
        if self._handle is None:
            raise LedgerError(f"{self.path} was opened to be read; open it with for_append=True")
        if record.generation != self.next_generation:
            raise LedgerError(
                f"{self.path}: generation={record.generation} cannot follow "
                f"{self.next_generation - 1}; the next is {self.next_generation}"
            )
        line, checksum = seal_record(record, self._head)
        # Else what a refused append left behind would end up inside this line.
        os.ftruncate(self._handle, self._num_bytes)
        self._num_bytes += _write(self._handle, line + b"\n")
        self._head = checksum
        self._records.append(record)

    def close(self) -> None:
        """Give up the lock; reading goes on to work."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@contextmanager
def begun_alone(path: Path) -> Iterator[Ledger | None]:
    """Hold a ledger's place while its run is begun: another start or resume there is refused.

    Yields the ledger that is there, locked too, if its run never had a generation; it may go.
    Raises RunFolderError if another process begins or writes a run there, or one has generations.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    with ExitStack() as held:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        held.callback(os.close, handle)
        _lock(handle, lock)
        held.callback(lock.unlink, missing_ok=True)  # while it is held: never another's
        found = held.enter_context(Ledger.open(path, for_append=True)) if path.exists() else None
        if found is not None and found.next_generation:
            raise _taken(path)
        yield found


def check_lock(file: Path) -> None:
    """Lock a file and let go; RunFolderError if its file system has no locks."""
    handle = os.open(file, os.O_RDWR)
    try:
        _lock(handle, file)
    finally:
        os.close(handle)


def _taken(path: Path) -> RunFolderError:
    return RunFolderError(
        f"{path} already holds a run; go on with --resume or choose another --run-dir"
    )


def _write(handle: int, line: bytes) -> int:
    rest = memoryview(line)
    while rest:
        rest = rest[os.write(handle, rest) :]
    os.fsync(handle)
    return len(line)


def _lock(handle: int, path: Path) -> None:
    """Take the exclusive lock; it goes with the process, so a killed driver leaves none behind.

    Raises RunFolderError if another process has it, the file was replaced since it was opened, or
    the file system has no locks.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunFolderError(
            f"{path} is being written by {_holder(handle)}; wait for that run to end or stop it, "
            "or choose another --run-dir"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise RunFolderError(
            f"{path.parent} is on a file system without locks ({os.strerror(error.errno)}), which "
            "keep two runs out of one folder; choose a --run-dir on a local disk, and for a copy "
            "on shared storage set mirror"
        ) from None
    # Else the lock would be on a file that nobody finds any more.
    if not _is_at(path, handle):
        raise RunFolderError(
            f"{path} was replaced by another start while this one opened it; see what runs in "
            f"{path.parent}, then start again, or choose another --run-dir"
        )


def _is_at(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _holder(handle: int) -> str:
    """Who holds the lock, where the kernel lists its locks (Linux)."""
    locks = Path("/proc/locks")
    inode = os.fstat(handle).st_ino
    for line in locks.read_text().splitlines() if locks.is_file() else ():
        # "1: FLOCK  ADVISORY  WRITE 4711 08:01:131 0 EOF": pid, then device and inode
        columns = line.split()
        if columns[1] == "FLOCK" and columns[5].rpartition(":")[2] == str(inode):
            return f"process {columns[4]}"
    return "another process"


__all__ = ["Ledger", "LedgerHeader", "LedgerRecord", "digest", "json_digest", "optional_floats"]
