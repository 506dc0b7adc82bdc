"""The reward of the `instructions` task: a constraint counts in a readable, on-topic answer.

Columns: `instruction_id` and `kwargs` (an IFEval checker and its arguments), `topic_names` and
`topic_words` (word stems) and `own_text` (the prompt without the words an answer is asked to
repeat: it must not be said back).

The reward has two floors. An answer that is off topic or unreadable gets less than `PLAIN_REWARD`,
dense in how near it is to a plain answer, and nothing for the constraint; a readable answer on its
topic gets `PLAIN_REWARD` plus a share of the constraint's progress. So rubbish is never worth more
than a plain answer that ignores the constraint, and 1.0 is reached exactly by the answers that
pass. Half of the reward hangs on following: with less, what evolution gains is mostly answers that
stay readable under noise, and constraints are given up for it (measured).
"""

from rewards.base import Columns, Score
from rewards.columns import mapping_column, text_column, texts_column
from rewards.ifeval import get_checker
from rewards.readability import Readability, readability
from rewards.topic import topic_share

PLAIN_REWARD = 0.1
PARTIAL_REWARD = 0.4  # on top of it for progress alone; the rest of 1.0 is for following


def instructions_reward(completion: str, columns: Columns) -> Score:
    """Score one completion; DataError or ConfigError for a row that lacks a column or is wrong.

    Reasons: ok, constraint, off_topic, degenerate, too_short, empty, echo.
    """
    checker = get_checker(text_column(columns, "instruction_id"))
    progress = checker.progress(completion, **mapping_column(columns, "kwargs"))
    own_text = text_column(columns, "own_text")
    readable = readability(completion, own_text)
    topic = topic_share(
        completion,
        own_text,
        texts_column(columns, "topic_names"),
        texts_column(columns, "topic_words"),
    )
    is_followed, is_on_topic, is_readable = progress == 1.0, topic == 1.0, readable.score == 1.0
    if is_on_topic and is_readable:
        reward = 1.0 if is_followed else PLAIN_REWARD + PARTIAL_REWARD * progress
    else:
        reward = PLAIN_REWARD * topic * readable.score
    return Score(
        reward=reward,
        passed=is_followed and is_on_topic and is_readable,
        metrics={
            "constraint": float(is_followed),
            "topic": float(is_on_topic),
            "readable": float(is_readable),
            "progress": progress,
        },
        reason=_reason(completion, is_followed, is_on_topic, readable),
    )


def _reason(completion: str, is_followed: bool, is_on_topic: bool, readable: Readability) -> str:
    if not completion.strip():
        return "empty"
    if readable.length < 1:
        return "too_short"
    if readable.own_words < 1:
        return "echo"
    if readable.score < 1:
        return "degenerate"
    if not is_on_topic:
        return "off_topic"
    return "ok" if is_followed else "constraint"
