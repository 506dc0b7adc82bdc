"""Checks of tasks that one section of a configuration cannot do: which settings are read at all,
and whether what a run is tested on stays apart from what it has seen.
"""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from es_align.config import Config, TaskConfig
from es_align.errors import ConfigError, DataError
from es_align.reward_checks import check_columns
from es_align.tasks import COMMON, TASKS, HeldOut, Task, make_heldout, make_task
from workers.protocol import Prompt


def check_task_settings(config: Config) -> None:
    """Refuse settings that a task does not read; one that has its default is none.

    Raises ConfigError naming each, and what the task reads.
    """
    _check_read("task", config.task)
    if config.evaluation.task is not None:
        _check_read("evaluation.task", config.evaluation.task)


def make_checked_task(config: Config) -> Task:
    """The task of a run, tested on what `evaluation.task` says, with the columns its rewards need.

    Raises ConfigError or DataError if prompts are missing, or tested prompts are trained on.
    """
    task = make_task(
        config.task, seed=config.seed, prompts_per_generation=config.prompts_per_generation
    )
    name = f"task.name={task.name}"
    check_columns(config, task.train[0].columns, name, task.reward_name)
    tested = config.evaluation.task
    if tested is None:
        return task
    heldout = make_heldout(tested)
    check_apart(task, tested, heldout)
    name = f"evaluation.task.name={tested.name}"
    has_own = heldout.reward_name is not None
    scored = config.model_copy(update={"reward": ()}) if has_own else config
    check_columns(scored, heldout.prompts[0].columns, name, heldout.reward_name)
    return task.tested_on([replace(p, reward_name=heldout.reward_name) for p in heldout.prompts])


def check_apart(task: Task, tested: TaskConfig, heldout: HeldOut) -> None:
    """Refuse an `evaluation.task` that asks what the run trains on or is shown solved, or that
    shows solved what the run trains on.

    Raises DataError saying how many, the first of them and the next step.
    """
    trained, shown = set(map(_question, task.train)), _shown(task.train)
    told = f"evaluation.task ({tested.name})"
    asked = [prompt for prompt in heldout.prompts if _question(prompt) in trained]
    if asked:
        raise DataError(
            f"{len(asked)} prompt(s) of {told} are training prompts of {task.name} too, first "
            f"{asked[0].prompt_id}; test on a split that is not trained on"
        )
    solved = [prompt for prompt in heldout.prompts if _question(prompt) in shown]
    if solved:
        raise DataError(
            f"{len(solved)} prompt(s) of {told} are solved examples before the training prompts of "
            f"{task.name}, first {solved[0].prompt_id}; test on a split that is not shown, or set "
            "task.num_fewshot=0"
        )
    shots = _shown(heldout.prompts) & trained
    if shots:
        raise DataError(
            f"{len(shots)} solved example(s) of {told} are training prompts of {task.name}, such "
            f"as {min(shots)[:60]!r}; give evaluation.task the num_train, seed and path of task, "
            "so that examples come from the rest, or set evaluation.task.num_fewshot=0"
        )


def check_unseen(trained: TaskConfig, asked: TaskConfig) -> None:
    """Refuse to test a run on what it trained on: of a file of prompts, rows it does not hold out.

    Raises ConfigError naming the limit.
    """
    if asked.name != "prompts" or (asked.name, asked.path) != (trained.name, trained.path):
        return
    if asked.path is None or not Path(asked.path).is_file():
        return
    if asked.seed != trained.seed or not 0 < asked.num_heldout <= trained.num_heldout:
        raise ConfigError(
            f"task.num_heldout={asked.num_heldout} and task.seed={asked.seed}: the run holds out "
            f"{trained.num_heldout} rows of {asked.path} by seed {trained.seed} and trains on "
            "others; ask for so many or fewer, by that seed, or name another file"
        )


def _check_read(section: str, task: TaskConfig) -> None:
    read = {*COMMON, *TASKS[task.name].reads}
    unread = [
        name
        for name, field in TaskConfig.model_fields.items()
        if name not in read and getattr(task, name) != field.default
    ]
    if unread:
        told = ", ".join(f"{section}.{name}={_yaml(getattr(task, name))}" for name in unread)
        them = "it" if len(unread) == 1 else "them"
        raise ConfigError(
            f"{told}: {section}.name={task.name} does not read {them}, it reads "
            f"{', '.join(sorted(read - {'name'}))}; leave {them} out"
        )


def _yaml(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return value if isinstance(value, str) else json.dumps(value)


def _question(prompt: Prompt) -> str:
    return prompt.messages[-1]["content"]


def _shown(prompts: Iterable[Prompt]) -> set[str]:
    """Questions that stand answered before those of the prompts."""
    return {
        message["content"]
        for prompt in prompts
        for message in prompt.messages[:-1]
        if message["role"] == "user"
    }
