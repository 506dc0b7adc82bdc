"""The folder of a run: what is in it, how it is begun, and how it is taken up again after any kill.

    config.json        the resolved configuration
    prompt.json, rewards/  what else it was given (see `es_align.run_inputs`)
    basis.safetensors  frozen directions, so that the folder is enough to rebuild every generation
                       (space `weights` also reads the model's weights)
    ledger.jsonl       the run itself (see `es_align.ledger`)
    checkpoints/       shortcuts to a generation
    metrics.jsonl, samples.jsonl, evaluations.jsonl   for people and plots
    workers.jsonl      what each worker did (see docs/observing.md): a row a generation, and one
                       at each start
    plots/             written at the end, and so is the best generation:
    adapter/           a PEFT LoRA, or of space `weights` the whole checkpoint in model/

A generation counts once its ledger record is on disk. Metrics and samples of it are written before
that, so a kill leaves at most rows of a generation that does not count; those are cut off before
the run goes on.
"""

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from pydantic import ValidationError

from es_align.config import Config
from es_align.config_errors import describe_errors
from es_align.config_loading import changed_fields
from es_align.errors import RunFolderError
from es_align.ledger import Ledger, check_lock
from es_align.sealed import is_draft, replace_file, sync_directory, write_synced
from rewards.base import JsonValue
from workers.protocol import Sample

CONFIG_FILE = "config.json"
BASIS_FILE = "basis.safetensors"
LEDGER_FILE = "ledger.jsonl"
METRICS_FILE = "metrics.jsonl"
SAMPLES_FILE = "samples.jsonl"
EVALUATIONS_FILE = "evaluations.jsonl"
WORKERS_FILE = "workers.jsonl"
CHECKPOINTS = "checkpoints"
ADAPTER = "adapter"
MODEL = "model"
PLOTS = "plots"
PROMPT_FILE = "prompt.json"
REWARDS = "rewards"


class RunFolder:
    """Paths and row files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.basis = path / BASIS_FILE
        self.ledger = path / LEDGER_FILE
        self.metrics = path / METRICS_FILE
        self.samples = path / SAMPLES_FILE
        self.evaluations = path / EVALUATIONS_FILE
        self.workers = path / WORKERS_FILE
        self.checkpoints = path / CHECKPOINTS
        self.adapter = path / ADAPTER
        self.model = path / MODEL
        self.plots = path / PLOTS

    @property
    def row_files(self) -> tuple[Path, ...]:
        """Files of JSON lines for people, each with the generation that it is of."""
        return self.metrics, self.samples, self.evaluations, self.workers

    @property
    def has_run(self) -> bool:
        """Whether a run was begun here and has a ledger."""
        return self.ledger.is_file()

    def check_writes(self) -> None:
        """Try to write and to lock in the folder, and leave nothing.

        Raises OSError if the disk refuses, RunFolderError if its file system has no locks.
        """
        missing = [place for place in (self.path, *self.path.parents) if not place.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        file = self.path / f".write-check.{uuid.uuid4().hex}.draft"  # another start has its own
        write_synced(file, b"es-align may write here\n")
        try:
            check_lock(file)
        finally:
            file.unlink(missing_ok=True)
            with suppress(OSError):  # another start may be in it by now
                for place in missing:
                    place.rmdir()

    def write_config(self, config: Config) -> None:
        """Keep the resolved configuration."""
        self.path.mkdir(parents=True, exist_ok=True)
        text = config.model_dump_json(indent=2) + "\n"
        replace_file(self.path / CONFIG_FILE, text.encode())

    def read_config(self) -> Config:
        """The configuration the run was begun with; RunFolderError if there is none to read."""
        file = self.path / CONFIG_FILE
        if not file.is_file():
            raise RunFolderError(
                f"{self.path} has no {CONFIG_FILE}, so it holds no run; "
                "name a folder that `es-align train` wrote"
            )
        try:
            return Config.model_validate_json(file.read_text(encoding="utf-8"))
        except ValidationError as error:
            raise RunFolderError(
                f"{file} is no configuration of this es-align: {describe_errors(error)} Use the "
                "version that wrote it, or restore the file"
            ) from None

    def append_rows(self, file: Path, rows: Sequence[Mapping[str, object]]) -> None:
        """Append JSON lines; those that a resume goes by are on disk when this returns, so that a
        ledger's line never outlasts them.
        """
        is_new, is_read = not file.exists(), file in (self.metrics, self.evaluations)
        with file.open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row, allow_nan=False) + "\n" for row in rows)
            if is_read:
                stream.flush()
                os.fsync(stream.fileno())
        if is_new and is_read:
            sync_directory(self.path)

    def append_samples(self, generation: int, samples: Sequence[Sample]) -> None:
        """Keep completions for a person to read."""
        rows = [{"generation": generation, **asdict(sample)} for sample in samples]
        self.append_rows(self.samples, rows)

    def drop_rows_after(self, completed: int) -> None:
        """Cut rows of generations that do not count, and a torn last line, from every row file."""
        for file in self.row_files:
            if file.is_file():
                lines = file.read_bytes().splitlines(keepends=True)
                kept = [line for line in lines if generation_of(line) <= completed]
                if kept != lines:
                    replace_file(file, b"".join(kept))

    def read_rows(self, file: Path) -> list[dict[str, JsonValue]]:
        """The rows of a file, without a last one that a kill or a full disk cut short; none if the
        file is not there.
        """
        if not file.is_file():
            return []
        *lines, _ = file.read_bytes().split(b"\n")
        return [json.loads(line) for line in lines]


def check_new(folder: RunFolder) -> None:
    """Raise RunFolderError if a run, or anything else, is there already.

    A run that ended before its first generation, such as on a prompt too long for the engine, does
    not count: there is nothing in it to lose.
    """
    if folder.has_run and _num_generations(folder):
        raise RunFolderError(
            f"{folder.path} already holds a run; "
            "go on with it by --resume, or choose another --run-dir"
        )
    left_overs = {CONFIG_FILE, BASIS_FILE, LEDGER_FILE}
    left_overs |= {METRICS_FILE, SAMPLES_FILE, EVALUATIONS_FILE, WORKERS_FILE}
    left_overs |= {PROMPT_FILE, REWARDS}
    if folder.path.is_file():
        raise RunFolderError(f"{folder.path} is a file; choose another --run-dir")
    if folder.path.is_dir():
        names = {entry.name for entry in folder.path.iterdir()} - left_overs
        drafts = f".{LEDGER_FILE}."  # and the lock of a start, see es_align.ledger
        if folder.checkpoints.is_dir() and not any(folder.checkpoints.iterdir()):
            names.discard(CHECKPOINTS)  # made for workers that never stored a mean
        foreign = sorted(n for n in names if not (is_draft(n) or n.startswith(drafts)))
        if foreign:
            raise RunFolderError(
                f"{folder.path} is not empty (it holds {foreign[0]}); choose another --run-dir"
            )


def check_resumable(folder: RunFolder, config: Config) -> None:
    """Raise RunFolderError unless the folder holds a run of just this configuration."""
    if not folder.has_run:
        raise RunFolderError(
            f"{folder.path} holds no run to resume; leave --resume out to start one there"
        )
    changed = changed_fields(folder.read_config(), config)
    if changed:
        name, (old, new) = next(iter(changed.items()))
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise RunFolderError(
            f"{folder.path} was begun with {name}={old}, now it is {new}{more}; resume with the "
            "configuration it was begun with, or start a new run in another --run-dir"
        )


def _num_generations(folder: RunFolder) -> int:
    """Generations of a run; if there are none, RunFolderError if somebody is about to write one."""
    with Ledger.open(folder.ledger) as ledger:
        num_generations = ledger.next_generation
    if num_generations == 0:
        Ledger.open(folder.ledger, for_append=True).close()
    return num_generations


def generation_of(line: bytes) -> float:
    """Generations done when a row was written; infinite for a torn line, so that it is cut."""
    if not line.endswith(b"\n"):
        return float("inf")
    try:
        return json.loads(line)["generation"]
    except (json.JSONDecodeError, UnicodeDecodeError):
        return float("inf")
