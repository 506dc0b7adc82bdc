"""Rewards by name, and that none of them raises on odd text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.errors import ConfigError
from rewards.registry import ISOLATED, REWARDS, get_reward

ROW = {
    "instruction_id": "punctuation:no_comma",
    "kwargs": {},
    "topic_names": ["bread"],
    "topic_words": ["oven"],
    "own_text": "Tell me about bread.",
    "answer": "18",
    "dataset": "chain_sum",
    "entry": {"question": "4 + 3 =", "answer": "7", "metadata": {}},
    "numbers": [3, 4],
    "target": 7,
    "pattern": "[0-9]+",
    "schema": {"type": "object"},
}

IFEVAL_ROW = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
ROWS = {"ifeval": IFEVAL_ROW, "instructions_mix": ROW | IFEVAL_ROW}


@pytest.mark.parametrize("name", REWARDS)
def test_a_reward_is_found_by_name(name):
    assert get_reward(name) is REWARDS[name]


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown reward 'gsm8'\. Did you mean 'gsm8k'\?"):
        get_reward("gsm8")


@pytest.mark.parametrize("name", sorted(REWARDS.keys() - ISOLATED | {"reasoning_gym"}))
@given(completion=st.text())
def test_every_reward_is_a_number_from_zero_to_one(name, completion):
    score = get_reward(name)(completion, ROWS.get(name, ROW))
    assert score.reward is not None
    assert 0.0 <= score.reward <= 1.0
    assert score.reason
