"""The ledger: exact, chained, one writer, and whole after any kill."""

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from es_align.errors import LedgerError, RunFolderError
from es_align.ledger import Ledger, LedgerHeader, LedgerRecord, digest, optional_floats

HEADER = LedgerHeader(
    run_id="tiny-1",
    config_digest="c" * 64,
    seed=2**63 - 1,
    dimension=3,
    basis_digest="b" * 64,
    mean_digest="0" * 64,
    versions={"numpy": "2.3.5"},
)


def record(generation: int) -> LedgerRecord:
    fitness_M = np.array([0.1 + 0.2, -1 / 3, np.nan, 5e-324]) * (generation + 1)
    return LedgerRecord(
        generation=generation,
        seed=2**63 - 1,
        sigma=0.05,
        learning_rate=0.1,
        prompt_ids=("train/1", "train/7"),
        fitness=optional_floats(fitness_M),
        reward_mean=(0.5, 1.0, None, 0.25),
        num_excluded=1,
        mean_digest=f"{generation:064x}",
    )


def write(path: Path, num_generations: int) -> list[LedgerRecord]:
    records = [record(generation) for generation in range(num_generations)]
    with Ledger.create(path, HEADER) as ledger:
        for one in records:
            ledger.append(one)
    return records


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


def test_what_is_written_reads_back_exactly(path: Path) -> None:
    records = write(path, 3)
    ledger = Ledger.open(path)
    assert ledger.header == HEADER
    assert list(ledger.records) == records
    assert ledger.next_generation == 3
    assert ledger.dropped_tail is None
    fitness_M = ledger.records[0].fitness_M
    assert fitness_M.tobytes() == np.array([0.30000000000000004, -1 / 3, np.nan, 5e-324]).tobytes()


def test_infinite_fitness_is_kept_as_excluded() -> None:
    assert optional_floats(np.array([1.5, np.inf, -np.inf, np.nan])) == (1.5, None, None, None)


def test_a_line_is_json_that_names_the_line_above(path: Path) -> None:
    write(path, 2)
    header, first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert (header["kind"], header["format"], header["previous"]) == ("header", 1, "0" * 64)
    assert first["previous"] == header["checksum"]
    assert second["previous"] == first["checksum"]
    assert second["fitness"][2] is None
    assert second["generation"] == 1


def test_equal_runs_write_equal_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a", 3)
    write(tmp_path / "b", 3)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_new_ledger_overwrites_nothing(path: Path) -> None:
    write(path, 1)
    before = path.read_bytes()
    with pytest.raises(RunFolderError, match="already holds a run; go on with --resume"):
        Ledger.create(path, HEADER)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["ledger.jsonl"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_links_has_ledgers_too(
    number: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    with Ledger.create(path, HEADER) as ledger:
        with pytest.raises(RunFolderError, match="is being written by"):
            Ledger.open(path, for_append=True)
        ledger.append(record(0))
    with pytest.raises(RunFolderError, match="already holds a run"):
        Ledger.create(path, HEADER)
    assert Ledger.open(path).next_generation == 1
    assert [file.name for file in path.parent.iterdir()] == ["ledger.jsonl"]


def test_a_missing_ledger_is_said(path: Path) -> None:
    with pytest.raises(RunFolderError, match="does not exist"):
        Ledger.open(path)


def test_resume_appends_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "broken off"
    write(path, 2)
    with Ledger.open(path, for_append=True) as ledger:
        ledger.append(record(2))
    write(tmp_path / "straight", 3)
    assert path.read_bytes() == (tmp_path / "straight").read_bytes()


@pytest.mark.parametrize("generation", [0, 1, 3, -1])
def test_generations_come_in_order(path: Path, generation: int) -> None:
    with Ledger.create(path, HEADER) as ledger:
        ledger.append(record(0))
        ledger.append(record(1))
        before = path.read_bytes()
        with pytest.raises(LedgerError, match=rf"generation={generation} cannot follow 1; .* is 2"):
            ledger.append(record(generation))
    assert path.read_bytes() == before


def test_reading_gives_no_right_to_append(path: Path) -> None:
    write(path, 1)
    with pytest.raises(LedgerError, match="was opened to be read"):
        Ledger.open(path).append(record(1))


def test_a_kill_at_any_byte_of_the_last_record_leaves_the_old_ledger_or_the_new(
    path: Path,
) -> None:
    write(path, 2)
    old_bytes = path.stat().st_size
    write(path.with_name("longer"), 3)
    new = path.with_name("longer").read_bytes()
    for num_bytes in range(old_bytes, len(new) + 1):
        path.write_bytes(new[:num_bytes])
        is_new, is_torn = num_bytes == len(new), old_bytes < num_bytes < len(new)

        reader = Ledger.open(path)
        assert reader.next_generation == (3 if is_new else 2)
        assert (reader.dropped_tail is not None) == is_torn
        assert path.stat().st_size == num_bytes, "reading must not change the file"

        with Ledger.open(path, for_append=True) as ledger:
            assert (ledger.dropped_tail is not None) == is_torn
            if not is_new:
                assert path.read_bytes() == new[:old_bytes]
                ledger.append(record(2))
        assert path.read_bytes() == new


def test_what_was_dropped_is_said(path: Path) -> None:
    write(path, 2)
    size = path.stat().st_size
    write(path.with_name("longer"), 3)
    path.write_bytes(path.with_name("longer").read_bytes()[: size + 100])
    dropped = Ledger.open(path).dropped_tail
    assert dropped is not None
    assert "of generation 2, was cut short after 100 bytes and is left out" in dropped


def test_a_last_record_with_its_middle_lost_is_dropped_too(path: Path) -> None:
    write(path, 3)
    content = bytearray(path.read_bytes())
    content[-200:-100] = bytes(100)
    path.write_bytes(content)
    ledger = Ledger.open(path, for_append=True)
    assert ledger.next_generation == 2
    assert ledger.dropped_tail is not None
    ledger.append(record(2))
    assert Ledger.open(path).next_generation == 3


@pytest.mark.parametrize("line", [1, 2, 3])
def test_a_changed_byte_before_the_last_line_is_an_error_naming_it(path: Path, line: int) -> None:
    write(path, 3)
    whole = path.read_bytes()
    starts = [0, *(i + 1 for i, byte in enumerate(whole) if byte == ord("\n"))]
    for offset in range(starts[line - 1], starts[line] - 1, 7):
        damaged = bytearray(whole)
        damaged[offset] ^= 1
        path.write_bytes(damaged)
        for for_append in (False, True):
            with pytest.raises(LedgerError, match=f"line {line} is damaged"):
                Ledger.open(path, for_append=for_append)
        assert path.read_bytes() == damaged


def test_records_taken_out_doubled_or_exchanged_are_found(path: Path) -> None:
    write(path, 4)
    header, *lines = path.read_bytes().splitlines(keepends=True)
    for shuffled in (
        lines[1:],
        [lines[0], *lines[2:]],
        [lines[1], lines[0], *lines[2:]],
        lines * 2,
    ):
        path.write_bytes(header + b"".join(shuffled))
        with pytest.raises(LedgerError, match=r"line \d is damaged: it does not follow"):
            Ledger.open(path)


def test_a_record_of_another_run_is_found(path: Path) -> None:
    write(path, 1)
    other = path.with_name("other")
    header = LedgerHeader("other", "c" * 64, 0, 3, "b" * 64, "0" * 64, {})
    with Ledger.create(other, header) as ledger:
        ledger.append(record(0))
    own_header = path.read_bytes().splitlines(keepends=True)[0]
    path.write_bytes(own_header + other.read_bytes().splitlines(keepends=True)[1])
    with pytest.raises(LedgerError, match="line 2 is damaged: it does not follow"):
        Ledger.open(path)


@pytest.mark.parametrize("content", [b"", b"\n", b'{"format":1,"kind":"header"'])
def test_a_file_without_a_header_is_an_error(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(LedgerError, match="line 1 is damaged"):
        Ledger.open(path)


def test_a_ledger_of_another_format_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("es_align.records.FORMAT_VERSION", 2)
    write(path, 1)
    monkeypatch.undo()
    with pytest.raises(LedgerError, match="has format 2, this es-align reads 1"):
        Ledger.open(path)


def test_a_second_writer_is_refused_and_a_reader_is_not(path: Path) -> None:
    ledger = Ledger.create(path, HEADER)
    with pytest.raises(RunFolderError, match=r"is being written by .*process"):
        Ledger.open(path, for_append=True)
    assert Ledger.open(path).next_generation == 0
    ledger.append(record(0))
    ledger.close()
    assert Ledger.open(path, for_append=True).next_generation == 1


def test_a_lock_on_a_ledger_that_was_replaced_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened, then another start puts its own there: what is appended would be in no file."""
    write(path, 1)
    real_lock = fcntl.flock

    def replace_first(handle: int, operation: int) -> None:
        monkeypatch.undo()
        path.unlink()
        write(path, 2)
        real_lock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", replace_first)
    with pytest.raises(RunFolderError, match=r"was replaced by another start .*; see what runs in"):
        Ledger.open(path, for_append=True)
    assert Ledger.open(path, for_append=True).next_generation == 2


def test_a_file_system_without_locks_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    write(path, 1)
    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(RunFolderError, match=r"without locks .*a --run-dir on a local disk"):
        Ledger.open(path, for_append=True)
    assert Ledger.open(path).next_generation == 1, "to read needs none"


def test_a_killed_writer_leaves_its_lock_to_the_next(path: Path) -> None:
    write(path, 2)
    script = (
        "import os, signal, sys; from pathlib import Path; from es_align.ledger import Ledger; "
        "ledger = Ledger.open(Path(sys.argv[1]), for_append=True); print('locked', flush=True); "
        "sys.stdin.read()"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"locked\n"
    with pytest.raises(RunFolderError, match="is being written by") as refusal:
        Ledger.open(path, for_append=True)
    if Path("/proc/locks").is_file():
        assert f"process {writer.pid};" in str(refusal.value)
    writer.kill()
    writer.wait(timeout=10)
    assert Ledger.open(path, for_append=True).next_generation == 2


def test_a_full_disk_loses_one_append_and_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_write = os.write

    def write_half(handle: int, data: memoryview) -> int:
        if len(data) < 300:
            raise OSError(28, "No space left on device")
        return real_write(handle, data[: len(data) // 2])

    ledger = Ledger.create(path, HEADER)
    ledger.append(record(0))
    before = path.stat().st_size
    monkeypatch.setattr(os, "write", write_half)
    with pytest.raises(OSError, match="No space left"):
        ledger.append(record(1))
    monkeypatch.undo()
    assert path.stat().st_size > before
    assert ledger.next_generation == 1
    ledger.append(record(1))
    ledger.close()
    reopened = Ledger.open(path)
    assert (reopened.next_generation, reopened.dropped_tail) == (2, None)


def test_every_append_is_synced_before_it_returns(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real_sync = os.fsync

    def count(handle: int) -> None:
        real_sync(handle)
        synced.append(path.stat().st_size if path.exists() else 0)

    monkeypatch.setattr(os, "fsync", count)
    with Ledger.create(path, HEADER) as ledger:
        assert len(synced) == 2, "the header and the folder that names the file"
        for generation in range(3):
            ledger.append(record(generation))
            assert len(synced) == 3 + generation
            assert synced[-1] == path.stat().st_size


def test_digest_covers_dtype_shape_and_bytes_but_not_the_layout() -> None:
    mean_D = np.array([0.0, 1.0, -2.5])
    assert digest(mean_D) == "5f7da80a5ad28f18446e50a432ec2f0552d89c6ebcf3ce541250febe89aa7c10"
    others = [
        mean_D.astype(np.float32),
        mean_D[None],
        np.array([-0.0, 1.0, -2.5]),
        np.array([0.0, 1.0, np.nextafter(-2.5, 0)]),
    ]
    assert len({digest(array) for array in (mean_D, *others)}) == 5
    grid = np.arange(6.0).reshape(2, 3)
    assert (
        digest(np.asfortranarray(grid))
        == digest(grid)
        == digest(np.repeat(grid, 2, axis=1)[:, ::2])
    )
