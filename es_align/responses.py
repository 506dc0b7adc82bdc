"""`es-align score`: responses that are there already, judged without a model.

A file holds one JSON object a line: `key` (IFEval) or `index` (GSM8K, the row of test.jsonl from 0)
and `response`, a text. Every line that cannot be used has a reason, and is an error that names it
or, if asked, a count.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from es_align.errors import ConfigError, DataError
from es_align.results import FLAT
from es_align.scorecards import (
    Scorecard,
    counted_reasons,
    figure_intervals,
    load_scorecard,
)
from es_align.tasks import gsm8k, ifeval
from es_align.tasks.rows import BadLine, decode_line, numbered_lines
from rewards.base import JsonValue

DATA_FILES = (*gsm8k.FILES.values(), ifeval.FILE)


class Response(NamedTuple):
    """One line that can be judged."""

    key: int
    text: str


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """What a file of responses comes to; `figures` stand in the JSON under their own names."""

    task: str
    responses: str  # the file
    n: int  # responses judged
    num_prompts: int  # of the task
    missing: int  # prompts without a response
    bad: Mapping[str, int]  # lines that were skipped, by reason
    figures: Mapping[str, float] = field(metadata={FLAT: True})
    intervals: Mapping[str, tuple[float, float]]  # 95 %, of the figures that count prompts
    reasons: Mapping[str, int]  # gsm8k: by reason code


def score_responses(
    task: str,
    responses: str | Path,
    *,
    data: str | Path | None = None,
    details: str | Path | None = None,
    skip_bad: bool = False,
) -> ScoreResult:
    """Judge the responses of a file to a benchmark's prompts, which need not be all.

    `data` is the task's file or folder, None the hub; `details` is written, one row a response in
    order. Raises ConfigError for an unknown task or a place that cannot be written, DataError for
    data or a line that is wrong; with `skip_bad` such lines are counted by reason: not_utf8,
    not_json, ambiguous, no_key, no_response, unknown, doubled.
    """
    file = Path(responses)
    if details is not None:
        check_details(Path(details), [file, *data_files(data)])
    scorecard = load_scorecard(task, None if data is None else str(data))
    given, bad = read_responses(file, scorecard, skip_bad=skip_bad)
    if not given:
        raise DataError(
            f"{file} has no response that can be scored ({sum(bad.values())} bad lines); write one "
            f'{{"{scorecard.key_name}": 0, "response": "..."}} a line'
        )
    rows = [scorecard.verdicts(response.key, response.text) for response in given]
    if details is not None:
        write_details(Path(details), rows)
    figures = scorecard.figures(rows)
    return ScoreResult(
        task=task,
        responses=str(file),
        n=len(rows),
        num_prompts=len(scorecard.keys),
        missing=len(scorecard.keys) - len(rows),
        bad=bad,
        figures=figures,
        intervals=figure_intervals(scorecard, figures, len(rows)),
        reasons=counted_reasons(rows),
    )


def read_responses(
    file: Path, scorecard: Scorecard, *, skip_bad: bool
) -> tuple[list[Response], dict[str, int]]:
    """The usable lines in order, and how many are not, by reason; of a doubled key the first stays.

    Raises DataError naming the first line that is not usable, unless they are skipped.
    """
    lines: dict[int, int] = {}  # of each key
    given: list[Response] = []
    bad: Counter[str] = Counter()
    known = frozenset(scorecard.keys)
    for number, line in numbered_lines(file):
        read = _read(line, scorecard, known, lines)
        if isinstance(read, Response):
            lines[read.key] = number
            given.append(read)
        elif skip_bad:
            bad[read.reason] += 1
        else:
            raise DataError(
                f"{file}, line {number} {read.told}, or count such lines with --skip-bad"
            )
    return given, dict(bad)


def data_files(path: str | Path | None) -> list[Path]:
    """What may be read of a task's data: a file, or in a folder those of the benchmarks."""
    if path is None:
        return []
    return [Path(path) / name for name in DATA_FILES] if Path(path).is_dir() else [Path(path)]


def check_details(path: Path, inputs: Iterable[Path] = ()) -> None:
    """Refuse, with a ConfigError, a place where details cannot be written."""
    if path.is_dir():
        raise ConfigError(f"details={path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise ConfigError(f"details={path}: {path.parent} is no folder; make it first")
    for file in inputs:
        if path.exists() and file.exists() and path.samefile(file):
            raise ConfigError(f"details={path} is a file that is read; name another one")


def write_details(path: Path, rows: Iterable[Mapping[str, JsonValue]]) -> None:
    """One JSON object a line; ConfigError if the file cannot be written."""
    try:
        with path.open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in rows)
    except OSError as error:
        raise ConfigError(
            f"details={path} cannot be written ({error.strerror}); name another file"
        ) from error


def _read(
    line: bytes, scorecard: Scorecard, known: frozenset[int], lines: Mapping[int, int]
) -> Response | BadLine:
    row, name = decode_line(line), scorecard.key_name
    if isinstance(row, BadLine):
        return row
    if not isinstance(row, dict):
        return BadLine("not_json", f"is {row!r:.60}, not an object; correct the line")
    key, text = row.get(name), row.get("response")
    if not isinstance(key, int) or isinstance(key, bool):
        found = f"{name}={key!r:.60}" if name in row else f"no {name}"
        return BadLine("no_key", f"has {found}; give the whole number of its prompt")
    if not isinstance(text, str):
        found = f"response={text!r:.60}" if "response" in row else "no response"
        return BadLine("no_response", f"has {found}; give a text, empty if there was none")
    if key not in known:
        limits = f"{min(known)} to {max(known)}"
        return BadLine("unknown", f"has {name}={key}, which no prompt has ({limits}); correct it")
    if key in lines:
        return BadLine("doubled", f"has {name}={key} again, first in line {lines[key]}; keep one")
    return Response(key, text)
