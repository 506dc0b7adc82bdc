"""Tasks by name: what the model is asked, and which reward scores it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from es_align.config import TaskConfig
from es_align.tasks.base import HeldOut, Task, did_you_mean
from es_align.tasks.gsm8k import heldout_problems, make_gsm8k
from es_align.tasks.ifeval import ifeval_prompts, make_ifeval
from es_align.tasks.instructions import make_instructions
from es_align.tasks.letters import make_letters
from es_align.tasks.prompts import heldout_rows, make_prompts
from es_align.tasks.reasoning_gym import make_reasoning_gym
from kernels.errors import ConfigError
from workers.protocol import Prompt

__all__ = [
    "BENCHMARKS",
    "COMMON",
    "TASKS",
    "Entry",
    "HeldOut",
    "Task",
    "has_own_reward",
    "make_heldout",
    "make_task",
]


class TaskMaker(Protocol):
    """Builds a task from its configuration."""

    def __call__(self, config: TaskConfig, *, seed: int, prompts_per_generation: int) -> Task: ...


# Settings that every task may have; a generation is held against num_train whatever the task.
COMMON = ("name", "num_heldout", "num_train", "system_prompt")


@dataclass(frozen=True, slots=True)
class Entry:
    """A task, and the settings beside COMMON that it reads: others are refused."""

    make: TaskMaker
    reads: tuple[str, ...]
    has_reward: bool = True  # of its own


TASKS: Mapping[str, Entry] = {
    "instructions": Entry(
        make_instructions, ("families", "kinds", "max_instructions", "max_words", "seed")
    ),
    "gsm8k": Entry(make_gsm8k, ("num_fewshot", "num_sft", "path", "seed")),
    "reasoning_gym": Entry(make_reasoning_gym, ("dataset", "seed")),
    "letters": Entry(make_letters, ("seed",)),
    "prompts": Entry(make_prompts, ("path", "seed"), has_reward=False),
    "ifeval": Entry(make_ifeval, ("path",)),
}
# With a test split of their own, which is read without the training split.
BENCHMARKS: Mapping[str, Callable[[TaskConfig], Sequence[Prompt]]] = {
    "gsm8k": heldout_problems,
    "ifeval": ifeval_prompts,
}
# All that are read without what is trained on.
HELD_OUT_ALONE = {**BENCHMARKS, "prompts": heldout_rows}


def has_own_reward(config: TaskConfig) -> bool:
    """Whether the task brings the reward that scores it, for where none is configured."""
    return TASKS[config.name].has_reward


def make_task(config: TaskConfig, *, seed: int, prompts_per_generation: int) -> Task:
    """Build the task: the run's `seed` orders the batches, `config.seed` makes the prompts.

    Raises ConfigError or DataError if there is too little to train on or to hold out.
    """
    entry = TASKS.get(config.name)
    if entry is None:
        raise ConfigError(f"unknown task.name={config.name!r}.{did_you_mean(config.name, TASKS)}")
    return entry.make(config, seed=seed, prompts_per_generation=prompts_per_generation)


def make_heldout(config: TaskConfig) -> HeldOut:
    """What the task is tested on; raises ConfigError or DataError as `make_task`."""
    if config.name in HELD_OUT_ALONE:
        reward_name = config.name if has_own_reward(config) else None
        return HeldOut(config.name, reward_name, tuple(HELD_OUT_ALONE[config.name](config)))
    task = make_task(config, seed=0, prompts_per_generation=1)
    return HeldOut(task.name, task.reward_name, task.heldout)
