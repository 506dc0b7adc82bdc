"""The `opening` of a prompt over all kinds: an answer that begins so can follow what is asked."""

from collections import Counter

import pytest

from es_align.config import TaskConfig
from es_align.tasks import kinds, make_task
from es_align.tasks.openings import STARTS
from rewards.ifeval.verdicts import judge

GO_ON = " and one can hear it in the house of his aunt and the other men who went with us"
# What makes the beginning a whole answer that follows its one instruction.
ENDINGS = {
    kinds.LOWERCASE: GO_ON,
    kinds.CAPITAL: GO_ON.upper(),
    kinds.QUOTATION: '"',
    kinds.JSON: '"}',
    kinds.TITLE: "",
    kinds.ANSWER: "",
}


@pytest.fixture(scope="module")
def task():
    config = TaskConfig(kinds=("all",), num_train=1000, num_heldout=300)
    return make_task(config, seed=0, prompts_per_generation=4)


def test_what_begins_so_follows_what_begins_decide(task):
    seen = Counter()
    for prompt in (*task.train, *task.heldout):
        ids, kwargs = prompt.columns["instruction_id_list"], prompt.columns["kwargs"]
        if len(ids) == 1 and ids[0] in ENDINGS:
            answer = prompt.columns["opening"] + ENDINGS[ids[0]]
            assert judge(answer, ids, kwargs).strict == (True,), answer
            seen[ids[0]] += 1
    assert min(seen[kind] for kind in ENDINGS) >= 5


def test_first_bullets_sections_words_and_highlights_are_there(task):
    signs = {
        kinds.BULLETS: lambda kwargs: "* ",
        kinds.SECTIONS: lambda kwargs: f"{kwargs['section_spliter']} 1\n",
        kinds.HIGHLIGHTS: lambda kwargs: "*",
    }
    seen = Counter()
    for prompt in (*task.train, *task.heldout):
        ids, (kwargs, *_) = prompt.columns["instruction_id_list"], prompt.columns["kwargs"]
        if len(ids) == 1 and ids[0] in signs:
            assert prompt.columns["opening"].startswith(signs[ids[0]](kwargs))
            seen[ids[0]] += 1
        if ids == [kinds.FIRST_WORD] and kwargs["nth_paragraph"] == 1:
            assert prompt.columns["opening"].startswith(kwargs["first_word"])
            seen[kinds.FIRST_WORD] += 1
        if ids[0] == kinds.REPEAT and len(ids) == 1:
            opening = prompt.columns["opening"]
            assert kwargs["prompt_to_repeat"].startswith(opening)
            assert len(opening.split()) == min(4, len(kwargs["prompt_to_repeat"].split()))
            seen[kinds.REPEAT] += 1
    assert seen.keys() == signs.keys() | {kinds.FIRST_WORD, kinds.REPEAT}


def test_only_an_answer_in_another_language_has_none(task):
    for prompt in (*task.train, *task.heldout):
        asks_for_language = kinds.LANGUAGE in prompt.columns["instruction_id_list"]
        assert asks_for_language == ("opening" not in prompt.columns)


def test_starts_are_of_one_split_and_without_commas():
    assert not set(STARTS.train) & set(STARTS.heldout)
    assert not any("," in start for start in STARTS.train + STARTS.heldout)
