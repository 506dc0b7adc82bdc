"""What is where in a mirror, and what can be told from looking at it.

    ledger/000000.json            the header, 000001.json the first generation: the ledger's lines,
                                  each written once and never again (object stores cannot append)
    files/RUN/manifest.json       digests of what stands beside it, stored once at the start:
                                  config.json, prompt.json, basis.safetensors, rewards/
    rows/RUN/metrics/000001.json  rows for people of generation 1, replaced when there are more
    drivers/000000.json           who has written here; the one with the highest number may
    end/RUN/                      adapter/ and plots/ (whole models are never stored)

RUN is the run's id. Of the ledger's lines the last one speaks for all, since each names the
checksum of the one above.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from es_align.errors import LedgerError, RunFolderError
from es_align.object_store import ObjectStore
from es_align.sealed import unseal

LEDGER = "ledger"
DRIVERS = "drivers"
MANIFEST = "manifest.json"
_NUMBERED = re.compile(r"(\d{6,})\.json")


class Stored:
    """A mirror as it is found."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.name = f"mirror={store.url}"

    def line(self, number: int) -> bytes:
        """A line of the ledger with its newline; 0 is the header."""
        return self.store.read(line_name(number))

    def lines(self, numbers: Sequence[int]) -> list[bytes]:
        """Several lines."""
        return self.store.read_all([line_name(number) for number in numbers])

    def num_lines(self) -> int:
        """Lines of the ledger, without a last one that a kill cut short (which only a store that
        is not atomic can have).

        Raises LedgerError if one is missing before the last.
        """
        numbers = sorted(self.numbers(LEDGER))
        missing = next((n for n, number in enumerate(numbers) if n != number), None)
        if missing is not None:
            raise LedgerError(
                f"{self.name}: {line_name(missing)} is missing and {line_name(numbers[-1])} is "
                "there; restore it from a copy"
            )
        is_torn = bool(numbers) and not is_whole(self.line(numbers[-1]))
        return len(numbers) - is_torn

    def numbers(self, place: str) -> dict[int, int]:
        """Bytes of the objects right in a place by the number that is their name."""
        matches = {_NUMBERED.fullmatch(name): b for name, b in self.store.sizes(place).items()}
        return {int(match[1]): num_bytes for match, num_bytes in matches.items() if match}

    def last_driver(self) -> int:
        """Number of the driver that may write; -1 if there was none yet."""
        return max(self.numbers(DRIVERS), default=-1)

    def driver(self, number: int) -> str:
        """Who that is, for a person."""
        name = driver_name(number)
        unsealed = unseal(self.store.read(name)) if self.store.has(name) else None
        if unsealed is None:
            return "an unknown driver"
        told = unsealed[0]
        return (
            f"process {told['process']} on {told['host']} ({told['run_dir']}, since "
            f"{told['since']})"
        )

    def check_same(self, lines: Sequence[bytes], num_common: int, folder: Path) -> None:
        """Raise RunFolderError unless the first lines of a folder's ledger are those stored."""
        if num_common == 0 or self.line(num_common - 1) == lines[num_common - 1]:
            return
        header = self.line(0)
        if header != lines[0]:
            raise RunFolderError(
                f"{folder} holds {run_of(lines[0])}, {self.name} holds {run_of(header)}; name the "
                "mirror of this run, or another --run-dir for that one"
            )
        found = self.lines(range(num_common))
        first = next(n for n in range(num_common) if found[n] != lines[n])
        raise RunFolderError(
            f"{folder} and {self.name} disagree about generation {first}: two drivers went on "
            f"from generation {first - 1}. Resume in another --run-dir to go on from the mirror, "
            "or name another mirror to go on from the folder"
        )


def line_name(number: int) -> str:
    """Where a line of the ledger is stored."""
    return f"{LEDGER}/{number:06d}.json"


def driver_name(number: int) -> str:
    """Where a driver says who it is."""
    return f"{DRIVERS}/{number:06d}.json"


def file_name(run_id: str, name: str) -> str:
    """Where a file that a resume needs is stored."""
    return f"files/{run_id}/{name}"


def rows_place(run_id: str, file: Path) -> str:
    """Where the rows of a file for people are stored."""
    return f"rows/{run_id}/{file.stem}"


def rows_name(run_id: str, file: Path, generation: int) -> str:
    """Where its rows of one generation are stored."""
    return f"{rows_place(run_id, file)}/{generation:06d}.json"


def end_name(run_id: str, name: str) -> str:
    """Where a file made at the end is stored."""
    return f"end/{run_id}/{name}"


def is_whole(line: bytes) -> bool:
    """Whether a line with its newline is as it was written."""
    return unseal(line.removesuffix(b"\n")) is not None


def run_of(header: bytes) -> str:
    """Which run a header is of, for a person."""
    unsealed = unseal(header.removesuffix(b"\n"))
    return "an unreadable run" if unsealed is None else f"run {unsealed[0].get('run_id')}"


def whole_lines(file: Path, start: int = 0) -> list[bytes]:
    """Lines of a local file, with their newlines, from a byte on; none if it is not there."""
    if not file.is_file():
        return []
    with file.open("rb") as stream:
        stream.seek(start)
        return [line for line in stream if line.endswith(b"\n")]
