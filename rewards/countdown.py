"""Countdown: an expression that makes the target of the numbers given (arXiv 2505.24760).

The answer is what stands in the last `<answer>...</answer>`, or after the last `####` on its line;
failing both, the last line counts for half. What follows one `=` is not looked at.
"""

import re

from kernels.errors import DataError
from rewards.arithmetic import evaluate
from rewards.base import Columns, JsonValue, Score
from rewards.columns import mapping_column, whole_number, whole_numbers

UNMARKED_REWARD = 0.5
FORMAT_REWARD = 0.1
_MARKER = "####"
_EDGES = " \t\r\n*`$."  # no parentheses: they belong to the expression
_ANSWER = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)


def countdown_reward(completion: str, columns: Columns, *, use_all: bool = True) -> Score:
    """Score one completion against the columns `numbers` and `target` (or reasoning_gym's `entry`).

    Each number may be used once, and with `use_all` must be. Reasons: ok, unmarked (right, not
    marked as the answer), wrong_value, wrong_numbers, not_arithmetic, empty. Raises DataError for a
    missing or wrong column.
    """
    row = _row(columns)
    numbers, target = whole_numbers(row, "numbers"), whole_number(row, "target")
    if not completion.strip():
        return Score(0.0, False, {"strict": 0.0, "flexible": 0.0}, "empty")
    marked = marked_expression(completion)
    text = marked or completion.strip().split("\n")[-1].strip(_EDGES)
    verdict = _verdict(text, numbers, target, use_all)
    is_right, is_strict = verdict == "ok", verdict == "ok" and bool(marked)
    if is_right:
        reward = 1.0 if is_strict else UNMARKED_REWARD
    else:
        reward = FORMAT_REWARD if marked and verdict != "not_arithmetic" else 0.0
    metrics = {"strict": float(is_strict), "flexible": float(is_right)}
    return Score(reward, is_strict, metrics, "unmarked" if is_right > is_strict else verdict)


def marked_expression(completion: str) -> str:
    """The expression that is marked as the answer; empty if none is."""
    tagged = _ANSWER.findall(completion)
    if tagged:
        return tagged[-1].strip(_EDGES)
    _, marker, rest = completion.rpartition(_MARKER)
    return rest.split("\n", 1)[0].strip(_EDGES) if marker else ""


def _verdict(text: str, numbers: list[int], target: int, use_all: bool) -> str:
    try:
        left_side, _, right_side = text.partition("=")
        value, used = evaluate(left_side if "=" not in right_side else text)
    except DataError:  # of the model's text, which is what is being judged
        return "not_arithmetic"
    left = list(numbers)
    for number in used:
        if number not in left:
            return "wrong_numbers"
        left.remove(number)
    if use_all and left:
        return "wrong_numbers"
    return "ok" if value == target else "wrong_value"


def _row(columns: Columns) -> Columns:
    if "numbers" in columns or "entry" not in columns:
        return columns
    metadata: JsonValue = mapping_column(columns, "entry").get("metadata")
    return metadata if isinstance(metadata, dict) else columns
