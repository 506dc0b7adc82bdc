"""What the dispatcher asks of whatever runs its workers: Ray, or a simulation with its own clock.

A worker is a number from 0. `place` makes a fresh one that holds nothing; calls to one worker run
in the order they were made, one at a time. Everything is asynchronous: a call has a number, and
`wait` says which calls are over.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

PLACED = "placed"  # outcome of `place`: the worker's process is there


@dataclass(frozen=True, slots=True)
class Event:
    """A call that is over."""

    call: int
    worker: int
    outcome: object  # the answer, or the Exception that stands for it


class Transport(Protocol):
    """Carries calls to workers and answers back."""

    def now(self) -> float:
        """Seconds; never goes back."""
        ...

    def place(self, worker: int) -> int:
        """Make a worker, in place of the one of that number; over, with PLACED, once it runs."""
        ...

    def call(self, worker: int, method: str, *arguments: object) -> int:
        """Call a method of `workers.worker.Worker`."""
        ...

    def wait(self, timeout_s: float) -> Sequence[Event]:
        """What is over, at least one event if one comes within `timeout_s`; each is told once."""
        ...

    def kill(self, worker: int) -> None:
        """End a worker at once, whatever state it is in; its calls are forgotten."""
        ...

    def where(self, worker: int) -> str:
        """For a person: the machine a worker runs on, or an empty text."""
        ...

    def describe(self, problem: Exception) -> str:
        """For a person: what went wrong with a call, in one line."""
        ...

    def close(self) -> None:
        """End all workers and what was started with them."""
        ...
