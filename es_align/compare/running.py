"""Runs a comparison job by job, and goes on after the last one that was finished.

OUT/compare.json       the configuration
OUT/jobs/NAME/         job.json, log.txt, model/ (run folder or adapters), trained.json, result.json
OUT/comparison.json, comparison.md, plots/
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from es_align.compare.config import CompareConfig
from es_align.compare.job import DRIFT, JOB, RESULT, TRAINED
from es_align.compare.jobs import Job, choices, make_jobs
from es_align.compare.packages import check_trl
from es_align.compare.records import Result
from es_align.compare.reporting import Comparison, best_choice, compared, write_report
from es_align.config_loading import validated
from es_align.errors import RunFolderError, WorkerError
from es_align.sealed import replace_file

CONFIG = "compare.json"
LOG = "log.txt"
TOLD = re.compile(r"(gen|step) +[0-9]")  # lines of a job's log that are shown as they come
GROWING = ("arms", "seeds", "out")  # settings that a resume may have changed
LAST_LINES = 3  # of the log of a job that failed

Say = Callable[[str], None]
Done = list[tuple[Job, Result]]


def compare(
    config: CompareConfig, out: str | Path, *, resume: bool = False, say: Say = lambda line: None
) -> Comparison:
    """Run every arm, or with `resume` those that are not done; the report in `out` is written
    anew after each. A resume may bring new arms, swept values and seeds.

    Raises ConfigError, ModelError or DataError for what cannot run before anything does,
    RunFolderError for a folder that holds another comparison, WorkerError for an arm that failed,
    after which `resume=True` goes on.
    """
    folder = Path(out)
    jobs = make_jobs(config, is_begun=resume)
    if any(job.grpo is not None for job in jobs):
        check_trl()
    _open(folder, config, jobs, is_resumed=resume)
    done: Done = []
    for finished in _finished(config, jobs, folder, say):
        done.append(finished)
        write_report(compared(config, done), done, folder)
    return compared(config, done)


def _finished(
    config: CompareConfig, jobs: Sequence[Job], folder: Path, say: Say
) -> Iterator[tuple[Job, Result]]:
    """Run the jobs arm by arm: all choices of an arm's sweep on the first seed, the best on all."""
    first, *later = config.seeds
    for name, arm in config.arms.items():
        of_arm = [job for job in jobs if job.arm == name]
        tried: Done = []
        for job in of_arm:
            if job.seed == first:
                tried.append((job, _run(job, folder, config, say)))
                yield tried[-1]
        best = best_choice(tried)
        if len(choices(arm)) > 1:
            say(f"{name}: best on seed {first} with {best}")
        for job in of_arm:
            if job.seed in later and job.choice == best:
                yield job, _run(job, folder, config, say)


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
        replace_file(folder / DRIFT, config.drift.model_dump_json().encode())
        say(f"{job.name}: training")
        _call("train", folder, say)
    say(f"{job.name}: measuring")
    _call("measure", folder, say)
    found = Result.read(result)
    say(
        f"{job.name}: {100 * found.first.pass_rate:.1f} to {100 * found.last.pass_rate:.1f} %, "
        f"best {100 * found.best.pass_rate:.1f} % after {found.best.spent.seconds / 60:.1f} minutes"
    )
    return found


def _call(what: str, folder: Path, say: Say) -> None:
    command = [sys.executable, "-m", "es_align.compare.job", what, str(folder)]
    with (
        (folder / LOG).open("a", encoding="utf-8") as log,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
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
    if process.returncode:
        last = _last_lines(folder / LOG)
        raise WorkerError(
            f"{folder.name} failed ({what}, exit code {process.returncode}): {last} (all of it is "
            f"in {folder / LOG}); mend it and go on with --resume"
        )


def _last_lines(log: Path) -> str:
    lines: Sequence[str] = [line for line in log.read_text(encoding="utf-8").splitlines() if line]
    return " ".join(lines[-LAST_LINES:])
