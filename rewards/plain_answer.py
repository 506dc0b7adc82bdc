"""Whether an answer of any length and form is a real one: readable and, where it can be, on topic.

The measures of `rewards.readability` are those of a few sentences. A longer answer is measured in
stretches of its words, so that one odd line does not spoil a page, and repetition over the whole.
Topic words strung on function words are no answer (`rewards.word_order`, `rewards.topic`).
What an instruction asks for is not held against an answer: JSON is measured by the texts in it,
the long ones as sentences, a repeated request is left out, another language is measured by its
letters alone, for the topic's words are English, and a fixed answer need not be about the topic.
"""

import itertools
import json
import re
from collections.abc import Sequence
from typing import NamedTuple

import regex

from rewards.base import JsonValue
from rewards.ifeval.combination import num_repeated
from rewards.ifeval.detectable_format import ANSWERS, json_part
from rewards.readability import LONG_ANSWER_WORDS, Readability, readability, split_words
from rewards.topic import MAX_REQUEST_WORDS, is_refusal, own_share, topic_share
from rewards.word_order import num_order_faults

STRETCH_WORDS = 40
MIN_SHARE_OF_STRETCHES = 0.75  # mean measure of the stretches that counts as clear
REPEATED_WORDS = 6
MIN_FRESH_SHARE = 0.7  # of the runs of that many words; songs have a refrain
WORDS_PER_REQUEST_WORD = 30  # a long answer may say "letter" and "word" by itself
FIXED_ANSWER_WORDS = 4
MIN_LETTERS = 20
MIN_LETTER_SHARE = 0.5
REPEATED_LETTERS = 8
MIN_FRESH_LETTERS = 0.4

_JSON = "detectable_format:json_format"
_ANSWER = "detectable_format:constrained_response"
_REPEAT = "combination:repeat_prompt"
_LANGUAGE = "language:response_language"
_FIXED = re.compile("|".join(map(re.escape, ANSWERS)))
_JSON_MARKS = re.compile(r"[{}\[\]\":,]")
_TOKEN = re.compile(r"\S+\s*")  # with what follows: a line's end is no part of a sentence
_LETTER = regex.compile(r"[\p{L}\p{M}]")


class Topic(NamedTuple):
    """What an answer should be about, and the prompt that it must not say back."""

    own_text: str
    names: tuple[str, ...]
    words: tuple[str, ...]


class Plainness(NamedTuple):
    """How near an answer is to a real one, each in [0, 1]; 1.0 is one."""

    own: float  # below 1.0: too short, or mostly the prompt said back
    fluent: float  # below 1.0: repeats itself, or is not made of sentences
    topic: float


def plainness(
    response: str, topic: Topic, instruction_ids: Sequence[str], kwargs: Sequence[JsonValue]
) -> Plainness:
    """Measure the answer to a prompt with these instructions."""
    text = _without_request(response, instruction_ids, kwargs)
    if _LANGUAGE in instruction_ids:
        return _foreign(text)
    if _ANSWER in instruction_ids and any(answer in text for answer in ANSWERS):
        return _fixed_answer(text)
    is_prose = _JSON not in instruction_ids
    if not is_prose:
        text = _texts_of_json(text)
    measures = readability(text, topic.own_text)
    own = min(measures.length, measures.own_words)
    if len(text.split()) < 2 * STRETCH_WORDS:
        fluent = _fluency(text, measures, is_prose=is_prose)
    else:
        fluent = min(_fresh(text), _stretches(text, is_prose=is_prose))
    if not is_prose:
        fluent = min(fluent, _stretches(_long_lines(text), is_prose=True))
    return Plainness(own, fluent, _topic(text, topic))


def _topic(text: str, topic: Topic) -> float:
    tokens = text.split()
    if is_refusal(" ".join(tokens[:STRETCH_WORDS])):
        return 0.0
    allowed = MAX_REQUEST_WORDS + len(tokens) // WORDS_PER_REQUEST_WORD
    return own_share(text, *topic) * topic_share(text, *topic, max_request_words=allowed)


def _without_request(response: str, ids: Sequence[str], kwargs: Sequence[JsonValue]) -> str:
    if _REPEAT not in ids:
        return response
    arguments = kwargs[list(ids).index(_REPEAT)]
    request = str(arguments.get("prompt_to_repeat", "")) if isinstance(arguments, dict) else ""
    given = response.strip()
    return given[num_repeated(given.lower(), request.strip().lower()) :]


def _stretches(text: str, *, is_prose: bool) -> float:
    """The mean measure of the stretches that a text is cut into, each of 40 words or more; 1.0 for
    no text.
    """
    tokens = _TOKEN.findall(text)
    if not tokens:
        return 1.0
    num = max(1, len(tokens) // STRETCH_WORDS)
    bounds = [len(tokens) * part // num for part in range(num + 1)]
    total = sum(
        _fluency(part, readability(part, ""), is_prose=is_prose)
        for part in ("".join(tokens[a:b]) for a, b in itertools.pairwise(bounds))
    )
    return min(1.0, total / num / MIN_SHARE_OF_STRETCHES)


def _fluency(text: str, measures: Readability, *, is_prose: bool) -> float:
    ordered = 1 / (1 + num_order_faults(text))
    return min(measures.variety, ordered, measures.ordinary if is_prose else 1.0)


def _fresh(text: str) -> float:
    words = split_words(text)
    num = len(words) - REPEATED_WORDS + 1
    if num < 1:
        return 1.0
    runs = {tuple(words[first : first + REPEATED_WORDS]) for first in range(num)}
    return min(1.0, len(runs) / num / MIN_FRESH_SHARE)


def _foreign(text: str) -> Plainness:
    """Letters, enough of them, and not the same again and again."""
    letters = "".join(_LETTER.findall(text))
    if not letters:
        return Plainness(0.0, 0.0, 1.0)
    num_marks = len("".join(text.split()))
    num = max(1, len(letters) - REPEATED_LETTERS + 1)
    fresh = len({letters[first : first + REPEATED_LETTERS] for first in range(num)}) / num
    return Plainness(
        own=min(1.0, len(letters) / MIN_LETTERS),
        fluent=min(1.0, len(letters) / num_marks / MIN_LETTER_SHARE, fresh / MIN_FRESH_LETTERS),
        topic=1.0,
    )


def _fixed_answer(text: str) -> Plainness:
    """Four words or more and one answer, not all three; more words beside it are sentences."""
    decided = 1 / sum(answer in text for answer in ANSWERS)
    own = min(1.0, len(split_words(text)) / FIXED_ANSWER_WORDS)
    rest = _FIXED.sub("\n", text)
    return Plainness(
        own=own,
        fluent=min(
            decided,
            readability(text, "").variety,
            _stretches(_long_lines(rest), is_prose=True),
        ),
        topic=1.0,
    )


def _long_lines(text: str) -> str:
    """The lines long enough to be sentences."""
    return "\n".join(line for line in text.splitlines() if len(line.split()) >= LONG_ANSWER_WORDS)


def _texts_of_json(text: str) -> str:
    """The texts in a JSON document, keys once; of broken JSON all but its marks."""
    part = json_part(text)
    try:
        found = _texts(json.loads(part))
    except (ValueError, RecursionError):
        return _JSON_MARKS.sub("\n", part)
    return "\n".join(found)


def _texts(value: JsonValue) -> list[str]:
    keys: dict[str, None] = {}
    values: list[str] = []
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            keys.update(dict.fromkeys(item))
            waiting.extend(reversed(list(item.values())))
        elif isinstance(item, list):
            waiting.extend(reversed(item))
        elif isinstance(item, str):
            values.append(item)
    return [*keys, *values]
