"""combination: two different answers, or the request repeated before the answer."""

from rewards.ifeval.base import Arguments, Checker, Follows, text

_SEPARATOR = "******"


def _two_responses(_: Arguments) -> Follows:
    return _has_two_responses


def _has_two_responses(response: str) -> bool:
    """Whether two that differ stand between separators; nothing needs to be before or after."""
    parts = [part.strip() for part in response.split(_SEPARATOR)]
    answers = [part for part in parts if part]
    return all(parts[1:-1]) and len(answers) == 2 and answers[0] != answers[1]


def _repeat_prompt(kwargs: Arguments) -> Follows:
    request = text(kwargs, "prompt_to_repeat").strip().lower()
    return lambda response: response.strip().lower().startswith(request)


CHECKERS = (
    Checker("combination:two_responses", {}, _two_responses),
    Checker("combination:repeat_prompt", {"prompt_to_repeat": "text"}, _repeat_prompt),
)
