"""GSM8K rows from a folder: reading, refusing, drawing."""

import json

import pytest
from pydantic import ValidationError

from es_align.config import TaskConfig
from es_align.task_checks import check_apart
from es_align.tasks import make_heldout, make_task, rows
from es_align.tasks.gsm8k import read_problems, sft_prompts
from kernels.errors import DataError


def write(folder, name, rows):
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / name).write_text(lines, encoding="utf-8")


def problems(prefix, num):
    return [
        {"question": f"{prefix} {i} + 1?", "answer": f"Add.\n#### {i + 1:,}"} for i in range(num)
    ]


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "train.jsonl", problems("train", 30))
    write(tmp_path, "test.jsonl", problems("test", 12))
    return tmp_path


def make(folder, **settings):
    config = TaskConfig(name="gsm8k", path=str(folder), **settings)
    return make_task(config, seed=0, prompts_per_generation=4)


def test_prompts_of_a_folder(folder):
    task = make(folder, num_train=30, num_heldout=12)
    assert (task.name, task.reward_name) == ("gsm8k", "gsm8k")
    assert [prompt.prompt_id for prompt in task.heldout[:2]] == ["heldout/0", "heldout/1"]
    answers = sorted(int(str(prompt.columns["answer"])) for prompt in task.train)
    assert answers == list(range(1, 31))
    for prompt in task.train:
        assert prompt.columns["reference"] == f"Add.\n#### {prompt.columns['answer']}"
    assert all("#### n" in prompt.messages[0]["content"] for prompt in task.train)
    assert {prompt.messages[0]["content"].split()[0] for prompt in task.heldout} == {"test"}


def test_a_subset_is_fixed_by_the_tasks_seed(folder):
    first, again = (make(folder, num_train=8, num_heldout=4) for _ in range(2))
    other = make(folder, num_train=8, num_heldout=4, seed=1)
    assert first.heldout == again.heldout
    assert first.heldout != other.heldout
    assert make(folder, num_train=30, num_heldout=8).heldout[:4] == first.heldout


def test_shots_are_solved_problems_that_are_never_asked(folder):
    task = make(folder, num_train=20, num_heldout=12, num_fewshot=3, system_prompt="Be brief.")
    plain = make(folder, num_train=20, num_heldout=12, system_prompt="Be brief.")
    shots = task.train[0].messages[1:-1]
    assert [turn["role"] for turn in shots] == ["user", "assistant"] * 3
    asked = {prompt.messages[-1]["content"] for prompt in task.train}
    for question, answer in zip(shots[::2], shots[1::2], strict=True):
        assert question["content"] not in asked
        number = int(question["content"].split()[1]) + 1  # "train 7 + 1?"
        assert answer["content"] == f"Add.\n#### {number}"
    everywhere = [*task.train, *task.heldout]
    assert all(prompt.messages[1:-1] == shots for prompt in everywhere)
    # What is asked does not depend on what is shown.
    for shown, bare in zip(everywhere, [*plain.train, *plain.heldout], strict=True):
        assert (shown.messages[0], shown.messages[-1]) == bare.messages


def test_a_warm_starts_problems_are_never_asked(folder):
    settings = {"num_train": 20, "num_heldout": 12}
    plain, task = make(folder, num_train=26, num_heldout=12), make(folder, num_sft=6, **settings)
    config = TaskConfig(name="gsm8k", path=str(folder), num_sft=6, **settings)
    kept = sft_prompts(config)
    assert [prompt.prompt_id for prompt in kept] == [f"sft/{index}" for index in range(6)]
    # The order is the one without a warm start, cut in two.
    both = [prompt.messages for prompt in [*kept, *task.train]]
    assert both == [prompt.messages for prompt in plain.train]
    assert kept[0].columns["reference"].startswith("Add.\n#### ")
    assert task.heldout == plain.heldout


def test_a_warm_start_needs_problems(folder):
    with pytest.raises(DataError, match=r"task.num_train=20 and task.num_sft=11.*to 19 or fewer"):
        make(folder, num_train=20, num_heldout=12, num_sft=11)
    with pytest.raises(DataError, match=r"task.num_sft=0 keeps no problem"):
        sft_prompts(TaskConfig(name="gsm8k", path=str(folder)))
    with pytest.raises(DataError, match=r"task.num_sft=31"):
        sft_prompts(TaskConfig(name="gsm8k", path=str(folder), num_sft=31, num_train=1))


def test_heldout_prompts_alone_have_the_same_shots(folder):
    config = TaskConfig(name="gsm8k", path=str(folder), num_train=20, num_heldout=12, num_fewshot=2)
    task = make_task(config, seed=0, prompts_per_generation=4)
    assert make_heldout(config).prompts == task.heldout


def test_shots_that_are_not_there_are_refused(folder):
    with pytest.raises(DataError, match=r"num_fewshot=5, but train\.jsonl has 2 .*num_train=28"):
        make(folder, num_train=28, num_heldout=4, num_fewshot=5)
    with pytest.raises(ValidationError, match="letters has no solved examples"):
        TaskConfig(name="letters", num_fewshot=1)


def test_shots_among_heldout_problems_are_refused(folder):
    (folder / "test.jsonl").write_bytes((folder / "train.jsonl").read_bytes())
    config = TaskConfig(name="gsm8k", path=str(folder), num_train=20, num_heldout=0)
    assert len(make_heldout(config).prompts) == 30
    with pytest.raises(DataError, match=r"30 test question\(s\) stand in the train split too"):
        make_heldout(config.model_copy(update={"num_fewshot": 2}))


def apart(folder, tested_folder=None, *, tested, **settings):
    task = make(folder, num_heldout=4, **settings)
    config = TaskConfig(name="gsm8k", path=str(tested_folder or folder), **tested)
    check_apart(task, config, make_heldout(config))


def test_evaluation_may_not_ask_what_the_run_is_shown(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    write(other, "test.jsonl", problems("train", 30))
    with pytest.raises(
        DataError, match=r"20 prompt\(s\) of evaluation\.task \(gsm8k\) are training"
    ):
        apart(folder, other, tested={"num_heldout": 0}, num_train=20)
    task = make(folder, num_train=20, num_heldout=4, num_fewshot=3)
    asked = {str(prompt.columns["index"]) for prompt in task.train}
    write(
        other, "test.jsonl", [r for i, r in enumerate(problems("train", 30)) if str(i) not in asked]
    )
    with pytest.raises(DataError, match=r"3 prompt\(s\) of .* are solved examples .*num_fewshot=0"):
        apart(folder, other, tested={"num_heldout": 0}, num_train=20, num_fewshot=3)
    apart(folder, other, tested={"num_heldout": 0}, num_train=20)


def test_evaluation_may_not_show_what_the_run_trains_on(folder):
    tested = {"num_train": 5, "num_heldout": 4, "num_fewshot": 8}
    with pytest.raises(
        DataError, match=r"8 solved example\(s\) of evaluation\.task .* num_train, seed"
    ):
        apart(folder, tested=tested, num_train=22)
    apart(folder, tested=tested | {"num_train": 22}, num_train=22)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"question": "a", "answer": "#### 1"', "is not JSON"),
        (b'{"question": "\xff", "answer": "#### 1"}', "is not UTF-8"),
        (b"[1, 2]", "expected an object"),
        (b'{"answer": "#### 1"}', "question=None must be a text"),
        (b'{"question": " ", "answer": "#### 1"}', "must be a text"),
        (b'{"question": "a"}', "answer=None must be a text"),
        (b'{"question": "a", "answer": "about one"}', "not in a number"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, line, message):
    file = tmp_path / "train.jsonl"
    file.write_bytes(b'{"question": "a", "answer": "#### 1"}\n\n' + line + b"\n")
    with pytest.raises(DataError, match=message) as error:
        read_problems(file)
    assert "train.jsonl, line 3" in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"train\.jsonl does not exist; set task\.path"):
        make(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_train": 31, "num_heldout": 4}, "set task.num_train to 30 or fewer"),
        ({"num_train": 8, "num_heldout": 13}, "set task.num_heldout to 12 or fewer"),
    ],
)
def test_too_few_rows_are_refused(folder, settings, message):
    with pytest.raises(DataError, match=message):
        make(folder, **settings)


def test_no_held_out_rows_are_refused(folder):
    (folder / "test.jsonl").write_text("")
    with pytest.raises(DataError, match=r"test\.jsonl has no problems"):
        make(folder, num_train=8, num_heldout=4)


def test_a_test_question_among_the_training_rows_is_refused(folder):
    write(folder, "test.jsonl", problems("train", 1) + problems("test", 12))
    with pytest.raises(DataError, match=r"1 test question.* 'train 0 \+ 1\?'"):
        make(folder, num_train=8, num_heldout=4)


def test_without_a_path_and_without_datasets_the_next_step_is_said(monkeypatch):
    monkeypatch.setattr(rows.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"set task\.path to a folder"):
        make_task(TaskConfig(name="gsm8k"), seed=0, prompts_per_generation=4)
