"""detectable_format: title, bullet points, highlights, sections, JSON, or one of three answers.

IFEval's own patterns take quadratic time on long runs of blanks or brackets; these match the same
answers in linear time (a test compares them with the originals).
"""

import json
import re

from rewards.ifeval.base import Arguments, Checker, Follows, closeness, count, expression, text

_STAR_BULLET = re.compile(r"^[^\S\n]*\*[^\*].*$", re.MULTILINE)
_DASH_BULLET = re.compile(r"^[^\S\n]*-.*$", re.MULTILINE)
_NEAR_BULLET = re.compile(r"^[^\S\n]*(?:[•·+–]|\d{1,2}[.)]\s)", re.MULTILINE)  # noqa: RUF001
_NEAR_BULLET_CREDIT = 0.5
_SINGLE_HIGHLIGHT = re.compile(r"\*([^\n*]*)\*")
_DOUBLE_HIGHLIGHT = re.compile(r"\*\*([^\n*]*)\*\*")
_NEAR_HIGHLIGHT = re.compile(r"\*|\b_[^_\n]+_\b|`[^`\n]+`")
_NEAR_HIGHLIGHT_CREDIT = 0.3
_NEAR_HEADING_CREDIT = 0.5
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
    bullets = closeness(_num_bullets(response), wanted)
    near = closeness(len(_NEAR_BULLET.findall(response)), wanted)
    lines = closeness(sum(bool(line.strip()) for line in response.split("\n")), wanted)
    return max(0.9 * bullets, _NEAR_BULLET_CREDIT * near, 0.2 * lines)


def _num_bullets(response: str) -> int:
    return len(_STAR_BULLET.findall(response)) + len(_DASH_BULLET.findall(response))


def _highlights(kwargs: Arguments) -> Follows:
    wanted = count(kwargs, "num_highlights")
    return lambda response: _num_highlights(response) >= wanted


def _highlights_progress(response: str, kwargs: Arguments) -> float:
    near = _NEAR_HIGHLIGHT_CREDIT if _NEAR_HIGHLIGHT.search(response) else 0.0
    return (_num_highlights(response) + near) / count(kwargs, "num_highlights")


def _num_highlights(response: str) -> int:
    """Single and double ones together: IFEval counts neither out of the other."""
    found = (*_SINGLE_HIGHLIGHT.findall(response), *_DOUBLE_HIGHLIGHT.findall(response))
    return sum(bool(highlight.strip()) for highlight in found)


def _sections(kwargs: Arguments) -> Follows:
    wanted, heading = count(kwargs, "num_sections"), _heading(kwargs)
    return lambda response: len(heading.split(response)) > wanted


def _sections_progress(response: str, kwargs: Arguments) -> float:
    """The share of headings that are there; in another case they count less."""
    wanted = count(kwargs, "num_sections")
    found = len(_heading(kwargs).findall(response))
    near = len(_heading(kwargs, re.IGNORECASE).findall(response))
    return (found + _NEAR_HEADING_CREDIT * min(near - found, wanted - found)) / wanted


def _heading(kwargs: Arguments, flags: int = 0) -> re.Pattern[str]:
    word = text(kwargs, "section_spliter").strip()
    return expression(_SECTIONS, "section_spliter", rf"\s?{word}\s?\d+\s?", flags)


def _json(_: Arguments) -> Follows:
    return _is_json


def _is_json(response: str) -> bool:
    try:
        json.loads(json_part(response))
    except (ValueError, RecursionError):  # nested too deep for the parser
        return False
    return True


def json_part(response: str) -> str:
    """A response without the code fence that may be around its JSON."""
    text = response.strip()
    for fence in _FENCES:
        text = text.removeprefix(fence)
    return text.removesuffix(_FENCE).strip()


def _json_progress(response: str, _: Arguments) -> float:
    """Brackets at both ends, and how much of the text is read before the first fault."""
    part = json_part(response)
    if not part.startswith(("{", "[")):
        return 0.1 if "{" in part else 0.0
    try:
        json.loads(part)
    except json.JSONDecodeError as error:
        return 0.2 + 0.2 * part.endswith(("}", "]")) + 0.6 * error.pos / len(part)
    except (ValueError, RecursionError):
        return 0.2
    return 1.0


def _answer(_: Arguments) -> Follows:
    return lambda response: any(answer in response for answer in ANSWERS)


def _answer_progress(response: str, _: Arguments) -> float:
    """The longest beginning of an answer that is there, in any case; a bare yes counts a little."""
    lower = response.lower()
    return max(0.9 * _beginning(lower, answer.lower()) for answer in ANSWERS)


def _beginning(response: str, answer: str) -> float:
    words = answer.split()
    num = next(n for n in range(len(words), -1, -1) if " ".join(words[:n]) in response)
    if num == 0 and re.search(rf"\b{words[-1].rstrip('.')}\b", response):
        return 0.2
    return num / len(words)


CHECKERS = (
    Checker("detectable_format:title", {}, _title, _title_progress),
    Checker(
        "detectable_format:number_bullet_lists",
        {"num_bullets": "count"},
        _bullets,
        _bullets_progress,
    ),
    Checker(
        "detectable_format:number_highlighted_sections",
        {"num_highlights": "count"},
        _highlights,
        _highlights_progress,
    ),
    Checker(
        _SECTIONS,
        {"section_spliter": "text", "num_sections": "count"},
        _sections,
        _sections_progress,
    ),
    Checker("detectable_format:json_format", {}, _json, _json_progress),
    Checker("detectable_format:constrained_response", {}, _answer, _answer_progress),
)
