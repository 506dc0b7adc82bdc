"""Rewards that no function of a completion computes: what is refused before a model loads."""

import json
import os
from pathlib import Path

import pytest

from es_align.config import Config
from es_align.errors import ConfigError, ModelError
from es_align.preflight import validate
from es_align.reward_checks import check_columns, reward_specs

TWICE = {"samples_per_prompt": 2, "temperature": 0.7}


def config_of(reward: object, **settings: object) -> Config:
    data = {"model": "tiny", "workers": {"engine": "torch"}, "precision": "fp32", "reward": reward}
    return Config.model_validate(data | settings)


@pytest.fixture
def judge(tmp_path: Path) -> Path:
    """As much of a reward model as is read before anything is loaded."""
    folder = tmp_path / "judge"
    folder.mkdir()
    config = {"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (TWICE, "samples_per_prompt=2: with reward=log_likelihood nothing is sampled; set samples"),
        ({"temperature": 0.5}, "temperature=0.5: with reward=log_likelihood nothing is sampled"),
        ({"objective": "pass@1"}, "objective=pass@1: with reward=log_likelihood"),
        ({"strategy": {"tie_break": 0.1}}, "strategy.tie_break=0.1: with reward=log_likelihood"),
        ({"reward": ["log_likelihood", "gsm8k"]}, "so they have no sum; use log_likelihood alone"),
        ({"reward": ["letters", "log_likelihood"]}, "use log_likelihood alone"),
        (
            {"reward": {"name": "log_likelihood", "options": {"colum": "x"}}},
            "reward=log_likelihood has no option 'colum'; did you mean column?",
        ),
        ({"reward": "log_likelyhood"}, "is no reward; did you mean log_likelihood?"),
    ],
)
def test_what_a_likelihood_cannot_do_is_refused(settings: dict, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(config_of(**{"reward": "log_likelihood", **settings}))
    assert told in str(caught.value)


def test_the_column_of_the_reference_must_be_there() -> None:
    config = config_of({"name": "log_likelihood", "options": {"column": "gold"}})
    validate(config)
    check_columns(config, {"gold": "18"}, "task.name=gsm8k", "gsm8k")
    with pytest.raises(ConfigError, match="needs the column 'gold' and the row has answer"):
        check_columns(config, {"answer": "18"}, "task.name=gsm8k", "gsm8k")


@pytest.mark.parametrize(
    ("options", "settings", "error", "told"),
    [
        ({}, {}, ConfigError, "reward=reward_model needs options.model; write it in the reward's"),
        ({"model": 3}, {}, ConfigError, "option model=3: Input should be a valid string"),
        ({"model": "nowhere/at-all"}, {}, ModelError, "could not be fetched from the hub"),
        ({"model": "judge", "dtype": "int8"}, {}, ConfigError, "option dtype='int8': Input should"),
        (
            {"model": "judge"},
            {"objective": "pass@2", **TWICE},
            ConfigError,
            "objective=pass@2: reward=reward_model does not say what passes; set its pass_at",
        ),
    ],
)
def test_what_cannot_judge_is_refused(
    options: dict,
    settings: dict,
    error: type[Exception],
    told: str,
    judge: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(judge.parent)
    with pytest.raises(error) as caught:
        validate(config_of({"name": "reward_model", "options": options}, **settings))
    assert told in str(caught.value)


def test_a_folder_is_named_from_its_root_for_workers(
    judge: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(judge.parent)
    reward = {"name": "reward_model", "options": {"model": judge.name}, "pass_at": 0.5}
    config = config_of([reward, "letters"], objective="pass@2", **TWICE)
    validate(config)
    check_columns(config, {}, "task.name=letters", "letters")
    assert reward_specs(config)[0].options["model"] == os.path.realpath(judge)


@pytest.mark.parametrize(
    ("reward", "told"),
    [
        (
            {"name": "gsm8k", "batch_size": 4, "chat": True, "processes": 2},
            "reward=gsm8k does not read processes, batch_size, chat: ",
        ),
        ({"name": "math", "batch_size": 4}, "reward=math does not read batch_size: "),
        (
            {"name": "reward_model", "batch_size": 64},
            "reward=reward_model does not read batch_size: processes and limits are for "
            "json_schema, math, reasoning_gym, regex and functions of yours, batches and chat for "
            "these functions; leave it out, or set options.batch_size",
        ),
    ],
)
def test_settings_that_a_reward_does_not_read_are_refused(
    reward: dict, told: str, judge: Path
) -> None:
    options = {"options": {"model": str(judge)}} if reward["name"] == "reward_model" else {}
    with pytest.raises(ConfigError) as caught:
        validate(config_of(reward | options))
    assert told in str(caught.value)
    validate(config_of(reward | options), is_begun=True)
    validate(config_of({"name": "math", "processes": 2, "time_limit_s": 3}))
