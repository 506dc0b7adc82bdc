"""A regular expression that the completion must match.

A pattern of the user's may backtrack for ever, and Python's `re` cannot be interrupted, so this
reward runs in a process that can be killed (`rewards.processes`).
"""

import re
from functools import lru_cache
from typing import Literal

from kernels.errors import ConfigError
from rewards.base import Columns, Score
from rewards.columns import text_column

Where = Literal["anywhere", "all"]


def regex_reward(
    completion: str,
    columns: Columns,
    *,
    pattern: str | None = None,
    where: Where = "anywhere",
    ignore_case: bool = False,
) -> Score:
    """1 if the pattern (option, or the column `pattern`) matches `anywhere` or the text in `all`.

    `.` matches line ends too. Reasons: ok, no_match, empty. Raises ConfigError for a pattern that
    is none, DataError if there is neither option nor column.
    """
    compiled = compile_pattern(
        text_column(columns, "pattern") if pattern is None else pattern, ignore_case
    )
    found = compiled.search(completion) if where == "anywhere" else compiled.fullmatch(completion)
    if found is not None:
        return Score(1.0, True, {}, "ok")
    return Score(0.0, False, {}, "no_match" if completion.strip() else "empty")


@lru_cache(1024)
def compile_pattern(pattern: str, ignore_case: bool = False) -> re.Pattern[str]:
    """The pattern as `regex_reward` uses it; ConfigError if it is none."""
    try:
        return re.compile(pattern, re.DOTALL | (re.IGNORECASE if ignore_case else re.NOFLAG))
    except re.error as error:
        raise ConfigError(
            f"pattern {pattern!r:.100} is no regular expression of Python ({error}); correct it"
        ) from error
