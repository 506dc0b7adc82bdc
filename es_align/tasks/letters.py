"""The `letters` task: a toy for a random model, so that a whole run takes seconds.

See `rewards.letters`.
"""

import string

from es_align.config import TaskConfig
from es_align.tasks.base import PromptTask, make_messages, shuffled
from kernels.errors import ConfigError
from kernels.noise import Purpose
from workers.protocol import Prompt

NUM_TEXTS = len(string.ascii_letters) ** 2


def make_letters(config: TaskConfig, *, seed: int, prompts_per_generation: int) -> PromptTask:
    """Prompts of two letters each, all different; ConfigError if more are asked than there are."""
    num_prompts = config.num_train + config.num_heldout
    if num_prompts > NUM_TEXTS:
        raise ConfigError(
            f"task.num_train + task.num_heldout = {num_prompts} is more than the {NUM_TEXTS} "
            f"prompts of task letters; lower one of them"
        )
    order = shuffled(NUM_TEXTS, config.seed, Purpose.DATA).tolist()
    splits = {"train": order[: config.num_train], "heldout": order[config.num_train : num_prompts]}
    made = {
        split: [
            Prompt(f"{split}/{index}", make_messages(_text(number), config.system_prompt), {})
            for index, number in enumerate(numbers)
        ]
        for split, numbers in splits.items()
    }
    return PromptTask(
        "letters",
        "letters",
        train=made["train"],
        heldout=made["heldout"],
        seed=seed,
        prompts_per_generation=prompts_per_generation,
    )


def _text(number: int) -> str:
    first, second = divmod(number, len(string.ascii_letters))
    return string.ascii_letters[first] + string.ascii_letters[second]
