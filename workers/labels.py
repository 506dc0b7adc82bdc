"""Which Ray nodes a label selector means, in Ray's own notation: `H100`, `!H100`, `in(A100, H100)`
or `!in(A100, H100)`.
"""

import re
from collections.abc import Mapping

_VALUE = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
SELECTOR = re.compile(rf"(!?)(?:({_VALUE})|in\(({_VALUE}(?:, ?{_VALUE})*)\))")


def is_selector(text: str) -> bool:
    """Whether Ray reads it."""
    return SELECTOR.fullmatch(text) is not None


def as_ray_reads(selector: Mapping[str, str]) -> dict[str, str]:
    """The same without spaces: Ray takes one behind a comma for a part of the value, and then finds
    no node."""
    return {name: wanted.replace(" ", "") for name, wanted in selector.items()}


def is_selected(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Whether a node with these labels is meant; every condition must hold, and a label that is
    not there is none of the values.
    """
    return all(_holds(labels.get(name), wanted) for name, wanted in selector.items())


def _holds(value: str | None, wanted: str) -> bool:
    read = SELECTOR.fullmatch(wanted)
    assert read is not None, "checked with the configuration"
    negated, one, several = read.groups()
    values = re.split(", ?", several) if one is None else [one]
    return (value in values) != bool(negated)
