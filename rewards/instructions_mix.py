"""The reward of `instructions` prompts over all of IFEval's kinds: dense, and none for rubbish.

Columns: `instruction_id_list` and `kwargs` as IFEval's rows have them, `topic_names`,
`topic_words` and `own_text` as in `rewards.instructions`, whose two floors these are: an answer
that is no real one (`rewards.plain_answer`) gets less than `PLAIN_REWARD`; any other gets the mean
over its instructions of 1.0 for one that is followed and at most half for one that is not, by its
progress. Passed is IFEval's strict verdict and nothing else, so that pass rates compare.
"""

from rewards.base import Columns, Score
from rewards.columns import list_column, text_column, texts_column
from rewards.ifeval.verdicts import progresses
from rewards.instructions import PARTIAL_REWARD, PLAIN_REWARD
from rewards.plain_answer import Plainness, Topic, plainness


def instructions_mix_reward(completion: str, columns: Columns) -> Score:
    """Score one completion; DataError or ConfigError for a row that lacks a column or is wrong.

    Reasons: ok (all followed), partly, none, off_topic, degenerate, empty.
    """
    ids, kwargs = texts_column(columns, "instruction_id_list"), list_column(columns, "kwargs")
    progress = progresses(completion, ids, kwargs)
    topic = Topic(
        text_column(columns, "own_text"),
        texts_column(columns, "topic_names"),
        texts_column(columns, "topic_words"),
    )
    plain = plainness(completion, topic, ids, kwargs)
    if min(plain) == 1.0:
        reward = sum(map(_credit, progress)) / len(progress)
    else:
        reward = PLAIN_REWARD * plain.readable * plain.topic
    num_followed = sum(value == 1.0 for value in progress)
    return Score(
        reward=reward,
        passed=num_followed == len(progress),
        metrics={
            "followed": num_followed / len(progress),
            "progress": sum(progress) / len(progress),
            "topic": float(plain.topic == 1.0),
            "readable": float(plain.readable == 1.0),
        },
        reason=_reason(completion, progress, plain),
    )


def _credit(progress: float) -> float:
    return 1.0 if progress == 1.0 else PLAIN_REWARD + PARTIAL_REWARD * progress


def _reason(completion: str, progress: tuple[float, ...], plain: Plainness) -> str:
    if not completion.strip():
        return "empty"
    if plain.readable < 1:
        return "degenerate"
    if plain.topic < 1:
        return "off_topic"
    if min(progress) == 1.0:
        return "ok"
    return "partly" if max(progress) == 1.0 else "none"
