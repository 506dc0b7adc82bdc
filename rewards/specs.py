"""Which reward to run and how: what the driver makes of the configuration and workers receive.

A reward from a file travels as text, so a relative path works on any worker, on any machine.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

from rewards.base import JsonValue
from rewards.registry import ISOLATED, MODEL_REWARDS, REWARD_MODEL, REWARDS, RewardModelOptions

ENTRY_POINTS = "es_align.rewards"
FORWARDS_TOGETHER = 4  # of a reward model, whose batches are cut from so many completions by length


class RewardFile(NamedTuple):
    """A function of the user's and the file it stands in."""

    path: str  # absolute, on the driver's machine
    function: str
    source: str


@dataclass(frozen=True, slots=True)
class RewardSpec:
    """One reward of a run."""

    name: str  # as in the configuration: shipped, an entry point's, or path.py:function
    options: Mapping[str, JsonValue] = field(default_factory=dict)
    weight: float = 1.0
    pass_at: float | None = None  # a completion passes from this reward on; None: see the scorer
    time_limit_s: float = 10.0  # of one call
    batch_size: int = 16  # completions in one call of a function of the user's
    num_processes: int | None = None  # None: as many as cores; one for a function of the user's
    is_chat: bool = False  # a function gets prompts and completions as chat messages
    file: RewardFile | None = None

    @property
    def is_shipped(self) -> bool:
        """Whether it comes with this package (`rewards.registry`)."""
        return self.file is None and self.name in {*REWARDS, *MODEL_REWARDS}

    @property
    def is_isolated(self) -> bool:
        """Whether it runs in a process of its own, under a time limit."""
        return not self.is_shipped or self.name in ISOLATED

    @property
    def has_verdict(self) -> bool:
        """Whether a completion can pass."""
        return self.name not in MODEL_REWARDS or self.pass_at is not None

    @property
    def num_together(self) -> int:
        """Consecutive completions that are scored in calls of their own, 1 where each is alone."""
        if self.file is None and self.name == REWARD_MODEL:
            options = RewardModelOptions(**self.options)  # pyright: ignore[reportArgumentType]
            return FORWARDS_TOGETHER * options.batch_size
        return 1 if self.is_shipped else self.batch_size * (self.num_processes or 1)

    @property
    def label(self) -> str:
        """The short name in metrics and reasons."""
        return self.name if self.file is None else self.file.function

    def to_json(self) -> str:
        """One line of ASCII."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "RewardSpec":
        """What `to_json` wrote."""
        fields = json.loads(text)
        if fields["file"] is not None:
            fields["file"] = RewardFile(*fields["file"])
        return cls(**fields)


def specs_or_own(specs: Sequence[RewardSpec], own: str | None) -> tuple[RewardSpec, ...]:
    """The rewards that are configured, or else the task's own, if it has one."""
    return tuple(specs) or (() if own is None else (RewardSpec(own),))


def num_together(specs: Sequence[RewardSpec]) -> int:
    """Consecutive completions that make whole calls of every one of these rewards."""
    return math.lcm(*(spec.num_together for spec in specs))
