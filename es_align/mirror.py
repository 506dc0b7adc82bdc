"""A run's mirror: what a machine that has nothing yet needs to go on with the run, kept elsewhere.

The run folder comes first: rows, ledger line (synced), then here the rows and last the ledger line.
A generation counts once its line is here, and the next one starts after that. A kill in between
leaves the folder one generation ahead: resumed from the folder, the line is stored first; resumed
elsewhere, the generation runs again. Either way none is lost or doubled.

A machine given up for lost may still be alive, and the folder's lock does not reach it. So the
driver that resumes takes the next number, the other one finds that before its next line and stops;
and since lines are only created, neither can replace what the other wrote.

Nothing is ever deleted: that right is not needed. What is where stands in `mirror_layout`.
"""

import json
import os
import socket
from datetime import UTC, datetime
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from es_align.errors import RunFolderError
from es_align.ledger import LedgerHeader
from es_align.mirror_layout import (
    MANIFEST,
    Stored,
    driver_name,
    end_name,
    file_name,
    is_whole,
    line_name,
    rows_name,
    rows_place,
    run_of,
    whole_lines,
)
from es_align.run_folder import (
    BASIS_FILE,
    CONFIG_FILE,
    PROMPT_FILE,
    REWARDS,
    RunFolder,
    generation_of,
)
from es_align.sealed import seal


class Copied(NamedTuple):
    """How far a file of rows is stored."""

    start: int  # of the rows of the last generation, in the local file
    num_bytes: int  # of those rows that are stored


class Mirror:
    """A mirror that follows a run folder."""

    def __init__(self, stored: Stored, folder: RunFolder) -> None:
        self._stored = stored
        self._store = stored.store
        self._folder = folder
        self._replaced: bytes | None = None  # header of the folder's run that never got anywhere
        self._run_id = ""  # set by `attach`, and so are the others
        self._driver = -1
        self._num_lines = 0
        self._ledger_bytes = 0
        self._rows: dict[Path, Copied] = {}

    def check_new(self) -> None:
        """Raise RunFolderError if there is a run.

        As in a folder, one that ended before its first generation does not count; but only the
        folder's own, since any other may be about to write one.
        """
        num_stored = self._stored.num_lines()
        if num_stored == 0:
            return
        header = self._stored.line(0)
        if num_stored == 1 and whole_lines(self._folder.ledger) == [header]:
            self._replaced = header
            return
        raise RunFolderError(
            f"{self._stored.name} already holds {run_of(header)} with {num_stored - 1} "
            f"generations, last written by {self._stored.driver(self._stored.last_driver())}; go "
            "on with it by --resume, or name another mirror"
        )

    def attach(self, header: LedgerHeader) -> None:
        """Take over the mirror for the run in the folder, and store what it lacks.

        Raises as `store` does, and RunFolderError if what is stored is not of the folder's run.
        """
        self._run_id = header.run_id
        lines = whole_lines(self._folder.ledger)
        if self._replaced is not None or self._stored.num_lines() == 0:
            self._store_files()
            self._store_header(lines[0])
        self._num_common(lines)  # who is refused does not stop the other one
        self._take_over()
        self._num_lines = num_stored = self._num_common(lines)
        self._ledger_bytes = sum(map(len, lines[:num_stored]))
        self._store.advice = (
            f"every finished generation is safe in {self._folder.path}: make the mirror reachable, "
            "then go on with --resume; or without it, by --resume --set mirror="
        )
        self.store()

    def store(self) -> None:
        """Store what the folder has got since: rows, then lines of the ledger.

        Raises StorageError if the store does not take it in time, RunFolderError if another driver
        has taken over.
        """
        if self._store.has(driver_name(self._driver + 1)):
            raise self._refusal("it took this driver for lost and went on")
        for file in self._folder.row_files:
            self._store_rows(file)
        for line in whole_lines(self._folder.ledger, self._ledger_bytes):
            self._store_line(self._num_lines, line)
            self._num_lines += 1
            self._ledger_bytes += len(line)

    def store_end(self) -> None:
        """Store what there is to store, and adapter and plots; whole models stay where they are."""
        self.store()
        for place in (self._folder.adapter, self._folder.plots):
            for name, file in self._files(place):
                self._store.put(end_name(self._run_id, name), file.read_bytes())

    def _num_common(self, lines: list[bytes]) -> int:
        """Lines that are stored, all of them the folder's; it was restored some minutes ago."""
        num_stored = self._stored.num_lines()
        self._stored.check_same(lines, min(num_stored, len(lines)), self._folder.path)
        if num_stored > len(lines):
            raise self._refusal(f"it has done {num_stored - len(lines)} more generations meanwhile")
        return num_stored

    def _store_files(self) -> None:
        root = self._folder.path
        files = {name: root / name for name in (CONFIG_FILE, PROMPT_FILE, BASIS_FILE)}
        files |= dict(self._files(root / REWARDS))
        digests = {}
        for name, file in files.items():
            content = file.read_bytes()
            digests[name] = sha256(content).hexdigest()
            self._store.put(file_name(self._run_id, name), content)
        self._store.put(file_name(self._run_id, MANIFEST), json.dumps(digests).encode())

    def _store_header(self, line: bytes) -> None:
        """It names the run that the mirror is of, so it comes after the run's files."""
        if self._replaced is not None and self._stored.line(0) == self._replaced:
            self._store.put(line_name(0), line)
        else:
            self._store_line(0, line)

    def _store_line(self, number: int, line: bytes) -> None:
        if self._store.create(line_name(number), line):
            return
        found = self._stored.line(number)
        if not is_whole(found):  # a store that is not atomic, and a kill
            self._store.put(line_name(number), line)
        elif found != line:
            what = f"begun {run_of(found)}" if number == 0 else f"another generation {number}"
            raise self._refusal(f"it has {what}")

    def _store_rows(self, file: Path) -> None:
        """Rows come in the order of their generations, so only the last one's may have grown."""
        copied = self._rows.get(file)
        # An earlier driver has stored most of what is there at the start.
        sizes = self._stored.numbers(rows_place(self._run_id, file)) if copied is None else {}
        start, num_bytes = self._rows[file] = copied or Copied(0, 0)
        for number, lines in groupby(whole_lines(file, start), generation_of):
            generation, rows = int(number), b"".join(lines)
            if len(rows) > max(num_bytes, sizes.get(generation, 0)):
                self._store.put(rows_name(self._run_id, file, generation), rows)
            self._rows[file] = Copied(start, len(rows))
            start, num_bytes = start + len(rows), 0

    def _take_over(self) -> None:
        driver = {
            "run_id": self._run_id,
            "host": socket.gethostname(),
            "process": os.getpid(),
            "run_dir": str(self._folder.path.absolute()),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        number, (content, _) = self._stored.last_driver() + 1, seal(driver)
        name = driver_name(number)
        if not self._store.create(name, content) and self._store.read(name) != content:
            raise self._refusal("it started at the same moment")
        self._driver = number

    def _refusal(self, what: str) -> RunFolderError:
        """What a driver is told that is not alone."""
        last = self._stored.last_driver()
        other = self._stored.driver(last - 1 if last == self._driver else last)
        return RunFolderError(
            f"{self._stored.name} is written by {other}, too: {what}. This driver stops, and what "
            f"it has done is in {self._folder.path}; leave the run to the other one, or stop that "
            "and go on with --resume"
        )

    def _files(self, place: Path) -> list[tuple[str, Path]]:
        """All files under a place in the folder, by their name in the folder."""
        files = sorted(file for file in place.rglob("*") if file.is_file())
        return [(file.relative_to(self._folder.path).as_posix(), file) for file in files]
