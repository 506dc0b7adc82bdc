"""What the command line does, as functions: train, evaluate, replay, export, quantize.

Each checks everything it can before Ray starts or a model loads, and returns a frozen dataclass.
"""

import time
from pathlib import Path

from es_align.config import Config
from es_align.disk import disk_faults_told
from es_align.errors import RunFolderError
from es_align.evaluating import evaluate
from es_align.exporting import ExportResult, export_run
from es_align.layouts import Scheme, check_plain, stored_scheme
from es_align.mirror import Mirror
from es_align.mirror_layout import Stored
from es_align.mirror_restore import restore
from es_align.models import build_once, find_model, resolve_model
from es_align.object_store import ObjectStore
from es_align.preflight import validate, validate_quantize
from es_align.progress import Reporter, SilentReporter
from es_align.quantizing import QuantizeResult, quantize_model, weight_bytes
from es_align.rebuild import Replay, replay_run
from es_align.results import TrainResult
from es_align.run_folder import RunFolder, check_new, check_resumable
from es_align.session import begin_run, resume_run
from es_align.space_checks import check_writable
from es_align.stored_weights import StoredWeights
from es_align.targets import best_generation
from es_align.task_checks import make_checked_task
from es_align.training import run_training
from workers.cluster import joined
from workers.footprint import rss_bytes

__all__ = ["best_generation", "evaluate", "export", "quantize", "replay", "train"]


def train(
    config: Config,
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> TrainResult:
    """Run, or go on with, the configured evolution.

    Raises EsAlignError for anything that cannot run, before a model is loaded, for workers that
    failed too often, and for a disk or a mirror that takes no more; every finished generation is
    then on disk and `resume=True` goes on from there. With `config.mirror` it goes on from the
    mirror where the folder is behind it or is not there at all.
    """
    reporter, imports_rss_bytes = reporter or SilentReporter(), rss_bytes()
    validate(config, is_begun=resume)
    folder = RunFolder(Path(run_dir or config.run_dir or f"runs/run-{config.seed}"))
    with disk_faults_told(folder):
        return _train(config, folder, reporter, imports_rss_bytes, is_resumed=resume)


def _train(
    config: Config,
    folder: RunFolder,
    reporter: Reporter,
    imports_rss_bytes: int,
    *,
    is_resumed: bool,
) -> TrainResult:
    if not is_resumed:
        check_new(folder)
    mirror = _mirror_of(config, folder, reporter, is_resumed=is_resumed)
    if is_resumed:
        check_resumable(folder, config)
    folder.check_writes()
    with joined(config.workers.address):
        return _run(config, folder, reporter, mirror, imports_rss_bytes, is_resumed=is_resumed)


def _run(
    config: Config,
    folder: RunFolder,
    reporter: Reporter,
    mirror: Mirror | None,
    imports_rss_bytes: int,
    *,
    is_resumed: bool,
) -> TrainResult:
    task = make_checked_task(config)
    reporter.note(f"model: {config.model} in {config.precision}, made once and cached if needed")
    model = resolve_model(config.model, config.precision)
    check_writable(config, stored_scheme(model.source))
    if not is_resumed:
        space = config.space
        reporter.note(f"space: {space.kind}, basis {space.basis}, made once for the run folder")
    run = (resume_run if is_resumed else begin_run)(folder, config, model, task)
    try:
        run.mirror_to(mirror)
        result = run_training(run, task, model, reporter, imports_rss_bytes)
        run.store_end()
        return result
    finally:
        run.close()
        reporter.close()


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


def _existing(run: str | Path) -> RunFolder:
    folder = RunFolder(Path(run))
    if not folder.has_run:
        raise RunFolderError(f"{run} holds no run; name a folder that `es-align train` wrote")
    return folder


def _mirror_of(
    config: Config, folder: RunFolder, reporter: Reporter, *, is_resumed: bool
) -> Mirror | None:
    """The configured mirror, of no other run; before a resume the folder is brought up to it."""
    if config.mirror is None:
        kept = folder.read_config().mirror if is_resumed and folder.has_run else None
        if kept is not None:
            reporter.note(f"warning: not mirrored any more; --set mirror={kept} goes on with it")
        return None
    stored = Stored(ObjectStore(config.mirror, reporter.note))
    mirror = Mirror(stored, folder)
    if is_resumed:
        restore(stored, folder, reporter.note)
    else:
        mirror.check_new()
    return mirror
