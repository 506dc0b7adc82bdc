"""Processes that are asked over pipes: what they answer, how they die, that none is left over."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from es_align.bench.process import JsonProcess
from es_align.errors import WorkerError

ANSWER_S = 60.0


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], JsonProcess]]:
    """Starts a Python program as an arm; all of them end with the test."""
    processes: list[JsonProcess] = []

    def run(program: str) -> JsonProcess:
        command = [sys.executable, "-c", program]
        processes.append(JsonProcess("base", command, os.environ, tmp_path / "base.log"))
        return processes[-1]

    yield run
    for process in processes:
        process.close()


def test_a_process_answers_line_by_line(start: Callable[[str], JsonProcess]) -> None:
    arm = start("import sys\nfor line in sys.stdin: print(line, end='', flush=True)")
    assert arm.ask({"a": "ä" * 100_000}, ANSWER_S) == {"a": "ä" * 100_000}
    assert arm.ask({"b": [1, None]}, ANSWER_S) == {"b": [1, None]}


def test_a_dead_arm_is_reported_with_its_last_words(start: Callable[[str], JsonProcess]) -> None:
    arm = start("import sys; input(); print('out of memory', file=sys.stderr); sys.exit(3)")
    with pytest.raises(WorkerError) as error:
        arm.ask({}, ANSWER_S)
    assert str(error.value) == "arm base ended with code 3. Its last lines: out of memory"
    with pytest.raises(WorkerError, match="ended with code 3"):
        arm.ask({}, ANSWER_S)


def test_a_killed_arm_is_reported_with_its_signal(start: Callable[[str], JsonProcess]) -> None:
    arm = start("import os, signal; input(); os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(WorkerError, match=r"signal SIGKILL\. It wrote nothing to stderr"):
        arm.ask({}, ANSWER_S)


def test_a_silent_arm_is_ended(start: Callable[[str], JsonProcess]) -> None:
    arm = start("import time; time.sleep(600)")
    with pytest.raises(WorkerError, match=r"arm base did not answer within 0\.2 s and was ended"):
        arm.ask({}, 0.2)
    assert arm.process.poll() == -signal.SIGKILL


def test_what_an_arm_says_went_wrong_is_told(start: Callable[[str], JsonProcess]) -> None:
    arm = start("""input(); print('{"error": "ValueError: no"}', flush=True); input()""")
    with pytest.raises(WorkerError, match=r"^arm base: ValueError: no$"):
        arm.ask({}, ANSWER_S)


def test_arms_do_not_outlive_a_killed_owner(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from es_align.bench.arms import COMMAND\n"
        "from es_align.bench.process import JsonProcess\n"
        f"arm = JsonProcess('base', COMMAND, os.environ, Path({str(tmp_path / 'log')!r}))\n"
        "print(arm.process.pid, flush=True)\n"
        "input()"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdin is not None and owner.stdout is not None
    arm = psutil.Process(int(owner.stdout.readline()))
    assert "workers.engines.vllm_bench" in arm.cmdline()
    owner.kill()
    owner.wait()
    deadline = time.monotonic() + ANSWER_S
    while arm.is_running() and arm.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the arm is still there"
        time.sleep(0.05)
    owner.stdin.close()
    owner.stdout.close()
