"""The reward of `instructions` prompts over all of IFEval's kinds: dense, and none for rubbish.

Columns: `instruction_id_list` and `kwargs` as IFEval's rows have them, `topic_names`,
`topic_words` and `own_text` as in `rewards.instructions`.

The mean over the instructions of 1.0 for one that is followed and at most half for one that is not,
by its progress, times how real an answer is (`rewards.plain_answer`). What is short or says the
prompt back loses all of it; one that repeats itself or is off its topic keeps `floor`. Without a
floor a small model has no slope on instructions: of 48 greedy answers of a 135M model 37 ended in a
loop. With `most_words` an answer that is longer earns less by how much: what never ends keeps no
limit and comes to a comma. Passed is IFEval's strict verdict and nothing else, so that pass rates
compare.
"""

from kernels.errors import ConfigError
from rewards.base import Columns, Score
from rewards.columns import list_column, text_column, texts_column
from rewards.ifeval.verdicts import progresses
from rewards.instructions import PARTIAL_REWARD, PLAIN_REWARD
from rewards.plain_answer import Plainness, Topic, plainness
from rewards.readability import MIN_WORDS

FLOOR = 0.2
CHARACTERS_PER_WORD = 6  # of English, with its space; a loop may have no spaces at all


def instructions_mix_reward(
    completion: str, columns: Columns, *, floor: float = FLOOR, most_words: int | None = None
) -> Score:
    """Score one completion; DataError or ConfigError for a row that lacks a column or is wrong.

    `floor`, in [0, 1], is the share that a degenerate answer keeps; `most_words`, of six
    characters, is the length from which on the reward falls as its inverse (None: never).

    Reasons: ok (all followed), partly, none; off_topic, degenerate, too_short (or the prompt said
    back), empty.
    """
    if not 0 <= floor <= 1:
        raise ConfigError(f"instructions_mix: floor={floor} must be from 0 to 1; use {FLOOR}")
    if most_words is not None and most_words < MIN_WORDS:
        raise ConfigError(
            f"instructions_mix: most_words={most_words} must be at least {MIN_WORDS}, below which "
            "an answer is too short; raise it or leave it out"
        )
    ids, kwargs = texts_column(columns, "instruction_id_list"), list_column(columns, "kwargs")
    progress = progresses(completion, ids, kwargs)
    topic = Topic(
        text_column(columns, "own_text"),
        texts_column(columns, "topic_names"),
        texts_column(columns, "topic_words"),
    )
    plain = plainness(completion, topic, ids, kwargs)
    credit = sum(map(_credit, progress)) / len(progress)
    reward = credit * plain.own * (floor + (1 - floor) * (plain.fluent * plain.topic) ** 2)
    if most_words is not None:
        reward *= min(1.0, most_words * CHARACTERS_PER_WORD / max(1, len(completion)))
    num_followed = sum(value == 1.0 for value in progress)
    return Score(
        reward=reward,
        passed=num_followed == len(progress),
        metrics={
            "followed": num_followed / len(progress),
            "progress": sum(progress) / len(progress),
            "topic": float(plain.topic == 1.0),
            "readable": float(min(plain.own, plain.fluent) == 1.0),
        },
        reason=_reason(completion, progress, plain),
    )


def _credit(progress: float) -> float:
    return 1.0 if progress == 1.0 else PLAIN_REWARD + PARTIAL_REWARD * progress


def _reason(completion: str, progress: tuple[float, ...], plain: Plainness) -> str:
    if not completion.strip():
        return "empty"
    if plain.own < 1:
        return "too_short"
    if plain.fluent < 1:
        return "degenerate"
    if plain.topic < 1:
        return "off_topic"
    if min(progress) == 1.0:
        return "ok"
    return "partly" if max(progress) == 1.0 else "none"
