"""What a task is: prompts to train on, prompts held out, and which prompts a generation sees.

A batch is a pure function of (run seed, generation), so a resumed or replayed run asks the same
questions. Orders come from raw Philox words sorted stably, which no NumPy release may change,
unlike `Generator.permutation`.
"""

import copy
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from kernels.errors import ConfigError
from kernels.noise import Purpose, philox
from workers.protocol import Prompt


class Task(Protocol):
    """A source of prompts whose columns suit one reward."""

    @property
    def name(self) -> str:
        """As in `task.name` of a configuration."""
        ...

    @property
    def reward_name(self) -> str | None:
        """Key of `rewards.registry.REWARDS`; None: it has no reward of its own."""
        ...

    @property
    def train(self) -> Sequence[Prompt]:
        """The pool batches are drawn from; prompt ids are "train/0", "train/1", ..."""
        ...

    @property
    def heldout(self) -> Sequence[Prompt]:
        """Never trained on, and without a prompt in common with `train`; "heldout/0", ..."""
        ...

    def batch(self, generation: int) -> list[Prompt]:
        """The prompts every member of this generation answers."""
        ...

    def tested_on(self, heldout: Sequence[Prompt]) -> "Task":
        """The same task with other held-out prompts, of another task or data set."""
        ...


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What a model is tested on."""

    name: str  # of the task
    reward_name: str | None  # as of a task
    prompts: Sequence[Prompt]  # "heldout/0", ...


class PromptTask:
    """A task over two fixed lists of prompts."""

    def __init__(
        self,
        name: str,
        reward_name: str | None,
        *,
        train: Sequence[Prompt],
        heldout: Sequence[Prompt],
        seed: int,
        prompts_per_generation: int,
        groups: Sequence[Sequence[int]] | None = None,
    ) -> None:
        """`groups`: positions in `train` that a batch takes in equal parts; none is one group.

        Raises ConfigError if the pool is too small for a batch.
        """
        self.name = name
        self.reward_name = reward_name
        self.train = tuple(train)
        self.heldout = tuple(heldout)
        self._batches = BatchOrder(
            groups if groups is not None else [range(len(self.train))],
            prompts_per_generation=prompts_per_generation,
            seed=seed,
        )

    def batch(self, generation: int) -> list[Prompt]:
        """The prompts of a generation: none twice, the groups in equal parts or one apart."""
        return [self.train[position] for position in self._batches.positions(generation)]

    def tested_on(self, heldout: Sequence[Prompt]) -> "PromptTask":
        """The same task with other held-out prompts."""
        other = copy.copy(self)
        other.heldout = tuple(heldout)
        return other


class BatchOrder:
    """Deals positions out of groups in turn, each group shuffled anew once it has been dealt."""

    def __init__(
        self, groups: Sequence[Sequence[int]], *, prompts_per_generation: int, seed: int
    ) -> None:
        num_per_group = -(-prompts_per_generation // len(groups))
        smallest = min(len(group) for group in groups)
        if smallest < num_per_group:
            raise ConfigError(
                f"prompts_per_generation={prompts_per_generation} over {len(groups)} group(s) of "
                f"training prompts needs {num_per_group} different ones of each, and the smallest "
                f"has {smallest}; use prompts_per_generation={smallest * len(groups)} or fewer, "
                f"or raise task.num_train"
            )
        self._groups = [tuple(group) for group in groups]
        self._num_prompts = prompts_per_generation
        self._num_per_group = num_per_group
        self._seed = seed

    def positions(self, generation: int) -> list[int]:
        """Positions of one generation's prompts, all different."""
        first = generation * self._num_prompts
        slots = (
            divmod(slot, len(self._groups)) for slot in range(first, first + self._num_prompts)
        )
        return [self._dealt(group, index) for index, group in slots]

    def _dealt(self, group: int, index: int) -> int:
        """The index-th position dealt from a group.

        A batch may straddle two rounds and must not meet a prompt twice. So the group is cut in two
        halves once, and each round deals the shuffled first half before the shuffled second one; a
        group too small for that is dealt in one fixed order for ever.
        """
        members = self._groups[group]
        round_number, position = divmod(index, len(members))
        order = shuffled(len(members), self._seed, Purpose.PROMPTS, group)
        if len(members) >= 2 * self._num_per_group:
            half = len(members) // 2
            is_second = position >= half
            part = order[half:] if is_second else order[:half]
            counter = 1 + 2 * round_number + is_second
            order = part[shuffled(len(part), self._seed, Purpose.PROMPTS, group, counter)]
            position -= half * is_second
        return members[int(order[position])]


def shuffled(num: int, seed: int, purpose: Purpose, *counter: int) -> np.ndarray:
    """A shuffled order of range(num), int64; equal arguments give equal orders."""
    words = philox(seed, purpose, *counter).bit_generator.random_raw(num)
    return np.argsort(words, kind="stable")


def make_messages(
    text: str, system_prompt: str | None, shots: Sequence[tuple[str, str]] = ()
) -> tuple[Mapping[str, str], ...]:
    """The chat of one question, after the system prompt if there is one, and after `shots`:
    questions and their answers, as turns that were taken before.
    """
    turns = [("system", system_prompt)] if system_prompt is not None else []
    for question, answer in shots:
        turns += [("user", question), ("assistant", answer)]
    return tuple({"role": role, "content": said} for role, said in [*turns, ("user", text)])


def did_you_mean(value: str, names: Iterable[str]) -> str:
    """' Did you mean ...? There are: ...' for an unknown name."""
    known = sorted(names)
    near = difflib.get_close_matches(value, known, n=1)
    guess = f" Did you mean {near[0]!r}?" if near else ""
    return f"{guess} There are: {', '.join(known)}"
