"""What a comparison is given beside its configuration, kept in its folder so that a resume sees a
change between two jobs: model, prompts, rewards, as of a run, and the adapter all arms start from.

    OUT/prompt.json, OUT/rewards/   see `es_align.run_inputs`
    OUT/start.json                  SHA-256 of the adapter's files
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from es_align.compare.jobs import Job
from es_align.errors import ConfigError
from es_align.models import resolve_model
from es_align.reward_inputs import check_same, file_digests
from es_align.run_folder import PROMPT_FILE
from es_align.run_inputs import RunInputs, check_inputs, keep_inputs
from es_align.sealed import replace_file
from es_align.task_checks import make_checked_task

START = "start.json"


@dataclass(frozen=True, slots=True)
class Given:
    """What all jobs are given."""

    inputs: RunInputs
    start: str | None
    adapter: Mapping[str, str]  # digest by file; empty without a start

    @classmethod
    def to(cls, job: Job) -> Self:
        """Any job has what all share. Raises ConfigError, ModelError or DataError for what is
        missing.
        """
        config, start = job.config, job.start
        if start is not None and not (Path(start) / "adapter_config.json").is_file():
            raise ConfigError(
                f"start={start} has no adapter_config.json; name the folder of a PEFT LoRA, such "
                "as `es-align sft` leaves"
            )
        model, task = resolve_model(config.model, "bf16"), make_checked_task(config)
        adapter = {} if start is None else file_digests(Path(start))
        return cls(RunInputs.of(config, model, task), start, adapter)

    def keep_or_check(self, folder: Path) -> None:
        """Keep them if that was not done yet, else compare; RunFolderError names what changed."""
        start = folder / START
        if not start.is_file():
            replace_file(start, (json.dumps(self.adapter) + "\n").encode())
        if not (folder / PROMPT_FILE).is_file():
            keep_inputs(folder, self.inputs)
        kept = json.loads(start.read_text(encoding="utf-8"))
        check_same(folder, f"start {self.start}", kept, self.adapter, "put it back as it was")
        check_inputs(folder, self.inputs)
