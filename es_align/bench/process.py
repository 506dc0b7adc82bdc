"""A process that is asked in JSON lines over pipes, under a deadline, and never outlives its owner.

No pickle and no Ray: an arm must hold nothing but its own engine. The child ends when its stdin is
closed, which also happens if this process is killed; asking a dead or silent one raises WorkerError
with the last lines it wrote to stderr.
"""

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from es_align.errors import WorkerError
from rewards.base import JsonValue

TAIL_LINES = 8
TAIL_BYTES = 8192
# Enough for a process that only has to notice that its stdin is closed.
SHUTDOWN_TIMEOUT_S = 5.0
READ_BYTES = 1 << 16


class JsonProcess:
    """One child process; `ask` sends an object and waits for the object that answers it."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        self.name = name
        self.log = log
        self.unread = b""
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=dict(environment),
                bufsize=0,
                start_new_session=True,  # an interrupt is the owner's to handle
            )

    def ask(self, message: Mapping[str, JsonValue], deadline_s: float) -> dict[str, JsonValue]:
        """Send a message and return its answer.

        Raises WorkerError if the process has ended, does not answer in time, or answers with an
        `error`.
        """
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            raise self._ended() from None
        answer = json.loads(self._line(time.monotonic() + deadline_s, deadline_s))
        if not isinstance(answer, dict):
            raise WorkerError(f"arm {self.name} answered {answer!r}, which is no JSON object")
        if "error" in answer:
            raise WorkerError(f"arm {self.name}: {answer['error']}")
        return answer

    def _line(self, deadline: float, deadline_s: float) -> bytes:
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        while b"\n" not in self.unread:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self._kill()
                raise WorkerError(
                    f"arm {self.name} did not answer within {deadline_s:g} s and was ended; "
                    f"lower the sizes of the bench. {self._tail()}"
                )
            received = os.read(descriptor, READ_BYTES)
            if not received:
                raise self._ended()
            self.unread += received
        line, _, self.unread = self.unread.partition(b"\n")
        return line

    def _ended(self) -> WorkerError:
        try:
            code = self.process.wait(SHUTDOWN_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._kill()
            return WorkerError(f"arm {self.name} closed its pipes and was ended. {self._tail()}")
        cause = f"code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        return WorkerError(f"arm {self.name} ended with {cause}. {self._tail()}")

    def _tail(self) -> str:
        text = self.log.read_bytes()[-TAIL_BYTES:].decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if not lines:
            return "It wrote nothing to stderr."
        return f"Its last lines: {' | '.join(lines[-TAIL_LINES:])}"

    def close(self) -> None:
        """End the process; a second call does nothing."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(SHUTDOWN_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._kill()
        self.process.stdout.close()

    def _kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)  # with whatever it started
            self.process.wait()
