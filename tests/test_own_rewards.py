"""A reward of the user's own: what a configuration may say, what is refused, and a whole run."""

import json
import re
import runpy
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from es_align import load_config, train
from es_align.config import Config, RewardConfig
from es_align.errors import ConfigError
from es_align.preflight import validate
from es_align.reward_checks import check_columns, check_rewards, reward_specs
from rewards.base import Prompted
from rewards.scoring import Scorer

TINY = Path(__file__).parent.parent / "configs" / "tiny.yaml"
README = Path(__file__).parent.parent / "README.md"
WORDS = "def score(prompts, completions, **columns): return [len(c.split()) for c in completions]"


def config_of(*rewards: object) -> Config:
    return Config.model_validate({"reward": rewards[0] if len(rewards) == 1 else list(rewards)})


def test_a_reward_is_a_name_a_section_or_a_list(write_config: Callable[[str], Path]) -> None:
    named = (RewardConfig(name="gsm8k"),)
    for text in ("reward: gsm8k", "reward: {name: gsm8k}", "reward: [gsm8k]"):
        assert load_config(write_config(text)).reward == named
    assert load_config(write_config(""), ["reward=a.py:b"]).reward[0].name == "a.py:b"
    assert load_config(write_config("reward: null")).reward == ()
    both = load_config(write_config("reward: [gsm8k, {name: letters, weight: -0.5}]")).reward
    assert [(reward.name, reward.weight) for reward in both] == [("gsm8k", 1), ("letters", -0.5)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("reward: {name: gsm8k, wieght: 2}", "reward.0.wieght is no setting; did you mean reward."),
        ("reward: [gsm8k, {weight: 2}]", "reward.1.name"),
        ("reward: {name: gsm8k, time_limit_s: 0}", "reward.0.time_limit_s=0 must be above 0"),
        ("reward: 3", "reward.0=3 must be a section"),
    ],
)
def test_a_wrong_section_is_named(
    write_config: Callable[[str], Path], text: str, told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write_config(text))
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("reward", "told"),
    [
        ("gsm8", "reward=gsm8 is no reward; did you mean gsm8k? There are instructions, "),
        ("mine.py", "names no function; write mine.py:FUNCTION"),
        ("lost.py:score", "lost.py does not exist (looked in "),
        (".:score", "reward=.:score: . is a folder; name a Python file"),
        ("mine.py:my score", "'my score' is no name of a function; write mine.py:score"),
        ("mine.py:scor", "has no scor; it has the functions score, wrong: name one of them"),
        ("mine.py:wrong", "wrong(texts) takes no prompts, completions; all arguments come by name"),
        ("latin.py:score", "latin.py is not UTF-8 (byte 2)"),
        ({"name": "gsm8k", "options": {"x": 1}}, "has no option 'x'; it has none"),
        ({"name": "regex", "options": {"patern": "a"}}, "'patern'; did you mean pattern?"),
        ({"name": "regex", "options": {"pattern": 3}}, "option pattern=3: Input should be a valid"),
        ({"name": "regex", "options": {"pattern": "(a"}}, "'(a' is no regular expression"),
        ({"name": "exact_match", "options": {"part": "x"}}, "option part='x': Input should be"),
        ({"name": "json_schema", "options": {"schema": {"type": 3}}}, "the schema is no JSON Sch"),
    ],
)
def test_what_cannot_run_is_refused_before_a_model_loads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, reward: object, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(f"{WORDS}\ndef wrong(texts): ...\n")
    (tmp_path / "latin.py").write_bytes(b"# \xe9")
    with pytest.raises(ConfigError) as caught:
        validate(config_of(reward))
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_columns_that_are_not_there_are_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def score(prompts, completions, answer, level): ...")
    config = config_of(f"{file}:score")
    task = ("task.name=gsm8k", "gsm8k")
    check_columns(config, {"answer": "1", "level": 3}, *task)
    with pytest.raises(
        ConfigError, match=r"asks for level, and the columns of task.name=gsm8k are answer; "
    ):
        check_columns(config, {"answer": "1"}, *task)
    with pytest.raises(ConfigError, match=r"countdown does not go with the task: .*'numbers'"):
        check_columns(config_of("countdown"), {"answer": "1"}, *task)
    check_columns(config_of("gsm8k", "letters"), {"answer": "1"}, *task)


def test_a_relative_path_works_where_neither_file_nor_folder_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "mine.py").write_text(WORDS)
    monkeypatch.chdir(tmp_path)
    config = config_of("mine.py:score")
    check_rewards(config)
    specs = reward_specs(config)
    (tmp_path / "mine.py").unlink()
    monkeypatch.chdir(tmp_path / "there")
    with Scorer(specs, num_processes=1) as scorer:
        (score,) = scorer.score([Prompted("one two", (), {})])
    assert score.reward == 2.0


def test_an_installed_reward_is_found_by_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "words-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: words\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[es_align.rewards]\nwords = words_reward:score\n")
    (tmp_path / "words_reward.py").write_text(WORDS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{TINY.parent.parent}")
    config = config_of("words")
    check_rewards(config)
    with Scorer(reward_specs(config), num_processes=1) as scorer:
        assert scorer.score([Prompted("one two", (), {})])[0].reward == 2.0


def test_the_reward_in_the_readme_trains(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    workers_here: Callable[[], AbstractContextManager[None]],
) -> None:
    """As it stands there: ten lines, in a file named as its command names it."""
    section = README.read_text().partition("## Prompts and a reward of your own")[2]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None and len(found[1].splitlines()) == 10
    assert "reward=brief.py:score" in section
    (tmp_path / "brief.py").write_text(found[1])
    monkeypatch.chdir(tmp_path)
    overrides = ["reward=brief.py:score", "generations=1", "samples_per_generation=4"]
    with workers_here():
        result = train(load_config(TINY, overrides), run_dir=tmp_path / "run")
    assert result.generations == 1
    score = runpy.run_path("brief.py")["score"]
    rows = [json.loads(line) for line in (tmp_path / "run/samples.jsonl").open()]
    assert rows
    assert [row["reward"] for row in rows] == score([], [row["completion"] for row in rows])
