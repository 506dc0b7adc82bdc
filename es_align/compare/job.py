"""The process of one job: `python -m es_align.compare.job train|measure FOLDER`.

Training and measuring are processes of their own, so that neither one's memory is counted as the
other's. The folder holds job.json and measured.json, which says how; train leaves trained.json,
measure result.json.
"""

import signal
import sys
from pathlib import Path

from es_align.cli_options import INTERRUPTED
from es_align.compare.config import Measured
from es_align.compare.jobs import Job
from es_align.compare.records import Trained
from es_align.errors import EsAlignError
from es_align.terminal import print_error, quiet_libraries
from workers.allocator import keep_from_children
from workers.footprint import rss_bytes

JOB, MEASURED, TRAINED, RESULT, MODEL = (
    "job.json",
    "measured.json",
    "trained.json",
    "result.json",
    "model",
)


def run_job(what: str, folder: Path) -> None:
    """Train or measure the job of a folder. Raises EsAlignError."""
    job = Job.from_json((folder / JOB).read_text(encoding="utf-8"))
    place = folder / MODEL
    if what == "measure":
        from es_align.compare.measuring import measure

        quiet_libraries()
        how = Measured.model_validate_json((folder / MEASURED).read_text(encoding="utf-8"))
        measure(job, place, Trained.read(folder / TRAINED), how).write(folder / RESULT)
    elif job.grpo is None:
        from es_align.compare.es import train_es

        quiet_libraries()
        train_es(job, place).write(folder / TRAINED)
    else:
        from es_align.compare.grpo import train_grpo

        quiet_libraries()
        keep_from_children()
        train_grpo(job, place, rss_bytes(), say).write(folder / TRAINED)


def say(line: str) -> None:
    """To whoever reads along."""
    print(line, flush=True)


def main() -> None:
    """Exit codes as those of `es-align`."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    what, folder = sys.argv[1:]
    try:
        run_job(what, Path(folder))
    except EsAlignError as error:
        print_error(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
