"""Objects under one URL: a shared folder, or an object store through fsspec.

Whatever a storage library raises is tried again, with growing pauses and for a bounded time, and is
then one StorageError. An answer that does not come is an error too: a hard-mounted share waits for
its server for ever, so each call has a thread of its own, which is left behind.

`create` writes only what is not there: in a folder by a link, elsewhere by fsspec's exclusive mode
(S3, Google Cloud Storage and Azure decide it on their side). Where a store ignores that, which
is found out at the start, a look goes first.
"""

import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from typing import Protocol, TypeVar

import fsspec
from fsspec.core import url_to_fs

from es_align.errors import ConfigError, StorageError
from es_align.sealed import link_new, replace_file

T = TypeVar("T")

LOCAL_PROTOCOLS = ("file", "local")
CHECK_OBJECT = "write-check.txt"
CHECK_TEXT = b"es-align may write here\n"
CHECK_PATIENCE_S = 10.0
PATIENCE_S = 300.0
CALL_LIMIT_S = 600.0  # a large basis over a slow line
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
NUM_PARALLEL = 16
_SECRET = re.compile(r"://[^/@]*:[^/@]*@")


def check_url(url: str) -> None:
    """Raise ConfigError for a URL that names no place, or whose package is not installed."""
    protocol, _, place = url.partition("://")
    if not place.strip("/") or "::" in url:
        raise ConfigError(
            f"mirror={url} is no URL of a place; write s3://bucket/run, file:///nfs/run or another "
            "URL that fsspec knows"
        )
    if _SECRET.search(url):
        raise ConfigError(
            f"mirror={protocol}://... holds a password, and config.json would keep it; set it in "
            "the environment or in fsspec's configuration files"
        )
    if protocol in LOCAL_PROTOCOLS and not place.startswith("/"):
        raise ConfigError(f"mirror={url} is relative; write {protocol}:/// and the whole path")
    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        missing = error.__cause__
        package = missing.name if isinstance(missing, ImportError) and missing.name else protocol
        raise ConfigError(
            f"mirror={url} needs the package {package}; run `pip install {package}`"
        ) from error
    except ValueError:
        raise ConfigError(
            f"mirror={url}: fsspec knows no protocol {protocol!r}; use file, s3, gs, abfs or "
            "another that it knows"
        ) from None


class Objects(Protocol):
    """What a place can do; names are relative and with slashes. Raises what its library raises."""

    num_parallel: int  # reads at once

    def prepare(self) -> None: ...

    def write(self, name: str, content: bytes, *, is_new: bool) -> None:
        """With `is_new` FileExistsError if there is one."""
        ...

    def read(self, name: str) -> bytes:
        """FileNotFoundError if there is none."""
        ...

    def has(self, name: str) -> bool: ...

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes by the names of the objects right in a folder; none if there is no such folder."""
        ...


class SharedFolder:
    """Objects as files; each appears whole and synced."""

    num_parallel = NUM_PARALLEL

    def __init__(self, root: Path) -> None:
        self._root = root

    def prepare(self) -> None:
        """Make the folder, but not the one it is in: that would hide a share not mounted."""
        self._root.mkdir(exist_ok=True)

    def write(self, name: str, content: bytes, *, is_new: bool) -> None:
        """Whole or not at all."""
        file = self._root / name
        # Level by level from the root, which a share that went away does not have.
        for folder in reversed(file.relative_to(self._root).parents[:-1]):
            (self._root / folder).mkdir(exist_ok=True)
        (link_new if is_new else replace_file)(file, content)

    def read(self, name: str) -> bytes:
        """A whole file."""
        return (self._root / name).read_bytes()

    def has(self, name: str) -> bool:
        """Whether it is there; OSError if the folder itself is not."""
        self._root.stat()
        return (self._root / name).is_file()

    def sizes(self, folder: str) -> dict[str, int]:
        """Drafts of killed writers have names with a dot in front and are left out."""
        self._root.stat()
        if not (self._root / folder).is_dir():
            return {}
        files = [file for file in (self._root / folder).iterdir() if file.name[0] != "."]
        return {file.name: file.stat().st_size for file in files if file.is_file()}


class Remote:
    """Objects of any store that fsspec knows; its cache of listings is emptied before each look."""

    def __init__(self, url: str) -> None:
        self._fs, self._root = url_to_fs(url)
        # Only these are known to take calls from several threads.
        self.num_parallel = NUM_PARALLEL if self._fs.async_impl else 1

    def prepare(self) -> None:
        """Nothing: a folder is made where one is needed, a bucket never."""

    def write(self, name: str, content: bytes, *, is_new: bool) -> None:
        """As atomic as the store is."""
        path = self._path(name)
        if not self._fs.async_impl:  # object stores have no folders, and some would make a bucket
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        try:
            self._fs.pipe_file(path, content, mode="create" if is_new else "overwrite")
        except Exception:
            # Each library has its own error for an object that is there.
            if is_new and self.has(name):
                raise FileExistsError(name) from None
            raise

    def read(self, name: str) -> bytes:
        """A whole object."""
        return self._fs.cat_file(self._path(name))

    def has(self, name: str) -> bool:
        """Not `exists`, which takes any error for a no."""
        self._fs.invalidate_cache()
        try:
            self._fs.info(self._path(name))
        except FileNotFoundError:
            return False
        return True

    def sizes(self, folder: str) -> dict[str, int]:
        """Of one listing."""
        self._fs.invalidate_cache()
        try:
            rows = self._fs.ls(self._path(folder), detail=True)
        except FileNotFoundError:
            return {}
        return {
            row["name"].rpartition("/")[2]: row["size"] for row in rows if row["type"] == "file"
        }

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


class ObjectStore:
    """A place with patience: what it does not do at once is tried again for a while."""

    def __init__(self, url: str, note: Callable[[str], None]) -> None:
        """Open it, write a small object and read it back; raises StorageError, soon.

        The object stays: deleting is a right that nothing else here needs. `note` is told of the
        first failure of each call.
        """
        self.url = url
        self.advice = "check the address, its credentials and the network, then start again"
        self._note = note
        self._patience_s = CHECK_PATIENCE_S
        self._looks_first = False
        self._objects = self._persist("open it", lambda: _open(url))
        self._persist("open it", self._objects.prepare)
        self.put(CHECK_OBJECT, CHECK_TEXT)
        if self.read(CHECK_OBJECT) != CHECK_TEXT:
            raise StorageError(
                f"mirror={self.url}: {CHECK_OBJECT} does not read back as it was written; "
                f"{self.advice}"
            )
        self._looks_first = self.create(CHECK_OBJECT, CHECK_TEXT)
        self._patience_s = PATIENCE_S

    def put(self, name: str, content: bytes) -> None:
        """Store an object; one that is there is replaced."""
        self._persist(f"store {name}", lambda: self._objects.write(name, content, is_new=False))

    def create(self, name: str, content: bytes) -> bool:
        """Store an object unless there is one; False if there is, even if by an attempt whose
        answer was lost.
        """
        return self._persist(f"store {name}", lambda: self._create(name, content))

    def read(self, name: str) -> bytes:
        """An object that must be there."""
        return self._persist(f"read {name}", lambda: self._objects.read(name))

    def read_all(self, names: Sequence[str]) -> list[bytes]:
        """Many objects, in the order of their names here."""
        with ThreadPoolExecutor(self._objects.num_parallel) as threads:
            return list(threads.map(self.read, names))

    def has(self, name: str) -> bool:
        """Whether there is an object of this name."""
        return self._persist(f"look for {name}", lambda: self._objects.has(name))

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes by the names of the objects right in a folder; none if there is no such folder."""
        return self._persist(f"list {folder}", lambda: self._objects.sizes(folder))

    def _create(self, name: str, content: bytes) -> bool:
        if self._looks_first and self._objects.has(name):
            return False
        try:
            self._objects.write(name, content, is_new=True)
        except FileExistsError:
            return False
        return True

    def _persist(self, doing: str, call: Callable[[], T]) -> T:
        until, pause = time.monotonic() + self._patience_s, FIRST_PAUSE_S
        is_told = False
        while True:
            try:
                return _within(CALL_LIMIT_S, call)
            except Exception as error:  # a boundary: each library raises its own
                told = f"mirror={self.url}: could not {doing} ({_words(error)})"
                if time.monotonic() + pause > until:
                    raise StorageError(
                        f"{told}, tried for {self._patience_s:g} s; {self.advice}"
                    ) from error
                if not is_told:
                    self._note(f"{told}; trying again for {self._patience_s:g} s")
                    is_told = True
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)


def _open(url: str) -> Objects:
    protocol, _, place = url.partition("://")
    return SharedFolder(Path(place)) if protocol in LOCAL_PROTOCOLS else Remote(url.rstrip("/"))


def _within(limit_s: float, call: Callable[[], T]) -> T:
    """What a call returns or raises, or TimeoutError."""
    answer: Future[T] = Future()

    def ask() -> None:
        try:
            answer.set_result(call())
        except Exception as error:
            answer.set_exception(error)

    Thread(target=ask, daemon=True).start()
    return answer.result(limit_s)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")
