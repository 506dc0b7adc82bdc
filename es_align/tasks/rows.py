"""Rows of a task's data, from a JSONL file or the Hugging Face hub; every fault has its place."""

import codecs
import importlib
import importlib.util
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from kernels.errors import DataError
from rewards.base import JsonValue


class Row(NamedTuple):
    """One row, and what an error message calls it."""

    where: str  # "test.jsonl, line 3"
    value: JsonValue


class BadLine(NamedTuple):
    """A line that holds no JSON, or JSON that says two things."""

    reason: str  # not_utf8, not_json, ambiguous
    told: str


class _NamedTwice(Exception):
    """An object has a name twice."""


def numbered_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, counted from 1, without a byte-order mark at the start;
    DataError if the file cannot be read.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}); name a JSONL file") from error
    for number, line in enumerate(content.removeprefix(codecs.BOM_UTF8).split(b"\n"), 1):
        if line.strip():
            yield number, line


def decode_line(line: bytes) -> "JsonValue | BadLine":
    """The JSON of a line, or what is wrong with it."""
    try:
        return json.loads(line.decode("utf-8"), object_pairs_hook=_object)
    except _NamedTwice as error:
        return BadLine("ambiguous", f"has {error} twice in one object; keep one")
    except UnicodeDecodeError as error:
        return BadLine("not_utf8", f"is not UTF-8 ({error.reason}); re-encode the file")
    except RecursionError:
        return BadLine("not_json", "is nested too deeply to be read; correct the line")
    except ValueError as error:  # of json, or a number of too many digits
        said = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        return BadLine("not_json", f"is not JSON ({said}); correct the line")


def _object(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    """An object of JSON, of which `json` would keep the last value of a name that stands twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _NamedTwice(repr(next(name for name in names if names.count(name) > 1)))
    return found


def file_rows(file: Path) -> list[Row]:
    """The rows of a JSONL file; DataError names the line of one that is no JSON."""
    rows = []
    for number, line in numbered_lines(file):
        value, where = decode_line(line), f"{file}, line {number}"
        if isinstance(value, BadLine):
            raise DataError(f"{where} {value.told}")
        rows.append(Row(where, value))
    return rows


def hub_rows(name: str, subset: str | None, split: str, instead: str) -> list[Row]:
    """The rows of a data set on the hub; `instead` is what to set `task.path` to.

    Raises DataError if `datasets` is not installed or the hub cannot be read.
    """
    if importlib.util.find_spec("datasets") is None:
        raise DataError(
            f"task.path is not set and the package `datasets`, which reads {name} from the hub, is "
            f"not installed; set task.path to {instead}, or install datasets"
        )
    datasets = importlib.import_module("datasets")
    try:
        rows: Iterable[JsonValue] = datasets.load_dataset(name, subset, split=split)
    except OSError as error:
        raise DataError(
            f"{name} cannot be read from the hub ({type(error).__name__}); check the network and "
            f"HF_HUB_OFFLINE, or set task.path to {instead}"
        ) from error
    return [Row(f"{name}, row {index}", value) for index, value in enumerate(rows)]
