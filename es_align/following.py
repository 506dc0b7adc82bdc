"""JSON lines that another process, perhaps on another machine, is writing.

A line counts once its newline is there and it parses. The last one may be torn, by a kill or by a
file system that shows a file's length before its content: it is looked at again the next time.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from es_align.errors import RunFolderError
from rewards.base import JsonValue

Row: TypeAlias = dict[str, JsonValue]

FIRST_BLOCK_BYTES = 2**16
GROWTH = 8


class Follower:
    """The rows of a file that grows, is cut by a resume, or is not there yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: list[Row] = []
        self._offset = 0
        self._inode = 0

    def rows(self) -> Sequence[Row]:
        """All rows so far; only what is new is read.

        Raises RunFolderError if a line before the last is damaged.
        """
        if not self.path.is_file():
            self._rows, self._offset = [], 0
            return self._rows
        with self.path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_ino != self._inode or status.st_size < self._offset:
                self._rows, self._offset, self._inode = [], 0, status.st_ino
            file.seek(self._offset)
            *lines, _ = file.read().split(b"\n")
        for place, line in enumerate(lines):
            row = _parsed(line)
            if row is not None:
                self._rows.append(row)
                self._offset += len(line) + 1
            elif place < len(lines) - 1:
                raise RunFolderError(
                    f"{self.path}, line {len(self._rows) + 1} is no JSON object; remove the line, "
                    "or restore the file from a copy"
                )
        return self._rows


def last_row(path: Path) -> Row | None:
    """The last whole row of a file, of which only the end is read; None if there is none."""
    if not path.is_file():
        return None
    block = FIRST_BLOCK_BYTES
    with path.open("rb") as file:
        num_bytes = os.fstat(file.fileno()).st_size
        while True:
            start = max(0, num_bytes - block)
            file.seek(start)
            first, *lines = file.read(num_bytes - start).split(b"\n")
            whole = [first, *lines][:-1] if start == 0 else lines[:-1]
            found = next((row for row in map(_parsed, reversed(whole)) if row is not None), None)
            if found is not None or start == 0:
                return found
            block *= GROWTH


def _parsed(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None
    return row if isinstance(row, dict) else None
