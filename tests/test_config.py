"""Reading configurations: shipped files, YAML's traps, overrides, and what each mistake is told."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from es_align.config import Config, pass_k
from es_align.config_errors import known_keys, suggest_key
from es_align.config_loading import (
    NOT_IDENTITY,
    apply_overrides,
    changed_fields,
    config_digest,
    default_run_dir,
    load_config,
)
from es_align.errors import ConfigError
from es_align.preflight import validate

WriteConfig = Callable[[str], Path]
OF_COMPARISONS = ("compare-", "sft-")  # tests/compare/test_jobs.py
SHIPPED = [
    path
    for path in sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
    if not path.name.startswith(OF_COMPARISONS)
]
MAX_SHIPPED_LINES = 40


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_config_loads_and_passes_preflight(path: Path) -> None:
    config = load_config(path)
    validate(config)
    assert config != Config(), "a shipped config must say something"
    assert len(path.read_text().splitlines()) < MAX_SHIPPED_LINES


def test_there_are_shipped_configs() -> None:
    assert {"tiny"} <= {path.stem for path in SHIPPED}


def test_empty_file_gives_the_defaults(write_config: WriteConfig) -> None:
    assert load_config(write_config("")) == Config()
    assert load_config(write_config("# nothing\n")) == Config()


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("1E-3", 1e-3), ("1.5e3", 1500.0), ("2e0", 2.0), ("0.05", 0.05), ("1", 1.0)],
)
def test_numbers_with_exponents_are_numbers(
    write_config: WriteConfig, text: str, value: float
) -> None:
    assert load_config(write_config(f"strategy: {{sigma: {text}}}")).strategy.sigma == value


def test_whole_number_may_have_an_exponent(write_config: WriteConfig) -> None:
    assert load_config(write_config("generations: 1e2")).generations == 100


def test_text_that_looks_like_a_number_with_an_exponent_stays_text_in_quotes(
    write_config: WriteConfig,
) -> None:
    assert load_config(write_config('model: "1e3"')).model == "1e3"


@given(st.floats(min_value=1e-12, max_value=1e12))
def test_any_float_survives_an_override(sigma: float) -> None:
    assert apply_overrides(Config(), [f"strategy.sigma={sigma!r}"]).strategy.sigma == sigma


def test_overrides_are_yaml_and_come_last(write_config: WriteConfig) -> None:
    path = write_config("population: 8\ntask: {num_train: 64}")
    config = load_config(
        path,
        [
            "population=64",
            "task.name=gsm8k",
            "space.targets=[q_proj, v_proj]",
            "workers.members_per_chunk=",
            "task.system_prompt=a = b",
        ],
    )
    assert config.population == 64
    assert config.task.num_train == 64
    assert config.task.name == "gsm8k"
    assert config.space.targets == ("q_proj", "v_proj")
    assert config.workers.members_per_chunk is None
    assert config.task.system_prompt == "a = b"


def test_apply_overrides_leaves_its_argument_alone() -> None:
    config = Config()
    assert apply_overrides(config, ["seed=7"]).seed == 7
    assert config.seed == 0


@pytest.mark.parametrize(
    ("text", "overrides", "told"),
    [
        ("populaton: 3", [], "populaton is no setting; did you mean population?"),
        ("strategy: {sgima: 1}", [], "strategy.sgima is no setting; did you mean strategy.sigma?"),
        ("sigma: 1", [], "sigma is no setting; did you mean strategy.sigma?"),
        ("", ["stategy.sigma=1"], "stategy is no setting; did you mean strategy?"),
        ("", ["space.foo=1"], "space.foo is no setting; space has: kind, basis, rank"),
        ("", ["space.basis=activation"], "'random' or 'adapter'; did you mean activations?"),
        ("", ["qqqq=1"], "qqqq is no setting; there are: model, precision"),
        ("population: 1", [], "population=1 must be at least 2; use 2 or more."),
        ("temperature: -0.5", [], "temperature=-0.5 must be at least 0; use 0 or more."),
        ("strategy: {sigma: 0}", [], "strategy.sigma=0 must be above 0"),
        ("strategy: {momentum: 1}", [], "strategy.momentum=1 must be below 1"),
        ("space: {alpha: 1.5}", [], "space.alpha=1.5 must be at most 1; use 1 or less."),
        ("strategy: {sigma: .inf}", [], "strategy.sigma=inf must be finite"),
        ("strategy: {tie_break: 0.6}", [], "strategy.tie_break=0.6 must be at most 0.5"),
        ("objective: pass4", [], "objective='pass4' must be mean, or pass@k with a whole k from"),
        ("", ["objective=pass@0"], "objective='pass@0' must be mean, or pass@k"),
        ("", ["objective=pass@2.5"], "whole k from 1; write pass@4"),
        ("samples_per_prompt: 0", [], "samples_per_prompt=0 must be at least 1; use 1 or more."),
        ("precision: int9", [], "must be 'fp32', 'bf16', 'int8' or 'int4'; did you mean int8?"),
        ("generations: 2.5", [], "generations=2.5 must be a whole number"),
        ("generations: ten", [], "generations='ten' must be a whole number"),
        ("strategy: {sigma: small}", [], "strategy.sigma='small' must be a number"),
        ("population: yes", [], "population=True is a truth value"),
        ("model: 5", [], "model=5 must be text; put it in quotes."),
        ("workers: 5", [], "workers=5 must be a section"),
        ("task: 5", [], "task=5 must be a section"),
        ("task: {name: [gsm8k]}", [], "task.name=['gsm8k'] must be"),
        ("space: {targets: []}", [], "space.targets is empty; name at least 1, or leave it out"),
        ("space: {targets: q_proj}", [], "space.targets='q_proj' must be a list; write [q_proj]."),
        ("seed: 1\nseed: 2", [], "line 2, column 1: the key 'seed' stands twice; keep one"),
        ("workers:\n  count: 1\n  count: 2", [], "line 3, column 3: the key 'count' stands twice"),
        ("[1, 2]", [], "holds one list; write settings as `key: value` lines"),
        ("task: [", [], "line 1, column 8"),
        ("", ["population"], "override 'population' is not key=value"),
        ("", ["=3"], "override '=3' is not key=value"),
        ("", ["task..name=x"], "override 'task..name=x' is not key=value"),
        ("seed: 3", ["seed.low=1"], "override 'seed.low=1': seed is no section but 3"),
        ("", ["seed=["], "override 'seed=['"),
    ],
)
def test_mistakes_are_named(
    write_config: WriteConfig, text: str, overrides: list[str], told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write_config(text), overrides)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_mistakes_are_told_at_once(write_config: WriteConfig) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write_config("population: 1\ngenerations: 0\nfoo: 1"))
    for key in ("population=1", "generations=0", "foo is no setting"):
        assert key in str(caught.value)


def test_missing_file_names_the_nearest(write_config: WriteConfig, tmp_path: Path) -> None:
    write_config("")
    with pytest.raises(ConfigError, match=r"did you mean .*/config\.yaml\?"):
        load_config(tmp_path / "confg.yaml")
    with pytest.raises(ConfigError, match="is a folder"):
        load_config(tmp_path)


def test_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"model: caf\xe9")
    with pytest.raises(ConfigError, match=r"is not UTF-8 \(byte 10\)"):
        load_config(path)


def test_every_known_key_is_accepted_and_its_misspelling_suggests_it() -> None:
    for key in known_keys():
        assert suggest_key(f"{key}x") == f"did you mean {key}?"


def test_default_run_dir() -> None:
    assert default_run_dir("configs/tiny.yaml", Config(seed=3)) == Path("runs/tiny-3")
    assert default_run_dir("configs/tiny.yaml", Config(run_dir="here")) == Path("here")


def test_digest_ignores_exactly_what_cannot_change_results() -> None:
    names = set(known_keys())
    assert names >= NOT_IDENTITY
    base = Config()
    same = apply_overrides(base, ["workers.count=4", "workers.chunk_deadline_s=5", "run_dir=x"])
    assert config_digest(same) == config_digest(base)
    assert changed_fields(base, same) == {}
    for override in ("workers.members_per_chunk=16", "seed=1", "task.seed=1", "population=64"):
        other = apply_overrides(base, [override])
        name = override.partition("=")[0]
        assert config_digest(other) != config_digest(base)
        assert list(changed_fields(base, other)) == [name]


def test_a_longer_run_is_the_same_run_unless_a_schedule_goes_over_it() -> None:
    base = Config()
    longer = apply_overrides(base, ["generations=60"])
    assert changed_fields(base, longer) == {}
    for name in ("sigma", "learning_rate"):
        overrides = [f"strategy.{name}_schedule=cosine", f"strategy.{name}_final=0.1"]
        scheduled = apply_overrides(base, overrides)
        stretched = apply_overrides(longer, overrides)
        assert changed_fields(scheduled, stretched) == {"generations": (40, 60)}
        assert config_digest(scheduled) != config_digest(stretched)
        started_without = changed_fields(base, stretched)
        assert set(started_without) == {f"strategy.{name}_schedule", f"strategy.{name}_final"}
        assert set(changed_fields(stretched, base)) == set(started_without)


def test_digest_survives_json() -> None:
    config = apply_overrides(Config(), ["strategy.sigma=1e-3", "space.targets=[q_proj]"])
    again = Config.model_validate_json(config.model_dump_json())
    assert again == config
    assert config_digest(again) == config_digest(config)


def test_an_objective_is_written_as_it_is_spoken(write_config: WriteConfig) -> None:
    config = load_config(write_config("objective: pass@4\nsamples_per_prompt: 8"))
    assert (config.objective, pass_k(config.objective)) == ("pass@4", 4)
    assert pass_k(Config().objective) is None
