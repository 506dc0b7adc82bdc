"""What a run was given beside its configuration, kept in its folder so that a resume notices a
change: how the first training prompt is rendered, the prompts, and the user's own reward files.

    prompt.json   id, text and token ids of the first training prompt, as the engine gets it, and a
                  digest of all prompts, held-out ones too, with their columns
    rewards/      the files that `reward` names, as the workers get them
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from es_align.config import Config
from es_align.errors import RunFolderError
from es_align.models import ModelPaths
from es_align.reward_checks import reward_specs
from es_align.run_folder import PROMPT_FILE, REWARDS
from es_align.sealed import write_synced
from es_align.tasks import Task
from workers.protocol import Prompt
from workers.rendering import Renderer


@dataclass(frozen=True, slots=True)
class RunInputs:
    """What decides a run's numbers and stands in no configuration."""

    prompt_id: str
    text: str  # of that prompt, by the model's own chat template
    token_ids: tuple[int, ...]  # of the text: what any other program must send for the same start
    prompts_digest: str  # SHA-256, 64 hex digits
    reward_files: Mapping[str, str]  # text by the name it is kept under

    @classmethod
    def of(cls, config: Config, model: ModelPaths, task: Task) -> "RunInputs":
        """Raises ModelError for a model without a chat template, ConfigError for a reward file that
        cannot be read.
        """
        renderer, first = Renderer(model.engine), task.train[0]
        text = renderer.text(first.messages)
        files = [spec.file for spec in reward_specs(config) if spec.file is not None]
        return cls(
            prompt_id=first.prompt_id,
            text=text,
            token_ids=renderer.encode(text),
            prompts_digest=_digest([*task.train, *task.heldout]),
            reward_files={f"{n}-{Path(f.path).name}": f.source for n, f in enumerate(files, 1)},
        )


def keep_inputs(folder: Path, inputs: RunInputs) -> None:
    """Write them into a run folder; what an earlier start left there is replaced."""
    row = {
        "prompt_id": inputs.prompt_id,
        "text": inputs.text,
        "token_ids": inputs.token_ids,
        "prompts_digest": inputs.prompts_digest,
    }
    write_synced(folder / PROMPT_FILE, (json.dumps(row, ensure_ascii=False) + "\n").encode())
    shutil.rmtree(folder / REWARDS, ignore_errors=True)
    for name, source in inputs.reward_files.items():
        (folder / REWARDS).mkdir(exist_ok=True)
        write_synced(folder / REWARDS / name, source.encode())


def check_inputs(folder: Path, inputs: RunInputs) -> None:
    """Raise RunFolderError if they are not those that the run was begun with."""
    kept = json.loads(_text(folder / PROMPT_FILE))
    if tuple(kept["token_ids"]) != inputs.token_ids:
        raise RunFolderError(
            f"{folder} was begun with other tokens of prompt {inputs.prompt_id} "
            f"({len(kept['token_ids'])}, now {len(inputs.token_ids)}; see {PROMPT_FILE}): the "
            "model's chat template, its tokeniser or the task's data changed; restore them, or "
            "start a new run in another --run-dir"
        )
    # Runs begun before there was a digest have none.
    if kept.get("prompts_digest", inputs.prompts_digest) != inputs.prompts_digest:
        raise RunFolderError(
            f"{folder} was begun with other prompts, or other columns of them (digest in "
            f"{PROMPT_FILE}): the data of task or evaluation.task changed; restore it, or start a "
            "new run in another --run-dir"
        )
    for name, source in inputs.reward_files.items():
        if _text(folder / REWARDS / name) != source:
            raise RunFolderError(
                f"{folder} was begun with another {name.partition('-')[2]}, which is kept in "
                f"{folder / REWARDS / name}; put it back, or start a new run in another --run-dir"
            )


def _digest(prompts: Sequence[Prompt]) -> str:
    told = hashlib.sha256()
    for prompt in prompts:
        row = [prompt.prompt_id, prompt.messages, dict(prompt.columns), prompt.reward_name]
        told.update(json.dumps(row, sort_keys=True).encode("ascii") + b"\n")
    return told.hexdigest()


def _text(file: Path) -> str:
    if not file.is_file():
        raise RunFolderError(f"{file} is missing; restore it from a copy of the run folder")
    return file.read_text(encoding="utf-8")
