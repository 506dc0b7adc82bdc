"""language: the whole answer is in a language, as `rewards.ifeval.detection` finds it.

An answer in which nothing can be detected, such as a number, follows in IFEval, and so here.
Progress is the share of letters in the language's script, where that is not the Latin one.
"""

from collections.abc import Mapping
from functools import lru_cache

import regex

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


_SCRIPTS: Mapping[str, str] = {
    "ar": "Arabic",
    "bg": "Cyrillic",
    "bn": "Bengali",
    "el": "Greek",
    "fa": "Arabic",
    "gu": "Gujarati",
    "he": "Hebrew",
    "hi": "Devanagari",
    "ja": "Hiragana",
    "kn": "Kannada",
    "ko": "Hangul",
    "mk": "Cyrillic",
    "ml": "Malayalam",
    "mr": "Devanagari",
    "ne": "Devanagari",
    "pa": "Gurmukhi",
    "ru": "Cyrillic",
    "ta": "Tamil",
    "te": "Telugu",
    "th": "Thai",
    "uk": "Cyrillic",
    "ur": "Arabic",
    "zh-cn": "Han",
    "zh-tw": "Han",
}
_LETTER = regex.compile(r"\p{L}")
_SCRIPT_CREDIT = 0.8  # another language of the same script is not the one that was asked for
_PART_WORDS = 12


def _language_progress(response: str, kwargs: Arguments) -> float:
    language = text(kwargs, "language")
    script = _SCRIPTS.get(language)
    if script is None:
        return _share_of_parts(response, language)
    num_letters = len(_LETTER.findall(response))
    if num_letters == 0:
        return 0.0
    return _SCRIPT_CREDIT * len(_in_script(script).findall(response)) / num_letters


def _share_of_parts(response: str, language: str) -> float:
    """The share of stretches of some words that are in the language, of the first few."""
    words = response.split()[: 4 * _PART_WORDS]
    parts = [" ".join(words[i : i + _PART_WORDS]) for i in range(0, len(words), _PART_WORDS)]
    return sum(detect_language(part) == language for part in parts) / len(parts)


@lru_cache(64)
def _in_script(script: str) -> regex.Pattern[str]:
    return regex.compile(rf"(?=\p{{L}})\p{{Script={script}}}")


CHECKERS = (Checker(_LANGUAGE, {"language": "text"}, _language, _language_progress),)
