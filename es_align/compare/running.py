"""Runs a comparison job by job, and goes on after the last one that was finished.

OUT/compare.json       the configuration
OUT/jobs/NAME/         job.json, measured.json (how), log.txt, model/ (run folder or adapters),
                       trained.json, result.json
OUT/prompt.json, ...   what all jobs are given (see `es_align.compare.inputs`)
OUT/comparison.json, comparison.md, plots/
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from es_align.cli_options import INTERRUPTED
from es_align.compare.comparison import Comparison
from es_align.compare.config import CompareConfig, Measured
from es_align.compare.inputs import Given
from es_align.compare.job import JOB, MEASURED, RESULT, TRAINED
from es_align.compare.jobs import Job, choices, make_jobs
from es_align.compare.packages import check_trl
from es_align.compare.records import Result, known_score
from es_align.compare.reporting import best_choice, compared, write_report
from es_align.compare.table import told
from es_align.config_loading import validated
from es_align.errors import RunFolderError, WorkerError
from es_align.sealed import replace_file
from workers.allocator import allocator_settings

CONFIG = "compare.json"
LOG = "log.txt"
TOLD = re.compile(r"(gen|step) +[0-9]")  # lines of a job's log that are shown as they come
GROWING = ("arms", "seeds", "out")  # settings that a resume may have changed
VISIBLE = "CUDA_VISIBLE_DEVICES"
LAST_LINES = 3  # of the log of a job that failed

Say = Callable[[str], None]
Done = list[tuple[Job, Result]]


def compare(
    config: CompareConfig, out: str | Path, *, resume: bool = False, say: Say = lambda line: None
) -> Comparison:
    """Run every arm, or with `resume` those that are not done; the report in `out` is written
    anew after each. A resume may bring new arms, swept values and seeds.

    Raises ConfigError, ModelError or DataError for what cannot run before anything does,
    RunFolderError for a folder that holds another comparison, and at the end WorkerError for the
    jobs that failed, which `resume=True` tries again.
    """
    folder = Path(out)
    jobs = make_jobs(config, is_begun=resume)
    if any(job.grpo is not None for job in jobs):
        check_trl()
    given = Given.to(jobs[0])
    _open(folder, config, jobs, is_resumed=resume)
    given.keep_or_check(folder)
    done: Done = []
    failed: dict[str, str] = {}
    for job in _in_order(config, jobs, done, say):
        try:
            done.append((job, _run(job, folder, config, say)))
        except WorkerError as error:
            failed[job.name] = str(error)
            say(f"error: {error}")
        write_report(compared(config, done, failed), done, folder)
    if failed:
        raise WorkerError(
            f"{len(failed)} of {len(failed) + len(done)} jobs failed: {'; '.join(failed)}. The "
            f"reasons and the other jobs are in {folder}; --resume tries them again"
        )
    return compared(config, done, failed)


def _in_order(config: CompareConfig, jobs: Sequence[Job], done: Done, say: Say) -> Iterator[Job]:
    """Arm by arm all choices of its sweep on the first seed, then the best on the others, which is
    told by what has been appended to `done` by then.
    """
    first, *later = config.seeds
    for name, arm in config.arms.items():
        of_arm = [job for job in jobs if job.arm == name]
        yield from (job for job in of_arm if job.seed == first)
        best = choices(arm)[0]
        if len(choices(arm)) > 1:
            tried = [(job, result) for job, result in done if job.arm == name]
            if not tried:  # all of them failed
                continue
            score = known_score((p for _, found in tried for p in found.points), config.score)
            best = dict(best_choice(tried, score))
            say(f"{name}: best on seed {first} with {best}")
        yield from (job for job in of_arm if job.seed in later and job.choice == best)


def _open(folder: Path, config: CompareConfig, jobs: Sequence[Job], *, is_resumed: bool) -> None:
    file, text = folder / CONFIG, config.model_dump_json(indent=2) + "\n"
    if not is_resumed:
        if folder.exists() and any(folder.iterdir()):
            raise RunFolderError(
                f"{folder} exists and is not empty; go on with --resume, or name another --out"
            )
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(file, text.encode())
        return
    if not file.is_file():
        raise RunFolderError(f"{folder} holds no comparison; leave --resume out to begin one")
    kept = validated(CompareConfig, json.loads(file.read_text(encoding="utf-8")), str(file))
    lasting = [name for name in CompareConfig.model_fields if name not in GROWING]
    changed = [name for name in lasting if getattr(kept, name) != getattr(config, name)]
    changed = changed or [job.name for job in jobs if _is_another(job, folder)]
    if changed:
        raise RunFolderError(
            f"{folder} was begun with other settings ({', '.join(changed)}); use those in {file}, "
            "give a changed arm a name of its own, or name another --out"
        )
    replace_file(file, text.encode())


def _is_another(job: Job, out: Path) -> bool:
    """Whether another job was begun under this one's name."""
    file = _folder_of(job, out) / JOB
    return file.is_file() and Job.from_json(file.read_text(encoding="utf-8")) != job


def _folder_of(job: Job, out: Path) -> Path:
    return out / "jobs" / job.name


def _run(job: Job, out: Path, config: CompareConfig, say: Say) -> Result:
    """Train and measure, each unless that is done; a job that was broken off begins anew."""
    folder = _folder_of(job, out)
    result, trained = folder / RESULT, folder / TRAINED
    if result.is_file():
        say(f"{job.name}: done before")
        return Result.read(result)
    if not trained.is_file():
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        replace_file(folder / JOB, job.to_json().encode())
        say(f"{job.name}: training")
        _call("train", folder, _environment(job), say)
    how = config.model_dump_json(include=set(Measured.model_fields))
    replace_file(folder / MEASURED, how.encode())
    say(f"{job.name}: measuring")
    _call("measure", folder, os.environ, say)
    found = Result.read(result)
    score = known_score(found.points, config.score)
    first, last, best = (
        told(point.mean(score), score) for point in (found.first, found.last, found.best)
    )
    say(
        f"{job.name}: {first} to {last}, best {best} after "
        f"{found.best.spent.seconds / 60:.1f} minutes"
    )
    return found


def _environment(job: Job) -> dict[str, str]:
    """Of the process that trains. An ES run is a driver, which gives its workers theirs; GRPO
    computes in this one process, with the allocator of a worker and, as TRL must, on one GPU.
    """
    if job.grpo is None:
        return dict(os.environ)
    first, _, _ = os.environ.get(VISIBLE, "0").partition(",")
    return {**os.environ, **allocator_settings(has_gpu=torch.cuda.is_available()), VISIBLE: first}


def _call(what: str, folder: Path, environment: Mapping[str, str], say: Say) -> None:
    command = [sys.executable, "-m", "es_align.compare.job", what, str(folder)]
    with (
        (folder / LOG).open("a", encoding="utf-8") as log,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                log.write(line)
                log.flush()
                if TOLD.match(line):
                    say(f"  {line.rstrip()}")
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if process.returncode == INTERRUPTED:
        raise KeyboardInterrupt
    if process.returncode:
        raise WorkerError(
            f"{folder.name} failed ({what}, {_ending(process.returncode)}): "
            f"{_last_lines(folder / LOG)} (all of it is in {folder / LOG}); mend it and go on with "
            "--resume"
        )


def _ending(returncode: int) -> str:
    if returncode != -signal.SIGKILL:
        return f"exit code {returncode}"
    return "killed, as the system does where memory is short; the arm may need smaller parts"


def _last_lines(log: Path) -> str:
    lines: Sequence[str] = [line for line in log.read_text(encoding="utf-8").splitlines() if line]
    return " ".join(lines[-LAST_LINES:])
