"""How a run begins and goes on in a folder: alone, again where a start got nowhere, and with no
more lost by a power cut than the ledger says.
"""

import errno
import fcntl
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TypeAlias

import numpy as np
import pytest

from es_align import driver, session, training
from es_align.config import Config
from es_align.config_loading import apply_overrides
from es_align.errors import RunFolderError
from es_align.evaluation import Evaluation
from es_align.ledger import Ledger
from es_align.progress import SilentReporter
from es_align.run_folder import RunFolder, check_new
from es_align.session import Run, begin_run, resume_run
from es_align.strategies import Update
from workers.footprint import NO_FOOTPRINT

Begin: TypeAlias = Callable[..., Run]

DIMENSION = 3
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


@pytest.fixture
def begin(folder: RunFolder, tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> Begin:
    """Begins a run in `folder`, of a space that no model is read for."""
    space = SimpleNamespace(factors=(), dimension=DIMENSION, digest="b" * 64)
    monkeypatch.setattr(session, "make_space", lambda *given, **named: space)
    monkeypatch.setattr(session, "load_space", lambda *given: space)
    monkeypatch.setattr(session, "save_factors", lambda factors, file: file.write_bytes(b"basis"))
    monkeypatch.setattr(session, "RunInputs", SimpleNamespace(of=lambda *given: None))
    monkeypatch.setattr(session, "keep_inputs", lambda *given: None)
    monkeypatch.setattr(session, "check_inputs", lambda *given: None)
    return lambda config=tiny_config: begin_run(folder, config, MODEL, TASK)  # type: ignore[arg-type]


MODEL = SimpleNamespace(reference=Path("model"), engine=Path("model"))
TASK = SimpleNamespace(name="made up", train=(), heldout=(), reward_name="reward")


def contents(folder: RunFolder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.path.iterdir() if file.is_file()}


def go_on(run: Run, folder: RunFolder) -> None:
    """One generation, made up, which is then in the folder's ledger."""
    generation = run.completed
    rollout = SimpleNamespace(reward_mean_M=np.full(4, 0.5), samples=())
    update = Update(generation, 0.1, 4, 0, 0.05, 0.1)
    metrics = {"completions": 8, "tokens/total": 32, "fitness/std": 0.25, "time/evaluate_s": 2.0}
    run.record_generation(np.ones(4), ("train/0",), rollout, update, metrics)  # type: ignore[arg-type]
    assert Ledger.open(folder.ledger).next_generation == generation + 1


def evaluated(generation: int) -> Evaluation:
    return Evaluation(generation, np.full(4, 0.5), np.zeros(4), {}, {})


def test_a_second_start_is_refused_before_it_writes(
    folder: RunFolder, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the first is where it spends minutes: making its space."""
    make_space, refused = session.make_space, []

    def make(*given: object, **named: object) -> object:
        before = contents(folder)
        with pytest.raises(RunFolderError, match=r"is being written by .*process .*--run-dir"):
            begin()
        assert contents(folder) == before
        refused.append(True)
        return make_space(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(session, "make_space", make)
    run = begin()
    assert refused
    go_on(run, folder)
    run.close()
    assert set(contents(folder)) == {
        "config.json",
        "basis.safetensors",
        "ledger.jsonl",
        "metrics.jsonl",
        "samples.jsonl",
    }


def test_a_start_that_looked_too_early_takes_no_ledger_away(
    folder: RunFolder, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is free when the second looks, and the first has its ledger when it goes on."""
    runs: list[Run] = []

    def look(free: RunFolder) -> None:
        monkeypatch.setattr(session, "check_new", check_new)
        check_new(free)
        runs.append(begin())

    monkeypatch.setattr(session, "check_new", look)
    with pytest.raises(RunFolderError, match=r"ledger\.jsonl is being written by"):
        begin()
    go_on(runs[0], folder)
    runs[0].close()
    with pytest.raises(RunFolderError, match="already holds a run"):
        begin()


def test_a_start_that_looked_before_a_whole_run_leaves_it(
    folder: RunFolder, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(free: RunFolder) -> None:
        monkeypatch.setattr(session, "check_new", check_new)
        check_new(free)
        run = begin()
        go_on(run, folder)
        run.close()

    monkeypatch.setattr(session, "check_new", look)
    with pytest.raises(RunFolderError, match="already holds a run; go on with --resume"):
        begin()
    assert Ledger.open(folder.ledger).next_generation == 1


def test_a_resume_is_refused_while_its_run_is_begun_anew(
    folder: RunFolder, begin: Begin, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin().close()
    old, make_space, refused = Ledger.open(folder.ledger).header.run_id, session.make_space, []

    def make(*given: object, **named: object) -> object:
        with pytest.raises(RunFolderError, match="is being written by"):
            resume_run(folder, tiny_config, MODEL, TASK)  # type: ignore[arg-type]
        refused.append(True)
        return make_space(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(session, "make_space", make)
    begin().close()
    assert refused
    assert Ledger.open(folder.ledger).header.run_id != old
    resume_run(folder, tiny_config, MODEL, TASK).close()  # type: ignore[arg-type]


def test_a_start_that_failed_is_in_nobody_s_way(
    folder: RunFolder, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(session, "save_factors", lambda *given: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            begin()
    assert set(contents(folder)) == {"config.json"}
    (folder.path / ".ledger.jsonl.lock").touch()  # what a killed one leaves
    run = begin()
    go_on(run, folder)
    run.close()


@pytest.mark.parametrize("space", ["singular_values", "core", "lora", "weights"])
def test_a_start_stopped_before_its_first_generation_may_be_repeated(
    space: str,
    folder: RunFolder,
    begin: Begin,
    tiny_config: Config,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped where workers start: seeded spaces have the folder of their means by then."""
    monkeypatch.setattr(session, "first_digest", lambda *given: "d" * 64)
    monkeypatch.setattr(training, "make_pool", lambda *given: 1 / 0)
    for _ in range(2):
        run = begin(apply_overrides(tiny_config, [f"space.kind={space}"]))
        with pytest.raises(ZeroDivisionError):
            training.run_training(run, TASK, MODEL, SilentReporter(), 0)  # type: ignore[arg-type]
        assert folder.checkpoints.is_dir() == (space != "singular_values")
        run.close()


def test_a_folder_with_checkpoints_is_not_new(folder: RunFolder) -> None:
    folder.checkpoints.mkdir(parents=True)
    check_new(folder)
    (folder.checkpoints / "mean-000010.safetensors").touch()
    with pytest.raises(RunFolderError, match=r"is not empty \(it holds checkpoints\)"):
        check_new(folder)


@pytest.mark.parametrize("number", NO_LOCKS)
def test_a_folder_without_locks_is_told_before_anything_is_in_it(
    number: int, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    folder.check_writes()
    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(RunFolderError) as told:
        folder.check_writes()
    assert str(told.value) == (
        f"{folder.path} is on a file system without locks ({os.strerror(number)}), which keep two "
        "runs out of one folder; choose a --run-dir on a local disk, and for a copy on shared "
        "storage set mirror"
    )
    assert not folder.path.exists()


def test_rows_that_a_resume_goes_by_are_on_disk_before_the_ledger_s_line(
    folder: RunFolder, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, synced, real_sync = begin(), [], os.fsync

    def sync(handle: int) -> None:
        real_sync(handle)
        status = os.fstat(handle)
        files = {file.stat().st_ino: file.name for file in folder.path.iterdir()}
        synced.append((files.get(status.st_ino, "the folder"), status.st_size))

    monkeypatch.setattr(os, "fsync", sync)
    run.record_evaluation(evaluated(0))
    assert [name for name, _ in synced] == [
        "evaluations.jsonl",
        "the folder",
        "metrics.jsonl",
        "the folder",
    ]
    assert synced[0][1] == folder.evaluations.stat().st_size
    synced.clear()
    go_on(run, folder)
    run.close()
    assert synced == [(file.name, file.stat().st_size) for file in (folder.metrics, folder.ledger)]


class Notes(SilentReporter):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


@contextmanager
def no_pool(*given: object) -> Iterator[SimpleNamespace]:
    yield SimpleNamespace(start=lambda moves: [], footprint=lambda: NO_FOOTPRINT)


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_lost_baseline_leaves_the_gain_unknown_and_is_said(
    is_lost: bool,
    folder: RunFolder,
    begin: Begin,
    tiny_config: Config,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = begin()
    if not is_lost:
        run.record_evaluation(evaluated(0))
    go_on(run, folder)
    run.record_evaluation(evaluated(1))
    run.close()
    monkeypatch.setattr(training, "make_pool", no_pool)
    monkeypatch.setattr(training, "run_generations", lambda *given: (None, 0.0))
    for name in ("_export", "write_plots"):
        monkeypatch.setattr(training, name, lambda *given, **named: None)
    reporter = Notes()
    run = resume_run(folder, tiny_config, MODEL, TASK)  # type: ignore[arg-type]
    result = training.run_training(run, TASK, MODEL, reporter, 0)  # type: ignore[arg-type]
    run.close()
    assert result.final.reward == 0.5
    assert math.isnan(result.gain) == math.isnan(result.pass_rate_gain) == is_lost
    assert math.isnan(result.baseline.reward) == is_lost and result.baseline.n == 4
    told = f"warning: {folder.evaluations} has no row of generation 0, so this run's gain will not"
    assert any(note.startswith(told) for note in reporter.notes) == is_lost


def test_a_lost_baseline_is_evaluated_anew_before_the_first_generation(
    folder: RunFolder, begin: Begin, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin().close()
    asked: list[int] = []

    def evaluate(run: Run, *given: object) -> Evaluation:
        asked.append(run.completed)
        return evaluated(run.completed)

    monkeypatch.setattr(driver, "evaluate_mean", evaluate)
    for _ in range(2):  # once
        run = resume_run(folder, tiny_config, MODEL, TASK)  # type: ignore[arg-type]
        driver.evaluate_if_due(run, TASK, no_pool, tiny_config)  # type: ignore[arg-type]
        run.close()
    assert asked == [0]
    assert [row["generation"] for row in folder.read_rows(folder.evaluations)] == [0]
