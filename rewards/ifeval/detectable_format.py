"""detectable_format: title, bullet points, highlights, sections, JSON, or one of three answers.

IFEval's own patterns take quadratic time on long runs of blanks or brackets; these match the same
answers in linear time (a test compares them with the originals).
"""

import json
import re

from rewards.ifeval.base import Arguments, Checker, Follows, count, expression, text

_STAR_BULLET = re.compile(r"^[^\S\n]*\*[^\*].*$", re.MULTILINE)
_DASH_BULLET = re.compile(r"^[^\S\n]*-.*$", re.MULTILINE)
_NEAR_BULLET = re.compile(r"^[^\S\n]*(?:[•·+–]|\d{1,2}[.)]\s)", re.MULTILINE)  # noqa: RUF001
_NEAR_BULLET_CREDIT = 0.5
_SINGLE_HIGHLIGHT = re.compile(r"\*([^\n*]*)\*")
_DOUBLE_HIGHLIGHT = re.compile(r"\*\*([^\n*]*)\*\*")
_FENCE = "```"
_FENCES = ("```json", "```Json", "```JSON", _FENCE)
_SECTIONS = "detectable_format:multiple_sections"
ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def _title(_: Arguments) -> Follows:
    return _has_title


def _has_title(response: str) -> bool:
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


def _bullets(kwargs: Arguments) -> Follows:
    wanted = count(kwargs, "num_bullets")
    return lambda response: _num_bullets(response) == wanted


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


def _highlights(kwargs: Arguments) -> Follows:
    wanted = count(kwargs, "num_highlights")
    return lambda response: _num_highlights(response) >= wanted


def _num_highlights(response: str) -> int:
    """Single and double ones together: IFEval counts neither out of the other."""
    found = (*_SINGLE_HIGHLIGHT.findall(response), *_DOUBLE_HIGHLIGHT.findall(response))
    return sum(bool(highlight.strip()) for highlight in found)


def _sections(kwargs: Arguments) -> Follows:
    wanted, word = count(kwargs, "num_sections"), text(kwargs, "section_spliter").strip()
    heading = expression(_SECTIONS, "section_spliter", rf"\s?{word}\s?\d+\s?")
    return lambda response: len(heading.split(response)) > wanted


def _json(_: Arguments) -> Follows:
    return _is_json


def _is_json(response: str) -> bool:
    text = response.strip()
    for fence in _FENCES:
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix(_FENCE).strip())
    except (ValueError, RecursionError):  # nested too deep for the parser
        return False
    return True


def _answer(_: Arguments) -> Follows:
    return lambda response: any(answer in response for answer in ANSWERS)


CHECKERS = (
    Checker("detectable_format:title", {}, _title, _title_progress),
    Checker(
        "detectable_format:number_bullet_lists",
        {"num_bullets": "count"},
        _bullets,
        _bullets_progress,
    ),
    Checker(
        "detectable_format:number_highlighted_sections", {"num_highlights": "count"}, _highlights
    ),
    Checker(_SECTIONS, {"section_spliter": "text", "num_sections": "count"}, _sections),
    Checker("detectable_format:json_format", {}, _json),
    Checker("detectable_format:constrained_response", {}, _answer),
)
