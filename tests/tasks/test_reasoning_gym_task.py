"""reasoning_gym's data sets as tasks."""

import pytest

from es_align.config import TaskConfig
from es_align.tasks import make_task
from kernels.errors import ConfigError, DataError
from rewards.procedural import reasoning_gym_reward


def make(dataset, **settings):
    config = TaskConfig(name="reasoning_gym", dataset=dataset, **settings)
    return make_task(config, seed=0, prompts_per_generation=4)


@pytest.mark.parametrize("dataset", ["chain_sum", "gsm_symbolic", "spell_backward"])
def test_splits_share_no_question_and_answers_score(dataset):
    task = make(dataset, num_train=40, num_heldout=12)
    texts = [prompt.messages[0]["content"] for prompt in (*task.train, *task.heldout)]
    assert len(set(texts)) == 52
    for prompt in task.heldout:
        entry = prompt.columns["entry"]
        assert isinstance(entry, dict)
        score = reasoning_gym_reward(f"#### {entry['answer']}", prompt.columns)
        assert (score.reward, score.passed) == (1.0, True)


def test_rows_are_fixed_by_the_tasks_seed():
    first, again = (make("chain_sum", num_train=8, num_heldout=4) for _ in range(2))
    assert (first.train, first.heldout) == (again.train, again.heldout)
    assert make("chain_sum", num_train=16, num_heldout=4).heldout == first.heldout
    assert make("chain_sum", num_train=8, num_heldout=4, seed=1).heldout != first.heldout


def test_an_unknown_data_set_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"'chain_sums'\. Did you mean 'chain_sum'\?"):
        make("chain_sums")


def test_a_data_set_that_plain_rows_cannot_score_is_refused():
    with pytest.raises(ConfigError, match="does not accept the row's own answer"):
        make("rearc", num_train=4, num_heldout=2)


def test_a_data_set_with_too_few_questions_is_refused():
    with pytest.raises(DataError, match=r"only \d+ different train questions"):
        make("tower_of_hanoi", num_train=400, num_heldout=2)
