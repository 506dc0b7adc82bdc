"""reasoning_gym rows are scored by reasoning_gym's own scorers."""

import inspect
import re

import pytest

from kernels.errors import ConfigError, DataError
from rewards.base import Prompted
from rewards.procedural import EVALUATING, reasoning_gym_reward
from rewards.scoring import Scorer
from rewards.specs import RewardSpec

SUM = {"dataset": "chain_sum", "entry": {"question": "4 + 3 =", "answer": "7", "metadata": {}}}
BACKWARD = {
    "dataset": "spell_backward",
    "entry": {"question": "Spell backward: sun", "answer": "nus", "metadata": {"word": "sun"}},
}


@pytest.mark.parametrize(
    ("completion", "row", "reward", "passed", "reason"),
    [
        ("4 + 3 = 7\n#### 7", SUM, 1.0, True, "ok"),
        ("#### **7**.", SUM, 1.0, True, "ok"),
        ("####7", SUM, 1.0, True, "ok"),
        ("The answer is 7.", SUM, 0.5, False, "unmarked"),
        ("7", SUM, 0.5, False, "unmarked"),
        ("#### 8", SUM, 0.1, False, "wrong"),
        ("#### 8\n#### 7", SUM, 1.0, True, "ok"),
        ("It is eight", SUM, 0.0, False, "wrong"),
        ("...", SUM, 0.0, False, "no_answer"),
        ("", SUM, 0.0, False, "empty"),
        ("#### nus", BACKWARD, 1.0, True, "ok"),
    ],
)
def test_verdicts(completion, row, reward, passed, reason):
    score = reasoning_gym_reward(completion, row)
    assert (score.reward, score.passed, score.reason) == (reward, passed, reason)


def test_a_partly_right_answer_does_not_pass():
    score = reasoning_gym_reward("#### 7 or 8 or 9", SUM)
    assert not score.passed
    assert score.reward is not None
    assert 0.0 < score.reward < 0.5


def test_an_unknown_data_set_is_named():
    with pytest.raises(ConfigError, match="no data set 'chain_sums'"):
        reasoning_gym_reward("7", SUM | {"dataset": "chain_sums"})


def test_a_missing_column_is_named():
    with pytest.raises(DataError, match="needs the column 'entry'"):
        reasoning_gym_reward("7", {"dataset": "chain_sum"})


def test_scorers_that_run_an_answer_as_python_are_known_and_refused():
    """By the scorers' own source, so that a new release of reasoning_gym cannot bring one."""
    from reasoning_gym.factory import DATASETS

    runs = re.compile(r"\b(?:eval|exec|parse_expr|sympify)\(\s*answer")
    found = {
        name
        for name, (made, _) in DATASETS.items()
        if runs.search(inspect.getsource(made.score_answer))
    }
    assert found == EVALUATING
    for name in EVALUATING:
        with pytest.raises(ConfigError, match=f"scorer of {name} would run what a model wrote"):
            reasoning_gym_reward("#### exit()", SUM | {"dataset": name})


def test_a_worker_scores_in_processes_under_a_limit():
    assert RewardSpec("reasoning_gym").is_isolated
    with Scorer((RewardSpec("reasoning_gym"),), num_processes=1) as scorer:
        scorer.start()
        items = [Prompted(text, (), SUM) for text in ("#### 7", "#### 8")]
        assert [score.reward for score in scorer.score(items)] == [1.0, 0.1]
