"""Reading a reward's columns: the value of the right type, or a DataError that names the column."""

from kernels.errors import DataError
from rewards.base import Columns, JsonValue


def text_column(columns: Columns, name: str) -> str:
    """A text; DataError if the column is missing or something else."""
    value = _column(columns, name)
    if not isinstance(value, str):
        raise DataError(f"column {name}={value!r} must be a text; correct the row")
    return value


def texts_column(columns: Columns, name: str) -> tuple[str, ...]:
    """A list of texts, which may be empty; DataError if the column is missing or something else."""
    value = _column(columns, name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise DataError(f"column {name}={value!r} must be a list of texts; correct the row")
    return tuple(str(item) for item in value)


def mapping_column(columns: Columns, name: str) -> dict[str, JsonValue]:
    """A mapping; DataError if the column is missing or something else."""
    value = _column(columns, name)
    if not isinstance(value, dict):
        raise DataError(f"column {name}={value!r} must be a mapping; correct the row")
    return value


def whole_number(columns: Columns, name: str) -> int:
    """A whole number; DataError if the column is missing or something else."""
    value = _column(columns, name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise DataError(f"column {name}={value!r} must be a whole number; correct the row")
    return value


def whole_numbers(columns: Columns, name: str) -> list[int]:
    """A list of whole numbers; DataError if the column is missing or something else."""
    return [whole_number({name: item}, name) for item in list_column(columns, name)]


def list_column(columns: Columns, name: str) -> list[JsonValue]:
    """A list of anything; DataError if the column is missing or something else."""
    value = _column(columns, name)
    if not isinstance(value, list):
        raise DataError(f"column {name}={value!r} must be a list; correct the row")
    return value


def _column(columns: Columns, name: str) -> JsonValue:
    if name not in columns:
        raise DataError(
            f"the reward needs the column {name!r} and the row has {', '.join(columns) or 'none'}; "
            f"add it to the row"
        )
    return columns[name]
