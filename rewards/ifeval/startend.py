"""startend: the answer wrapped in double quotation marks, or ended with a given phrase."""

from rewards.ifeval.base import Arguments, Checker, Follows, text

_QUOTES = '"'
_TYPOGRAPHIC_QUOTES = "“”„«»'‘’`"  # noqa: RUF001 (these characters are the point)
_PUNCTUATION = ".,!?;:"
_TYPOGRAPHIC_CREDIT = 0.6  # of the mark's share: near, but IFEval accepts only the straight one


def _quotation(_: Arguments) -> Follows:
    return _is_quoted


def _is_quoted(response: str) -> bool:
    stripped = response.strip()
    return len(stripped) > 1 and stripped[0] == '"' and stripped[-1] == '"'


def _quotation_progress(response: str, _: Arguments) -> float:
    stripped = response.strip()
    if len(stripped) < 2:
        return 0.0
    return 0.5 * _mark_credit(stripped[0]) + 0.5 * _mark_credit(stripped[-1])


def _mark_credit(character: str) -> float:
    if character in _QUOTES:
        return 1.0
    return _TYPOGRAPHIC_CREDIT if character in _TYPOGRAPHIC_QUOTES else 0.0


def _end(kwargs: Arguments) -> Follows:
    phrase = _phrase(kwargs)
    return lambda response: _ending(response).endswith(phrase)


def _end_progress(response: str, kwargs: Arguments) -> float:
    """The longest run of the phrase's words in the answer, worth more near the end."""
    words = [word.strip(_PUNCTUATION) for word in _ending(response).split()]
    phrase = [word.strip(_PUNCTUATION) for word in _phrase(kwargs).split()]
    best = 0.0
    for start, word in enumerate(words):
        for offset, phrase_word in enumerate(phrase):
            if word == phrase_word:
                tail = words[start : start + len(phrase) - offset]
                length = _common_length(tail, phrase[offset:])
                nearness = (start + length) / len(words)
                best = max(best, length / len(phrase) * (0.5 + 0.4 * nearness))
    return best


def _common_length(left: list[str], right: list[str]) -> int:
    pairs = enumerate(zip(left, right, strict=False))
    return next(
        (index for index, (one, other) in pairs if one != other), min(len(left), len(right))
    )


def _ending(response: str) -> str:
    return response.strip().strip('"').lower()


def _phrase(kwargs: Arguments) -> str:
    return text(kwargs, "end_phrase").strip().lower()


CHECKERS = (
    Checker("startend:quotation", {}, _quotation, _quotation_progress),
    Checker("startend:end_checker", {"end_phrase": "text"}, _end, _end_progress),
)
