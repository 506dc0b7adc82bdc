"""keywords: every given keyword appears; as in IFEval it is a regular expression, case ignored."""

import re
from functools import lru_cache

from kernels.errors import DataError
from rewards.ifeval.base import Arguments, Checker, texts

_MAX_CACHED_PATTERNS = 4096


@lru_cache(_MAX_CACHED_PATTERNS)
def _pattern(keyword: str) -> re.Pattern[str]:
    try:
        return re.compile(keyword, re.IGNORECASE)
    except re.error as error:
        raise DataError(
            f"keywords:existence: keyword {keyword!r} is not a valid regular expression ({error}); "
            f"escape it in the row's kwargs"
        ) from error


def _has_keywords(response: str, kwargs: Arguments) -> bool:
    return _num_found(response, kwargs) == len(texts(kwargs, "keywords"))


def _keywords_progress(response: str, kwargs: Arguments) -> float:
    return _num_found(response, kwargs) / len(texts(kwargs, "keywords"))


def _num_found(response: str, kwargs: Arguments) -> int:
    return sum(bool(_pattern(keyword).search(response)) for keyword in texts(kwargs, "keywords"))


CHECKERS = (
    Checker("keywords:existence", {"keywords": "texts"}, _has_keywords, _keywords_progress),
)
