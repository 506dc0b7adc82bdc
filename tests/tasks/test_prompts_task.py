"""Prompts of the user's own, from JSONL files."""

import json
from pathlib import Path

import pytest

from es_align.config import TaskConfig
from es_align.config_loading import load_config
from es_align.task_checks import make_checked_task
from es_align.tasks import make_heldout, make_task
from es_align.tasks.base import Task
from kernels.errors import ConfigError, DataError, EsAlignError


def write(file: Path, rows: list[dict]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def questions(prefix: str, num: int) -> list[dict]:
    return [{"prompt": f"{prefix} {index}?", "answer": str(index)} for index in range(num)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "train.jsonl", questions("train", 30))
    write(tmp_path / "test.jsonl", questions("test", 12))
    return tmp_path


def make(path: Path, **settings: object) -> Task:
    tree = {"name": "prompts", "path": str(path), "num_train": 8, "num_heldout": 4, **settings}
    return make_task(TaskConfig.model_validate(tree), seed=0, prompts_per_generation=4)


def asked(prompts: object) -> list[str]:
    return [prompt.messages[-1]["content"] for prompt in prompts]  # type: ignore[attr-defined]


def test_rows_of_a_folder_with_what_stands_beside_the_prompt_as_columns(folder: Path) -> None:
    task = make(folder, num_train=30, num_heldout=0)
    assert [prompt.prompt_id for prompt in task.train[:2]] == ["train/0", "train/1"]
    assert sorted(asked(task.train)) == sorted(row["prompt"] for row in questions("train", 30))
    assert sorted(asked(task.heldout)) == sorted(row["prompt"] for row in questions("test", 12))
    for prompt in [*task.train, *task.heldout]:
        number = prompt.messages[0]["content"].split()[1].rstrip("?")
        assert prompt.messages[0]["role"] == "user"
        assert prompt.columns == {"answer": number}


def test_one_file_is_split_by_the_tasks_seed(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.jsonl", questions("mine", 20))
    task, again, other = make(file), make(file), make(file, seed=1)
    assert (len(task.train), len(task.heldout)) == (8, 4)
    assert not {*asked(task.train)} & {*asked(task.heldout)}
    assert (again.train, again.heldout) == (task.train, task.heldout)
    assert other.heldout != task.heldout
    # More training prompts leave those that are held out as they were.
    assert make(file, num_train=16).heldout == task.heldout


@pytest.mark.parametrize("is_file", [False, True])
def test_held_out_rows_are_the_same_without_a_look_at_the_others(
    folder: Path, is_file: bool
) -> None:
    path = folder / "train.jsonl" if is_file else folder
    config = TaskConfig(name="prompts", path=str(path), num_train=8, num_heldout=4)
    heldout = make_heldout(config)
    assert heldout.reward_name is None
    assert tuple(heldout.prompts) == tuple(make(path).heldout)
    everything = make_heldout(config.model_copy(update={"num_heldout": 0, "num_train": 512}))
    assert len(everything.prompts) == (30 if is_file else 12)


def test_conversations_and_the_system_prompt(tmp_path: Path) -> None:
    said = [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Count."},
    ]
    file = write(
        tmp_path / "mine.jsonl", [{"prompt": [*said[:-1], row]} for row in map(turn, "abcde")]
    )
    task = make(file, num_train=4, num_heldout=1)
    first = task.heldout[0].messages
    assert [message["role"] for message in first] == ["user", "assistant", "user"]
    brief = make(file, num_train=4, num_heldout=1, system_prompt="Be brief.")
    assert brief.heldout[0].messages == ({"role": "system", "content": "Be brief."}, *first)


def turn(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


SYSTEM = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi."}]


@pytest.mark.parametrize(
    ("row", "settings", "told"),
    [
        ("[1]", {}, r"line 13: expected an object with prompt"),
        ('{"question": "x"}', {}, r"line 13: expected an object with prompt"),
        ('{"prompt": " ", "answer": "1"}', {}, r"line 13: prompt=' ' must be a text or a list"),
        ('{"prompt": [], "answer": "1"}', {}, r"line 13: prompt=\[\] must be a text or a list"),
        ('{"prompt": [{"role": "user"}]}', {}, r"line 13: the message .* must have a role"),
        ('{"prompt": [{"role": "bot", "content": "x"}]}', {}, r"must have a role \(system, user"),
        (
            '{"prompt": [{"role": "assistant", "content": "x"}]}',
            {},
            r"line 13: the last message is the assistant's; end with the user's",
        ),
        ('{"prompt": "x", "completions": 1}', {}, r"line 13: completions is what reward functions"),
        ('{"prompt": "x", "level": 1}', {}, r"line 13: answer, level stands here or in .*line 1,"),
        (json.dumps({"prompt": SYSTEM}), {"system_prompt": "x"}, r"line 13: .*leave one out"),
        ("{", {}, r"line 13 is not JSON"),
    ],
)
def test_bad_rows_are_named(folder: Path, row: str, settings: dict, told: str) -> None:
    with (folder / "test.jsonl").open("a") as stream:
        stream.write(row + "\n")
    with pytest.raises(DataError, match=told):
        make(folder, **settings)


def test_a_prompt_on_both_sides_is_refused(folder: Path) -> None:
    write(folder / "test.jsonl", [*questions("test", 3), *questions("train", 1)])
    with pytest.raises(DataError, match=r"test.jsonl, line 4: .* held out, and .*line 1 has it"):
        make(folder, num_train=30)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"path": None}, r"needs task.path: a folder with train.jsonl and test.jsonl, or a JSONL"),
        ({"path": "gone.jsonl"}, r"gone.jsonl does not exist; set task.path to a folder"),
        ({"num_train": 31}, r"task.num_train = 31, but .*train.jsonl has 30 row"),
        ({"num_heldout": 13}, r"task.num_heldout = 13, but .*test.jsonl has 12 row"),
        ({"path": "train.jsonl"}, r"task.num_heldout \+ task.num_train = 576, but .* 30 row"),
        ({"path": "train.jsonl", "num_heldout": 0}, r"num_heldout=0 asks for all of test.jsonl"),
    ],
)
def test_what_is_missing_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, settings: dict, told: str
) -> None:
    monkeypatch.chdir(folder)
    tree = {"name": "prompts", "path": ".", "num_train": 30, **settings}
    if settings.get("path") == "train.jsonl":
        tree["num_train"] = 512
    with pytest.raises(EsAlignError, match=told):
        make_task(TaskConfig.model_validate(tree), seed=0, prompts_per_generation=4)


def test_a_reward_must_be_named(folder: Path) -> None:
    own = ["task.name=prompts", f"task.path={folder}", "task.num_train=30", "task.num_heldout=12"]
    with pytest.raises(ConfigError, match=r"task.name=prompts has no reward of its own; set rew"):
        make_checked_task(load_config("configs/tiny.yaml", own))
    make_checked_task(load_config("configs/tiny.yaml", [*own, "reward=exact_match"]))
    with pytest.raises(ConfigError, match=r"reward=countdown does not go with the task"):
        make_checked_task(load_config("configs/tiny.yaml", [*own, "reward=countdown"]))


def test_tested_prompts_are_scored_by_the_runs_reward(folder: Path) -> None:
    tested = json.dumps({"name": "prompts", "path": str(folder), "num_heldout": 12})
    asked = [f"evaluation.task={tested}"]
    with pytest.raises(ConfigError, match=r"evaluation.task.name=prompts has no reward of its own"):
        make_checked_task(load_config("configs/tiny.yaml", asked))
    task = make_checked_task(load_config("configs/tiny.yaml", [*asked, "reward=letters"]))
    assert {prompt.reward_name for prompt in task.heldout} == {None}
