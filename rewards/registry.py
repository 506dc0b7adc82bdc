"""Every reward by name: what a task's `reward_name` is looked up in, in the worker."""

import difflib
from collections.abc import Mapping

from kernels.errors import ConfigError
from rewards.base import Reward
from rewards.gsm8k import gsm8k_reward
from rewards.instruction_following import ifeval_loose_reward, ifeval_reward
from rewards.instructions import instructions_reward
from rewards.letters import letters_reward
from rewards.procedural import reasoning_gym_reward

REWARDS: Mapping[str, Reward] = {
    "instructions": instructions_reward,
    "gsm8k": gsm8k_reward,
    "reasoning_gym": reasoning_gym_reward,
    "letters": letters_reward,
    "ifeval": ifeval_reward,
    "ifeval_loose": ifeval_loose_reward,
}


def get_reward(name: str) -> Reward:
    """The reward of that name; ConfigError with the nearest name if there is none."""
    reward = REWARDS.get(name)
    if reward is None:
        near = difflib.get_close_matches(name, REWARDS, n=1)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"unknown reward {name!r}.{guess} There are: {', '.join(REWARDS)}")
    return reward
