"""The `instructions` task: short questions with one verifiable constraint each, generated here.

Constraints are of the kinds IFEval checks (arXiv 2311.07911); topics, questions and wordings are
our own, and no topic, question or wording of a training prompt appears in a held-out one. Families
take turns, so both lists are balanced over them, and a longer list begins with the shorter one.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple

from es_align.config import TaskConfig
from es_align.tasks.base import PromptTask, did_you_mean, make_messages, shuffled
from es_align.tasks.mixed import make_mixed
from es_align.tasks.topics import TOPICS, Split, Topic
from es_align.tasks.wordings import (
    END_PHRASES,
    FAMILIES,
    LENGTHS,
    NUM_BULLETS,
    NUM_KEYWORDS,
    POSTSCRIPT_MARKERS,
    QUESTIONS,
    WORD_LIMITS,
    Family,
)
from kernels.errors import ConfigError
from kernels.noise import Purpose
from rewards.base import JsonValue
from rewards.ifeval.length_constraints import LESS_THAN
from rewards.topic import num_topic_words
from workers.protocol import Prompt

_BY_NAME: Mapping[str, Family] = {family.name: family for family in FAMILIES}
_FIELD = re.compile(r"\{\w+\}")


class _Draw(IntEnum):
    """What is drawn; part of every prompt's identity, so the numbers never change."""

    TOPIC = 0
    LENGTH = 1
    ARGUMENT = 2
    VARIANT = 1000  # and the topic's index is added


class _Arguments(NamedTuple):
    kwargs: dict[str, JsonValue]  # the checker's
    fields: dict[str, str]  # how the wording names them


def make_instructions(config: TaskConfig, *, seed: int, prompts_per_generation: int) -> PromptTask:
    """Build the task; ConfigError for an unknown family or more prompts than can be made.

    With `task.kinds` set it is another one, over all of IFEval's kinds (`es_align.tasks.mixed`).
    """
    if config.kinds:
        return make_mixed(config, seed=seed, prompts_per_generation=prompts_per_generation)
    _refuse_unread(config)
    families = select_families(config.families)
    return PromptTask(
        "instructions",
        "instructions",
        train=make_prompts("train", families, config.num_train, config),
        heldout=make_prompts("heldout", families, config.num_heldout, config),
        seed=seed,
        prompts_per_generation=prompts_per_generation,
        groups=[range(first, config.num_train, len(families)) for first in range(len(families))],
    )


def _refuse_unread(config: TaskConfig) -> None:
    for name in ("max_instructions", "max_words"):
        value, default = getattr(config, name), TaskConfig.model_fields[name].default
        if value != default:
            raise ConfigError(
                f"task.{name}={value} is only read with task.kinds, which is empty; set "
                f"task.kinds=all, or leave task.{name} out"
            )


def select_families(names: Sequence[str]) -> tuple[Family, ...]:
    """The families of these short names, all for none; ConfigError if one is unknown or doubled."""
    for name in names:
        if name not in _BY_NAME:
            raise ConfigError(
                f"task.families: unknown family {name!r}.{did_you_mean(name, _BY_NAME)}"
            )
    if len(set(names)) < len(names):
        raise ConfigError(f"task.families={list(names)} names a family twice; name each one once")
    return tuple(_BY_NAME[name] for name in names) if names else FAMILIES


def make_prompts(
    split: Split, families: Sequence[Family], num_prompts: int, config: TaskConfig
) -> list[Prompt]:
    """The first `num_prompts` prompts of a split, families in turn, no text twice.

    Raises ConfigError if the split has fewer different prompts.
    """
    limit = min(_num_prompts(split, family) for family in families) * len(families)
    if num_prompts > limit:
        raise ConfigError(
            f"task.num_{split}={num_prompts} is more than the {limit} different {split} prompts "
            f"of {len(families)} families; use {limit} or fewer, or add families"
        )
    return [
        _make_prompt(f"{split}/{index}", split, families[index % len(families)], turn, config)
        for index in range(num_prompts)
        for turn in (index // len(families),)
    ]


def _make_prompt(
    prompt_id: str, split: Split, family: Family, turn: int, config: TaskConfig
) -> Prompt:
    """The turn-th prompt of a family: every topic once a round, said in another way each round."""
    topics, wordings = TOPICS[split], family.wordings.half(split)
    # A prompt depends on its family and turn alone, not on the families beside it.
    stream = _stream(split, family)
    round_number, position = divmod(turn, len(topics))
    topic_index = _order(len(topics), config.seed, stream, _Draw.TOPIC)[position]
    topic = topics[topic_index]
    questions = QUESTIONS[topic.kind].half(split)
    variants = _order(
        len(questions) * len(wordings), config.seed, stream, _Draw.VARIANT + topic_index
    )
    question, wording = divmod(variants[round_number], len(wordings))
    lengths = LENGTHS[family.length].half(split)
    length = _order(len(lengths), config.seed, stream, _Draw.LENGTH, turn)[0]
    request = " ".join(
        (questions[question].format(topic=topic.name), lengths[length], wordings[wording])
    )

    kwargs, fields = _arguments(family, topic, split, config.seed, turn)
    text = request.format_map(fields)
    return Prompt(
        prompt_id=prompt_id,
        messages=make_messages(text, config.system_prompt),
        columns={
            "family": family.name,
            "instruction_id": family.instruction_id,
            "kwargs": kwargs,
            "topic": topic.name,
            "topic_names": list(topic.name_stems),
            # A word that the prompt contains shows nothing.
            "topic_words": [word for word in topic.words if not num_topic_words(text, (word,))],
            "own_text": _FIELD.sub("…", request),
        },
    )


def _arguments(family: Family, topic: Topic, split: Split, seed: int, turn: int) -> _Arguments:
    """Draw what the family's checker and wording need."""

    def order(num: int) -> list[int]:
        return _order(num, seed, _stream(split, family), _Draw.ARGUMENT, turn)

    match family.name:
        case "end_phrase":
            phrases = END_PHRASES.half(split)
            phrase = phrases[order(len(phrases))[0]]
            return _Arguments({"end_phrase": phrase}, {"phrase": phrase})
        case "bullets":
            num = NUM_BULLETS[order(len(NUM_BULLETS))[0]]
            return _Arguments({"num_bullets": num}, {"num": str(num)})
        case "keywords":
            words = [topic.keywords[i] for i in order(len(topic.keywords))[:NUM_KEYWORDS]]
            quoted = " and ".join(f'"{word}"' for word in words)
            return _Arguments({"keywords": list(words)}, {"keywords": quoted})
        case "brief":
            limit = WORD_LIMITS[order(len(WORD_LIMITS))[0]]
            kwargs: dict[str, JsonValue] = {"relation": LESS_THAN, "num_words": limit}
            return _Arguments(kwargs, {"num": str(limit)})
        case "postscript":
            marker = POSTSCRIPT_MARKERS[order(len(POSTSCRIPT_MARKERS))[0]]
            return _Arguments({"postscript_marker": marker}, {"marker": marker})
        case _:
            return _Arguments({}, {})


def _num_prompts(split: Split, family: Family) -> int:
    """How many different prompts a family has."""
    num_questions = min(len(questions.half(split)) for questions in QUESTIONS.values())
    return len(TOPICS[split]) * num_questions * len(family.wordings.half(split))


def _stream(split: Split, family: Family) -> int:
    digest = hashlib.sha256(f"{split}/{family.name}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def _order(num: int, seed: int, *counter: int) -> list[int]:
    return shuffled(num, seed, Purpose.DATA, *counter).tolist()
