"""A run folder made, or brought up, from its mirror."""

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

from es_align.errors import LedgerError, RunFolderError
from es_align.ledger import Ledger, LedgerHeader, LedgerRecord
from es_align.mirror_layout import (
    LEDGER,
    MANIFEST,
    Stored,
    file_name,
    rows_name,
    rows_place,
    whole_lines,
)
from es_align.records import verify_lines
from es_align.run_folder import RunFolder, check_new
from es_align.sealed import replace_file


def restore(stored: Stored, folder: RunFolder, note: Callable[[str], None]) -> None:
    """Bring a folder to where its mirror is, if it is behind or not there.

    The ledger grows last and line by line, so a kill leaves a folder that is only less far behind.
    Raises RunFolderError if neither holds a run or they are not the same, LedgerError if the mirror
    is damaged.
    """
    num_stored = stored.num_lines()
    if folder.has_run:
        with Ledger.open(folder.ledger, for_append=True) as ledger:
            lines = whole_lines(folder.ledger)
            stored.check_same(lines, min(num_stored, len(lines)), folder.path)
            if len(lines) < num_stored:
                lines += stored.lines(range(len(lines), num_stored))
                _grow(stored, folder, ledger, lines, note)
        return
    if num_stored == 0:
        raise RunFolderError(
            f"neither {folder.path} nor {stored.name} holds a run to resume; leave --resume out to "
            "start one"
        )
    check_new(folder)
    lines = stored.lines(range(num_stored))
    header, _ = _verified(stored, lines)
    folder.path.mkdir(parents=True, exist_ok=True)
    _restore_files(stored, folder.path, header.run_id)
    with Ledger.create(folder.ledger, header) as ledger:
        _grow(stored, folder, ledger, lines, note)


def _grow(
    stored: Stored,
    folder: RunFolder,
    ledger: Ledger,
    lines: Sequence[bytes],
    note: Callable[[str], None],
) -> None:
    """Make a ledger consist of these lines, of which it has the first ones; rows come before."""
    header, records = _verified(stored, lines)
    _restore_rows(stored, folder, header.run_id, len(records))
    for record in records[ledger.next_generation :]:
        ledger.append(record)
    if whole_lines(folder.ledger) != lines:
        raise LedgerError(
            f"{folder.ledger}: this es-align writes other lines than those of {stored.name}; use "
            f"the version that wrote them ({header.versions.get('es-align')})"
        )
    note(
        f"restored {len(records)} generations from {stored.name}, last written by "
        f"{stored.driver(stored.last_driver())}"
    )


def _restore_files(stored: Stored, root: Path, run_id: str) -> None:
    digests: dict[str, str] = json.loads(stored.store.read(file_name(run_id, MANIFEST)))
    for name, digest in digests.items():
        content = stored.store.read(file_name(run_id, name))
        file = root / name
        is_inside = file.resolve().is_relative_to(root.resolve())
        if sha256(content).hexdigest() != digest or not is_inside:
            raise LedgerError(
                f"{stored.name}: {file_name(run_id, name)} is not what {MANIFEST} says; restore it "
                "from a copy"
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, content)


def _restore_rows(stored: Stored, folder: RunFolder, run_id: str, completed: int) -> None:
    """Those of generations that count; of the one after there may be some already."""
    for file in folder.row_files:
        numbers = stored.numbers(rows_place(run_id, file))
        names = [rows_name(run_id, file, n) for n in sorted(numbers) if n <= completed]
        replace_file(file, b"".join(stored.store.read_all(names)))


def _verified(stored: Stored, lines: Sequence[bytes]) -> tuple[LedgerHeader, list[LedgerRecord]]:
    try:
        bare = [line.removesuffix(b"\n") for line in lines]
        header, records, _ = verify_lines(Path(LEDGER), bare)
    except LedgerError as error:
        raise LedgerError(f"{stored.name}: {error}") from None
    return header, records
