"""The instructions generator: disjoint splits, balance, determinism, sane prompts."""

from collections import Counter

import pytest

from es_align.config import TaskConfig
from es_align.tasks import make_task
from es_align.tasks.topics import HELDOUT_TOPICS, TRAIN_TOPICS
from es_align.tasks.wordings import (
    END_PHRASES,
    FAMILIES,
    LENGTHS,
    QUESTIONS,
)
from kernels.errors import ConfigError
from rewards.ifeval import get_checker
from rewards.instructions import instructions_reward
from rewards.topic import MIN_TOPIC_WORDS, num_topic_words, topic_share

ALL_WORDINGS = [
    *QUESTIONS.values(),
    *(family.wordings for family in FAMILIES),
    *LENGTHS.values(),
    END_PHRASES,
]
TOPICS = TRAIN_TOPICS + HELDOUT_TOPICS


@pytest.fixture(scope="module")
def task():
    return make_task(TaskConfig(num_train=512, num_heldout=100), seed=0, prompts_per_generation=10)


def text_of(prompt):
    return prompt.messages[-1]["content"]


def test_there_is_enough_of_everything():
    assert (len(TRAIN_TOPICS), len(HELDOUT_TOPICS)) == (75, 30)
    assert sum(len(questions.train) for questions in QUESTIONS.values()) >= 10
    assert sum(len(questions.heldout) for questions in QUESTIONS.values()) >= 6
    for family in FAMILIES:
        assert len(family.wordings.train) >= 6
        assert len(family.wordings.heldout) >= 3


def test_train_and_heldout_share_no_topic_and_no_wording():
    names = [topic.name for topic in TOPICS]
    assert len(set(names)) == len(names)
    for wordings in ALL_WORDINGS:
        assert not set(wordings.train) & set(wordings.heldout)
        for half in wordings:
            assert len(set(half)) == len(half)


def test_prompts_of_the_splits_share_no_text_and_no_topic(task):
    train, heldout = map(text_of, task.train), map(text_of, task.heldout)
    assert not set(train) & set(heldout)
    topics = [{prompt.columns["topic"] for prompt in part} for part in (task.train, task.heldout)]
    assert not topics[0] & topics[1]
    assert len(topics[0]) == len(TRAIN_TOPICS)


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_texts_differ_and_ids_count_up(task, split):
    prompts = getattr(task, split)
    assert len({text_of(prompt) for prompt in prompts}) == len(prompts)
    assert [prompt.prompt_id for prompt in prompts] == [f"{split}/{i}" for i in range(len(prompts))]
    assert not any("{" in text_of(prompt) for prompt in prompts)


def test_heldout_and_batches_are_balanced_over_families(task):
    counts = Counter(prompt.columns["family"] for prompt in task.heldout)
    assert counts == {family.name: 10 for family in FAMILIES}
    for generation in range(20):
        families = {prompt.columns["family"] for prompt in task.batch(generation)}
        assert len(families) == len(FAMILIES)


FIRST_HELDOUT = [
    "What do sheep do all day? Keep it to one or two brief sentences. "
    "Type everything in lower case.",
    "How would you recognise turtles? A short sentence or two will do. "
    "Leave no letter in lower case.",
    "What sort of creatures are tigers? A short sentence or two will do. "
    "Surround your complete reply with double quotes.",
]


def test_literal_first_prompts(task):
    assert [text_of(prompt) for prompt in task.heldout[:3]] == FIRST_HELDOUT


def test_same_seed_same_prompts_and_a_longer_list_begins_with_the_shorter(task):
    again = make_task(TaskConfig(num_train=512, num_heldout=45), seed=5, prompts_per_generation=10)
    assert again.train == task.train
    assert again.heldout == task.heldout[:45]
    other = make_task(TaskConfig(seed=1), seed=0, prompts_per_generation=10)
    assert text_of(other.train[0]) != text_of(task.train[0])


def test_a_family_alone_has_the_prompts_it_has_among_others(task):
    alone = make_task(
        TaskConfig(families=("quotes",), num_train=50, num_heldout=10),
        seed=0,
        prompts_per_generation=8,
    )
    among = [text_of(p) for p in task.heldout if p.columns["family"] == "quotes"]
    assert [text_of(prompt) for prompt in alone.heldout] == among


def test_batch_order_depends_on_the_runs_seed_alone(task):
    again = make_task(TaskConfig(num_train=512), seed=0, prompts_per_generation=10)
    other = make_task(TaskConfig(num_train=512), seed=1, prompts_per_generation=10)
    assert again.batch(3) == task.batch(3)
    assert other.batch(3) != task.batch(3)


def test_system_prompt_comes_first():
    task = make_task(TaskConfig(system_prompt="Be kind."), seed=0, prompts_per_generation=8)
    assert task.train[0].messages[0] == {"role": "system", "content": "Be kind."}
    assert [message["role"] for message in task.train[0].messages] == ["system", "user"]


def test_every_row_can_be_scored_and_no_prompt_answers_itself(task):
    for prompt in (*task.train, *task.heldout):
        get_checker(str(prompt.columns["instruction_id"]))
        assert not instructions_reward(text_of(prompt), prompt.columns).passed
        assert instructions_reward("", prompt.columns).reason == "empty"


def test_asked_words_are_not_counted_as_topic_words(task):
    for prompt in (*task.train, *task.heldout):
        words = prompt.columns["topic_words"]
        assert isinstance(words, list)
        assert len(words) >= 2 * MIN_TOPIC_WORDS
        assert num_topic_words(text_of(prompt), tuple(map(str, words))) == 0


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_topics_are_well_formed(topic):
    assert num_topic_words(topic.name, topic.name_stems) == 1
    assert len(topic.keywords) == 4
    assert 8 <= len(topic.words) + 1 <= 15
    for word in topic.words:
        inside = [other for other in topic.words if other != word and other.startswith(word)]
        assert not inside or len(word) <= 3


def test_no_word_belongs_to_many_topics():
    counts = Counter(word for topic in TOPICS for word in set(topic.words))
    assert counts.most_common(1)[0][1] <= len(TOPICS) / 4


@pytest.mark.parametrize(
    ("topic", "answer"),
    [
        ("bees", "Bees live in hives and gather nectar from flowers."),
        ("a library", "People borrow books there and read in silence."),
        ("the moon", "It circles the earth and moves the tides of the sea at night."),
        ("chess", "Two players try to trap each other's king with clever moves."),
        ("a plumber", "She fixes leaking pipes and repairs broken sinks."),
        ("tennis", "You hit a ball across the court to your opponent."),
    ],
)
def test_sensible_answers_are_on_topic(topic, answer):
    (found,) = [each for each in TOPICS if each.name == topic]
    assert topic_share(answer, "Tell me.", found.name_stems, found.words) == 1.0


def test_unknown_family_is_answered_with_the_nearest_and_the_list():
    with pytest.raises(ConfigError) as error:
        make_task(TaskConfig(families=("lowercas",)), seed=0, prompts_per_generation=8)
    assert "unknown family 'lowercas'. Did you mean 'lowercase'?" in str(error.value)
    assert all(family.name in str(error.value) for family in FAMILIES)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TaskConfig(families=("quotes", "quotes")), "names a family twice"),
        (TaskConfig(num_heldout=5000), "use 2700 or fewer"),
        (TaskConfig(num_train=4), "raise task.num_train"),
    ],
)
def test_impossible_sizes_are_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        make_task(config, seed=0, prompts_per_generation=9)


def test_every_prompt_can_be_made():
    config = TaskConfig(families=("quotes",), num_train=2700, num_heldout=270)
    task = make_task(config, seed=0, prompts_per_generation=8)
    assert len({text_of(prompt) for prompt in task.train}) == 2700
    assert len({text_of(prompt) for prompt in task.heldout}) == 270
