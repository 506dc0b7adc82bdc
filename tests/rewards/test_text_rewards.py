"""Exact match, regular expressions and JSON schemas."""

import pytest

from kernels.errors import ConfigError, DataError
from rewards.exact import exact_match_reward
from rewards.json_schema import json_schema_reward, make_validator
from rewards.patterns import regex_reward

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("completion", "answer", "options", "reason"),
    [
        ("Paris", "Paris", {}, "ok"),
        (" Paris\n", "Paris", {}, "ok"),
        ("New\n  York", "New York", {}, "ok"),
        ("Paris.", "Paris", {}, "wrong"),
        ("paris", "Paris", {}, "wrong"),
        ("paris", "Paris", {"ignore_case": True}, "ok"),
        ("STRASSE", "straße", {"ignore_case": True}, "ok"),
        ("Bonn", ["Paris", "Bonn"], {}, "ok"),
        ("I say\nParis.", "Paris", {"part": "last_line"}, "ok"),
        ("#### Paris\nso", "Paris", {"part": "marked"}, "ok"),
        ("Paris", "Paris", {"part": "marked"}, "no_answer"),
        ("", "Paris", {}, "empty"),
        ("", "", {}, "empty"),
    ],
)
def test_exact_match(completion, answer, options, reason):
    score = exact_match_reward(completion, {"answer": answer}, **options)
    assert score.reason == reason
    assert score.reward == float(score.passed) == (reason == "ok")


@pytest.mark.parametrize("row", [{}, {"answer": 3}, {"answer": []}, {"answer": ["a", 3]}])
def test_a_wrong_answer_column_is_named(row):
    with pytest.raises(DataError, match="answer"):
        exact_match_reward("a", row)


@pytest.mark.parametrize(
    ("completion", "options", "reason"),
    [
        ("a 12 b", {"pattern": "[0-9]+"}, "ok"),
        ("a 12 b", {"pattern": "[0-9]+", "where": "all"}, "no_match"),
        ("a\nb", {"pattern": "a.b", "where": "all"}, "ok"),
        ("ABC", {"pattern": "b"}, "no_match"),
        ("ABC", {"pattern": "b", "ignore_case": True}, "ok"),
        ("", {"pattern": "b"}, "empty"),
        ("", {"pattern": "^$"}, "ok"),
        ("xyz", {}, "ok"),
    ],
)
def test_regex(completion, options, reason):
    score = regex_reward(completion, {"pattern": "y"}, **options)
    assert score.reason == reason
    assert score.reward == float(score.passed) == (reason == "ok")


def test_a_pattern_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r"'\(a' is no regular expression of Python"):
        regex_reward("a", {}, pattern="(a")
    with pytest.raises(DataError, match="'pattern'"):
        regex_reward("a", {})


@pytest.mark.parametrize(
    ("completion", "reward", "reason"),
    [
        ('{"name": "Ada", "age": 36}', 1.0, "ok"),
        ('Here:\n```json\n{"name": "Ada"}\n```\nDone.', 1.0, "ok"),
        ('```\n{}\n```\n```\n{"name": "Ada"}\n```', 1.0, "ok"),
        ('{"age": 36}', 0.1, "invalid"),
        ('{"name": "Ada", "age": -1}', 0.1, "invalid"),
        ('{"name": "Ada", "x": 1}', 0.1, "invalid"),
        ("[]", 0.1, "invalid"),
        ('{"name": "Ada"} and more', 0.0, "not_json"),
        ('{"name": NaN}', 0.0, "not_json"),
        ("[" * 100_000, 0.0, "not_json"),
        ("9" * 10_000, 0.0, "not_json"),
        ("", 0.0, "empty"),
    ],
)
def test_json_schema(completion, reward, reason):
    for score in (
        json_schema_reward(completion, {}, schema=PERSON),
        json_schema_reward(completion, {"schema": PERSON}),
    ):
        assert (score.reward, score.reason) == (reward, reason)
        assert score.passed is (reason == "ok")


def test_a_schema_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r"no JSON Schema: 'objet' is not valid"):
        make_validator('{"type": "objet"}')
    with pytest.raises(DataError, match="'schema'"):
        json_schema_reward("{}", {})


def test_nothing_is_fetched():
    with pytest.raises(Exception, match=r"nowhere\.invalid"):
        json_schema_reward("{}", {}, schema={"$ref": "https://nowhere.invalid/schema.json"})
