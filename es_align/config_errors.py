"""What is wrong with a configuration, in words: key, value, limit, next step, in one paragraph."""

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, get_args

from pydantic import ValidationError

from es_align.config import Config
from es_align.config_search import Section

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

SIMILARITY = 0.6  # difflib's own default: below it a guess is more often wrong than right


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word most like this one, if any is alike."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=SIMILARITY)
    return matches[0] if matches else None


def describe_errors(error: ValidationError, root: type[Section] = Config) -> str:
    """Every mistake pydantic found in settings of this kind, each one sentence or two."""
    sentences = [_describe(detail, root) for detail in error.errors(include_url=False)]
    return " ".join(s if s.endswith("?") else f"{s}." for s in sentences)


def known_keys(section: type[Section] = Config, prefix: str = "") -> Iterator[str]:
    """Dotted names of all settings; sections themselves are none."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from known_keys(field.annotation, f"{prefix}{name}.")
            continue
        yield f"{prefix}{name}"
        for item in get_args(field.annotation):  # of a list of sections
            if isinstance(item, type) and issubclass(item, Section):
                yield from known_keys(item, f"{prefix}{name}.")


def suggest_key(key: str, root: type[Section] = Config) -> str:
    """What an unknown dotted key may have meant; a right name in the wrong section is found too."""
    names = {known: known.rpartition(".")[2] for known in known_keys(root)}
    section, _, last = key.rpartition(".")
    siblings = {known: name for known, name in names.items() if known.rpartition(".")[0] == section}
    sections = {known.partition(".")[0]: known.partition(".")[0] for known in names if "." in known}
    for candidates in (siblings, sections if not section else {}, names):
        word = nearest(last, candidates.values())
        if word is not None:
            return f"did you mean {next(k for k, name in candidates.items() if name == word)}?"
    place = f"{section} has" if siblings and section else "there are"
    listed = [*siblings.values()] if section else [*siblings.values(), *sections]
    return f"{place}: {', '.join(listed or sections)}"


def _describe(detail: "ErrorDetails", root: type[Section]) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    value, limits = detail["input"], detail.get("ctx", {})
    said = f"{key}={value!r}"
    match detail["type"]:
        case "extra_forbidden":
            unnumbered = re.sub(r"\.[0-9]+(?=\.)", "", key)
            return f"{key} is no setting; {suggest_key(unnumbered, root)}"
        case "greater_than_equal":
            return f"{said} must be at least {limits['ge']:g}; use {limits['ge']:g} or more"
        case "greater_than":
            return f"{said} must be above {limits['gt']:g}; use a number above it"
        case "less_than_equal":
            return f"{said} must be at most {limits['le']:g}; use {limits['le']:g} or less"
        case "less_than":
            return f"{said} must be below {limits['lt']:g}; use a number below it"
        case "literal_error":
            expected = str(limits["expected"])
            guess = nearest(str(value), expected.replace("'", "").replace(" or ", ", ").split(", "))
            return f"{said} must be {expected}" + (f"; did you mean {guess}?" if guess else "")
        case "value_error":
            return f"{said} {limits['error']}"
        case "int_parsing" | "int_type" | "int_from_float":
            return f"{said} must be a whole number; write it without quotes or fraction"
        case "float_parsing" | "float_type":
            return f"{said} must be a number; write it without quotes or unit"
        case "finite_number":
            return f"{said} must be finite; use an ordinary number"
        case "string_type":
            return f"{said} must be text; put it in quotes"
        case "model_type" | "model_attributes_type":
            return f"{said} must be a section; write its settings indented below `{key}:`"
        case "tuple_type":
            return f"{said} must be a list; write [{value}]"
        case "too_short":
            return f"{key} is empty; name at least {limits['min_length']}, or leave it out"
        case _:
            return f"{said}: {detail['msg']}"
