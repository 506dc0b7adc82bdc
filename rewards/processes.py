"""A pool of processes that score calls under a time limit and can be killed at any time.

A thread or a signal cannot stop Python's `re`, SymPy inside C code, or a function that catches
everything; killing a process can. Each call goes to one process and gets one answer, results come
back in the order of the calls, and a process that is late or gone is replaced.

Processes are started plainly, not by multiprocessing: nothing of the worker (its models, its
`__main__`) is imported or inherited. Each has a session of its own, and everything a reward starts
is killed with it, what has left that session too; of one that crashed only what has not.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path

import psutil

from kernels.errors import ConfigError
from rewards.base import JsonValue, Prompted, Score, unscored
from rewards.specs import RewardSpec

LOAD_LIMIT_S = 120.0
_READ_BYTES = 1 << 16
_START = (
    "import sys; sys.path[:] = [p for p in sys.path if p] + [{root!r}]; "
    "from rewards.child import main; main({fd}, {limit})"
)


class ProcessPool:
    """One reward in some processes, started when they are needed; close it, or let it go."""

    def __init__(self, spec: RewardSpec, num_processes: int) -> None:
        self._spec = spec
        self._num_processes = num_processes
        self._children: list[_Child] = []
        self._finalizer = weakref.finalize(self, _kill_all, self._children)

    def start(self) -> tuple[str, ...]:
        """Load the reward in one process; returns the columns it cannot do without.

        Raises ConfigError if it cannot be loaded.
        """
        child = self._add()
        message = None
        while message is None:
            left_s = child.deadline - time.monotonic()
            if left_s <= 0:
                raise self._late()
            message = child.receive() if wait([child.channel], left_s) else None
        self._settle(child, message)
        return child.required

    def run(self, calls: Sequence[Sequence[Prompted]], limit_s: float) -> list[list[Score]]:
        """Scores of every call, in order; those not reached in `limit_s` get `error:out_of_time`.

        Other reasons: error:timeout, error:crashed, and what the reward itself says. Raises
        ConfigError if the reward cannot be loaded any more.
        """
        results: list[list[Score] | None] = [None] * len(calls)
        queue = deque(range(len(calls)))
        ends = time.monotonic() + limit_s
        self._drop_gone()
        while (queue or self._busy()) and time.monotonic() < ends:
            self._hand_out(calls, queue)
            waiting = [child for child in self._children if child.is_waited_for]
            next_s = min([ends, *(child.deadline for child in waiting)]) - time.monotonic()
            answered = wait([child.channel for child in waiting], max(0.0, next_s))
            for child in waiting:
                call = child.call
                message = child.receive() if child.channel in answered else None
                if message is not None:
                    scores = self._settle(child, message)
                elif time.monotonic() >= child.deadline:
                    scores = self._give_up(child, "error:timeout")
                else:
                    continue
                if call is not None:
                    size = len(calls[call])
                    results[call] = scores if len(scores) == size else scores[:1] * size
        for child in self._busy():
            self._give_up(child, "")
        late = unscored("error:out_of_time")
        return [
            r if r is not None else [late] * len(c) for r, c in zip(results, calls, strict=True)
        ]

    def close(self) -> None:
        """Kill all processes."""
        _kill_all(self._children)

    def _busy(self) -> "list[_Child]":
        return [child for child in self._children if child.call is not None]

    def _drop_gone(self) -> None:
        """Let go of processes that ended while they had nothing to do, which is no item's fault."""
        idle = {c.channel: c for c in self._children if c.is_ready and c.call is None}
        for channel in wait(list(idle), 0.0):  # it has nothing to say, so this is the end
            assert isinstance(channel, socket.socket)
            self._give_up(idle[channel], "")

    def _hand_out(self, calls: Sequence[Sequence[Prompted]], queue: deque[int]) -> None:
        wanted = min(self._num_processes, len(queue) + len(self._busy()))
        while len(self._children) < wanted:
            self._add()
        for child in self._children:
            if queue and child.is_ready and child.call is None:
                child.call = queue.popleft()
                child.deadline = time.monotonic() + self._spec.time_limit_s
                child.send(json.dumps(calls[child.call]), self._spec.time_limit_s)

    def _add(self) -> "_Child":
        child = _Child(self._spec)
        self._children.append(child)
        return child

    def _settle(self, child: "_Child", message: JsonValue) -> list[Score]:
        """Take note of an answer; the scores, or none where it is that of the start."""
        if isinstance(message, dict) and "required" in message:
            child.is_ready = True
            required = message["required"]
            child.required = tuple(map(str, required)) if isinstance(required, list) else ()
            return []
        if isinstance(message, dict):
            is_loading = not child.is_ready
            reason = self._give_up(child, "error:crashed")
            if is_loading:
                raise ConfigError(str(message["failed"]))
            return reason
        child.call = None
        assert isinstance(message, list)
        return [Score(*score) for score in message]  # type: ignore[misc]

    def _give_up(self, child: "_Child", reason: str) -> list[Score]:
        is_loading = not child.is_ready
        self._children.remove(child)
        child.kill()
        if is_loading and reason == "error:timeout":
            raise self._late()
        return [unscored(reason)]

    def _late(self) -> ConfigError:
        return ConfigError(
            f"reward={self._spec.name} was not loaded within {LOAD_LIMIT_S:.0f} s; make its import "
            "quicker, such as by loading models on the first call"
        )


@dataclass(slots=True, eq=False)
class _Child:
    """One process and what it is doing."""

    spec: RewardSpec
    call: int | None = None  # index of the call it works on
    is_ready: bool = False
    required: tuple[str, ...] = ()
    deadline: float = 0.0
    channel: socket.socket = field(init=False)
    process: "subprocess.Popen[bytes]" = field(init=False)
    received: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self.channel, theirs = socket.socketpair()
        root = str(Path(__file__).resolve().parent.parent)
        code = _START.format(root=root, fd=theirs.fileno(), limit=LOAD_LIMIT_S)
        self.deadline = time.monotonic() + LOAD_LIMIT_S
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=2,  # the last line of stdout may be the command's JSON
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self.send(self.spec.to_json(), LOAD_LIMIT_S)

    @property
    def is_waited_for(self) -> bool:
        return self.call is not None or not self.is_ready

    def send(self, line: str, limit_s: float) -> None:
        # One that is gone, or does not read, is found out when its answer does not come.
        self.channel.settimeout(limit_s)
        with contextlib.suppress(OSError):
            self.channel.sendall(line.encode("ascii") + b"\n")

    def receive(self) -> JsonValue:
        """The next message; None if it is not complete, {"failed": ...} if the process is gone."""
        try:
            data = self.channel.recv(_READ_BYTES)
        except OSError:
            data = b""
        if not data:
            return {"failed": f"reward={self.spec.name}: its process ended while it was loaded"}
        self.received += data
        if not data.endswith(b"\n"):
            return None
        message = json.loads(bytes(self.received))
        self.received.clear()
        return message

    def kill(self) -> None:
        """End the process and all it has started."""
        started = _stopped_descendants(self.process.pid)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for process in started:
            with contextlib.suppress(psutil.Error):  # it has ended
                process.kill()
        self.process.wait()
        self.channel.close()


def _stopped_descendants(pid: int) -> set[psutil.Process]:
    """What a process has started, in whatever session; all of it stopped, so that it starts no
    more.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGSTOP)
    found: set[psutil.Process] = set()
    with contextlib.suppress(psutil.NoSuchProcess):
        while new := set(psutil.Process(pid).children(recursive=True)) - found:
            for process in new:
                with contextlib.suppress(psutil.Error):
                    process.suspend()
            found |= new
    return found


def _kill_all(children: list[_Child]) -> None:
    while children:
        children.pop().kill()
