"""Whether an answer is about its topic.

On topic: it names the topic or mentions two words of the topic's vocabulary, it adds content words
that its prompt does not have, and it does not talk about itself as an assistant or about the
request. Two words beside the name were tried first: of 252 answers by an untuned 135M model that
turned down 107 more, and nearly all of those were about their topic ("a lighthouse is a beacon of
hope").
"""

import re
from functools import lru_cache

from rewards.readability import num_own_content_words, own_content_words

MIN_TOPIC_WORDS = 2  # different stems; the topic's own name counts for all of them
MIN_OWN_CONTENT_WORDS = 3
MAX_REQUEST_WORDS = 1  # kinds of words about the request ("sentence", "lowercase") in an answer
MIN_LETTERS = 3  # of a content word beside the topic's: "a b c" says nothing
WHOLE_WORD_LETTERS = 3  # stems up to this length match whole words only: "tea" is not in "team"

_ASSISTANT_TALK = re.compile(
    r"\b(?:(?:as|i'm|am) an? (?:\w+ )?ai\b|ai (?:assistant|named)|language model|"
    r"(?:i'm|am) (?:\w+ )?(?:here|happy|ready|glad) to (?:help|assist))"
)
_REQUEST_WORD = re.compile(
    r"\b(sentence|word|letter|comma|quotation|quote|uppercase|lowercase|capital|bullet|title|"
    r"heading|headline|phrase|character|keyword|postscript|instruction|prompt|reply|answer)s?\b"
)
# What is declined is the request; "I cannot tell you how glad I am" declines nothing.
_REFUSAL = re.compile(
    r"\b(?:i (?:can't|cannot|can not|won't|will not)|(?:i'm|i am) (?:unable|not able) to) (?:\w+ )?"
    r"(?:(?:help|assist)(?: you| with|[.!])|(?:answer|write|do) (?:that|this|your)\b|"
    r"provide|fulfil|comply|respond)"
)


def topic_share(
    completion: str,
    own_text: str,
    names: tuple[str, ...],
    words: tuple[str, ...],
    *,
    max_request_words: int = MAX_REQUEST_WORDS,
) -> float:
    """How far a completion is on topic, in [0, 1]; 1.0 is on topic.

    `own_text` is the prompt's text, `names` and `words` are stems of the topic's name and
    vocabulary.
    """
    text = completion.lower().replace("’", "'")  # noqa: RUF001
    if _ASSISTANT_TALK.search(text) or len(set(_REQUEST_WORD.findall(text))) > max_request_words:
        return 0.0
    is_named = num_topic_words(completion, names) > 0
    num_mentioned = MIN_TOPIC_WORDS if is_named else num_topic_words(completion, words)
    num_own = num_own_content_words(completion, own_text)
    return min(1.0, num_mentioned / MIN_TOPIC_WORDS) * min(1.0, num_own / MIN_OWN_CONTENT_WORDS)


def own_share(
    completion: str, own_text: str, names: tuple[str, ...], words: tuple[str, ...]
) -> float:
    """How far there are content words beside the topic's own, as many as of those and three, in
    [0, 1]: a list of its words strung on function words has none.
    """
    stems = (*names, *words)
    begins = _pattern(stems).match if stems else lambda _: None
    own = [
        word
        for word in own_content_words(completion, own_text)
        if len(word) >= MIN_LETTERS and not begins(word)
    ]
    num_mentioned = num_topic_words(completion, stems)
    return min(1.0, len(own) / max(MIN_OWN_CONTENT_WORDS, num_mentioned))


def is_refusal(text: str) -> bool:
    """Whether a text says that its writer will not do what was asked."""
    return _REFUSAL.search(text.lower().replace("’", "'")) is not None  # noqa: RUF001


def num_topic_words(completion: str, stems: tuple[str, ...]) -> int:
    """How many different stems begin a word of the completion, whatever the case."""
    return len(set(_pattern(stems).findall(completion.lower()))) if stems else 0


@lru_cache(8192)
def _pattern(stems: tuple[str, ...]) -> re.Pattern[str]:
    # Longest first, so that of two stems with a common beginning the fuller one is counted.
    ordered = sorted({stem.lower() for stem in stems}, key=lambda stem: (-len(stem), stem))
    alternatives = (
        rf"{re.escape(stem)}(?=s?\b)" if len(stem) <= WHOLE_WORD_LETTERS else re.escape(stem)
        for stem in ordered
    )
    return re.compile(rf"\b(?:{'|'.join(alternatives)})")
