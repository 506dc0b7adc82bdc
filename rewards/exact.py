"""Exact match: the completion, or a part of it, is the column `answer` and nothing else."""

from typing import Literal

from kernels.errors import DataError
from rewards.base import Columns, Score
from rewards.columns import text_column, texts_column
from rewards.procedural import last_line, marked_answer

Part = Literal["all", "last_line", "marked"]


def exact_match_reward(
    completion: str, columns: Columns, *, part: Part = "all", ignore_case: bool = False
) -> Score:
    """1 if the part is the text in column `answer`, or one of its texts; runs of blanks are one
    blank, and none at the ends.

    `part`: `all` of the completion, its `last_line`, or what is `marked` by `####`. Reasons: ok,
    wrong, no_answer (there is no such part), empty. Raises DataError for a missing or wrong column.
    """
    wanted = _answers(columns)
    if not completion.strip():
        return Score(0.0, False, {}, "empty")
    found = {"all": str, "last_line": last_line, "marked": marked_answer}[part](completion)
    if not found.strip():
        return Score(0.0, False, {}, "no_answer")
    is_right = _plain(found, ignore_case) in {_plain(answer, ignore_case) for answer in wanted}
    return Score(float(is_right), is_right, {}, "ok" if is_right else "wrong")


def _answers(columns: Columns) -> tuple[str, ...]:
    if isinstance(columns.get("answer"), list):
        answers = texts_column(columns, "answer")
        if not answers:
            raise DataError("column answer=[] must hold at least one text; correct the row")
        return answers
    return (text_column(columns, "answer"),)


def _plain(text: str, ignore_case: bool) -> str:
    joined = " ".join(text.split())
    return joined.casefold() if ignore_case else joined
