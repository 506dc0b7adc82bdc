"""The `prompts` task: prompts of the user's own, from JSONL files, in TRL's prompt-only format.

A row is an object with `prompt`, a text or a list of chat messages that ends with the user's; its
other fields are columns, which the reward gets by name. `task.path` is a folder with train.jsonl
and test.jsonl, or one file, out of which held-out rows are drawn first. Drawn by `task.seed`. There
is no reward of the task's own: the configuration names one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from es_align.config import TaskConfig
from es_align.tasks.base import PromptTask, make_messages, shuffled
from es_align.tasks.rows import Row, file_rows
from kernels.errors import ConfigError, DataError
from kernels.noise import Purpose
from rewards.base import JsonValue
from rewards.custom import COMPLETIONS, PROMPTS
from workers.protocol import Prompt

FIELD = "prompt"
TRAIN, HELDOUT = "train.jsonl", "test.jsonl"
SOURCE = f"a folder with {TRAIN} and {HELDOUT}, or a JSONL file"
ROLES = ("system", "user", "assistant")
TAKEN = (PROMPTS, COMPLETIONS)  # arguments that every reward function has

Messages = tuple[Mapping[str, str], ...]


class Asked(NamedTuple):
    """One row."""

    where: str
    messages: Messages
    columns: Mapping[str, JsonValue]


def make_prompts(config: TaskConfig, *, seed: int, prompts_per_generation: int) -> PromptTask:
    """Build the task; ConfigError without a path, DataError for missing, malformed, too few or
    overlapping rows.
    """
    train, heldout = _splits(config)
    trained = {_said(row): row.where for row in train}
    for row in heldout:
        if _said(row) in trained:
            raise DataError(
                f"{row.where}: this prompt is held out, and {trained[_said(row)]} has it too, to "
                "train on; remove one of them"
            )
    return PromptTask(
        "prompts",
        None,
        train=_numbered("train", train),
        heldout=_numbered("heldout", heldout),
        seed=seed,
        prompts_per_generation=prompts_per_generation,
    )


def heldout_rows(config: TaskConfig) -> list[Prompt]:
    """The held-out prompts alone, without a look at what is trained on: of test.jsonl or the file,
    for `num_heldout` 0 all. Raises ConfigError or DataError as `make_prompts`.
    """
    path = _path(config)
    file = path / HELDOUT if path.is_dir() else path
    rows = _shuffled(file, config)
    _check_number(file, rows, "task.num_heldout", config.num_heldout)
    return _numbered("heldout", rows[: config.num_heldout or len(rows)])


def parse_row(row: Row, system_prompt: str | None) -> Asked:
    """Check one row; DataError says where it is and what is wrong with it."""
    value, where = row.value, row.where
    if not isinstance(value, dict) or FIELD not in value:
        raise DataError(f"{where}: expected an object with {FIELD}, found {value!r:.60}")
    columns = {name: column for name, column in value.items() if name != FIELD}
    for name in TAKEN:
        if name in columns:
            raise DataError(
                f"{where}: {name} is what reward functions get anyway; rename the field"
            )
    asked = value[FIELD]
    if isinstance(asked, str) and asked.strip():
        return Asked(where, make_messages(asked, system_prompt), columns)
    if not isinstance(asked, list) or not asked:
        raise DataError(
            f"{where}: {FIELD}={asked!r:.60} must be a text or a list of messages; correct the row"
        )
    messages = tuple(_message(message, where) for message in asked)
    if messages[-1]["role"] != "user":
        raise DataError(
            f"{where}: the last message is the {messages[-1]['role']}'s; end with the user's, "
            "which the model answers"
        )
    if system_prompt is None:
        return Asked(where, messages, columns)
    if messages[0]["role"] == "system":
        raise DataError(
            f"{where}: the row has a system message and task.system_prompt is set; leave one out"
        )
    return Asked(where, ({"role": "system", "content": system_prompt}, *messages), columns)


def _message(message: JsonValue, where: str) -> Mapping[str, str]:
    if isinstance(message, dict):
        role, content = message.get("role"), message.get("content")
        if role in ROLES and isinstance(content, str):
            return {"role": str(role), "content": content}
    raise DataError(
        f"{where}: the message {message!r:.60} must have a role ({', '.join(ROLES)}) and a text "
        "as content; correct the row"
    )


def _splits(config: TaskConfig) -> tuple[list[Asked], list[Asked]]:
    """Training and held-out rows, in an order that the task's seed makes."""
    path, num_train, num_heldout = _path(config), config.num_train, config.num_heldout
    if path.is_dir():
        train, heldout = _shuffled(path / TRAIN, config), _shuffled(path / HELDOUT, config)
        _check_number(path / TRAIN, train, "task.num_train", num_train)
        _check_number(path / HELDOUT, heldout, "task.num_heldout", num_heldout)
        return train[:num_train], heldout[: num_heldout or len(heldout)]
    if num_heldout == 0:
        raise ConfigError(
            f"task.num_heldout=0 asks for all of {HELDOUT}, and task.path={path} is one file; say "
            "how many of its rows to hold out"
        )
    rows = _shuffled(path, config)
    _check_number(path, rows, "task.num_heldout + task.num_train", num_heldout + num_train)
    return rows[num_heldout:][:num_train], rows[:num_heldout]


def _path(config: TaskConfig) -> Path:
    if config.path is None:
        raise ConfigError(f"task.name=prompts needs task.path: {SOURCE}")
    return Path(config.path)


def _shuffled(file: Path, config: TaskConfig) -> list[Asked]:
    """All rows of a file, which have the same columns."""
    if not file.is_file():
        raise DataError(f"{file} does not exist; set task.path to {SOURCE}")
    rows = [parse_row(row, config.system_prompt) for row in file_rows(file)]
    for row in rows:
        if row.columns.keys() != rows[0].columns.keys():
            names = ", ".join(sorted(row.columns.keys() ^ rows[0].columns.keys()))
            raise DataError(
                f"{row.where}: {names} stands here or in {rows[0].where}, not in both; give all "
                "rows the same fields, null where there is nothing"
            )
    order = shuffled(len(rows), config.seed, Purpose.DATA, file.name == HELDOUT)
    return [rows[position] for position in order.tolist()]


def _check_number(file: Path, rows: Sequence[Asked], setting: str, num: int) -> None:
    if not rows:
        raise DataError(f"{file} has no rows; add some, {FIELD} and what the reward needs in each")
    if len(rows) < num:
        raise DataError(
            f"{setting} = {num}, but {file} has {len(rows)} row(s); lower it to what there is, or "
            "add rows"
        )


def _said(row: Asked) -> tuple[tuple[str, str], ...]:
    return tuple((message["role"], message["content"]) for message in row.messages)


def _numbered(split: str, rows: Sequence[Asked]) -> list[Prompt]:
    return [Prompt(f"{split}/{index}", row.messages, row.columns) for index, row in enumerate(rows)]
