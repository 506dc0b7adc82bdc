"""What a run's folder says of the run while it goes on; `es_align.top_view` draws it.

Only files are read, so any machine that sees the folder can look, and neither torch nor Ray is
needed. Whether the run is alive is told by the lock on its ledger. A lock may not show on another
machine: there the age of what was written last has to do.
"""

import fcntl
import itertools
import os
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from es_align.budget import share_spent, spent_in
from es_align.config import Config
from es_align.following import Follower, Row, last_row
from es_align.run_folder import CONFIG_FILE, RunFolder

LifeState = Literal["running", "finished", "stopped", "elsewhere", "silent"]

RECENT = 20  # generations that seconds are taken from
UNSCORED = ("error", "no_score", "dropped")  # what the reasons of completions without a score are
# A run on another machine counts as alive for so many of its longest steps, and so long at least.
STEPS_ALIVE = 3.0
LEAST_ALIVE_S = 120.0
SETTLED_S = 1.0  # config.json is not read while it may still be written


@dataclass(frozen=True, slots=True)
class Life:
    """Whether somebody works on a run."""

    state: LifeState  # elsewhere: not locked here, but written to; silent: nor that
    driver: str  # the machine that last wrote; empty if it is not known
    written_s: float  # seconds since


@dataclass(frozen=True, slots=True)
class HeldOut:
    """An evaluation of the mean on held-out prompts."""

    generation: int
    reward: float
    pass_rate: float | None  # 0 to 1; None where the reward has no verdict


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker in the last generation; see `workers.usage`."""

    worker: int
    host: str
    state: str
    tokens_per_s: float | None  # while busy; None if it never was
    busy_share: float | None  # of the time it was ready
    num_chunks: int
    num_starts: int
    problem: str


@dataclass(frozen=True, slots=True)
class View:
    """A run at one moment; None is what has not been measured yet."""

    run: str
    life: Life
    model: str
    precision: str
    engine: str
    task: str
    space: str  # kind and basis
    strategy: str
    generation: int  # how many are done
    generations: int
    share: float  # of the generations or, if that is more, of the budget
    wall_s: float  # until the last row, pauses not counted
    generation_s: float | None
    left_s: float | None
    rewards: tuple[float, ...]  # mean over the population, one a generation
    reward_std: float | None  # of the last generation, over members
    heldout: tuple[HeldOut, ...]
    tokens_per_s: float | None
    num_tokens: int  # generated in all generations
    num_completions: int  # of the last generation, and so are the next two
    num_failed: int  # without a score
    failures: Mapping[str, int]  # by reason
    num_failed_in_all: int
    usage: Mapping[str, float]  # what the last row of metrics.jsonl says under workers/
    workers: tuple[WorkerView, ...]


class RunReader:
    """Reads a run folder again and again."""

    def __init__(self, path: Path) -> None:
        """Raises RunFolderError if there is no run."""
        self.folder = RunFolder(path)
        self._config = self.folder.read_config()
        self._config_time = self._config_written()
        self._metrics = Follower(self.folder.metrics)

    def view(self) -> View:
        """The run now. Raises RunFolderError if metrics.jsonl is damaged before its end."""
        config, rows = self._newest_config(), self._metrics.rows()
        generations = [row for row in rows if "reward/mean" in row]
        last = generations[-1] if generations else {}
        done, spent = int(_number(last, "generation", 0)), spent_in(generations)
        share = max(done / config.generations, share_spent(config.budget, spent))
        usage = last_row(self.folder.workers) or {}
        generation_s, evaluation_s = _step_seconds(rows)
        left_s = None
        if generation_s is not None:
            num_evaluations = _num_evaluations(config, done)
            left_s = (config.generations - done) * generation_s
            if config.budget.seconds is not None:
                left_s = min(left_s, max(0.0, config.budget.seconds - spent.seconds))
            left_s += num_evaluations * (evaluation_s or 0.0)
        return View(
            run=str(self.folder.path),
            life=self._life(str(usage.get("driver", "")), share >= 1, rows),
            model=config.model,
            precision=config.precision,
            engine=config.workers.engine,
            task=config.task.name,
            space=f"{config.space.kind} ({config.space.basis})",
            strategy=str(config.strategy.kind),
            generation=done,
            generations=config.generations,
            share=min(1.0, share),
            wall_s=_number(rows[-1], "wall_s", 0) if rows else 0.0,
            generation_s=generation_s,
            left_s=left_s,
            rewards=tuple(_number(row, "reward/mean", 0) for row in generations),
            reward_std=_number(last, "reward/std", 0) if last else None,
            heldout=_held_out(rows),
            tokens_per_s=_number(last, "tokens/per_s", 0) if last else None,
            num_tokens=sum(int(_number(row, "tokens/total", 0)) for row in generations),
            num_completions=int(_number(last, "completions", 0)),
            num_failed=int(_number(last, "failed", 0)),
            failures=_failures(last),
            num_failed_in_all=sum(int(_number(row, "failed", 0)) for row in generations),
            usage=_below(last, "workers/"),
            workers=_workers(usage),
        )

    def _config_written(self) -> float:
        return (self.folder.path / CONFIG_FILE).stat().st_mtime

    def _newest_config(self) -> Config:
        """A resume may have asked for more generations."""
        written = self._config_written()
        if written != self._config_time and time.time() - written > SETTLED_S:
            self._config, self._config_time = self.folder.read_config(), written
        return self._config

    def _life(self, driver: str, is_complete: bool, rows: Sequence[Row]) -> Life:
        folder = self.folder
        files = (folder.metrics, folder.workers, folder.ledger, folder.path / CONFIG_FILE)
        written_s = max(0.0, time.time() - max(f.stat().st_mtime for f in files if f.is_file()))
        is_exported = folder.adapter.is_dir() or folder.model.is_dir()
        state: LifeState = "silent"
        if is_locked(folder.ledger):
            state = "running"
        elif is_complete and is_exported:
            state = "finished"
        elif driver == os.uname().nodename:
            state = "stopped"
        elif written_s <= max(LEAST_ALIVE_S, STEPS_ALIVE * max(_steps(rows), default=0.0)):
            state = "elsewhere"
        return Life(state, driver, written_s)


def is_locked(ledger: Path) -> bool:
    """Whether a run writes to this ledger, as far as this machine can tell."""
    if not ledger.is_file():
        return False
    handle = os.open(ledger, os.O_RDONLY)
    try:
        # Shared, and let go at once: a resume in just these microseconds would be refused.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(handle)
    return False


def _steps(rows: Sequence[Row]) -> list[float]:
    """Seconds from row to row, of the latest ones."""
    times = [_number(row, "wall_s", 0) for row in rows[-2 * RECENT :]]
    return [after - before for before, after in itertools.pairwise(times)]


def _step_seconds(rows: Sequence[Row]) -> tuple[float | None, float | None]:
    """Seconds of a generation and of an evaluation: medians, which loading after a resume, that
    counts as part of the generation after it, does not move.
    """
    latest = rows[-2 * RECENT :]
    generations, evaluations = [], []
    for row, seconds in zip(latest[1:], _steps(rows), strict=True):
        (generations if "reward/mean" in row else evaluations).append(seconds)
    return (
        statistics.median(generations) if generations else None,
        statistics.median(evaluations) if evaluations else None,
    )


def _num_evaluations(config: Config, done: int) -> int:
    every, total = config.evaluation.every, config.generations
    if done >= total:
        return 0
    regular = total // every - done // every if every else 0
    return regular + (1 if every == 0 or total % every else 0)


def _held_out(rows: Sequence[Row]) -> tuple[HeldOut, ...]:
    return tuple(
        HeldOut(
            generation=int(_number(row, "generation", 0)),
            reward=_number(row, "eval/reward", 0),
            pass_rate=_number(row, "eval/pass_rate", 0) if "eval/pass_rate" in row else None,
        )
        for row in rows
        if "eval/reward" in row
    )


def _failures(row: Row) -> dict[str, int]:
    """Completions without a score by reason, most first."""
    counts = Counter(
        {
            reason: int(count)
            for reason, count in _below(row, "reason/").items()
            if reason.partition(":")[0] in UNSCORED
        }
    )
    return dict(counts.most_common())


def _workers(usage: Row) -> tuple[WorkerView, ...]:
    workers = usage.get("workers")
    rows = workers if isinstance(workers, list) else []
    return tuple(_worker(row) for row in rows if isinstance(row, dict))


def _worker(row: Row) -> WorkerView:
    busy_s, idle_s = _number(row, "busy_s", 0), _number(row, "idle_s", 0)
    ready_s = busy_s + idle_s
    return WorkerView(
        worker=int(_number(row, "worker", 0)),
        host=str(row.get("host", "")),
        state=str(row.get("state", "")),
        tokens_per_s=_number(row, "num_tokens", 0) / busy_s if busy_s > 0 else None,
        busy_share=busy_s / ready_s if ready_s > 0 else None,
        num_chunks=int(_number(row, "num_chunks", 0)),
        num_starts=int(_number(row, "num_starts", 0)),
        problem=str(row.get("problem", "")),
    )


def _below(row: Row, prefix: str) -> dict[str, float]:
    """The numbers whose names begin with `prefix`, by the rest of their names."""
    return {
        name.removeprefix(prefix): _number(row, name, 0) for name in row if name.startswith(prefix)
    }


def _number(row: Row, name: str, default: float) -> float:
    value = row.get(name)
    return float(value) if isinstance(value, int | float) else default
