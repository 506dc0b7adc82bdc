"""`instructions` over all kinds: every prompt can be followed, is its own, and splits are apart."""

import hashlib
import json
from collections import Counter
from itertools import combinations

import pytest
from obedient import obedient_answer

from es_align.config import Config, TaskConfig
from es_align.tasks import make_task
from es_align.tasks.argument_texts import CLOSING_PHRASES, LANGUAGES
from es_align.tasks.kind_wordings import KIND_WORDINGS
from es_align.tasks.kinds import WEIGHTS, are_compatible
from es_align.tasks.requests import BRIEFLY, REQUESTS, YES_OR_NO
from es_align.tasks.topics import TOPICS
from es_align.tasks.wordings import QUESTIONS
from kernels.errors import ConfigError
from rewards.ifeval import CHECKERS
from rewards.ifeval.detection import known_languages
from rewards.ifeval.verdicts import build_checks, judge
from rewards.instructions_mix import instructions_mix_reward

ALL = TaskConfig(kinds=("all",), num_train=500, num_heldout=150)
SHORT = ALL.model_copy(update={"max_words": 60})
WORDINGS = [*KIND_WORDINGS.values(), REQUESTS, YES_OR_NO, BRIEFLY, CLOSING_PHRASES]
# Of every prompt and column of the families, made before there were kinds.
PROMPTS_OF_ALL_FAMILIES = "39cbc1e071ec91a390e623c76a3636f971683fa91663163c8271c671c9d84dbd"
PROMPTS_OF_THE_QUICKSTART = "74564ffb947120cf78447d96e0dfd2d9b134e229262984e0691e4a9c8578763e"


def make(config, *, seed=0):
    return make_task(config, seed=seed, prompts_per_generation=4)


@pytest.fixture(scope="module")
def task():
    return make(ALL)


def text_of(prompt):
    return prompt.messages[-1]["content"]


@pytest.mark.parametrize(
    ("config", "digest"),
    [
        (TaskConfig(num_train=512, num_heldout=100), PROMPTS_OF_ALL_FAMILIES),
        (TaskConfig(families=("brief", "no_commas"), num_heldout=96), PROMPTS_OF_THE_QUICKSTART),
    ],
)
def test_prompts_of_families_are_what_they_were(config, digest):
    task = make(config)
    rows = [
        [prompt.prompt_id, [dict(message) for message in prompt.messages], dict(prompt.columns)]
        for prompt in (*task.train, *task.heldout)
    ]
    text = json.dumps(rows, sort_keys=True, ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest() == digest
    assert task.reward_name == "instructions"


def test_all_25_kinds_have_wordings_enough():
    assert len(WEIGHTS) == 25
    assert set(WEIGHTS) == set(KIND_WORDINGS) == set(CHECKERS)
    for wordings in KIND_WORDINGS.values():
        assert len(wordings.train) >= 4
        assert len(wordings.heldout) >= 2
    assert set(LANGUAGES) <= set(known_languages())


def test_halves_share_nothing_and_nothing_has_a_comma():
    for wordings in WORDINGS:
        assert not set(wordings.train) & set(wordings.heldout)
        for half in wordings:
            assert len(set(half)) == len(half)
            assert not any("," in text for text in half)
    for questions in QUESTIONS.values():
        assert len({len(questions.heldout) for questions in QUESTIONS.values()}) == 1
        assert not set(questions.train + questions.heldout) & set(REQUESTS.train + REQUESTS.heldout)


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_a_fixed_answers_wordings_make_every_prompt_different(split):
    num_requests = len(REQUESTS.half(split)) + len(QUESTIONS["food"].half(split))
    wordings = KIND_WORDINGS["detectable_format:constrained_response"].half(split)
    assert len(YES_OR_NO.half(split)) * len(wordings) >= num_requests


@pytest.mark.parametrize("config", [ALL, SHORT, ALL.model_copy(update={"seed": 7})])
def test_every_prompt_can_be_followed(config):
    task = make(config)
    for prompt in (*task.train, *task.heldout):
        ids, kwargs = prompt.columns["instruction_id_list"], prompt.columns["kwargs"]
        answer = obedient_answer(dict(prompt.columns))
        assert all(judge(answer, ids, kwargs).strict), (ids, kwargs, answer)


def test_kinds_that_exclude_each_other_are_never_together(task):
    pairs = Counter()
    for prompt in (*task.train, *task.heldout):
        ids = prompt.columns["instruction_id_list"]
        build_checks(ids, prompt.columns["kwargs"])
        assert 1 <= len(ids) <= 3
        for one, other in combinations(ids, 2):
            assert are_compatible(one, other)
            assert are_compatible(other, one)
            pairs[frozenset((one, other))] += 1
    assert len(pairs) > 70


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("change_case:english_lowercase", "change_case:english_capital"),
        ("punctuation:no_comma", "detectable_format:json_format"),
        ("language:response_language", "keywords:existence"),
        ("startend:quotation", "startend:end_checker"),
        ("combination:repeat_prompt", "change_case:english_lowercase"),
        ("combination:two_responses", "length_constraints:number_paragraphs"),
        ("detectable_format:constrained_response", "detectable_format:title"),
        ("detectable_format:title", "detectable_format:title"),
    ],
)
def test_some_that_must_exclude_each_other(one, other):
    assert not are_compatible(one, other)
    assert not are_compatible(other, one)


def test_kinds_and_their_number_are_as_in_ifeval(task):
    counts = Counter(len(prompt.columns["kwargs"]) for prompt in task.train)
    assert 0.5 < counts[1] / 500 < 0.62  # IFEval: 305, 179 and 57 of 541
    assert 0.28 < counts[2] / 500 < 0.39
    kinds = Counter(name for prompt in task.train for name in prompt.columns["instruction_id_list"])
    assert set(kinds) == set(WEIGHTS)
    assert kinds.most_common(1)[0][0] == "punctuation:no_comma"


def test_prompts_differ_and_splits_share_no_topic(task):
    texts = [text_of(prompt) for prompt in (*task.train, *task.heldout)]
    assert len(set(texts)) == len(texts)
    assert not any("{" in text or "}" in text for text in texts)
    topics = [{prompt.columns["topic"] for prompt in part} for part in (task.train, task.heldout)]
    assert topics == [{topic.name for topic in TOPICS[split]} for split in ("train", "heldout")]
    assert [prompt.prompt_id for prompt in task.train[:2]] == ["train/0", "train/1"]


def test_every_prompt_can_be_made():
    config = TaskConfig(kinds=("all",), num_train=2250, num_heldout=390)
    task = make(config)
    for part in (task.train, task.heldout):
        assert len({text_of(prompt) for prompt in part}) == len(part)


def test_a_prompt_depends_on_its_index_and_the_tasks_seed_alone(task):
    shorter = make(ALL.model_copy(update={"num_train": 50, "num_heldout": 20}), seed=9)
    assert shorter.train == task.train[:50]
    assert shorter.heldout == task.heldout[:20]
    other = make(ALL.model_copy(update={"seed": 1}))
    assert sum(a == b for a, b in zip(other.train, task.train, strict=True)) < 10


FIRST = [
    "Sum up what most people know about a rainbow. "
    "Put a brief postscript below it and open that by P.P.S",
    "Write an essay on tennis.\nStick to small letters and to English.",
    "In which dishes or drinks do we find bread? Make sure there is not a comma in it. "
    "Count out two markdown bullet points; that is the number wanted.",
]


def test_literal_first_prompts(task):
    assert [text_of(prompt) for prompt in task.heldout[:3]] == FIRST


def test_what_is_to_be_repeated_is_what_stands_above(task):
    repeats = [p for p in task.train if "combination:repeat_prompt" in str(p.columns)]
    assert repeats
    for prompt in repeats:
        ids = list(prompt.columns["instruction_id_list"])
        request = prompt.columns["kwargs"][ids.index("combination:repeat_prompt")]
        above, _, below = text_of(prompt).rpartition("\n\n")
        assert request == {"prompt_to_repeat": above}
        assert below in KIND_WORDINGS["combination:repeat_prompt"].train


def test_one_kind_and_one_instruction():
    config = TaskConfig(kinds=("detectable_format:title",), max_instructions=1, num_train=30)
    ids = {tuple(prompt.columns["instruction_id_list"]) for prompt in make(config).train}
    assert ids == {("detectable_format:title",)}


def test_max_words_bounds_what_is_asked_for():
    for prompt in make(SHORT).train:
        for kwargs in prompt.columns["kwargs"]:
            if kwargs.get("relation") == "at least":
                assert kwargs.get("num_words", 0) <= 60
                assert kwargs.get("num_sentences", 0) <= 5


def test_answers_are_scored_and_no_prompt_answers_itself(task):
    for prompt in (*task.train[:200], *task.heldout[:100]):
        assert instructions_mix_reward("", prompt.columns).reward == 0.0
        score = instructions_mix_reward(text_of(prompt), prompt.columns)
        assert score.reward is not None
        assert score.reward < 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kinds": ("keywords:exist",)}, "unknown kind 'keywords:exist'. Did you mean 'keywords:"),
        ({"kinds": ("all", "startend:quotation")}, "write all, or list kinds"),
        ({"kinds": ("startend:quotation",) * 2}, "names a kind twice"),
        ({"kinds": ("all",), "families": ("quotes",)}, "two ways to choose; leave one out"),
        ({"kinds": ("all",), "num_train": 3000}, "use 2250 or fewer"),
        ({"kinds": ("all",), "num_heldout": 400}, "use 390 or fewer"),
        ({"max_words": 100}, "task.max_words=100 is only read with task.kinds"),
        ({"max_instructions": 1}, "task.max_instructions=1 is only read with task.kinds"),
    ],
)
def test_nonsense_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        make(TaskConfig(**settings))


def test_kinds_have_longer_answers_and_all_may_stand_alone():
    assert Config(task={"kinds": "all"}).task.kinds == ("all",)
    assert Config(task={"kinds": "all"}).max_new_tokens == 320
    assert Config(task={"families": ["quotes"]}).max_new_tokens == 40
