"""From a comparison to its jobs: what is shared, what is refused, and the shipped ones."""

from pathlib import Path

import pytest
from comparisons import comparison

from es_align.adapters import save_adapter
from es_align.compare.config import CompareConfig
from es_align.compare.jobs import Job, arm_config, choices, make_jobs
from es_align.compare.sft_config import SftConfig
from es_align.config_loading import read_settings, validated
from es_align.errors import ConfigError
from es_align.models import find_model, linear_weights

CONFIGS = Path(__file__).parent.parent.parent / "configs"
COMPARISONS = sorted(CONFIGS.glob("compare-*.yaml"))
WARM_STARTS = sorted(CONFIGS.glob("sft-*.yaml"))


def with_settings(arm: str, **settings) -> CompareConfig:
    arms = {name: kept.model_dump() for name, kept in comparison().arms.items()}
    arms[arm]["settings"] |= settings
    return comparison(arms=arms)


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_a_shipped_comparison_is_sound(path):
    config = validated(CompareConfig, read_settings(path), str(path))
    # What an arm starts from is made by `es-align sft`, and its data is on the hub.
    jobs = make_jobs(config, is_begun=False, is_complete=False)
    assert {job.kind for job in jobs} == {"es", "grpo"}
    assert len({job.name for job in jobs}) == len(jobs)
    assert len(path.read_text().splitlines()) < 60


@pytest.mark.parametrize("path", WARM_STARTS, ids=lambda path: path.stem)
def test_a_shipped_warm_start_is_sound(path):
    assert validated(SftConfig, read_settings(path), str(path)).task.num_sft > 0


def test_there_are_shipped_comparisons():
    assert "compare-quick" in {path.stem for path in COMPARISONS}


def test_arms_share_the_question_and_nothing_else():
    es, grpo = make_jobs(comparison(), is_begun=False)
    assert (es.kind, grpo.kind) == ("es", "grpo")
    assert es.config.task == grpo.config.task
    assert (es.config.precision, grpo.config.precision) == ("fp32", "bf16")
    assert es.config.budget.completions == grpo.config.budget.completions == 16
    assert grpo.grpo is not None and grpo.grpo.completions_per_step == 8
    assert Job.from_json(es.to_json()) == es
    assert Job.from_json(grpo.to_json()) == grpo


def test_the_run_of_an_es_arm_can_be_planned_alone():
    config = arm_config(comparison(), "es")
    assert config == make_jobs(comparison(), is_begun=False)[0].config
    for name in (None, "grpo", "ess"):
        with pytest.raises(ConfigError, match=r"name one of the comparison's ES arms: es$"):
            arm_config(comparison(), name)


def test_a_sweep_is_every_combination_on_every_seed():
    arms = {name: kept.model_dump() for name, kept in comparison().arms.items()}
    arms["grpo"]["sweep"] = {"learning_rate": [1e-5, 1e-4], "beta": [0, 0.01]}
    config = comparison(arms=arms, seeds=[3, 5])
    assert choices(config.arms["grpo"])[1] == {"learning_rate": 1e-5, "beta": 0.01}
    jobs = [job for job in make_jobs(config, is_begun=False) if job.kind == "grpo"]
    assert len(jobs) == 8
    assert jobs[2].name == "grpo,learning_rate=1e-05,beta=0.01,seed=3"
    assert jobs[2].grpo is not None and jobs[2].grpo.beta == 0.01


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (
            lambda: with_settings("es", task={"name": "letters"}),
            r"arms.es.settings has task, which all arms must share.*set it under `shared`",
        ),
        (
            lambda: with_settings("es", evaluation={"max_new_tokens": 9}),
            r"arms.es.settings has evaluation.max_new_tokens, which all arms must share",
        ),
        (lambda: with_settings("es", seed=3), r"arms.es.settings has seed, which the comparison"),
        (
            lambda: with_settings("es", populaton=8),
            r"populaton is no setting; did you mean population\?",
        ),
        (
            lambda: with_settings("grpo", learning_rat=8),
            r"arms.grpo.settings: learning_rat is no setting; did you mean learning_rate\?",
        ),
        (
            lambda: with_settings("grpo", micro_batch=3),
            r"micro_batch=3 must divide num_generations \* prompts_per_step = 8",
        ),
        (lambda: with_settings("es", population=5), r"population=5 must be even"),
        (
            lambda: with_settings("es", population=10),
            r"less than a generation of arms.es, 20 completions.*use 20 completions",
        ),
        (
            lambda: comparison(budget={"tokens": 31}),
            r"less than a generation of arms.es, 8 completions of up to 4 tokens.*32 tokens",
        ),
        (
            lambda: comparison(drift={"task": {"name": "prompts", "path": "mine.jsonl"}}),
            r"drift.task.name=prompts has no reward of its own",
        ),
        (
            lambda: comparison(drift={"task": {"name": "instructions"}, "max_new_tokens": 300}),
            r"drift, as arms.es would be asked it: .*max_new_tokens",
        ),
        (lambda: comparison(budget={}), r"budget must limit seconds, completions or tokens"),
        (lambda: comparison(seeds=[1, 1]), r"seeds=\[1, 1\] names one twice"),
        (
            lambda: comparison(arms={"a/b": {"kind": "es"}}),
            r"arms.a/b: a name is made of letters",
        ),
        (
            lambda: comparison(start="somewhere"),
            r"arms.es.settings.space starts from the bare model, and start=somewhere",
        ),
        (
            lambda: comparison(shared=dict(comparison().shared, seed=1)),
            r"shared has seed, which the comparison sets",
        ),
        (
            lambda: comparison(
                shared=dict(
                    comparison().shared,
                    reward={"name": "log_likelihood", "options": {"column": "topic_names"}},
                )
            ),
            r"log_likelihood",
        ),
    ],
)
def test_what_is_refused_before_anything_runs(changed, told):
    with pytest.raises(ConfigError, match=told):
        make_jobs(changed(), is_begun=False)


def test_one_adapter_is_where_all_start(tmp_path):
    layers = {
        name: (weight[:2].contiguous(), weight[:, :2].contiguous())
        for name, weight in linear_weights(find_model("tiny"), ["q_proj", "k_proj", "v_proj"])
    }
    start = str(tmp_path / "start")
    save_adapter(tmp_path / "start", layers, "tiny")
    arms = {name: kept.model_dump() for name, kept in comparison().arms.items()}
    arms["es"]["settings"] |= {"space": {"kind": "lora", "basis": "adapter"}}
    es, grpo = make_jobs(comparison(start=start, arms=arms), is_begun=False)
    assert es.config.space.adapter == es.start == grpo.start == start
    arms["es"]["settings"]["space"]["adapter"] = "another"
    with pytest.raises(ConfigError, match="another is not start="):
        make_jobs(comparison(start=start, arms=arms), is_begun=False)
    with pytest.raises(ConfigError, match="the other arms would start from another model"):
        make_jobs(comparison(arms=arms), is_begun=False)
