"""A disk that is full or read only: one error that says what to do, nothing torn, and the same
ledger afterwards.
"""

import errno
import itertools
import json
import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import TypeAlias

import pytest
from safetensors import SafetensorError

from es_align import checkpoint, ledger, run_folder, sealed, session, train
from es_align.config import Config
from es_align.config_loading import apply_overrides
from es_align.disk import disk_faults_told
from es_align.driver import run_population
from es_align.errors import StorageError
from es_align.ledger import Ledger
from es_align.run_folder import RunFolder, check_new

Here: TypeAlias = Callable[[], AbstractContextManager[None]]

SMALL = (
    "generations=3",
    "evaluation.every=0",
    "checkpoint_every=1",
    "evaluation.bootstrap_samples=100",
    "evaluation.noise_floor_repeats=0",
)


@pytest.fixture
def config(tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Three generations; every run has the same id, so that ledgers are the same byte for byte."""
    monkeypatch.setattr(session, "uuid", SimpleNamespace(uuid4=lambda: uuid.UUID(int=7)))
    return apply_overrides(tiny_config, SMALL)


@pytest.fixture
def expected(config: Config, tmp_path: Path, workers_here: Here) -> bytes:
    """The ledger of a run on a disk with room."""
    with workers_here():
        train(config, run_dir=tmp_path / "straight")
    return (tmp_path / "straight/ledger.jsonl").read_bytes()


def full(*given: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def write_half(handle: int, line: bytes) -> int:
    os.write(handle, line[: len(line) // 2])
    raise OSError(errno.ENOSPC, "No space left on device")


def append_half(folder: RunFolder, file: Path, rows: list[dict]) -> None:
    """Of one row; the disk takes part of what is written."""
    with file.open("a") as stream:
        stream.write(json.dumps(rows[0])[:20] if rows else "")
    full()


FULL = (
    (ledger, "_write", write_half),
    (RunFolder, "append_rows", append_half),
    (RunFolder, "append_samples", full),
    (checkpoint, "write_synced", full),
)


@pytest.mark.slow
def test_a_full_disk_ends_a_run_that_then_goes_on_to_the_same_ledger(
    config: Config,
    tmp_path: Path,
    workers_here: Here,
    monkeypatch: pytest.MonkeyPatch,
    expected: bytes,
) -> None:
    """At the second and third generation, at each place where a generation is written."""
    folder = tmp_path / "run"
    for at, fault in itertools.product((2, 3), FULL):
        with monkeypatch.context() as patch, workers_here():
            fail_at(patch, folder, at, fault)
            with pytest.raises(StorageError) as told:
                train(config, run_dir=folder, resume=RunFolder(folder).has_run)
        assert str(told.value).startswith(
            f"{folder} could not be written (No space left on device). Free space: run folder "
        )
        assert str(told.value).endswith(
            f"Every finished generation is safe in {folder}/ledger.jsonl: free some space, then go "
            "on with --resume"
        )
        for file in RunFolder(folder).row_files:
            RunFolder(folder).read_rows(file)
    assert done(folder) == 3, "the last checkpoint failed after its generation counted"
    with workers_here():
        result = train(config, run_dir=folder, resume=True)
    assert (folder / "ledger.jsonl").read_bytes() == expected
    assert result.completions == 3 * 4 * 2
    assert not [file for file in folder.rglob("*") if "draft" in file.name]


def fail_at(
    patch: pytest.MonkeyPatch, folder: Path, generation: int, fault: tuple[object, str, Callable]
) -> None:
    """The disk is full once this generation, from 1, was evaluated."""

    def run(*given: object, **named: object) -> object:
        if done(folder) + 1 == generation:
            patch.setattr(*fault)
        return run_population(*given, **named)  # type: ignore[arg-type]

    patch.setattr("es_align.driver.run_population", run)


def done(folder: Path) -> int:
    if not (folder / "ledger.jsonl").is_file():
        return 0
    with Ledger.open(folder / "ledger.jsonl") as found:
        return found.next_generation


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a disk here: {mounted.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path) -> None:
    with pytest.raises(OSError, match="No space left"), (disk / "filler").open("wb") as stream:
        while True:
            stream.write(bytes(4096))
            stream.flush()


@pytest.mark.slow
def test_a_real_disk_that_fills_up(
    config: Config, small_disk: Path, workers_here: Here, expected: bytes
) -> None:
    folder = small_disk / "run"
    with workers_here(), pytest.MonkeyPatch.context() as patch:
        fills = iter([lambda: None, lambda: fill(small_disk)])

        def run(*given: object, **named: object):
            next(fills, lambda: None)()
            return run_population(*given, **named)  # type: ignore[arg-type]

        patch.setattr("es_align.driver.run_population", run)
        with pytest.raises(StorageError, match=r"run folder .* 0\.0 of 1\.0 MiB, model cache"):
            train(config, run_dir=folder)
        before = done(folder)
        assert 1 <= before < 3
        with pytest.raises(StorageError, match="No space left on device"):
            train(config, run_dir=folder, resume=True)  # nothing was freed
        assert done(folder) == before
        (small_disk / "filler").unlink()
        train(config, run_dir=folder, resume=True)
    assert (folder / "ledger.jsonl").read_bytes() == expected


@pytest.mark.slow
def test_a_disk_that_is_full_at_the_start_leaves_nothing_in_the_way(
    config: Config, small_disk: Path
) -> None:
    """The second time there is room for the configuration, and too little for the basis."""
    folder = small_disk / "run"
    fill(small_disk)
    with pytest.raises(StorageError, match=r"Free some space, then start again, or choose"):
        train(config, run_dir=folder)
    with (small_disk / "filler").open("rb+") as stream:
        stream.truncate(stream.seek(0, 2) - 24 * 1024)
    wide = apply_overrides(config, ["space.rank=16"])
    with pytest.raises(StorageError, match="No space left on device"):
        train(wide, run_dir=folder)
    assert (folder / "prompt.json").is_file() and not RunFolder(folder).has_run
    check_new(RunFolder(folder))


def test_a_read_only_folder_is_told_before_a_model_loads(
    config: Config, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("es_align.api.resolve_model", full)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StorageError) as told:
        train(config, run_dir=small_disk / "run")
    assert str(told.value).startswith(
        f"{small_disk}/run could not be written (Read-only file system). Free space: run folder "
    )
    assert str(told.value).endswith(
        "Make it writable, then start again, or choose another --run-dir"
    )


def test_no_permission_in_the_folder_is_told_and_elsewhere_it_is_not_ours(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    for file in (tmp_path / "run/config.json", tmp_path):
        told = pytest.raises(StorageError, match=r"could not be written \(Permission denied\)")
        with told, disk_faults_told(folder):
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
    with pytest.raises(PermissionError), disk_faults_told(folder):
        raise PermissionError(errno.EACCES, "Permission denied", "/data/train.jsonl")


def test_other_errors_go_through(tmp_path: Path) -> None:
    for error in (ConnectionResetError(104, "reset"), SafetensorError("header too large")):
        with pytest.raises(type(error)), disk_faults_told(RunFolder(tmp_path)):
            raise error


def test_a_full_disk_beneath_safetensors_is_told(tmp_path: Path) -> None:
    error = SafetensorError("I/O error: No space left on device (os error 28)")
    told = pytest.raises(StorageError, match="No space left on device")
    with told, disk_faults_told(RunFolder(tmp_path)):
        raise error


def test_a_configuration_is_replaced_whole_or_not(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.write_config(config)
    monkeypatch.setattr(sealed.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        folder.write_config(apply_overrides(config, ["seed=1"]))
    assert folder.read_config() == config
    assert [file.name for file in folder.path.iterdir()] == ["config.json"]


def test_rows_cut_short_are_left_out_and_then_cut(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.append_rows(folder.metrics, [{"generation": 1}, {"generation": 2}])
    with folder.metrics.open("a") as stream:
        stream.write('{"generation": 3}')  # whole but for its newline
    assert folder.read_rows(folder.metrics) == [{"generation": 1}, {"generation": 2}]
    folder.drop_rows_after(3)
    folder.append_rows(folder.metrics, [{"generation": 3}])
    assert [row["generation"] for row in folder.read_rows(folder.metrics)] == [1, 2, 3]


def test_what_a_kill_left_of_a_beginning_is_not_in_the_way(tmp_path: Path) -> None:
    for name in (".ledger.jsonl.4711", f".{run_folder.CONFIG_FILE}.ab12.draft", "config.json"):
        (tmp_path / name).write_text("half")
    check_new(RunFolder(tmp_path))
