"""What a run was given beside its configuration, kept in its folder so that a resume notices a
change: the model, how the first training prompt is rendered, the prompts, and what its rewards are
made of.

    prompt.json   id, text and token ids of the first training prompt, as the engine gets it, a
                  digest of all prompts, held-out ones too, with their columns, digests or the
                  commit of the model, and digests and versions of reward models and packages
    rewards/      the files that `reward` names (see `es_align.reward_inputs`)
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from es_align.bundled import BUNDLED_MODELS
from es_align.config import Config
from es_align.errors import RunFolderError
from es_align.models import ModelPaths
from es_align.reward_inputs import (
    check_files,
    check_parts,
    check_same,
    file_digests,
    reward_files,
    reward_parts,
)
from es_align.run_folder import PROMPT_FILE, REWARDS
from es_align.sealed import replace_file, write_synced
from es_align.tasks import Task
from workers.protocol import Prompt
from workers.rendering import Renderer

COMMIT = "commit"


@dataclass(frozen=True, slots=True)
class RunInputs:
    """What decides a run's numbers and stands in no configuration."""

    prompt_id: str
    text: str  # of that prompt, by the model's own chat template
    token_ids: tuple[int, ...]  # of the text: what any other program must send for the same start
    prompts_digest: str  # SHA-256, 64 hex digits
    model: str  # as the configuration names it
    model_parts: Mapping[str, str]  # digest by file, the commit, or the bundled name
    reward_files: Mapping[str, bytes]  # by the place they are kept in
    reward_parts: Mapping[str, Mapping[str, str]]  # digest or version by part, of each reward

    @classmethod
    def of(cls, config: Config, model: ModelPaths, task: Task) -> "RunInputs":
        """Reads the weights whole where the model is a folder.

        Raises ModelError for a model without a chat template or a reward model that is not there,
        ConfigError for a reward file that cannot be read.
        """
        renderer, first = Renderer(model.engine), task.train[0]
        text = renderer.text(first.messages)
        return cls(
            prompt_id=first.prompt_id,
            text=text,
            token_ids=renderer.encode(text),
            prompts_digest=_digest([*task.train, *task.heldout]),
            model=config.model,
            model_parts=_model_parts(model),
            reward_files=reward_files(config),
            reward_parts=reward_parts(config),
        )


def keep_inputs(folder: Path, inputs: RunInputs) -> None:
    """Write them into a run folder, prompt.json last; what an earlier start left is replaced."""
    row = {
        "prompt_id": inputs.prompt_id,
        "text": inputs.text,
        "token_ids": inputs.token_ids,
        "prompts_digest": inputs.prompts_digest,
        "model": inputs.model_parts,
        "rewards": inputs.reward_parts,
    }
    shutil.rmtree(folder / REWARDS, ignore_errors=True)
    for place, content in inputs.reward_files.items():
        file = folder / REWARDS / place
        file.parent.mkdir(parents=True, exist_ok=True)
        write_synced(file, content)
    replace_file(folder / PROMPT_FILE, (json.dumps(row, ensure_ascii=False) + "\n").encode())


def check_inputs(folder: Path, inputs: RunInputs) -> None:
    """Raise RunFolderError if they are not those that the run was begun with; of a run begun by a
    version that kept no digests of the model, the model is not compared.
    """
    kept = json.loads(_text(folder / PROMPT_FILE))
    before = kept.get("model", inputs.model_parts)
    check_same(folder, f"model {inputs.model}", before, inputs.model_parts, _remedy(inputs, before))
    if tuple(kept["token_ids"]) != inputs.token_ids:
        raise RunFolderError(
            f"{folder} was begun with other tokens of prompt {inputs.prompt_id} "
            f"({len(kept['token_ids'])}, now {len(inputs.token_ids)}; see {PROMPT_FILE}): the "
            "model's chat template, its tokeniser or the task's data changed; restore them, or "
            "start anew in another folder"
        )
    if kept.get("prompts_digest") != inputs.prompts_digest:
        raise RunFolderError(
            f"{folder} was begun with other prompts, or other columns of them (digest in "
            f"{PROMPT_FILE}): the data of task or evaluation.task changed; restore it, or start "
            "anew in another folder"
        )
    check_files(folder, inputs.reward_files)
    check_parts(folder, kept.get("rewards", {}), inputs.reward_parts)


def _model_parts(model: ModelPaths) -> dict[str, str]:
    """Of contents alone, so that a copy of a folder on another machine is the same model."""
    if model.name in BUNDLED_MODELS:
        return {"bundled": model.name}
    if Path(model.name).is_dir():
        return file_digests(model.source)
    return {COMMIT: model.source.name}  # of the hub's snapshot


def _remedy(inputs: RunInputs, before: Mapping[str, str]) -> str:
    """How to have the model of a run again."""
    if COMMIT not in before:
        return "put the model's folder back as it was"
    commit = before[COMMIT]
    return (
        f"run `hf download {inputs.model} --revision {commit}` on every machine, write that commit "
        "(by printf, without a newline) into refs/main of the model's folder in the hub's cache "
        "and set HF_HUB_OFFLINE=1"
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
