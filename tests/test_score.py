"""`es-align score`: verdicts on responses that are there already, and every bad line told."""

import json
import subprocess
import sys

import pytest

from es_align import score
from es_align.errors import ConfigError, DataError
from es_align.responses import score_responses

IFEVAL = [
    {
        "key": key,
        "prompt": f"Write about {key}.",
        "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
        "kwargs": [{}, {"num_words": 3, "relation": "at least"}],
    }
    for key in (1005, 102, 13, 7)
]
GSM8K = [{"question": f"{n} + 1?", "answer": f"Add.\n#### {n + 1}"} for n in range(4)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def ifeval(tmp_path):
    return write(tmp_path / "input_data.jsonl", IFEVAL)


@pytest.fixture
def gsm8k(tmp_path):
    return write(tmp_path / "test.jsonl", GSM8K)


def test_the_four_figures_of_ifeval_and_a_row_a_response(ifeval, tmp_path):
    responses = write(
        tmp_path / "r.jsonl",
        [
            {"key": 13, "response": "one two three four"},
            {"key": 1005, "response": "one, two"},
            {"key": 102, "response": "Sure, here:\none two three"},
        ],
    )
    details = tmp_path / "d.jsonl"
    result = score("ifeval", responses, data=ifeval.parent, details=details)
    rows = [json.loads(line) for line in details.read_text().splitlines()]
    assert rows == [
        {
            "key": 13,
            "prompt_strict": True,
            "prompt_loose": True,
            "instructions_strict": [True, True],
            "instructions_loose": [True, True],
        },
        {
            "key": 1005,
            "prompt_strict": False,
            "prompt_loose": False,
            "instructions_strict": [False, False],
            "instructions_loose": [False, False],
        },
        {
            "key": 102,
            "prompt_strict": False,
            "prompt_loose": True,
            "instructions_strict": [False, True],
            "instructions_loose": [True, True],
        },
    ]
    assert result.figures == {
        "prompt_strict": 1 / 3,
        "prompt_loose": 2 / 3,
        "instructions_strict": 3 / 6,
        "instructions_loose": 4 / 6,
    }
    assert (result.n, result.num_prompts, result.missing, result.bad) == (3, 4, 1, {})
    # Wilson's of 1 in 3, by hand: (1/3 + 1.92/3 +- ...) / (1 + 3.84/3).
    assert result.intervals["prompt_strict"] == pytest.approx((0.0615, 0.7923), abs=1e-4)
    assert set(result.intervals) == {"prompt_strict", "prompt_loose"}


def test_both_filters_of_gsm8k_with_reasons(gsm8k, tmp_path):
    texts = ["It is 4.", "#### 1", "", "#### 2", "none"]
    indices = [3, 0, 2, 1, 9]
    rows = [{"index": i, "response": t} for i, t in zip(indices[:4], texts[:4], strict=True)]
    details = tmp_path / "d.jsonl"
    for data in (gsm8k, gsm8k.parent):
        result = score("gsm8k", write(tmp_path / "r", rows), data=data, details=details)
        assert result.figures == {"strict": 0.5, "flexible": 0.75}
        assert result.reasons == {"unmarked": 1, "ok": 2, "empty": 1}
    assert [json.loads(line) for line in details.read_text().splitlines()] == [
        {"index": 3, "strict": False, "flexible": True, "reason": "unmarked"},
        {"index": 0, "strict": True, "flexible": True, "reason": "ok"},
        {"index": 2, "strict": False, "flexible": False, "reason": "empty"},
        {"index": 1, "strict": True, "flexible": True, "reason": "ok"},
    ]


BAD = [
    (b'{"index": 1, "response": "\xff"}', "not_utf8", "is not UTF-8"),
    ('{"index": 1, "response": "a"}'.encode("utf-16-le"), "not_json", "is not JSON"),
    (b'{"index": 1, "response"', "not_json", "is not JSON"),
    (b"[" * 100_000, "not_json", "nested too deeply"),
    (b'{"index": ' + b"1" * 5000 + b"}", "not_json", "is not JSON"),
    (b'["index", 1]', "not_json", "not an object"),
    (b'{"index": 1, "index": 2, "response": "a"}', "ambiguous", "has 'index' twice"),
    (b'{"index": 1, "response": "a", "more": {"b": 1, "b": 1}}', "ambiguous", "has 'b' twice"),
    (b'{"key": 1, "response": "a"}', "no_key", "has no index"),
    (b'{"index": "1", "response": "a"}', "no_key", "has index='1'"),
    (b'{"index": true, "response": "a"}', "no_key", "has index=True"),
    (b'{"index": 1.0, "response": "a"}', "no_key", "has index=1.0"),
    (b'{"index": 1}', "no_response", "has no response"),
    (b'{"index": 1, "response": null}', "no_response", "has response=None"),
    (b'{"index": 4, "response": "a"}', "unknown", "no prompt has (0 to 3)"),
    (b'{"index": -1, "response": "a"}', "unknown", "no prompt has"),
    (b'{"index": 0, "response": "#### 1"}', "doubled", "index=0 again, first in line 1"),
]


@pytest.mark.parametrize(("line", "reason", "told"), BAD)
def test_a_bad_line_is_an_error_or_a_count(gsm8k, tmp_path, line, reason, told):
    file = tmp_path / "r.jsonl"
    file.write_bytes(b'{"index": 0, "response": "no"}\n\n' + line + b"\n")
    with pytest.raises(DataError, match=r"r\.jsonl, line 3 ") as error:
        score("gsm8k", file, data=gsm8k)
    assert told in str(error.value) and "--skip-bad" in str(error.value)
    result = score("gsm8k", file, data=gsm8k, skip_bad=True)
    assert (result.n, result.missing, result.bad) == (1, 3, {reason: 1})
    assert result.figures["strict"] == 0.0  # of a doubled key the first counts


@pytest.mark.parametrize("text", ["\\ud800", "\\u0000", "\\ud83d", "\\ufeff"])
def test_any_text_that_json_can_hold_is_judged(ifeval, gsm8k, tmp_path, text):
    for task, key, data in (("ifeval", '"key": 13', ifeval), ("gsm8k", '"index": 0', gsm8k)):
        file = tmp_path / "r.jsonl"
        file.write_text(f'{{{key}, "response": "{text} and more words #### 1"}}\r\n')
        assert score(task, file, data=data).n == 1


def test_a_byte_order_mark_costs_no_row(gsm8k, tmp_path):
    file = write(tmp_path / "r.jsonl", [{"index": 0, "response": "#### 1"}])
    for path in (file, gsm8k):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    result = score("gsm8k", file, data=gsm8k)
    assert (result.n, result.num_prompts, result.figures["strict"]) == (1, 4, 1.0)


def test_nothing_to_score(gsm8k, tmp_path):
    file = write(tmp_path / "r.jsonl", [{"index": 9, "response": "a"}])
    with pytest.raises(DataError, match=r"no response that can be scored \(1 bad lines\)"):
        score("gsm8k", file, data=gsm8k, skip_bad=True)
    with pytest.raises(DataError, match="cannot be read"):
        score("gsm8k", tmp_path / "nowhere", data=gsm8k)
    with pytest.raises(ConfigError, match=r"task='gsm9k'.*Did you mean 'gsm8k'"):
        score("gsm9k", file, data=gsm8k)
    gsm8k.write_text("")
    with pytest.raises(DataError, match="has no rows"):
        score("gsm8k", file, data=gsm8k)


def test_details_are_refused_before_anything_is_read(gsm8k, tmp_path):
    file = write(tmp_path / "r.jsonl", [{"index": 0, "response": "a"}])
    for details, told in (
        (tmp_path, "is a folder"),
        (tmp_path / "no" / "d", "is no folder; make it first"),
        (file, "is a file that is read"),
        (gsm8k, "is a file that is read"),
    ):
        with pytest.raises(ConfigError, match=told):
            score_responses("gsm8k", file, data=gsm8k, details=details)
    assert json.loads(file.read_text()) == {"index": 0, "response": "a"}


def test_the_command_has_the_figures_at_the_top_and_imports_nothing_heavy(gsm8k, tmp_path):
    file = write(tmp_path / "r.jsonl", [{"index": 0, "response": "#### 1"}])
    program = (
        "import sys; from es_align.cli import main\n"
        "try: main()\n"
        "finally: print({'torch', 'ray', 'vllm', 'transformers'} & set(sys.modules), "
        "file=sys.stderr)"
    )

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-c", program, "score", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
        )

    said = run("--task", "gsm8k", "--responses", file, "--data", gsm8k, "--json")
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    assert (found["strict"], found["flexible"], found["n"], found["missing"]) == (1.0, 1.0, 1, 3)
    assert "figures" not in found
    assert said.stderr.splitlines()[-1] == "set()"
    said = run("--task", "ifeval", "--responses", file, "--data", gsm8k)
    assert said.returncode == 2 and said.stdout == ""
    assert said.stderr.startswith("error: ") and "test.jsonl, line 1: key=None" in said.stderr
    assert said.stderr.splitlines()[-1] == "set()"


def test_details_do_not_replace_the_data_of_a_folder(gsm8k, tmp_path):
    responses = write(tmp_path / "r.jsonl", [{"index": 0, "response": "#### 1"}])
    with pytest.raises(ConfigError, match="is a file that is read"):
        score("gsm8k", responses, data=gsm8k.parent, details=gsm8k)
    assert len(gsm8k.read_text().splitlines()) == len(GSM8K)
