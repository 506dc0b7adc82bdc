"""Whether an answer is about its topic.

On topic: it names the topic or mentions two words of the topic's vocabulary, it adds content words
that its prompt does not have, and it does not talk about itself as an assistant or about the
request. Two words beside the name were tried first: of 252 answers by an untuned 135M model that
turned down 107 more, and nearly all of those were about their topic ("a lighthouse is a beacon of
hope").
"""

import re
from functools import lru_cache

from rewards.readability import num_own_content_words

MIN_TOPIC_WORDS = 2  # different stems; the topic's own name counts for all of them
MIN_OWN_CONTENT_WORDS = 3
MAX_REQUEST_WORDS = 1  # kinds of words about the request ("sentence", "lowercase") in an answer
WHOLE_WORD_LETTERS = 3  # stems up to this length match whole words only: "tea" is not in "team"

_ASSISTANT_TALK = re.compile(
    r"\b(?:(?:as|i'm|am) an? (?:\w+ )?ai\b|ai (?:assistant|named)|language model|"
    r"(?:i'm|am) (?:\w+ )?(?:here|happy|ready|glad) to (?:help|assist))"
)
_REQUEST_WORD = re.compile(
    r"\b(sentence|word|letter|comma|quotation|quote|uppercase|lowercase|capital|bullet|title|"
    r"heading|headline|phrase|character|keyword|postscript|instruction|prompt|reply|answer)s?\b"
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
