"""What an IFEval checker is: a strict verdict and a dense progress towards it.

`follows` has the meaning of IFEval's strict check (Zhou et al. 2023, arXiv 2311.07911): an empty
response follows nothing. `progress` gives evolution a slope where the verdict is flat; it is 1.0
exactly when `follows` is true, which this class guarantees whatever a family's own measure says.
A measure reads what is nearest to the verdict's own quantity: counts against their bound, a mark
that is there in the wrong place, a share of a fixed text.

Left out: language detection. IFEval also asks that lower- and uppercase answers be detected as
English. Such a kind is marked `is_english`, and `rewards.ifeval.verdicts` adds the detection; here
the case alone counts, since the short answers of the `instructions` task are often misdetected.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from kernels.errors import DataError
from rewards.base import JsonValue

Arguments: TypeAlias = Mapping[str, JsonValue]
ArgumentKind = Literal["text", "texts", "count", "relation", "character"]
Follows: TypeAlias = Callable[[str], bool]  # a response that is not blank to its verdict

MAX_PARTIAL_PROGRESS = 0.99
LESS_THAN, AT_LEAST = "less than", "at least"


@dataclass(frozen=True, slots=True)
class Checker:
    """One instruction kind; made at import, and free of state."""

    instruction_id: str
    arguments: Mapping[str, ArgumentKind]
    make: Callable[[Arguments], Follows]  # of arguments that `check_arguments` accepts
    partial_progress: Callable[[str, Arguments], float]  # [0, 1], if not followed
    is_english: bool = False  # whether IFEval asks for English as well

    def build(self, kwargs: Arguments) -> Follows:
        """The check with its arguments, for any number of responses; DataError as for `follows`."""
        self.check_arguments(kwargs)
        return self.make(kwargs)

    def follows(self, response: str, **kwargs: JsonValue) -> bool:
        """Whether the instruction is followed; DataError for a missing or wrong argument."""
        is_followed = self.build(kwargs)
        return bool(response.strip()) and is_followed(response)

    def progress(self, response: str, **kwargs: JsonValue) -> float:
        """How near the response is, in [0, 1]; 1.0 exactly when `follows`. DataError as there."""
        is_followed = self.build(kwargs)
        if not response.strip():
            return 0.0
        return 1.0 if is_followed(response) else self.progress_of_failure(response, kwargs)

    def progress_of_failure(self, response: str, kwargs: Arguments) -> float:
        """How near a response is that does not follow, below 1.0; the arguments are accepted."""
        return min(MAX_PARTIAL_PROGRESS, max(0.0, self.partial_progress(response, kwargs)))

    def check_arguments(self, kwargs: Arguments) -> None:
        """Raise DataError unless exactly the declared arguments are there, each of its kind.

        Unused arguments may be there as None: data sets with a column an argument store them so.
        """
        for name, kind in self.arguments.items():
            value = kwargs.get(name)
            if value is None:
                raise DataError(
                    f"{self.instruction_id} needs the argument {name!r}, which is missing; it "
                    f"takes {', '.join(self.arguments)}: add it to the row's kwargs"
                )
            if not _is_kind(value, kind):
                raise DataError(
                    f"{self.instruction_id}: argument {name}={value!r} must be {_KINDS[kind]}; "
                    f"correct the row's kwargs"
                )
        for name, value in kwargs.items():
            if value is not None and name not in self.arguments:
                raise DataError(
                    f"{self.instruction_id} has no argument {name!r} (given {value!r}); it takes "
                    f"{', '.join(self.arguments) or 'none'}: remove it from the row's kwargs"
                )


_KINDS: Mapping[ArgumentKind, str] = {
    "text": "a text that is not blank",
    "texts": "a list of one or more texts that are not blank",
    "count": "a whole number, 1 or more",
    "relation": f"{LESS_THAN!r} or {AT_LEAST!r}",
    "character": "one character that is not blank",
}


def _is_kind(value: JsonValue, kind: ArgumentKind) -> bool:
    match kind:
        case "text":
            return isinstance(value, str) and bool(value.strip())
        case "texts":
            return (
                isinstance(value, list)
                and bool(value)
                and all(isinstance(item, str) and item.strip() for item in value)
            )
        case "count":
            return (
                isinstance(value, int | float)
                and not isinstance(value, bool)
                and math.isfinite(value)
                and value >= 1
                and value == int(value)
            )
        case "relation":
            return value in (LESS_THAN, AT_LEAST)
        case "character":
            return isinstance(value, str) and len(value) == 1 and bool(value.strip())


def text(kwargs: Arguments, name: str) -> str:
    """A text argument that `check_arguments` has already accepted."""
    return str(kwargs[name])


def texts(kwargs: Arguments, name: str) -> tuple[str, ...]:
    """A list-of-texts argument that `check_arguments` has already accepted."""
    value = kwargs[name]
    return tuple(str(item) for item in value) if isinstance(value, list) else ()


def count(kwargs: Arguments, name: str) -> int:
    """A count argument that `check_arguments` has already accepted."""
    value = kwargs[name]
    return int(value) if isinstance(value, int | float) else 0


def holds(kwargs: Arguments, relation: str, limit: str) -> Callable[[int], bool]:
    """Whether a number is less than the limit or at least that, by two accepted arguments."""
    number = count(kwargs, limit)
    if kwargs[relation] == LESS_THAN:
        return lambda found: found < number
    return lambda found: found >= number


def bound_progress(found: int, relation: JsonValue, bound: int) -> float:
    """How near a number that breaks a bound is to it: 1.0 at the bound, less the further away."""
    return bound / (found + 1) if relation == LESS_THAN else found / bound


def closeness(number: int, wanted: int) -> float:
    """1.0 if the two are equal, else less the more they differ; one of them is above 0."""
    return 1 - abs(number - wanted) / max(number, wanted)


def expression(instruction_id: str, name: str, source: str, flags: int = 0) -> re.Pattern[str]:
    """Compile an argument that IFEval reads as a regular expression; DataError if it is none."""
    try:
        return re.compile(source, flags)
    except re.error as error:
        raise DataError(
            f"{instruction_id}: {name} {source!r} is not a valid regular expression ({error}); "
            f"escape it in the row's kwargs"
        ) from error
