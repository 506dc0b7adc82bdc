"""Where output goes: results to stdout, everything else to stderr when a program is reading.

With `--json` the last line of stdout is one JSON object. Libraries, and the processes they start,
print to file descriptor 1 as they please, so that descriptor itself is pointed at stderr.
"""

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from es_align.results import FLAT
from rewards.base import JsonValue

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@contextmanager
def result_stream(*, as_json: bool) -> Iterator[TextIO]:
    """stdout, for the result alone if `as_json`.

    The redirection then lasts until the process ends: what a library prints at exit must not come
    after the result.
    """
    if not as_json:
        yield sys.stdout
        return
    sys.stdout.flush()
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with stream:
        yield stream


def quiet_libraries() -> None:
    """Loading bars of transformers off: they belong to no generation and break the run's lines."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def write_result(result: "DataclassInstance", stream: TextIO, *, as_json: bool) -> None:
    """The result as one JSON line, or as a table for a person."""
    tree = _flattened(result)
    if as_json:
        stream.write(json.dumps(to_json(tree), allow_nan=False) + "\n")
        stream.flush()
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in _rows(tree, ""):
        table.add_row(name, Text(value))
    Console(file=stream, highlight=False).print(table)


def print_error(message: str) -> None:
    """One paragraph on stderr, wrapped on a terminal and one line in a log."""
    console = Console(stderr=True, highlight=False)
    text = Text.assemble(("error: ", "bold red"), message)
    console.print(text, soft_wrap=not console.is_terminal)


def to_json(value: object) -> JsonValue:
    """Plain JSON of what results hold; paths become text and non-finite numbers null.

    Raises TypeError for anything that has no obvious form.
    """
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Path():
            return str(value)
        case np.generic():
            return to_json(value.item())
        case np.ndarray():
            return to_json(value.tolist())
        case Mapping():
            return {str(key): to_json(item) for key, item in value.items()}
        case Sequence():
            return [to_json(item) for item in value]
    raise TypeError(f"a result holds {type(value).__name__}, which has no JSON form")


def _flattened(result: "DataclassInstance") -> dict[str, object]:
    """The fields by name; entries of a `FLAT` one stand in its place."""
    tree: dict[str, object] = {}
    values = asdict(result)
    for told in fields(result):
        value = values[told.name]
        tree |= value if told.metadata.get(FLAT) else {told.name: value}
    return tree


def _rows(tree: Mapping[str, object], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in tree.items():
        label = f"{prefix}{name.replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _rows(value, f"{label} ")
        elif isinstance(value, float):
            yield label, f"{value:.4g}"
        elif isinstance(value, tuple) and all(isinstance(item, float) for item in value):
            yield label, f"[{', '.join(f'{item:.4g}' for item in value)}]"
        else:
            yield label, str(value)
