"""GSM8K answers, extracted and compared as lm-evaluation-harness 0.4.13 does (task version 3.0).

Its two filters, verdict for verdict: `strict` is the first `#### n`, `flexible` the last number
anywhere; both are compared as text after `,`, `$` and one closing dot are dropped, so "18.00" is
not "18". GSM8K: Cobbe et al. 2021, arXiv 2110.14168.

The training reward pays a right number without the marker half, and the bare marker a little, so a
model that can count but not format still has a slope; only the strict verdict counts as passed.
"""

import re
from typing import NamedTuple

from rewards.base import Columns, Score
from rewards.columns import text_column

STRICT_REWARD = 1.0
FLEXIBLE_REWARD = 0.5
FORMAT_REWARD = 0.1

_STRICT = re.compile(r"#### (-?[0-9.,]+)")
_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_HAS_NUMBER = re.compile(r"[0-9]|[$.,]{2}")  # whether _FLEXIBLE matches, and cheaper
_MARKER = "#### "


class Extraction(NamedTuple):
    """What both filters find, as it stands in the completion; None if there is nothing."""

    strict: str | None
    flexible: str | None


def gsm8k_reward(completion: str, columns: Columns) -> Score:
    """Score one completion against the column `answer` (a number, or a solution ending `#### n`).

    Reasons: ok (strict), unmarked (the last number is right, no `#### n`), wrong, no_answer, empty.
    Raises DataError if the column is missing or not a text.
    """
    target = normalise(text_column(columns, "answer"))
    found = extract(completion)
    is_strict = found.strict is not None and normalise(found.strict) == target
    is_flexible = found.flexible is not None and normalise(found.flexible) == target
    if is_strict:
        reward = STRICT_REWARD
    elif is_flexible:
        reward = FLEXIBLE_REWARD
    else:
        reward = FORMAT_REWARD if found.strict is not None else 0.0
    return Score(
        reward=reward,
        passed=is_strict,
        metrics={"strict": float(is_strict), "flexible": float(is_flexible)},
        reason=_reason(completion, found, is_strict, is_flexible),
    )


def extract(completion: str) -> Extraction:
    """Apply both filters; the one extractor that training, evaluation and baselines use."""
    strict = _STRICT.search(completion)
    return Extraction(strict.group(1) if strict else None, _last_number(completion))


def normalise(number: str) -> str:
    """The text that is compared: without `,`, `$`, all up to the last marker, and one dot."""
    return number.replace(",", "").replace("$", "").rpartition(_MARKER)[2].removesuffix(".")


def _last_number(completion: str) -> str | None:
    # No match holds a blank, so the last word with a match has the last match: no need to read on.
    for word in reversed(completion.split()):
        if _HAS_NUMBER.search(word):
            return "".join(_FLEXIBLE.findall(word)[-1])  # one of its two groups is empty
    return None


def _reason(completion: str, found: Extraction, is_strict: bool, is_flexible: bool) -> str:
    if not completion.strip():
        return "empty"
    if is_strict:
        return "ok"
    if is_flexible and found.strict is None:
        return "unmarked"
    return "no_answer" if found.flexible is None else "wrong"
