"""What a run was given beside its configuration, kept in its folder so that a resume notices a
change: how the first training prompt is rendered, and the user's own reward files.

    prompt.json   id, text and token ids of the first training prompt, as the engine gets it
    rewards/      the files that `reward` names, as the workers get them
"""

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
from workers.protocol import Prompt
from workers.rendering import Renderer


@dataclass(frozen=True, slots=True)
class RunInputs:
    """What decides a run's numbers and stands in no configuration."""

    prompt_id: str
    text: str  # of that prompt, by the model's own chat template
    token_ids: tuple[int, ...]  # of the text: what any other program must send for the same start
    reward_files: Mapping[str, str]  # text by the name it is kept under

    @classmethod
    def of(cls, config: Config, model: ModelPaths, prompts: Sequence[Prompt]) -> "RunInputs":
        """`prompts` are the task's training prompts. Raises ModelError for a model without a chat
        template, ConfigError for a reward file that cannot be read.
        """
        renderer = Renderer(model.engine)
        text = renderer.text(prompts[0].messages)
        files = [spec.file for spec in reward_specs(config) if spec.file is not None]
        return cls(
            prompt_id=prompts[0].prompt_id,
            text=text,
            token_ids=renderer.encode(text),
            reward_files={f"{n}-{Path(f.path).name}": f.source for n, f in enumerate(files, 1)},
        )


def keep_inputs(folder: Path, inputs: RunInputs) -> None:
    """Write them into a run folder; what an earlier start left there is replaced."""
    row = {"prompt_id": inputs.prompt_id, "text": inputs.text, "token_ids": inputs.token_ids}
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
    for name, source in inputs.reward_files.items():
        if _text(folder / REWARDS / name) != source:
            raise RunFolderError(
                f"{folder} was begun with another {name.partition('-')[2]}, which is kept in "
                f"{folder / REWARDS / name}; put it back, or start a new run in another --run-dir"
            )


def _text(file: Path) -> str:
    if not file.is_file():
        raise RunFolderError(f"{file} is missing; restore it from a copy of the run folder")
    return file.read_text(encoding="utf-8")
