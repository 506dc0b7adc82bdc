"""Whole runs of the tiny model: the same ledger whatever happens to driver and workers."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import psutil
import pytest
from ledgers import ledger_body

from es_align import export, load_config, replay, train
from es_align.config import Config
from es_align.config_loading import apply_overrides
from es_align.errors import RunFolderError, WorkerError
from es_align.ledger import Ledger
from es_align.results import TrainResult
from es_align.run_folder import RunFolder, check_new

pytestmark = pytest.mark.slow

Here = Callable[[], AbstractContextManager[None]]
TINY = Path(__file__).parent.parent / "configs" / "tiny.yaml"
CLI = [sys.executable, "-m", "es_align"]
KILL_DEADLINE_S = 90
LONG = 30  # generations that outlast the moment of a kill, on a fast machine too


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainResult]:
    folder = tmp_path_factory.mktemp("straight") / "run"
    return folder, train(load_config(TINY), run_dir=folder)


def test_the_folder_holds_what_the_readme_says(straight: tuple[Path, TrainResult]) -> None:
    folder, result = straight
    assert {entry.name for entry in folder.iterdir()} == {
        "config.json",
        "prompt.json",
        "basis.safetensors",
        "ledger.jsonl",
        "metrics.jsonl",
        "samples.jsonl",
        "evaluations.jsonl",
        "workers.jsonl",
        "checkpoints",
        "plots",
        "adapter",
    }
    assert result.generations == 10 and result.completions == 320 and result.failed == 0
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["generation"] for row in rows if "reward/mean" in row] == list(range(1, 11))
    assert [row["generation"] for row in rows if "eval/reward" in row] == [0, 5, 10]
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    trained = [sample for sample in samples if sample["member"] >= 0]
    assert len(trained) == 10 * 2 * 4
    assert {"prompt", "completion", "reward", "reason"} <= set(trained[0])
    assert not any(sample["prompt_id"].startswith("heldout") for sample in trained)


def test_replay_matches_every_generation(straight: tuple[Path, TrainResult]) -> None:
    folder, _ = straight
    for generation in (0, 4, 10, None):
        rebuilt = replay(folder, generation=generation)
        assert rebuilt.matches and rebuilt.digest == rebuilt.expected
    assert replay(folder).generation == 10


def test_two_workers_write_the_ledger_of_one(
    straight: tuple[Path, TrainResult], tmp_path: Path
) -> None:
    train(load_config(TINY, ["workers.count=2"]), run_dir=tmp_path / "run")
    assert ledger_body(tmp_path / "run") == ledger_body(straight[0])


@pytest.mark.parametrize("space", ["singular_values", "core", "lora", "weights"])
def test_a_killed_driver_resumes_to_the_same_ledger(
    space: str, tmp_path: Path, workers_here: Here
) -> None:
    """SIGKILL at a random moment after the first generation, another at every run of the tests; no
    worker survives it. Ray's agents, which hold no model, wait a minute for their cluster.
    """
    overrides = [f"space.kind={space}", f"generations={LONG}"]
    config, straight, folder = load_config(TINY, overrides), tmp_path / "straight", tmp_path / "run"
    with workers_here():
        train(config, run_dir=straight)
    settings = [part for override in overrides for part in ("--set", override)]
    driver = subprocess.Popen(
        [*CLI, "train", str(TINY), "--run-dir", str(folder), *settings],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    metrics = folder / "metrics.jsonl"
    wait_until(lambda: metrics.is_file() and '"reward/mean"' in metrics.read_text())
    time.sleep(random.uniform(0, 0.5))
    children = psutil.Process(driver.pid).children(recursive=True)
    workers = [child for child in children if "ray::Worker" in " ".join(child.cmdline())]
    assert workers
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    wait_until(
        lambda: not any(child.is_running() and not is_zombie(child) for child in workers), 20
    )
    done = Ledger.open(folder / "ledger.jsonl").next_generation
    assert 1 <= done < LONG
    with workers_here():
        result = train(config, run_dir=folder, resume=True)
    assert result.generations == LONG
    assert ledger_body(folder) == ledger_body(straight)
    generations = [
        json.loads(line)["generation"]
        for line in metrics.read_text().splitlines()
        if "reward/mean" in line
    ]
    assert generations == list(range(1, LONG + 1))


def is_zombie(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until(condition, deadline_s: float = KILL_DEADLINE_S) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not within {deadline_s} s"
        time.sleep(0.05)


def test_no_process_survives_a_run(tmp_path: Path) -> None:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    train(load_config(TINY, ["generations=1"]), run_dir=tmp_path / "run")
    wait_until(
        lambda: (
            not [
                process
                for process in psutil.Process().children(recursive=True)
                if process.pid not in before and not is_zombie(process)
            ]
        ),
        deadline_s=20,
    )


def test_longer_after_resume_is_the_same_as_longer_at_once(
    straight: tuple[Path, TrainResult], tmp_path: Path, workers_here: Here
) -> None:
    """10 generations equal 5 + resume + 5, bitwise."""
    folder = tmp_path / "run"
    with workers_here():
        train(load_config(TINY, ["generations=5"]), run_dir=folder)
        train(load_config(TINY), run_dir=folder, resume=True)
    assert ledger_body(folder) == ledger_body(straight[0])


def test_a_folder_with_a_run_is_never_overwritten(straight: tuple[Path, TrainResult]) -> None:
    folder, _ = straight
    before = (folder / "ledger.jsonl").read_bytes()
    with pytest.raises(RunFolderError, match=r"already holds a run; .* --resume"):
        train(load_config(TINY), run_dir=folder)
    with pytest.raises(RunFolderError, match=r"begun with strategy.sigma=\S+, now it is 0.3"):
        train(load_config(TINY, ["strategy.sigma=0.3"]), run_dir=folder, resume=True)
    assert (folder / "ledger.jsonl").read_bytes() == before


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("do not lose me")
    with pytest.raises(RunFolderError, match=r"not empty .*thesis\.txt"):
        train(load_config(TINY), run_dir=tmp_path)


def test_resume_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="holds no run to resume"):
        train(load_config(TINY), run_dir=tmp_path / "none", resume=True)


def test_export_is_the_run_s_model(straight: tuple[Path, TrainResult], tmp_path: Path) -> None:
    folder, result = straight
    exported = export(folder, tmp_path / "adapter")
    assert exported.generation == result.best_generation
    assert exported.max_difference < 1e-4 < exported.max_change
    with pytest.raises(RunFolderError, match="exists already"):
        export(folder, tmp_path / "adapter")


def test_a_run_learns_its_toy_task(tmp_path: Path, workers_here: Here) -> None:
    """Not luck: the last generations are better than the first by far more than their spread."""
    config = load_config(
        TINY, ["generations=40", "population=32", "evaluation.every=0", "samples_per_generation=0"]
    )
    config = apply_overrides(config, ["workers.members_per_chunk=32"])
    with workers_here():
        result = train(config, run_dir=tmp_path / "run")
    assert result.gain_ci95[0] > 0.05, result


def config_of(folder: Path) -> Config:
    return RunFolder(folder).read_config()


def test_the_resolved_configuration_is_kept(straight: tuple[Path, TrainResult]) -> None:
    assert config_of(straight[0]) == load_config(TINY)


@pytest.mark.parametrize("space", ["singular_values", "core", "lora", "weights"])
def test_a_sigma_too_small_to_act_is_found_before_the_first_generation(
    space: str, tmp_path: Path, workers_here: Here
) -> None:
    with (
        workers_here(),
        pytest.raises(
            WorkerError,
            match=r"sigma=1e-30 vanishes in precision=fp32; use a sigma of \S+e-\d+ or more",
        ),
    ):
        overrides = [f"space.kind={space}", "strategy.sigma=1e-30"]
        train(load_config(TINY, overrides), run_dir=tmp_path / "run")
    assert Ledger.open(tmp_path / "run" / "ledger.jsonl").next_generation == 0
    check_new(RunFolder(tmp_path / "run"))  # nothing was lost, so the folder may be used again


def test_numbers_of_a_member_are_finite(straight: tuple[Path, TrainResult]) -> None:
    with Ledger.open(straight[0] / "ledger.jsonl") as ledger:
        assert all(np.isfinite(record.fitness_M).all() for record in ledger.records)
