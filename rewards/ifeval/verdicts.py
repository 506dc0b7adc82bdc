"""IFEval's four figures: the strict and the loose verdict on each instruction of a prompt.

Loose forgives an opening or a closing line and Markdown's asterisks: an instruction is followed if
any of eight variants of the response follows it, the response itself among them, so loose is never
below strict. Prompt level: all instructions of a prompt; instruction level: each by itself.
"""

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from kernels.errors import DataError
from rewards.base import JsonValue
from rewards.ifeval import get_checker
from rewards.ifeval.base import Arguments, Follows
from rewards.ifeval.detection import detect_language

_NUM_KEPT = 1 << 14
_ENGLISH = "en"


class Verdicts(NamedTuple):
    """Of one response, in the order of the prompt's instructions."""

    strict: tuple[bool, ...]
    loose: tuple[bool, ...]


class Accuracies(NamedTuple):
    """Of many responses, each from 0 to 1."""

    prompt_strict: float
    instruction_strict: float
    prompt_loose: float
    instruction_loose: float


def judge(response: str, instruction_ids: Sequence[str], kwargs: Sequence[JsonValue]) -> Verdicts:
    """The verdicts on a response; `kwargs` holds a mapping of arguments for each instruction.

    Raises ConfigError for an unknown instruction id, DataError for arguments that do not fit it.
    """
    checks = build_checks(instruction_ids, kwargs)
    is_blank = not response.strip()
    strict = tuple(not is_blank and follows(response) for follows in checks)
    if all(strict) or is_blank:
        return Verdicts(strict, strict)
    variants = loose_variants(response)
    loose = tuple(
        is_followed or any(map(follows, variants))
        for is_followed, follows in zip(strict, checks, strict=True)
    )
    return Verdicts(strict, loose)


def progresses(
    response: str, instruction_ids: Sequence[str], kwargs: Sequence[JsonValue]
) -> tuple[float, ...]:
    """How near each instruction is to being followed, in [0, 1]; 1.0 exactly where it strictly is.

    Raises as `judge` does.
    """
    checks = build_checks(instruction_ids, kwargs)
    if not response.strip():
        return (0.0,) * len(checks)
    rows = zip(checks, instruction_ids, kwargs, strict=True)
    return tuple(
        1.0
        if follows(response)
        else get_checker(name).progress_of_failure(
            response, arguments if isinstance(arguments, dict) else {}
        )
        for follows, name, arguments in rows
    )


def accuracies(verdicts: Iterable[Verdicts]) -> Accuracies:
    """The four figures over responses; DataError if there are none."""
    rows = list(verdicts)
    if not rows:
        raise DataError("there are no IFEval responses to take the mean of; score at least one")
    return Accuracies(
        prompt_strict=_mean(all(row.strict) for row in rows),
        instruction_strict=_mean(verdict for row in rows for verdict in row.strict),
        prompt_loose=_mean(all(row.loose) for row in rows),
        instruction_loose=_mean(verdict for row in rows for verdict in row.loose),
    )


def loose_variants(response: str) -> list[str]:
    """The variants that the loose verdict allows beside the response; none twice, none blank."""
    lines = response.split("\n")
    cut = ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    variants = dict.fromkeys(
        [response, *cut, *(text.replace("*", "") for text in (response, *cut))]
    )
    del variants[response]
    return [variant for variant in variants if variant.strip()]


def build_checks(
    instruction_ids: Sequence[str], kwargs: Sequence[JsonValue]
) -> tuple[Follows, ...]:
    """The checks of one prompt, built once for its arguments; raises as `judge` does."""
    if len(instruction_ids) != len(kwargs) or not kwargs:
        raise DataError(
            f"{len(instruction_ids)} instruction id(s) ({', '.join(instruction_ids)}) and "
            f"{len(kwargs)} kwargs; give one or more, and a mapping of arguments for each"
        )
    return tuple(
        _kept_check(instruction_id, json.dumps(arguments, sort_keys=True))
        for instruction_id, arguments in zip(instruction_ids, kwargs, strict=True)
    )


@lru_cache(_NUM_KEPT)
def _kept_check(instruction_id: str, arguments: str) -> Follows:
    return build_check(instruction_id, json.loads(arguments))


def build_check(instruction_id: str, arguments: Arguments) -> Follows:
    """IFEval's check of a response that is not blank; raises as `judge` does."""
    checker = get_checker(instruction_id)
    if not isinstance(arguments, dict):
        raise DataError(
            f"{instruction_id}: its arguments are {arguments!r:.60}, not a mapping; it takes "
            f"{', '.join(checker.arguments) or 'none'}: correct the row's kwargs"
        )
    follows = checker.build(arguments)
    if not checker.is_english:
        return follows
    return lambda response: follows(response) and detect_language(response) in (_ENGLISH, None)


def _mean(verdicts: Iterable[bool]) -> float:
    values = list(verdicts)
    return sum(values) / len(values)
