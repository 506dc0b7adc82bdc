"""Runs of the seeded spaces on the tiny model: every worker holds the mean, moved by scalars."""

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import pytest

from es_align import evaluate, export, load_config, replay, train
from es_align.config import Config
from es_align.errors import ConfigError
from es_align.ledger import Ledger
from es_align.records import LedgerRecord
from es_align.results import TrainResult

Here = Callable[[], AbstractContextManager[None]]
TINY = Path(__file__).parent.parent / "configs" / "tiny.yaml"
GENERATIONS = 6
LONG = 60  # generations that outlast the moment of a kill, on a fast machine too
SPACES = ("core", "lora", "weights")


def config_of(space: str, **overrides: object) -> Config:
    given = {"space.kind": space, "generations": GENERATIONS, **overrides}
    return load_config(TINY, [f"{name}={value}" for name, value in given.items()])


def records(folder: Path) -> tuple[LedgerRecord, ...]:
    with Ledger.open(folder / "ledger.jsonl") as ledger:
        return ledger.records


@pytest.fixture(scope="module", params=SPACES)
def straight(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, workers_here: Here
) -> tuple[str, Path, TrainResult]:
    """A run whose worker lives in this process."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    with workers_here():
        return request.param, folder, train(config_of(request.param), run_dir=folder)


@pytest.mark.slow
def test_the_ledger_rebuilds_every_generation(straight: tuple[str, Path, TrainResult]) -> None:
    _, folder, result = straight
    assert result.generations == GENERATIONS and result.failed == 0
    assert len({record.mean_digest for record in records(folder)}) == GENERATIONS
    for generation in (0, 3, GENERATIONS):
        assert replay(folder, generation=generation).matches
    rows = (folder / "metrics.jsonl").read_text()
    assert "NaN" not in rows and rows.count('"update/step_norm"') == GENERATIONS


@pytest.mark.slow
def test_export_and_evaluation_are_of_the_run_s_model(
    straight: tuple[str, Path, TrainResult], tmp_path: Path, workers_here: Here
) -> None:
    _, folder, result = straight
    exported = export(folder, tmp_path / "adapter", generation=GENERATIONS)
    assert exported.max_difference < 1e-4 < exported.max_change
    with workers_here():
        again = evaluate(str(folder), generation=GENERATIONS)
    assert (again.reward, again.pass_rate) == (result.final.reward, result.final.pass_rate)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_run_resumed_on_two_workers_is_the_same(
    straight: tuple[str, Path, TrainResult], tmp_path: Path, workers_here: Here
) -> None:
    space, folder, _ = straight
    with workers_here():
        train(config_of(space, generations=2), run_dir=tmp_path / "run")
    two_workers = config_of(space, **{"workers.count": 2})
    train(two_workers, run_dir=tmp_path / "run", resume=True)
    assert records(tmp_path / "run") == records(folder)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_worker_that_joins_late_holds_the_same_mean(
    straight: tuple[str, Path, TrainResult], tmp_path: Path
) -> None:
    """A worker killed in the middle is replaced by one that goes on from a stored mean, or makes
    all moves anew.
    """
    space, folder, _ = straight
    run = tmp_path / "run"
    with ThreadPoolExecutor(1) as thread:
        killed = thread.submit(kill_a_worker, run / "metrics.jsonl")
        result = train(config_of(space, generations=LONG), run_dir=run)
        assert killed.result() > 0
    assert result.generations == LONG
    assert records(run)[:GENERATIONS] == records(folder)
    assert replay(run).matches
    assert list((run / "checkpoints").glob("mean-*.safetensors"))


def kill_a_worker(metrics: Path) -> int:
    """After the second generation; its process's number."""
    wait_until(lambda: metrics.is_file() and metrics.read_text().count('"reward/mean"') >= 2)
    for process in psutil.Process().children(recursive=True):
        if "ray::Worker" in " ".join(process.cmdline()):
            os.kill(process.pid, signal.SIGKILL)
            return process.pid
    raise AssertionError("no worker to kill")


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_strategy_of_the_other_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"cma_es cannot serve space.kind=core.*use egg"):
        train(config_of("core", **{"strategy.kind": "cma_es"}))
    with pytest.raises(ConfigError, match=r"eggroll cannot serve space.kind=singular_.*cma"):
        train(config_of("singular_values", **{"strategy.kind": "eggroll"}))


def test_the_strategy_follows_the_space() -> None:
    assert config_of("core").strategy.kind == "eggroll"
    assert config_of("singular_values").strategy.kind == "openai_es"
    assert config_of("core", **{"strategy.kind": "eggroll"}) == config_of("core")
