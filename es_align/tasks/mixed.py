"""The `instructions` task over IFEval's 25 kinds: a request and one to three instructions.

Requests are of the sorts that IFEval has (stories, emails, poems, questions) on topics of our own;
kinds are dealt by their weight, and five prompts of nine have one instruction, three have two and
one has three, as there. A prompt depends on the settings, its index and the seed alone, so a longer
list begins with the shorter one. Topics, requests and wordings of held-out prompts appear in no
training prompt.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from es_align.config import TaskConfig
from es_align.tasks import kinds
from es_align.tasks.arguments import Arguments, Draws, Scope, draw_arguments
from es_align.tasks.base import PromptTask, make_messages, shuffled
from es_align.tasks.kind_wordings import KIND_WORDINGS
from es_align.tasks.kinds import Deck, are_compatible, make_deck
from es_align.tasks.openings import draw_opening
from es_align.tasks.requests import BRIEFLY, REQUESTS, YES_OR_NO
from es_align.tasks.topics import TOPICS, Split, Topic
from es_align.tasks.wordings import QUESTIONS
from kernels.errors import ConfigError
from kernels.noise import Purpose
from rewards.base import JsonValue
from rewards.topic import num_topic_words
from workers.protocol import Prompt

_NUM_INSTRUCTIONS = (1, 1, 1, 1, 1, 2, 2, 2, 3)
_JOINTS = (" ", " ", " ", "\n")
_PHRASES = frozenset(("phrase", "answers"))  # fields of several words: to say them is no echo
_SAY_LENGTH = frozenset((kinds.WORDS, kinds.SENTENCES, kinds.ANSWER))


class _Request(NamedTuple):
    """What is asked for, and about what."""

    topic: Topic
    variant: int  # of the requests that suit the topic; never the same twice for one topic


def make_mixed(config: TaskConfig, *, seed: int, prompts_per_generation: int) -> PromptTask:
    """Build the task; ConfigError for families too, an unknown kind or too many prompts."""
    if config.families:
        raise ConfigError(
            f"task.families={list(config.families)} and task.kinds={list(config.kinds)} are two "
            "ways to choose; leave one out"
        )
    deck = make_deck(config.kinds)
    return PromptTask(
        "instructions",
        "instructions_mix",
        train=make_mixed_prompts("train", deck, config.num_train, config),
        heldout=make_mixed_prompts("heldout", deck, config.num_heldout, config),
        seed=seed,
        prompts_per_generation=prompts_per_generation,
    )


def make_mixed_prompts(
    split: Split, deck: Deck, num_prompts: int, config: TaskConfig
) -> list[Prompt]:
    """The first `num_prompts` prompts of a split, no text twice; ConfigError if it has fewer."""
    limit = len(TOPICS[split]) * _num_requests(split)
    if num_prompts > limit:
        raise ConfigError(
            f"task.num_{split}={num_prompts} is more than the {limit} different {split} prompts of "
            f"task.kinds; use {limit} or fewer"
        )
    return [_make_prompt(split, index, deck, config) for index in range(num_prompts)]


def _make_prompt(split: Split, index: int, deck: Deck, config: TaskConfig) -> Prompt:
    stream = _stream(f"{split}/prompt")
    draws = Draws(
        lambda num, slot: shuffled(num, config.seed, Purpose.DATA, stream, index, slot).tolist()
    )
    request = _request(split, index, config.seed)
    chosen = _draw_kinds(split, index, deck, config, draws)
    scope = Scope(
        words=tuple(draws.shuffle(request.topic.keywords)),
        split=split,
        is_alone=len(chosen) == 1,
        max_words=config.max_words,
    )
    arguments = {kind: draw_arguments(kind, scope, draws) for kind in chosen}
    text, own_text = _texts(request, split, arguments, config, draws)
    if kinds.REPEAT in arguments:
        wording = draws.pick(KIND_WORDINGS[kinds.REPEAT].half(split))
        arguments[kinds.REPEAT] = Arguments({"prompt_to_repeat": text}, {})
        text, own_text = f"{text}\n\n{wording}", f"{own_text}\n\n{wording}"
    columns = _columns(request.topic, arguments, text, own_text)
    opening = draw_opening(request.topic.name, split, arguments, draws)
    return Prompt(
        prompt_id=f"{split}/{index}",
        messages=make_messages(text, config.system_prompt),
        columns=columns if opening is None else {**columns, "opening": opening},
    )


def _columns(
    topic: Topic, arguments: dict[str, Arguments], text: str, own_text: str
) -> dict[str, JsonValue]:
    return {
        "instruction_id_list": list(arguments),
        "kwargs": [argument.kwargs for argument in arguments.values()],
        "topic": topic.name,
        "topic_names": list(topic.name_stems),
        # A word that the prompt contains shows nothing.
        "topic_words": [word for word in topic.words if not num_topic_words(text, (word,))],
        "own_text": own_text,
    }


def _request(split: Split, index: int, seed: int) -> _Request:
    """Every topic once a round, with another request each round."""
    topics = TOPICS[split]
    round_number, position = divmod(index, len(topics))
    topic_index = _order(len(topics), seed, f"{split}/topics", round_number)[position]
    variants = _order(_num_requests(split), seed, f"{split}/requests", topic_index)
    return _Request(topics[topic_index], variants[round_number])


def _num_requests(split: Split) -> int:
    """How many requests suit any topic."""
    num_questions = min(len(questions.half(split)) for questions in QUESTIONS.values())
    return len(REQUESTS.half(split)) + num_questions


def _draw_kinds(
    split: Split, index: int, deck: Deck, config: TaskConfig, draws: Draws
) -> list[str]:
    """The prompt's own card of the deck, and cards that go with it while there are any."""
    cycle, position = divmod(index, len(deck.cards))
    first = deck.cards[_order(len(deck.cards), config.seed, f"{split}/deck", cycle)[position]]
    wanted = draws.pick([num for num in _NUM_INSTRUCTIONS if num <= config.max_instructions])
    chosen = [first]
    for kind in draws.shuffle(deck.cards):
        if len(chosen) < wanted and all(are_compatible(kind, other) for other in chosen):
            chosen.append(kind)
    return chosen


def _texts(
    request: _Request,
    split: Split,
    arguments: dict[str, Arguments],
    config: TaskConfig,
    draws: Draws,
) -> tuple[str, str]:
    """The prompt, and the prompt without the phrases that an answer is asked to contain."""
    sentences = [
        (draws.pick(_wordings(kind, request.variant, split)), argument.fields)
        for kind, argument in arguments.items()
        if kind != kinds.REPEAT
    ]
    if config.max_words is not None and not _SAY_LENGTH & arguments.keys():
        sentences.append((draws.pick(BRIEFLY.half(split)), {}))
    # What follows a wording without a full stop would read as a part of it.
    sentences = sorted(draws.shuffle(sentences), key=lambda sentence: _is_open(sentence[0]))
    asked = _asked(request, split, is_yes_or_no=kinds.ANSWER in arguments)
    joint = draws.pick(_JOINTS)
    joints = ["\n" if _is_open(wording) else joint for wording, _ in sentences]
    joints = [joint, *joints[:-1]] if joints else []
    text = own_text = asked
    for joint, (wording, fields) in zip(joints, sentences, strict=True):
        text += joint + wording.format_map(fields)
        own_text += joint + wording.format_map(fields | _hidden(fields))
    return text, own_text


def _hidden(fields: dict[str, str]) -> dict[str, str]:
    return dict.fromkeys(_PHRASES & fields.keys(), "…")


def _is_open(wording: str) -> bool:
    return not wording.endswith((".", "?", "!"))


def _asked(request: _Request, split: Split, *, is_yes_or_no: bool) -> str:
    requests: Sequence[str] = (*REQUESTS.half(split), *QUESTIONS[request.topic.kind].half(split))
    if is_yes_or_no:
        questions = YES_OR_NO.half(split)
        return questions[request.variant % len(questions)].format(topic=request.topic.name)
    return requests[request.variant].format(topic=request.topic.name)


def _wordings(kind: str, variant: int, split: Split) -> Sequence[str]:
    """Those of a kind; the one of fixed answers is tied to the request, so that no text recurs."""
    wordings = KIND_WORDINGS[kind].half(split)
    if kind != kinds.ANSWER:
        return wordings
    return (wordings[variant // len(YES_OR_NO.half(split)) % len(wordings)],)


def _order(num: int, seed: int, stream: str, counter: int) -> list[int]:
    return shuffled(num, seed, Purpose.DATA, _stream(stream), counter).tolist()


def _stream(name: str) -> int:
    # Streams of the other form of the task are named after families: no name in common.
    return int.from_bytes(hashlib.sha256(f"kinds/{name}".encode()).digest()[:8], "big")
