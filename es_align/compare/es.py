"""The ES arm: a run as `es-align train` makes it, and its curve read from the run folder."""

import time
from pathlib import Path

from es_align.api import train
from es_align.budget import NOTHING, Spent, add
from es_align.compare.jobs import Job
from es_align.compare.machine import this_machine
from es_align.compare.records import Point, Trained
from es_align.evaluation import Evaluation
from es_align.pooling import worker_cores
from es_align.progress import ConsoleReporter
from es_align.run_folder import RunFolder
from es_align.versions import versions
from workers.footprint import Footprint


def train_es(job: Job, folder: Path) -> Trained:
    """Run until the budget is spent; the run's folder is `folder`. Raises EsAlignError."""
    started = time.perf_counter()
    result = train(job.config, run_dir=folder, reporter=ConsoleReporter())
    points = curve(RunFolder(folder))
    workers = job.config.workers
    num_devices = workers.count * (workers.gpus or worker_cores(job.config))
    return Trained(
        steps=tuple((point.step, point.spent) for point in points),
        points=points,
        footprint=Footprint(
            result.peak_rss_bytes, result.imports_rss_bytes, result.cpu_s, result.peak_gpu_bytes
        ),
        wall_s=time.perf_counter() - started,
        machine=this_machine(num_devices, versions()),
    )


def curve(folder: RunFolder) -> tuple[Point, ...]:
    """A run's evaluations, each with what training had taken by then."""
    spent_at: dict[int, Spent] = {0: NOTHING}
    spent = NOTHING
    for row in folder.read_rows(folder.metrics):
        if "completions" in row:
            spent = add(spent, row)
            spent_at[int(str(row["generation"]))] = spent
    evaluations = [Evaluation.from_row(row) for row in folder.read_rows(folder.evaluations)]
    return tuple(
        Point.of(evaluation, evaluation.generation, spent_at[evaluation.generation])
        for evaluation in evaluations
    )
