"""language: the whole answer is in a language, as `rewards.ifeval.detection` finds it.

An answer in which nothing can be detected, such as a number, follows in IFEval, and so here.
"""

from kernels.errors import DataError
from rewards.ifeval.base import Arguments, Checker, Follows, text
from rewards.ifeval.detection import detect_language, known_languages

_LANGUAGE = "language:response_language"


def _language(kwargs: Arguments) -> Follows:
    language = text(kwargs, "language")
    if language not in known_languages():
        raise DataError(
            f"{_LANGUAGE}: language={language!r} cannot be detected; correct the row's kwargs. "
            f"There are: {', '.join(known_languages())}"
        )
    return lambda response: detect_language(response) in (language, None)


CHECKERS = (Checker(_LANGUAGE, {"language": "text"}, _language),)
