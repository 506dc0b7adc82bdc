"""The language of a text, as langdetect 1.0.9 finds it with its seed at 0, and faster.

Our own implementation of Shuyo's method (naive Bayes over n-grams of up to three characters, 2010)
on the profiles and the character classes of the package. It draws n-grams at random: seven times
over it multiplies in the odds of drawn n-grams, from equal ones, until a language is all but
certain, and averages. Python's generator is seeded anew for each text, as langdetect does it, so a
text has one answer; the words of a text are cut up once for all texts, and five draws are
multiplied in one NumPy call. A test compares the answers.
"""

import importlib
import json
import random
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

SEED = 0
UNKNOWN = "unknown"

_NUM_TRIALS = 7
_MAX_DRAWS = 1000
_DRAWS_PER_CHECK = 5
_MAX_CHARACTERS = 10_000
_MIN_PROBABILITY = 0.1
_ENOUGH_PROBABILITY = 0.99999
_SMOOTHING, _SMOOTHING_SPREAD = 0.5, 0.05
_BASE_FREQUENCY = 10_000
_LONGEST = 3
_MARGIN = 0.01  # far above the rounding of a mean

_LATIN = re.compile(r"[A-z]")  # with the six marks between Z and a, as there
_NOT_LATIN = re.compile(r"[\u0300-\u1dff\u1f00-\U0010ffff]")
_SPACES = re.compile(r" +")
_MAX_KEPT_CHARACTERS = 40
_NUM_KEPT = 1 << 16


class _Profiles(NamedTuple):
    """What n-grams are worth; L languages, G n-grams."""

    languages: tuple[str, ...]
    rows: dict[str, int]
    odds_GL: np.ndarray  # float64


class _Characters(dict[int, str]):
    """langdetect's class of each character, found when it is first met."""

    def __init__(self, normalise: Callable[[str], str]) -> None:
        super().__init__()
        self._normalise = normalise

    def __missing__(self, code: int) -> str:
        self[code] = self._normalise(chr(code))
        return self[code]


class _Cleaning(NamedTuple):
    """What langdetect knows of characters; the package is imported when it is first needed."""

    address: re.Pattern[str]
    mail: re.Pattern[str]
    compose: Callable[[str], str]  # Vietnamese letters and their marks into one character
    characters: _Characters


def known_languages() -> tuple[str, ...]:
    """The codes that can be detected, in order."""
    return load_profiles().languages


def detect_language(text: str) -> str | None:
    """The code of a text's language, "unknown" if none is likely, None if no n-gram is known."""
    grams = _known_grams(_clean(text))
    if not grams:
        return None
    profiles = load_profiles()
    probability_L = _average(grams, profiles.odds_GL)
    best = int(probability_L.argmax())
    if probability_L[best] <= _MIN_PROBABILITY:
        return UNKNOWN
    return profiles.languages[best]


def _average(grams: list[int], odds_GL: np.ndarray) -> np.ndarray:
    """Mean probabilities over the trials, float64 [L]; trials that cannot change the best are left.

    D is a number of draws.
    """
    generator = random.Random(SEED)
    num_languages = odds_GL.shape[1]
    mean_L = np.zeros(num_languages)
    for trial in range(_NUM_TRIALS):
        probability_L = np.full(num_languages, 1.0 / num_languages)
        smoothing = _SMOOTHING + generator.gauss(0.0, 1.0) * _SMOOTHING_SPREAD
        weight = smoothing / _BASE_FREQUENCY
        num_draws = 1  # langdetect looks after the first draw, and then after every fifth
        for num_drawn in range(0, _MAX_DRAWS + 1, _DRAWS_PER_CHECK):
            drawn_DL = odds_GL.take([generator.choice(grams) for _ in range(num_draws)], axis=0)
            drawn_DL += weight
            drawn_DL[0] *= probability_L
            probability_L = np.multiply.reduce(drawn_DL, axis=0)  # in order: the same to the bit
            # Python's sum and not NumPy's, whose other order may move the check by one step.
            values = probability_L.tolist()
            total = sum(values)
            probability_L /= total
            if max(values) / total > _ENOUGH_PROBABILITY or num_drawn >= _MAX_DRAWS:
                break
            num_draws = _DRAWS_PER_CHECK
        mean_L += probability_L / _NUM_TRIALS
        second, first = np.partition(mean_L, -2)[-2:]
        if first - second > (_NUM_TRIALS - 1 - trial + _MARGIN) / _NUM_TRIALS:
            break
    return mean_L


def _clean(text: str) -> str:
    """A text without addresses, without Latin letters if it is mostly in others, in classes."""
    cleaning = _load_cleaning()
    text = cleaning.mail.sub(" ", cleaning.address.sub(" ", text))
    text = _SPACES.sub(" ", cleaning.compose(text)[:_MAX_CHARACTERS])
    if 2 * len(_LATIN.findall(text)) < len(_NOT_LATIN.findall(text)):
        text = _LATIN.sub("", text)
    return text.translate(cleaning.characters)


def _known_grams(text: str) -> list[int]:
    """The n-grams of a text that the profiles have, in order, as rows of the odds."""
    grams: list[int] = []
    words = text.split(" ")
    last = words.pop()  # all others end in a blank, which counts
    for word in words:
        if word:
            # Without blanks, as in Chinese, a word is a whole text.
            is_short = len(word) <= _MAX_KEPT_CHARACTERS
            grams += _kept_grams(word) if is_short else _word_grams(f"{word} ")
    return grams + _word_grams(last)


@lru_cache(_NUM_KEPT)
def _kept_grams(word: str) -> list[int]:
    return _word_grams(f"{word} ")


def _word_grams(word: str) -> list[int]:
    """Those of one word; a capital after a capital ends none."""
    rows = load_profiles().rows
    padded = f" {word}"
    grams = []
    for end in range(2, len(padded) + 1):
        if padded[end - 1].isupper() and padded[end - 2].isupper():
            continue
        for length in range(1, min(_LONGEST, end) + 1):
            row = rows.get(padded[end - length : end])
            if row is not None:
                grams.append(row)
    return grams


@lru_cache(1)
def _load_cleaning() -> _Cleaning:
    detector = importlib.import_module("langdetect.detector").Detector
    ngram = importlib.import_module("langdetect.utils.ngram").NGram
    return _Cleaning(
        detector.URL_RE, detector.MAIL_RE, ngram.normalize_vi, _Characters(ngram.normalize)
    )


@lru_cache(1)
def load_profiles() -> _Profiles:
    """Read langdetect's profiles, which takes about a second; files in order of their names."""
    folder = importlib.import_module("langdetect").PROFILES_DIRECTORY
    profiles = [
        json.loads(file.read_text("utf-8"))
        for file in sorted(Path(folder).iterdir())
        if not file.name.startswith(".") and file.is_file()
    ]
    grams = sorted({gram for profile in profiles for gram in profile["freq"]} - {" "})
    rows = {gram: row for row, gram in enumerate(grams) if len(gram) <= _LONGEST}
    odds_GL = np.zeros((len(grams), len(profiles)))
    for column, profile in enumerate(profiles):
        for gram, frequency in profile["freq"].items():
            if gram in rows:
                odds_GL[rows[gram], column] = frequency / profile["n_words"][len(gram) - 1]
    return _Profiles(tuple(profile["name"] for profile in profiles), rows, odds_GL)
