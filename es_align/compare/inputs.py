"""What a comparison is given beside its configuration, kept in its folder so that a resume sees a
change between two jobs: model, prompts, rewards, as of a run, and the adapter all arms start from.

    OUT/prompt.json, OUT/rewards/   see `es_align.run_inputs`
    OUT/start.json                  SHA-256 of the adapter's files
"""

import json
from pathlib import Path

from es_align.compare.jobs import Job
from es_align.models import resolve_model
from es_align.reward_inputs import check_same, file_digests
from es_align.run_folder import PROMPT_FILE
from es_align.run_inputs import RunInputs, check_inputs, keep_inputs
from es_align.sealed import replace_file
from es_align.task_checks import make_checked_task

START = "start.json"


def keep_or_check(folder: Path, job: Job) -> None:
    """Keep them if that was not done yet, else compare. Any job has what all share.

    Raises RunFolderError naming what changed, ModelError or DataError for what is missing.
    """
    config, start = job.config, folder / START
    inputs = RunInputs.of(config, resolve_model(config.model, "bf16"), make_checked_task(config))
    if not (folder / PROMPT_FILE).is_file():
        keep_inputs(folder, inputs)
    check_inputs(folder, inputs)
    if job.start is None:
        return
    adapter = file_digests(Path(job.start))
    if not start.is_file():
        replace_file(start, (json.dumps(adapter) + "\n").encode())
    kept = json.loads(start.read_text(encoding="utf-8"))
    check_same(folder, f"start {job.start}", kept, adapter, "put the adapter back as it was")
