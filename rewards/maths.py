r"""Answers to mathematics, compared as mathematics by the library math-verify (SymPy below it).

`\frac{1}{2}`, 0.5 and 50/100 are the same answer. The last boxed answer, `\boxed{...}`, is the
strict one; where there is no box, what math-verify finds in the text counts for half. Of an answer
that is an equation math-verify compares the right side alone, so here `x = 18` and `f(2) = 18` pass
for 18, but of `17 = 18` and `15 + 3 = 18` each side must be right. The library may think
about one answer for ever, so this reward runs in a process that can be killed
(`rewards.processes`). Its own alarm is off: that one turns a timeout into a wrong answer.
"""

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, TypeAlias, cast

from kernels.errors import DataError
from rewards.base import Columns, Score
from rewards.columns import text_column
from rewards.equations import split_outside, unnamed_sides

UNBOXED_REWARD = 0.5
FORMAT_REWARD = 0.1
_BOX = "\\boxed{"

Parsed: TypeAlias = list[object]


class _Library(NamedTuple):
    parse: Callable[[str], Parsed]
    is_same: Callable[[Parsed, Parsed], bool]  # the target first


def math_reward(completion: str, columns: Columns) -> Score:
    r"""Score one completion against the column `answer`: LaTeX or plain, with or without a box.

    Reasons: ok (boxed), unboxed (right, no box), wrong, unreadable (the box holds no mathematics),
    no_answer, empty. Raises DataError for a missing column or an answer that is no mathematics, and
    whatever math-verify raises about an answer that it cannot compare.
    """
    answer = text_column(columns, "answer")
    if not completion.strip():
        return _score(0.0, "empty")
    target, boxed = _target(answer), last_box(completion)
    if boxed is not None:
        found = _library().parse(f"{_BOX}{boxed}}}")
        if not found:
            return _score(0.0, "unreadable")
        is_right = _is_right(target, found)
        return _score(1.0, "ok") if is_right else _score(FORMAT_REWARD, "wrong")
    found = _library().parse(completion)
    if not found:
        return _score(0.0, "no_answer")
    is_right = _is_right(target, found)
    return _score(UNBOXED_REWARD, "unboxed") if is_right else _score(0.0, "wrong")


def _is_right(target: Parsed, found: Parsed) -> bool:
    """Whether an answer is the target, and so is every side of its equations that names nothing; a
    target that is an equation itself is left to math-verify.
    """
    if not _library().is_same(target, found):
        return False
    text = _source(found)
    if "=" not in text or "=" in _source(target):
        return True
    sides = [side for part in split_outside(text, ",") for side in unnamed_sides(part)]
    return all(_library().is_same(target, _library().parse(f"{_BOX}{side}}}")) for side in sides)


def _source(parsed: Parsed) -> str:
    """What math-verify read: it stands last, as text."""
    return parsed[-1] if isinstance(parsed[-1], str) else ""


def last_box(text: str) -> str | None:
    r"""What stands in the last `\boxed{...}` whose braces are balanced; None if there is none."""
    start = text.rfind(_BOX)
    while start >= 0:
        depth = 0
        for place in range(start + len(_BOX) - 1, len(text)):
            depth += (text[place] == "{") - (text[place] == "}")
            if depth == 0:
                return text[start + len(_BOX) : place]
        start = text.rfind(_BOX, 0, start)
    return None


def _score(reward: float, reason: str) -> Score:
    is_right = reason in ("ok", "unboxed")
    metrics = {"strict": float(reason == "ok"), "flexible": float(is_right)}
    return Score(reward, reason == "ok", metrics, reason)


@lru_cache(4096)
def _target(answer: str) -> Parsed:
    boxed = last_box(answer)
    if boxed is None and "$" in answer:
        text = answer  # a solution is read as a completion is
    else:
        text = f"{_BOX}{answer if boxed is None else boxed}}}"
    target = _library().parse(text)
    if not target:
        raise DataError(f"column answer={answer!r:.200} is no mathematics; correct the row")
    return target


@lru_cache(1)
def _library() -> _Library:
    # Imported on first use: it takes a second and no other reward needs it.
    import math_verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns about the alarm being off

    def parse(text: str) -> Parsed:
        found = math_verify.parse(text, parsing_timeout=cast(int, None), raise_on_error=True)
        return cast(Parsed, found)

    def is_same(target: Parsed, found: Parsed) -> bool:
        return math_verify.verify(
            cast(list, target), cast(list, found), timeout_seconds=None, raise_on_error=True
        )

    return _Library(parse, is_same)
