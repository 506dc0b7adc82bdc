"""Every shipped reward by name, and which of them need a process that can be killed.

What a reward takes after `*` are its options. `es_align.reward_checks` checks them before a model
loads. Two names stand for no function of a completion: LOG_LIKELIHOOD is scored by the engine that
holds the members, on a reference instead of a completion and without generating
(`workers.references`); REWARD_MODEL by a second model beside it (`rewards.models`). Neither has a
verdict of its own, so nothing passes unless `pass_at` says where.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from kernels.errors import ConfigError
from rewards.base import Columns, Score
from rewards.countdown import countdown_reward
from rewards.exact import exact_match_reward
from rewards.gsm8k import gsm8k_reward
from rewards.instruction_following import ifeval_reward
from rewards.instructions import instructions_reward
from rewards.instructions_mix import instructions_mix_reward
from rewards.json_schema import json_schema_reward
from rewards.letters import letters_reward
from rewards.maths import math_reward
from rewards.patterns import regex_reward
from rewards.procedural import reasoning_gym_reward

RewardWithOptions: TypeAlias = Callable[..., Score]

REWARDS: Mapping[str, RewardWithOptions] = {
    "instructions": instructions_reward,
    "instructions_mix": instructions_mix_reward,
    "gsm8k": gsm8k_reward,
    "ifeval": ifeval_reward,
    "reasoning_gym": reasoning_gym_reward,
    "letters": letters_reward,
    "math": math_reward,
    "countdown": countdown_reward,
    "exact_match": exact_match_reward,
    "regex": regex_reward,
    "json_schema": json_schema_reward,
}
LOG_LIKELIHOOD, REWARD_MODEL = "log_likelihood", "reward_model"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLikelihoodOptions:
    """Options of LOG_LIKELIHOOD."""

    column: str = "reference"  # of the task's rows: the answer that should be likely
    end: bool = True  # whether the answer ends there: its end token counts too


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardModelOptions:
    """Options of REWARD_MODEL."""

    model: str  # hub id or folder of a sequence classifier
    revision: str | None = None  # of the hub id
    max_length: int | None = None  # tokens of prompt and completion; None: what the model can read
    batch_size: int = 16  # completions in one forward
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # auto: the checkpoint's
    label: str | int | None = None  # the output that is the reward, where there are several


# Rewards that no function of a completion computes, with their options.
MODEL_REWARDS: Mapping[str, type] = {
    LOG_LIKELIHOOD: LogLikelihoodOptions,
    REWARD_MODEL: RewardModelOptions,
}
# One completion may keep these busy for ever.
ISOLATED = frozenset({"math", "regex", "json_schema", "reasoning_gym"})
# A completion and columns that make them import what they import late, outside the time limit.
WARM_UP: Mapping[str, tuple[str, Columns]] = {
    "math": ("\\boxed{1}", {"answer": "1"}),
    "json_schema": ("{}", {"schema": {}}),
    "reasoning_gym": ("#### 1", {"dataset": "chain_sum", "entry": {"answer": "1"}}),
}


def get_reward(name: str) -> RewardWithOptions:
    """The reward of that name; ConfigError with the nearest name if there is none."""
    reward = REWARDS.get(name)
    if reward is None:
        near = difflib.get_close_matches(name, REWARDS, n=1)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"unknown reward {name!r}.{guess} There are: {', '.join(REWARDS)}")
    return reward
