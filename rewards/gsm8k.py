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


class Verdict(NamedTuple):
    """What one filter says of a completion."""

    passed: bool
    reason: str  # ok, wrong, empty; strict: no_marker; flexible: no_number


class Verdicts(NamedTuple):
    """What both filters say of a completion."""

    strict: Verdict
    flexible: Verdict


def gsm8k_reward(completion: str, columns: Columns) -> Score:
    """Score one completion against the column `answer` (a number, or a solution ending `#### n`).

    Reasons: ok (strict), unmarked (the last number is right, no `#### n`), wrong, no_answer, empty.
    Raises DataError if the column is missing or not a text.
    """
    found = extract(completion)
    strict, flexible = judge(completion, found, normalise(text_column(columns, "answer")))
    if strict.passed:
        reward = STRICT_REWARD
    elif flexible.passed:
        reward = FLEXIBLE_REWARD
    else:
        reward = FORMAT_REWARD if found.strict is not None else 0.0
    return Score(
        reward=reward,
        passed=strict.passed,
        metrics={"strict": float(strict.passed), "flexible": float(flexible.passed)},
        reason=_reason(strict, flexible),
    )


def judge(completion: str, found: Extraction, target: str) -> Verdicts:
    """Both filters' verdicts on what `extract` found; `target` as `normalise` gives it."""
    empty = "" if completion.strip() else "empty"
    return Verdicts(
        _verdict(found.strict, target, empty or "no_marker"),
        _verdict(found.flexible, target, empty or "no_number"),
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


def _verdict(found: str | None, target: str, nothing: str) -> Verdict:
    if found is None:
        return Verdict(False, nothing)
    is_right = normalise(found) == target
    return Verdict(is_right, "ok" if is_right else "wrong")


def _reason(strict: Verdict, flexible: Verdict) -> str:
    if flexible.reason == "empty" or strict.passed:
        return strict.reason
    if flexible.passed and strict.reason == "no_marker":
        return "unmarked"
    return "no_answer" if flexible.reason == "no_number" else "wrong"
