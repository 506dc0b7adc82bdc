"""What an IFEval checker is: a strict verdict and a dense progress towards it.

`follows` has the meaning of IFEval's strict check (Zhou et al. 2023, arXiv 2311.07911): an empty
response follows nothing. `progress` gives evolution a slope where the verdict is flat; it is 1.0
exactly when `follows` is true, which this class guarantees whatever a family's own measure says.

Left out: language detection. IFEval also asks that lower- and uppercase answers be detected as
English; langdetect draws at random and is not used here, so those two check the case alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from kernels.errors import DataError
from rewards.base import JsonValue

Arguments: TypeAlias = Mapping[str, JsonValue]
ArgumentKind = Literal["text", "texts", "count"]

MAX_PARTIAL_PROGRESS = 0.99


@dataclass(frozen=True, slots=True)
class Checker:
    """One instruction kind; built once, at import, and free of state."""

    instruction_id: str
    arguments: Mapping[str, ArgumentKind]
    is_followed: Callable[[str, Arguments], bool]
    partial_progress: Callable[[str, Arguments], float]  # [0, 1], called only if not followed

    def follows(self, response: str, **kwargs: JsonValue) -> bool:
        """Whether the instruction is followed; DataError for a missing or wrong argument."""
        self.check_arguments(kwargs)
        return bool(response.strip()) and self.is_followed(response, kwargs)

    def progress(self, response: str, **kwargs: JsonValue) -> float:
        """How near the response is, in [0, 1]; 1.0 exactly when `follows`. DataError as there."""
        self.check_arguments(kwargs)
        if not response.strip():
            return 0.0
        if self.is_followed(response, kwargs):
            return 1.0
        return min(MAX_PARTIAL_PROGRESS, max(0.0, self.partial_progress(response, kwargs)))

    def check_arguments(self, kwargs: Arguments) -> None:
        """Raise DataError unless exactly the declared arguments are there, each of its kind.

        Unused arguments may be there as None: data sets with a column an argument store them so.
        """
        for name, kind in self.arguments.items():
            value = kwargs.get(name)
            if value is None:
                raise DataError(
                    f"{self.instruction_id} needs the argument {name!r}, which is missing; "
                    f"add it to the row's kwargs"
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
}


def _is_kind(value: JsonValue, kind: ArgumentKind) -> bool:
    if kind == "text":
        return isinstance(value, str) and bool(value.strip())
    if kind == "texts":
        return (
            isinstance(value, list)
            and bool(value)
            and all(isinstance(item, str) and item.strip() for item in value)
        )
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and value >= 1
        and value == int(value)
    )


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
