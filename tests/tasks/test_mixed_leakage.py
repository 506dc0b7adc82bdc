"""No prompt that is made here shares a run of eight words with any of IFEval's 541.

Runs where ES_ALIGN_IFEVAL names IFEval's input_data.jsonl. One thing is exempt, since IFEval's
checker fixes its words: the three answers of detectable_format:constrained_response.
"""

import os
import re
from pathlib import Path

import pytest

from es_align.bench.ifeval_responses import read_ifeval_prompts
from es_align.config import TaskConfig
from es_align.tasks import make_task
from es_align.tasks.argument_texts import CLOSING_PHRASES
from es_align.tasks.kind_wordings import KIND_WORDINGS
from es_align.tasks.requests import BRIEFLY, REQUESTS, YES_OR_NO
from es_align.tasks.topics import TOPICS
from es_align.tasks.wordings import END_PHRASES, FAMILIES, LENGTHS, QUESTIONS
from rewards.ifeval.detectable_format import ANSWERS

RUN_WORDS = 8
SENTENCE_SETS = [
    *KIND_WORDINGS.values(),
    *QUESTIONS.values(),
    *LENGTHS.values(),
    *(family.wordings for family in FAMILIES),
    REQUESTS,
    YES_OR_NO,
    BRIEFLY,
    CLOSING_PHRASES,
    END_PHRASES,
]


def runs(text):
    for answer in ANSWERS:
        text = text.replace(answer, "|")
    parts = [re.findall(r"\w+", part.lower()) for part in text.split("|")]
    return {
        tuple(words[first : first + RUN_WORDS])
        for words in parts
        for first in range(len(words) - RUN_WORDS + 1)
    }


@pytest.fixture(scope="module")
def ifeval_runs():
    path = os.environ.get("ES_ALIGN_IFEVAL")
    if not path:
        pytest.skip("ES_ALIGN_IFEVAL is not set to IFEval's input_data.jsonl")
    prompts = read_ifeval_prompts(Path(path))
    assert len(prompts) == 541
    return {run: row.key for row in prompts for run in runs(row.prompt)}


def test_runs_are_found():
    text = "one two three four five six seven eight nine"
    assert len(runs(text)) == 2
    assert not runs("My answer is yes. My answer is no. My answer is maybe.")


@pytest.mark.parametrize(
    "settings",
    [{}, {"max_words": 60, "seed": 3}],
    ids=["full", "short"],
)
def test_no_prompt_is_ifevals(ifeval_runs, settings):
    config = TaskConfig(kinds=("all",), num_train=2250, num_heldout=390, **settings)
    task = make_task(config, seed=0, prompts_per_generation=4)
    for prompt in (*task.train, *task.heldout):
        text = prompt.messages[-1]["content"]
        assert {ifeval_runs[run] for run in runs(text) if run in ifeval_runs} == set(), text


def test_no_family_prompt_is_ifevals(ifeval_runs):
    task = make_task(TaskConfig(num_train=2000, num_heldout=300), seed=0, prompts_per_generation=4)
    for prompt in (*task.train, *task.heldout):
        assert not runs(prompt.messages[-1]["content"]) & ifeval_runs.keys()


def test_no_sentence_or_topic_is_ifevals(ifeval_runs):
    for wordings in SENTENCE_SETS:
        for sentence in (*wordings.train, *wordings.heldout):
            assert not runs(sentence) & ifeval_runs.keys(), sentence
    for topic in (*TOPICS["train"], *TOPICS["heldout"]):
        assert not runs(" ".join((topic.name, *topic.words))) & ifeval_runs.keys()
