"""What the command line does, as functions: train, evaluate, replay, export, quantize.

Each checks everything it can before Ray starts or a model loads, and returns a frozen dataclass.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from es_align.config import Config
from es_align.config_loading import apply_overrides
from es_align.errors import RunFolderError
from es_align.evaluation import Evaluation, best_of, evaluation_of
from es_align.exporting import ExportResult, export_run
from es_align.layouts import Scheme, check_plain, stored_scheme
from es_align.models import build_once, find_model, resolve_model
from es_align.pooling import make_pool
from es_align.preflight import validate, validate_quantize
from es_align.progress import Reporter, SilentReporter
from es_align.quantizing import QuantizeResult, quantize_model, weight_bytes
from es_align.rebuild import (
    Replay,
    check_mean,
    mean_member,
    mean_settings,
    rebuilt_at,
    replay_run,
)
from es_align.results import EvalResult, TrainResult
from es_align.reward_checks import check_columns
from es_align.rollout import run_one
from es_align.run_folder import RunFolder, check_new, check_resumable
from es_align.session import begin_run, resume_run
from es_align.space_checks import check_run_settings, check_writable
from es_align.spaces import load_space
from es_align.stored_weights import StoredWeights
from es_align.tasks import Task, make_task
from es_align.training import run_training


def train(
    config: Config,
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> TrainResult:
    """Run, or go on with, the configured evolution.

    Raises EsAlignError for anything that cannot run, before a model is loaded, and for
    workers that failed too often; every finished generation is then on disk and `resume=True`
    goes on from there.
    """
    reporter = reporter or SilentReporter()
    validate(config, is_begun=resume)
    folder = RunFolder(Path(run_dir or config.run_dir or f"runs/run-{config.seed}"))
    if resume:
        check_resumable(folder, config)
    else:
        check_new(folder)
    task = _make_task(config)
    reporter.note(f"model: {config.model} in {config.precision}, made once and cached if needed")
    model = resolve_model(config.model, config.precision)
    check_writable(config, stored_scheme(model.source))
    if not resume:
        space = config.space
        reporter.note(f"space: {space.kind}, basis {space.basis}, made once for the run folder")
    run = (resume_run if resume else begin_run)(folder, config, model, task.train)
    try:
        return run_training(run, task, model, reporter)
    finally:
        run.close()
        reporter.close()


def evaluate(
    target: str,
    *,
    task: str | None = None,
    limit: int | None = None,
    overrides: Sequence[str] = (),
    generation: int | None = None,
    reporter: Reporter | None = None,
) -> EvalResult:
    """Score a run's best generation (or the one named), or a model, on a task's held-out prompts.

    A run brings its own configuration, a model has the defaults; `overrides` such as
    `precision=int8` change either. `limit` takes so many prompts. Raises EsAlignError.
    """
    reporter = reporter or SilentReporter()
    folder = RunFolder(Path(target))
    own = folder.read_config() if folder.has_run else Config(model=target)
    if task is not None and task != own.task.name:
        # Another task has another length of answer, unless the caller names one.
        overrides = [f"task.name={task}", "max_new_tokens=", *overrides]
    if limit is not None:
        overrides = [*overrides, f"task.num_heldout={limit}"]
    settings = apply_overrides(own, overrides)
    if folder.has_run:
        check_run_settings(own, settings)
    validate(settings, is_begun=folder.has_run)
    made = _make_task(settings)
    heldout = made.heldout
    at, mean, factors, means, rebuilt = None, None, [], None, None
    if folder.has_run:
        at = best_generation(folder) if generation is None else generation
        space = load_space(settings.space, folder.basis)
        rebuilt, means, factors = rebuilt_at(folder, at), mean_settings(settings), space.factors
        mean = mean_member(settings, space, rebuilt.strategy)
    model = resolve_model(settings.model, settings.precision)
    started = time.perf_counter()
    with make_pool(settings, model, made.reward_name, factors, heldout, means) as pool:
        for worker in pool.start(() if rebuilt is None else rebuilt.moves):
            if rebuilt is not None:
                check_mean(worker, rebuilt.mean_digest, folder.ledger, at or 0)
            reporter.note(f"worker {worker.worker}: {worker.engine} ready in {worker.load_s:.1f} s")
        ids = [prompt.prompt_id for prompt in heldout]
        rollout = run_one(pool, settings, mean, ids, generation=at or 0)
    result = evaluation_of(rollout, at or 0)
    return EvalResult(
        target=target,
        task=made.name,
        precision=settings.precision,
        generation=at,
        reward=result.reward,
        pass_rate=result.pass_rate,
        n=result.num_prompts,
        metrics=result.metrics,
        reasons=result.reasons,
        wall_s=time.perf_counter() - started,
        tokens=rollout.num_generated_tokens,
    )


def replay(run: str | Path, *, generation: int | None = None) -> Replay:
    """Rebuild a generation of a run from its ledger and compare digests.

    No engine starts; where whole weights moved, the model's weights are read.
    """
    return replay_run(_existing(run), generation)


def export(run: str | Path, out: str | Path, *, generation: int | None = None) -> ExportResult:
    """Write a run's best generation (or the one named) as a PEFT LoRA, or as a whole checkpoint
    where whole weights moved; reload it and compare logits.

    Raises RunFolderError if `out` exists and is not empty,
    ModelError if what was reloaded is not the run's model.
    """
    folder = _existing(run)
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RunFolderError(f"{target} exists already; name a new folder")
    config = folder.read_config()
    at = best_generation(folder) if generation is None else generation
    model = resolve_model(config.model, config.precision)
    return export_run(folder, config, model, at, target, is_replaced=True)


def quantize(
    model: str, out: str | Path, scheme: Scheme, *, group_size: int | None = None
) -> QuantizeResult:
    """Write a model as a compressed-tensors checkpoint: int8 (W8A8) or int4 (W4A16).

    Raises ConfigError if `out` is not empty or the group size is of no use, ModelError if the model
    is quantised already or a layer's width is no multiple of the group size.
    """
    target = Path(out)
    validate_quantize(model, target, scheme, group_size)
    source = find_model(model)
    check_plain(model, stored_scheme(source))
    StoredWeights(source).check()
    started = time.perf_counter()
    if target.is_dir():
        target.rmdir()
    sizes: list[int | None] = []
    build_once(target, lambda f: sizes.append(quantize_model(source, f, scheme, group_size)))
    return QuantizeResult(
        model=model,
        out=str(target),
        scheme=scheme,
        group_size=sizes[0],
        bytes_before=weight_bytes(source),
        bytes_after=weight_bytes(target),
        seconds=time.perf_counter() - started,
    )


def best_generation(folder: RunFolder) -> int:
    """Generations done at the best held-out evaluation after the start;
    RunFolderError if there is none yet.
    """
    evaluations = [Evaluation.from_row(row) for row in folder.read_rows(folder.evaluations)]
    later = [evaluation for evaluation in evaluations if evaluation.generation > 0]
    if not later:
        raise RunFolderError(
            f"{folder.path} has no evaluated generation yet; "
            "train further, or name one by generation"
        )
    return best_of(later).generation


def _existing(run: str | Path) -> RunFolder:
    folder = RunFolder(Path(run))
    if not folder.has_run:
        raise RunFolderError(f"{run} holds no run; name a folder that `es-align train` wrote")
    return folder


def _make_task(config: Config) -> Task:
    task = make_task(
        config.task, seed=config.seed, prompts_per_generation=config.prompts_per_generation
    )
    check_columns(config, task.train[0].columns)
    return task
