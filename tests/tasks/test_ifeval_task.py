"""IFEval's rows from a file or a folder: kept in order, refused with their place."""

import json
import os

import pytest

from es_align.config import Config, TaskConfig
from es_align.tasks import make_heldout, make_task
from es_align.tasks.ifeval import load_ifeval
from es_align.tasks.rows import Row
from kernels.errors import ConfigError, DataError

ROWS = [
    {
        "key": key,
        "prompt": f"Write about the number {key}.",
        "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
        "kwargs": [
            {"num_words": None, "relation": None},
            {"num_words": 3, "relation": "at least"},
        ],
    }
    for key in (1005, 102, 13)
]


@pytest.fixture
def folder(tmp_path):
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "input_data.jsonl").write_text(lines, encoding="utf-8")
    return tmp_path


def test_all_prompts_in_file_order_without_nulls(folder):
    for path in (folder, folder / "input_data.jsonl"):
        heldout = make_heldout(TaskConfig(name="ifeval", path=str(path)))
        assert (heldout.name, heldout.reward_name) == ("ifeval", "ifeval")
        assert [prompt.columns["key"] for prompt in heldout.prompts] == [1005, 102, 13]
        assert [prompt.prompt_id for prompt in heldout.prompts][2] == "heldout/2"
        first = heldout.prompts[0]
        assert first.columns["kwargs"] == [{}, {"num_words": 3, "relation": "at least"}]
        assert first.messages == ({"role": "user", "content": "Write about the number 1005."},)


def test_a_number_takes_the_first_ones(folder):
    config = TaskConfig(name="ifeval", path=str(folder), num_heldout=2, system_prompt="Be brief.")
    prompts = make_heldout(config).prompts
    assert [prompt.columns["key"] for prompt in prompts] == [1005, 102]
    assert prompts[0].messages[0] == {"role": "system", "content": "Be brief."}
    with pytest.raises(DataError, match=r"num_heldout=4.* 3 IFEval .*0 for all"):
        make_heldout(config.model_copy(update={"num_heldout": 4}))


def test_training_on_it_is_refused_with_the_task_that_trains(folder):
    with pytest.raises(ConfigError, match=r"train on task\.name=instructions"):
        make_task(TaskConfig(name="ifeval", path=str(folder)), seed=0, prompts_per_generation=1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"key": "1"}, "key='1' must be a whole number"),
        ({"key": True}, "key=True must be a whole number"),
        ({"prompt": " "}, "prompt=' ' must be a text"),
        ({"kwargs": None}, "kwargs=None must be lists"),
        ({"kwargs": [{}]}, r"2 instruction id\(s\)"),
        ({"kwargs": [{}, 3]}, "kwargs holds 3, not a mapping"),
        ({"kwargs": [{}, {"num_words": 3}]}, "relation"),
        ({"instruction_id_list": ["punctuation:none", "x:y"]}, "punctuation:none"),
        ({"key": 1005}, r"key=1005 stands in .*line 1 too"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(folder, changed, message):
    file = folder / "input_data.jsonl"
    with file.open("a") as stream:
        stream.write(json.dumps({**ROWS[0], "key": 7, **changed}) + "\n")
    with pytest.raises(DataError, match=message) as error:
        load_ifeval(str(folder))
    assert "input_data.jsonl, line 4" in str(error.value)


def test_a_missing_file_and_the_hub(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"input_data\.jsonl does not exist; set task\.path"):
        load_ifeval(str(tmp_path))
    asked = []

    def rows(*arguments):
        asked.append(arguments)
        return [Row(f"row {place}", row) for place, row in enumerate(ROWS)]

    monkeypatch.setattr("es_align.tasks.ifeval.hub_rows", rows)
    assert [row.key for row in load_ifeval(None)] == [1005, 102, 13]
    assert asked[0][:3] == ("google/IFEval", None, "train")


def test_the_whole_of_a_generated_task_is_refused():
    assert TaskConfig(name="ifeval").num_heldout == 0
    assert TaskConfig(name="gsm8k").num_heldout == 64
    with pytest.raises(ValueError, match="instructions makes its prompts as many"):
        Config.model_validate({"task": {"num_heldout": 0}})


def test_the_541_prompts():
    path = os.environ.get("ES_ALIGN_IFEVAL")
    if not path:
        pytest.skip("ES_ALIGN_IFEVAL is not set to IFEval's input_data.jsonl")
    assert len(make_heldout(TaskConfig(name="ifeval", path=path)).prompts) == 541
