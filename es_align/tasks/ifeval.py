"""The `ifeval` task: the 541 prompts of IFEval (Zhou et al. 2023, arXiv 2311.07911), to test on.

Rows come from `task.path` (input_data.jsonl or the folder it stands in) or from the Hugging Face
hub, and keep their order. There is no training split: task `instructions` trains for it.
"""

from pathlib import Path
from typing import NamedTuple

from es_align.config import TaskConfig
from es_align.tasks.base import PromptTask, make_messages
from es_align.tasks.rows import Row, file_rows, hub_rows
from kernels.errors import ConfigError, DataError, EsAlignError
from rewards.base import JsonValue
from rewards.ifeval.verdicts import build_checks
from workers.protocol import Prompt

HUB_NAME = "google/IFEval"
FILE = "input_data.jsonl"
SOURCE = f"{FILE}, or the folder it stands in"


class IfevalRow(NamedTuple):
    """One prompt and what it asks for."""

    key: int
    prompt: str
    instruction_ids: tuple[str, ...]
    kwargs: tuple[dict[str, JsonValue], ...]  # arguments of each instruction


def make_ifeval(config: TaskConfig, *, seed: int, prompts_per_generation: int) -> PromptTask:
    """Refuse with a ConfigError: there is nothing to train on."""
    del config, seed, prompts_per_generation
    raise ConfigError(
        "task.name=ifeval has no training split; train on task.name=instructions, which asks for "
        "the same kinds of instructions, and test on evaluation.task.name=ifeval"
    )


def ifeval_prompts(config: TaskConfig) -> list[Prompt]:
    """The first `num_heldout` prompts, all for 0, in file order.

    Raises DataError for missing, malformed or too few rows.
    """
    rows = load_ifeval(config.path)
    if len(rows) < config.num_heldout:
        raise DataError(
            f"task.num_heldout={config.num_heldout}, but there are {len(rows)} IFEval prompt(s); "
            f"set task.num_heldout to {len(rows)} or fewer, or to 0 for all"
        )
    chosen = rows[: config.num_heldout] if config.num_heldout else rows
    return [
        Prompt(
            prompt_id=f"heldout/{index}",
            messages=make_messages(row.prompt, config.system_prompt),
            columns={
                "key": row.key,
                "instruction_id_list": list(row.instruction_ids),
                "kwargs": [dict(arguments) for arguments in row.kwargs],
            },
        )
        for index, row in enumerate(chosen)
    ]


def load_ifeval(path: str | None) -> list[IfevalRow]:
    """All rows in order; None is the hub. DataError for one that is missing, malformed or doubled.

    Every row's checks are built, so an unknown instruction or a wrong argument is told here.
    """
    parsed = [(row.where, parse_row(row)) for row in _rows(path)]
    if not parsed:
        raise DataError(f"{path or HUB_NAME} has no IFEval rows; set task.path to {SOURCE}")
    places: dict[int, str] = {}
    for where, row in parsed:
        if row.key in places:
            raise DataError(f"{where}: key={row.key} stands in {places[row.key]} too; keep one")
        places[row.key] = where
    return [row for _, row in parsed]


def parse_row(row: Row) -> IfevalRow:
    """Check one row; DataError says where it is and what is wrong with it."""
    value, where = row.value, row.where
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected an object with key and prompt, found {value!r:.60}")
    key, prompt = value.get("key"), value.get("prompt")
    ids, kwargs = value.get("instruction_id_list"), value.get("kwargs")
    if not isinstance(key, int) or isinstance(key, bool):
        raise DataError(f"{where}: key={key!r:.60} must be a whole number; correct the row")
    if not isinstance(prompt, str) or not prompt.strip():
        raise DataError(f"{where}: prompt={prompt!r:.60} must be a text; correct the row")
    if not isinstance(ids, list) or not isinstance(kwargs, list):
        raise DataError(
            f"{where}: instruction_id_list={ids!r:.60} and kwargs={kwargs!r:.60} must be lists; "
            "correct the row"
        )
    names = tuple(str(name) for name in ids)
    arguments = tuple(_without_nulls(item, where) for item in kwargs)
    try:
        build_checks(names, arguments)
    except EsAlignError as error:
        raise DataError(f"{where}: {error}") from error
    return IfevalRow(key, prompt, names, arguments)


def _rows(path: str | None) -> list[Row]:
    if path is None:
        return hub_rows(HUB_NAME, None, "train", SOURCE)
    file = Path(path) / FILE if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise DataError(
            f"{file} does not exist; set task.path to {SOURCE}, or leave it out to use {HUB_NAME} "
            "from the hub"
        )
    return file_rows(file)


def _without_nulls(arguments: JsonValue, where: str) -> dict[str, JsonValue]:
    """The hub gives every row all arguments there are, null where the instruction has none."""
    if not isinstance(arguments, dict):
        raise DataError(f"{where}: kwargs holds {arguments!r:.60}, not a mapping; correct the row")
    return {name: value for name, value in arguments.items() if value is not None}
