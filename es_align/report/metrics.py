"""metrics.jsonl, one JSON object a generation, as columns.

Names hold a slash: `reward/mean`. `generation` counts generations done, so a row 0 holds the
baseline's evaluation; `wall_s` counts from the start of the run. Not every row has every name.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from es_align.errors import RunFolderError


class Series(NamedTuple):
    """Points of one metric, only where it was recorded."""

    x: np.ndarray  # float64
    y: np.ndarray  # float64


def read_metrics(path: Path) -> list[Mapping[str, float]]:
    """The rows of a metrics file; a torn last line, as a killed run leaves it, is left out.

    Raises RunFolderError if the file is missing or an earlier line is not a JSON object.
    """
    if not path.is_file():
        raise RunFolderError(f"no metrics at {path}; name a run folder that has trained")
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    return [_row(path, number, line) for number, line in enumerate(lines, start=1)]


def _row(path: Path, number: int, line: str) -> Mapping[str, float]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise RunFolderError(
            f"{path}, line {number} is not JSON ({error.msg}); remove the line, or restore the file"
        ) from None
    if not isinstance(row, dict):
        raise RunFolderError(f"{path}, line {number} is no JSON object; remove the line")
    return row


def column(rows: Sequence[Mapping[str, float]], x: str, names: Iterable[str]) -> list[Series]:
    """One series a name over `x`, all at the rows that have every one of the names."""
    names = list(names)
    whole = [row for row in rows if all(_is_number(row.get(name)) for name in (x, *names))]
    positions = np.array([row[x] for row in whole], dtype=np.float64)
    return [
        Series(positions, np.array([row[name] for row in whole], dtype=np.float64))
        for name in names
    ]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
