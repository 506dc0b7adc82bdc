"""A whole run around the loop: open the folder, start the workers,
and at the end export, plot and sum up.
"""

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from es_align.driver import run_generations
from es_align.evaluation import Evaluation, best_of, gains
from es_align.exporting import export_run
from es_align.models import ModelPaths
from es_align.pooling import make_pool
from es_align.progress import Header, Reporter
from es_align.rebuild import check_mean, mean_settings
from es_align.report.plots import write_plots
from es_align.report.summary import Gain, HeldOut, Summary
from es_align.results import Scored, TrainResult, scored
from es_align.run_folder import METRICS_FILE, SAMPLES_FILE, RunFolder
from es_align.session import Run
from es_align.spaces import AdapterSpace
from es_align.tasks import Task
from workers.footprint import Footprint, footprint, total


def run_training(
    run: Run, task: Task, model: ModelPaths, reporter: Reporter, imports_rss_bytes: int
) -> TrainResult:
    """Evolve to the configured generation or until the budget is spent, then export, plot and sum
    up; `imports_rss_bytes` is this process before it began. Raises EsAlignError.
    """
    config, folder = run.config, run.folder
    reporter.start(_header(run, task))
    if run.ledger.dropped_tail is not None:
        reporter.note(run.ledger.dropped_tail)
    for reason in run.skipped:
        reporter.note(f"checkpoint skipped: {reason}; the ledger rebuilds what it held")
    if run.completed and run.evaluation_at(0) is None:
        reporter.note(
            f"warning: {folder.evaluations} has no row of generation 0, so this run's gain will "
            f"not be known; es-align eval {folder.path} --generation 0 scores its start"
        )
    prompts = [*task.train, *task.heldout]
    means, layers = mean_settings(config), run.space.factors
    mean_folder = None if means is None else folder.checkpoints.resolve()
    if mean_folder is not None:
        mean_folder.mkdir(exist_ok=True)
    with make_pool(
        config, model, task.reward_name, layers, prompts, means, reporter.note, mean_folder
    ) as pool:
        for worker in pool.start(run.moves):
            check_mean(worker, run.mean_digest, folder.ledger, run.completed)
            reporter.note(
                f"worker {worker.worker}: {worker.engine} ready in {worker.load_s:.1f} s, "
                f"{worker.num_hooked_layers} layers carry the population"
            )
        started = time.perf_counter()
        noise_floor, driver_s = run_generations(run, task, pool, config, reporter)
        loop_s = time.perf_counter() - started
        taken = total([pool.footprint(), footprint(imports_rss_bytes)])
    run.save_checkpoint()
    best = best_of([e for e in run.evaluations if e.generation > 0])
    _export(run, model, best.generation, reporter)
    title = f"{config.model}, {config.precision}: {task.name}"
    write_plots(folder.metrics, folder.plots, title=title)
    result = _result(run, best, noise_floor, driver_s / loop_s, taken)
    reporter.finish(_summary(result, folder))
    return result


def _export(run: Run, model: ModelPaths, generation: int, reporter: Reporter) -> None:
    place = _export_folder(run)
    exported = export_run(run.folder, run.config, model, generation, place, is_replaced=True)
    reporter.note(
        f"{place.name}: generation {generation}, reloaded, logits of both agree within "
        f"{exported.max_difference:.1e} of {exported.logit_scale:.1f}; saved to {exported.path}, "
        f"for {exported.base}"
    )


def _export_folder(run: Run) -> Path:
    is_adapter = isinstance(run.space, AdapterSpace)
    return run.folder.adapter if is_adapter else run.folder.model


def _header(run: Run, task: Task) -> Header:
    config = run.config
    tested = "" if config.evaluation.task is None else f" of {config.evaluation.task.name}"
    return Header(
        model=config.model,
        precision=config.precision,
        engine=config.workers.engine,
        task=(
            f"{task.name}: {len(task.train)} training prompts, {len(task.heldout)}{tested} held out"
        ),
        space=f"{config.space.kind} ({config.space.basis})",
        strategy=run.strategy.kind,
        dimension=run.space.dimension,
        generations=config.generations,
        first_generation=run.completed,
        population=config.population,
        prompts_per_generation=config.prompts_per_generation,
        workers=config.workers.count,
        run_dir=run.folder.path,
        details={},
        samples_per_prompt=config.samples_per_prompt,
    )


def _result(
    run: Run, best: Evaluation, noise_floor: float | None, driver_share: float, taken: Footprint
) -> TrainResult:
    config = run.config
    after = run.evaluation_at(run.completed)
    assert after is not None  # the loop evaluates it
    before = run.evaluation_at(0) or _lost_baseline(after.num_prompts)
    reward_gain, pass_gain = gains(before, after, config)
    rows = [r for r in run.folder.read_rows(run.folder.metrics) if "completions" in r]
    return TrainResult(
        run_dir=str(run.folder.path),
        generations=run.completed,
        baseline=scored(before),
        final=scored(after),
        best=scored(best),
        best_generation=best.generation,
        gain=reward_gain.gain,
        gain_ci95=(reward_gain.low, reward_gain.high),
        pass_rate_gain=pass_gain.gain,
        pass_rate_gain_ci95=(pass_gain.low, pass_gain.high),
        noise_floor_std=noise_floor,
        population_std=float(np.mean(_values(rows, "fitness/std"))),
        wall_s=run.wall_s,
        driver_share=driver_share,
        completions=int(sum(_values(rows, "completions"))),
        failed=int(sum(_values(rows, "failed"))),
        tokens=int(sum(_values(rows, "tokens/total"))),
        peak_rss_bytes=taken.peak_rss_bytes,
        imports_rss_bytes=taken.imports_rss_bytes,
        cpu_s=taken.cpu_s,
        peak_gpu_bytes=taken.peak_gpu_bytes,
        exported=str(_export_folder(run)),
    )


def _lost_baseline(num_prompts: int) -> Evaluation:
    """A baseline of which nothing is known, so that every gain over it is NaN."""
    unknown_P = np.full(num_prompts, np.nan)
    return Evaluation(0, unknown_P, unknown_P, {}, {})


def _values(rows: list[dict], name: str) -> list[float]:
    return [float(row[name]) for row in rows if name in row]


def _summary(result: TrainResult, folder: RunFolder) -> Summary:
    files: Mapping = {
        "run folder": folder.path,
        Path(result.exported).name: Path(result.exported),
        "plots": folder.plots,
        "metrics": folder.path / METRICS_FILE,
        "samples": folder.path / SAMPLES_FILE,
    }
    return Summary(
        baseline=_held_out(result.baseline),
        final=_held_out(result.final),
        best=_held_out(result.best),
        best_generation=result.best_generation,
        gains=tuple(
            gain
            for gain in (
                Gain("pass rate", result.pass_rate_gain, *result.pass_rate_gain_ci95),
                Gain("reward", result.gain, *result.gain_ci95),
            )
            if np.isfinite(gain.value)
        ),
        noise_floor_std=result.noise_floor_std,
        population_std=result.population_std,
        generations=result.generations,
        num_completions=result.completions,
        num_failed=result.failed,
        num_tokens=result.tokens,
        wall_s=result.wall_s,
        peak_rss_bytes=result.peak_rss_bytes,
        files=files,
    )


def _held_out(result: Scored) -> HeldOut:
    return HeldOut(result.reward, result.pass_rate, result.n, result.metrics)
