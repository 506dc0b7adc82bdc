"""The process of one arm of `es-align bench population`: JSON lines in, JSON lines out.

    python -P -m workers.engines.vllm_bench

Read from stdin: `{"op": "load", ...ArmSpec}` once, then `{"op": "run", ...Round}` per round. Every
line is answered by one line on stdout, `{"error": text}` if it failed. The end of stdin ends the
process at once, in the middle of whatever it does.

Shape suffix: _Q requests.
"""

import hashlib
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from workers.engines.vllm_arms import ARMS, ArmSpec, EngineArm

DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True)
class Loaded:
    """What an arm answers when it is ready."""

    load_s: float
    is_compiled: bool
    bytes_per_member: float | None


@dataclass(frozen=True, slots=True)
class Round:
    """What an arm is asked."""

    prompts: list[list[int]]
    members: list[int]
    num_members: int
    generation: int  # its members are new ones
    new_tokens: int


@dataclass(frozen=True, slots=True)
class Answered:
    """What an arm answers to a round."""

    change_s: float  # until the generation's members were ready
    seconds: float  # of the answers
    num_tokens: int
    answers: list[str]  # digest of each answer's token ids


def load(spec: ArmSpec) -> tuple[EngineArm, Loaded]:
    """Start the arm's engine; importing vLLM is part of `load_s`."""
    started = time.perf_counter()
    arm: EngineArm = ARMS[spec.arm](spec)
    load_s = time.perf_counter() - started
    from vllm.config import CompilationMode

    mode = arm.llm.llm_engine.vllm_config.compilation_config.mode
    return arm, Loaded(load_s, mode != CompilationMode.NONE, arm.bytes_per_member())


def run(arm: EngineArm, asked: Round) -> Answered:
    """Answer one round with new members; timed from token ids to token ids."""
    started = time.perf_counter()
    arm.set_members(asked.num_members, asked.generation)
    changed = time.perf_counter()
    answers_Q = arm.generate(asked.prompts, asked.members, asked.new_tokens)
    ended = time.perf_counter()
    num_tokens = sum(len(token_ids) for token_ids in answers_Q)
    digests = [_digest(token_ids) for token_ids in answers_Q]
    return Answered(changed - started, ended - changed, num_tokens, digests)


def _digest(token_ids: Sequence[int]) -> str:
    raw = np.asarray(token_ids, dtype=np.int64).tobytes()
    return hashlib.blake2b(raw, digest_size=DIGEST_BYTES).hexdigest()


class Session:
    """What a process holds between two messages."""

    def __init__(self) -> None:
        self.arm: EngineArm | None = None

    def answer(self, message: dict[str, object]) -> Loaded | Answered:
        """Act on one message; raises whatever the engine raises."""
        fields = {name: value for name, value in message.items() if name != "op"}
        if message["op"] == "load":
            self.arm, loaded = load(ArmSpec(**fields))  # pyright: ignore[reportArgumentType]
            return loaded
        assert self.arm is not None, "load comes first"
        return run(self.arm, Round(**fields))  # pyright: ignore[reportArgumentType]


def _read_lines(inbox: "queue.Queue[str]") -> None:
    """Pass lines on; when the owner's end is closed nothing is worth finishing."""
    for line in sys.stdin:
        inbox.put(line)
    os._exit(0)


def main() -> None:
    """Answer messages until stdin ends."""
    # Libraries print to descriptor 1 as they please: it becomes stderr, answers keep the pipe.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    inbox: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read_lines, args=(inbox,), daemon=True).start()
    session = Session()
    while True:
        message = json.loads(inbox.get())
        try:
            answer = asdict(session.answer(message))
        except Exception as error:  # its owner decides what a failed arm means
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
