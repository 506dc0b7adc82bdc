"""detectable_format: a title in double angular brackets, or an exact number of bullet points.

IFEval's own patterns take quadratic time on long runs of blanks or brackets; these match the same
answers in linear time (a test compares them with the originals).
"""

import re

from rewards.ifeval.base import Arguments, Checker, count

_STAR_BULLET = re.compile(r"^[^\S\n]*\*[^\*].*$", re.MULTILINE)
_DASH_BULLET = re.compile(r"^[^\S\n]*-.*$", re.MULTILINE)
_NEAR_BULLET = re.compile(r"^[^\S\n]*(?:[•·+–]|\d{1,2}[.)]\s)", re.MULTILINE)  # noqa: RUF001
_NEAR_BULLET_CREDIT = 0.5


def _has_title(response: str, _: Arguments) -> bool:
    for line in response.split("\n"):
        start, end = line.find("<<"), line.rfind(">>")
        # IFEval's `<<[^\n]+>>` is greedy: a line has one match, first opening to last closing.
        if start >= 0 and start + 3 <= end and line[start:end].lstrip("<").rstrip(">").strip():
            return True
    return False


def _title_progress(response: str, _: Arguments) -> float:
    return 0.45 * _bracket_credit(response, "<") + 0.45 * _bracket_credit(response, ">")


def _bracket_credit(response: str, bracket: str) -> float:
    if bracket * 2 in response:
        return 1.0
    return 0.5 if bracket in response else 0.0


def _has_bullets(response: str, kwargs: Arguments) -> bool:
    return _num_bullets(response) == count(kwargs, "num_bullets")


def _bullets_progress(response: str, kwargs: Arguments) -> float:
    wanted = count(kwargs, "num_bullets")
    bullets = _closeness(_num_bullets(response), wanted)
    near = _closeness(len(_NEAR_BULLET.findall(response)), wanted)
    lines = _closeness(sum(bool(line.strip()) for line in response.split("\n")), wanted)
    return max(0.9 * bullets, _NEAR_BULLET_CREDIT * near, 0.2 * lines)


def _num_bullets(response: str) -> int:
    return len(_STAR_BULLET.findall(response)) + len(_DASH_BULLET.findall(response))


def _closeness(number: int, wanted: int) -> float:
    return 1 - abs(number - wanted) / max(number, wanted)


CHECKERS = (
    Checker("detectable_format:title", {}, _has_title, _title_progress),
    Checker(
        "detectable_format:number_bullet_lists",
        {"num_bullets": "count"},
        _has_bullets,
        _bullets_progress,
    ),
)
