"""The sides of an equation in LaTeX, and which of them are only names, as in `f(x) = 3`."""

import re

_TEXT = re.compile(
    r"\\(?:text|textbf|textit|mathrm|mathbf|mathcal|mathbb|operatorname|mbox|overline|vec|hat|bar)"
    r"\s*\{[^{}]*\}"
)
_SUBSCRIPT = re.compile(r"_\s*(?:\{[^{}]*\}|\\?\w)")
_ARGUMENTS = re.compile(r"\([^()]*\)")
_DECORATION = re.compile(r"\\(?:left|right|quad|[,;! $])|[{}|$'’\s]")  # noqa: RUF001
_NAME = re.compile(r"(?:\\[A-Za-z]+|[A-Za-z])+")
# Commands that compute something or are a number.
_NO_NAME = re.compile(
    r"\\(?:[dt]?frac|sqrt|[dt]?binom|cdot|times|div|pm|mp|pi|infty|sum|prod|int|lim)(?![A-Za-z])"
)
_RELATIONS = "<>!:="  # beside an equals sign they make another sign of it


def unnamed_sides(text: str) -> list[str]:
    """The sides of an equation without the names that it begins with; none of them if no more than
    one is left, or if the text is no equation.
    """
    sides = split_outside(text, "=")
    while sides and is_name(sides[0]):
        sides = sides[1:]
    return sides if len(sides) > 1 else []


def is_name(text: str) -> bool:
    """Whether a text is a variable, a word, a function of something, or a tuple of these."""
    stripped = text.strip()
    if stripped.startswith("(") and stripped.endswith(")"):
        return all(map(is_name, split_outside(stripped[1:-1], ",")))
    bare = _SUBSCRIPT.sub("", _TEXT.sub("X", stripped.replace("\\left", "").replace("\\right", "")))
    bare = _DECORATION.sub("", _ARGUMENTS.sub("", bare))
    return bool(_NAME.fullmatch(bare)) and not _NO_NAME.search(text)


def split_outside(text: str, mark: str) -> list[str]:
    """The parts of a text between marks that stand in no bracket; one part if there is none."""
    parts, start, depth = [], 0, 0
    for place, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        is_mark = character == mark and depth <= 0
        if is_mark and not _is_other_relation(text, place, mark):
            parts.append(text[start:place])
            start = place + 1
    return [*parts, text[start:]]


def _is_other_relation(text: str, place: int, mark: str) -> bool:
    beside = text[max(place - 1, 0) : place] + text[place + 1 : place + 2]
    return mark == "=" and any(character in _RELATIONS for character in beside)
