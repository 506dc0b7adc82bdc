"""After a job's training: its checkpoints on the held-out prompts, and what else became of it.

Every evaluation, of either method, is `es-align eval`'s: the same engine, renderer, scorer and
length of answer. ES arms were evaluated while they ran, in their own precision; GRPO's adapters are
evaluated here, on the bf16 model, which is the one that they were trained on by default.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from es_align.api import export
from es_align.compare.config import DriftConfig, Measured
from es_align.compare.drift import kl_to_base
from es_align.compare.jobs import Job, drift_config
from es_align.compare.records import (
    Drift,
    Point,
    Result,
    Trained,
    adapter_folder,
    best_step,
)
from es_align.config import Config, TaskConfig, heldout_new_tokens, heldout_task
from es_align.evaluating import evaluate_prompts
from es_align.models import resolve_model
from es_align.run_folder import RunFolder
from es_align.targets import best_generation
from es_align.tasks import has_own_reward

BEST = "best"  # folder beside the run's
MODEL_SETTINGS = ("members_per_chunk", "smallest_chunk", "drop_slowest", "count", "min_count")


class Model(NamedTuple):
    """What `es-align eval` takes as a target."""

    target: str
    generation: int | None  # of a run
    precision: str


def measure(job: Job, folder: Path, trained: Trained, how: Measured) -> Result:
    """Evaluate what was not yet; `folder` is where the job trained. Raises EsAlignError."""
    points = trained.points if job.grpo is None else tuple(_points(job, folder, trained))
    best = best_step(points, how.score)
    return Result(
        points=points,
        footprint=trained.footprint,
        wall_s=trained.wall_s,
        machine=trained.machine,
        best_step=best,
        drift=_drift(job, folder, best, how.drift),
    )


def _points(job: Job, folder: Path, trained: Trained) -> Iterator[Point]:
    config = job.config
    overrides = [
        *_task_settings(heldout_task(config), heldout_new_tokens(config)),
        *_worker_settings(config),
    ]
    if config.reward and (
        config.evaluation.task is None or not has_own_reward(config.evaluation.task)
    ):
        rewards = [reward.model_dump(mode="json") for reward in config.reward]
        overrides.append(f"reward={json.dumps(rewards)}")
    for step, spent in trained.steps:
        model = _model(job, folder, step)
        _, evaluation = evaluate_prompts(
            model.target,
            task=heldout_task(config).name,
            overrides=[f"precision={model.precision}", *overrides],
        )
        yield Point.of(evaluation, step, spent)


def _drift(job: Job, folder: Path, best: int, drift: DriftConfig) -> Drift:
    base = resolve_model(job.config.model, "bf16").reference
    tuned = adapter_folder(folder, best) if job.grpo is not None else _exported(folder, best)
    untouched = (None, None)
    asked = drift_config(job.config, drift)
    if asked is not None:
        settings = [*_task_settings(asked.task, asked.max_new_tokens), *_worker_settings(asked)]
        untouched = tuple(
            _score(_model(job, folder, step), asked.task.name, settings) for step in (0, best)
        )
    return Drift(kl_to_base(base, tuned), *untouched)


def _exported(folder: Path, best: int) -> Path:
    """An ES run's adapter or weights at a generation: those that it exported itself, whose reward
    is the highest, unless the score ranks another one higher.
    """
    run = RunFolder(folder)
    if best_generation(run) == best:
        return run.adapter if run.adapter.is_dir() else run.model
    out = folder.with_name(BEST)
    shutil.rmtree(out, ignore_errors=True)
    return Path(export(folder, out, generation=best).path)


def _score(model: Model, task: str, settings: list[str]) -> float | None:
    """The pass rate, or the mean reward of a task without a verdict."""
    result, _ = evaluate_prompts(
        model.target,
        task=task,
        generation=model.generation,
        overrides=[f"precision={model.precision}", *settings, "reward=[]"],
    )
    score = result.pass_rate if np.isfinite(result.pass_rate) else result.reward
    return score if np.isfinite(score) else None


def _model(job: Job, folder: Path, step: int) -> Model:
    """A job's model after so many steps."""
    if job.grpo is None:
        return Model(str(folder), step, job.config.precision)
    if step > 0:
        return Model(str(adapter_folder(folder, step)), None, "bf16")
    return Model(job.config.model if job.start is None else job.start, None, "bf16")


def _task_settings(task: TaskConfig, new_tokens: int) -> list[str]:
    settings = _overrides("task", task.model_dump(mode="json"))
    return [*settings, f"max_new_tokens={new_tokens}"]


def _worker_settings(config: Config) -> list[str]:
    """Where and how engines run; one worker, since each loads the model for one evaluation."""
    workers = config.workers.model_dump(mode="json")
    return _overrides("workers", {k: v for k, v in workers.items() if k not in MODEL_SETTINGS})


def _overrides(section: str, values: Mapping[str, object]) -> list[str]:
    return [f"{section}.{name}={json.dumps(value)}" for name, value in values.items()]
