"""What a reward process runs: load one reward, then score calls until the parent is gone.

One line of ASCII JSON each way over a socket; the standard streams belong to the reward. A watchdog
in C ends the process some time after the limit even if nobody is left to kill it and Python never
gets to run again.
"""

import ctypes
import faulthandler
import functools
import json
import os
import resource
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import BinaryIO, cast

from kernels.errors import EsAlignError
from rewards.base import Prompted, Score, score_batch
from rewards.custom import CustomReward, Signature, as_items
from rewards.registry import WARM_UP, get_reward
from rewards.specs import RewardSpec

GRACE_S = 5.0  # beyond the limit: the parent kills at the limit
SHIPPED_MEMORY_BYTES = 8 * 2**30  # address space; SymPy can be made to compute huge numbers
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def main(fd: int, load_limit_s: float) -> None:
    """Serve the parent on the socket of this number."""
    _adopt_orphans()
    stream = cast(BinaryIO, socket.socket(fileno=fd).makefile("rwb"))
    with open(os.devnull, "w") as nowhere:
        spec = RewardSpec.from_json(stream.readline().decode("ascii"))
        faulthandler.dump_traceback_later(load_limit_s + GRACE_S, exit=True, file=nowhere)
        try:
            score, signature = _load(spec)
        except BaseException as error:  # told to the parent, which raises it as a ConfigError
            _send(stream, {"failed": _told(spec, error)})
            return
        faulthandler.cancel_dump_traceback_later()
        _send(stream, {"required": signature.required})
        for line in stream:
            limit_s = spec.time_limit_s + GRACE_S
            faulthandler.dump_traceback_later(limit_s, exit=True, file=nowhere)
            scores = score(as_items(json.loads(line)))
            faulthandler.cancel_dump_traceback_later()
            _send(stream, scores)


def _adopt_orphans() -> None:
    """Stay the ancestor of all that a reward starts, also where what is between has ended: the
    parent finds by descent what it kills.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _load(spec: RewardSpec) -> tuple[Callable[[Sequence[Prompted]], list[Score]], Signature]:
    if not spec.is_shipped:
        custom = CustomReward(spec)
        return custom.score, custom.signature
    resource.setrlimit(resource.RLIMIT_AS, (SHIPPED_MEMORY_BYTES, SHIPPED_MEMORY_BYTES))
    if spec.name in WARM_UP:
        get_reward(spec.name)(*WARM_UP[spec.name])
    reward = functools.partial(get_reward(spec.name), **spec.options)

    def score(items: Sequence[Prompted]) -> list[Score]:
        texts, rows = [item.completion for item in items], [item.columns for item in items]
        return score_batch(reward, texts, rows)

    return score, Signature((), None)


def _told(spec: RewardSpec, error: BaseException) -> str:
    if isinstance(error, EsAlignError):
        return str(error)
    # Where the file itself is at fault: its line is what helps.
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if spec.file and frame.filename == spec.file.path]
    line = error.lineno if isinstance(error, SyntaxError) else (lines[-1] if lines else None)
    where = f", line {line}" if line is not None else ""
    said = " ".join(str(error).split())
    return (
        f"reward={spec.name} cannot be loaded: {type(error).__name__}{where}: {said:.300}; "
        "correct the file, or install what it imports"
    )


def _send(stream: BinaryIO, message: object) -> None:
    stream.write(json.dumps(message).encode("ascii") + b"\n")
    stream.flush()
