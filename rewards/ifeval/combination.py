"""combination: two different answers, or the request repeated before the answer."""

import re

from rewards.ifeval.base import Arguments, Checker, Follows, text

_SEPARATOR = "******"
_NEAR_SEPARATOR = re.compile(r"^[^\S\n]*(?:\*{3,}|-{3,}|_{3,}|={3,})[^\S\n]*$", re.MULTILINE)
_NEAR_CREDIT = 0.3
_SEPARATED_CREDIT = 0.5
_LATE_CREDIT = 0.5  # of the request's share that is repeated, but not at the start


def _two_responses(_: Arguments) -> Follows:
    return _has_two_responses


def _has_two_responses(response: str) -> bool:
    """Whether two that differ stand between separators; nothing needs to be before or after."""
    parts = [part.strip() for part in response.split(_SEPARATOR)]
    answers = [part for part in parts if part]
    return all(parts[1:-1]) and len(answers) == 2 and answers[0] != answers[1]


def _two_progress(response: str, _: Arguments) -> float:
    """Half for a separator, the rest the nearer the separated texts are to two that differ."""
    if _SEPARATOR not in response:
        return _NEAR_CREDIT if _NEAR_SEPARATOR.search(response) else 0.0
    answers = [part.strip() for part in response.split(_SEPARATOR) if part.strip()]
    num = len(set(answers))
    return _SEPARATED_CREDIT + (1 - _SEPARATED_CREDIT) * (0.0 if num < 2 else 2 / (num + 1))


def _repeat_prompt(kwargs: Arguments) -> Follows:
    request = text(kwargs, "prompt_to_repeat").strip().lower()
    return lambda response: response.strip().lower().startswith(request)


def _repeat_progress(response: str, kwargs: Arguments) -> float:
    request = text(kwargs, "prompt_to_repeat").strip().lower()
    given = response.strip().lower()
    share = num_repeated(given, request) / len(request)
    return max(share, _LATE_CREDIT * _longest_beginning(given, request) / len(request))


def num_repeated(given: str, request: str) -> int:
    """How many characters of the request the text begins with."""
    pairs = enumerate(zip(given, request, strict=False))
    shorter = min(len(given), len(request))
    return next((index for index, (one, other) in pairs if one != other), shorter)


def _longest_beginning(given: str, request: str) -> int:
    """How many characters of the request, from its start, stand anywhere in the text."""
    low, high = 0, len(request)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if request[:middle] in given else (low, middle - 1)
    return low


CHECKERS = (
    Checker("combination:two_responses", {}, _two_responses, _two_progress),
    Checker(
        "combination:repeat_prompt",
        {"prompt_to_repeat": "text"},
        _repeat_prompt,
        _repeat_progress,
    ),
)
