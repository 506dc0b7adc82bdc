"""`es-align eval` and `evaluation.task`: whole splits, samples, adapters, other prompts."""

import json

import numpy as np
import pytest

from es_align import evaluate, evaluating, export, score, train
from es_align.adapters import save_adapter
from es_align.config import Config, TaskConfig, heldout_new_tokens
from es_align.config_loading import apply_overrides, changed_fields
from es_align.errors import ConfigError, DataError, ModelError
from es_align.evaluation import Evaluation, mean_evaluation, pass_rates_at
from es_align.models import find_model, linear_weights
from es_align.preflight import validate
from es_align.targets import open_target, target_config

HERE = ["precision=fp32", "workers.engine=torch", "workers.cpus=1", "max_new_tokens=4"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with five GSM8K test problems and three IFEval prompts."""
    folder = tmp_path_factory.mktemp("data")
    problems = [{"question": f"{n} + 1?", "answer": f"#### {n + 1}"} for n in range(5)]
    prompts = [
        {
            "key": key,
            "prompt": f"Write about {key}.",
            "instruction_id_list": ["punctuation:no_comma"],
            "kwargs": [{}],
        }
        for key in (30, 10, 20)
    ]
    for name, rows in (("test", problems), ("input_data", prompts)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines)
    return folder


def read(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_model_on_a_whole_split_and_its_details_scored_again(workers_here, data, tmp_path):
    details = tmp_path / "d.jsonl"
    with workers_here():
        result = evaluate("tiny", task="ifeval", data=data, details=details, overrides=HERE)
    rows = read(details)
    assert (result.task, result.n, result.generation) == ("ifeval", 3, None)
    assert [row["key"] for row in rows] == [30, 10, 20]
    again = score("ifeval", details, data=data)
    assert again.figures == result.figures
    assert again.intervals == result.intervals
    assert result.figures["prompt_strict"] == result.pass_rate
    assert result.pass_at == {}


def test_gsm8k_needs_no_training_split_and_a_limit_takes_a_part(workers_here, data, tmp_path):
    details = tmp_path / "d.jsonl"
    with workers_here():
        whole = evaluate("tiny", task="gsm8k", data=data, details=details, overrides=HERE)
        assert sorted(row["index"] for row in read(details)) == [0, 1, 2, 3, 4]
        part = evaluate("tiny", task="gsm8k", data=data / "test.jsonl", limit=2, overrides=HERE)
    assert (whole.n, part.n) == (5, 2)
    assert set(whole.figures) == {"strict", "flexible"}


def test_samples_differ_and_each_has_a_row(workers_here, data, tmp_path):
    details = tmp_path / "d.jsonl"
    with workers_here():
        result = evaluate(
            "tiny",
            task="ifeval",
            data=data,
            details=details,
            overrides=HERE,
            temperature=1.0,
            samples=4,
        )
    rows = read(details)
    assert [(row["key"], row["sample"]) for row in rows[:5]] == [
        *((30, sample) for sample in range(4)),
        (10, 0),
    ]
    assert len({row["response"] for row in rows[:4]}) > 1
    mean = np.mean([row["prompt_strict"] for row in rows])
    assert result.figures["prompt_strict"] == pytest.approx(mean)
    assert result.pass_rate == pytest.approx(mean)
    assert set(result.pass_at) == {"pass@1", "pass@2", "pass@4"}
    assert result.pass_at["pass@1"] == pytest.approx(mean)
    passed = [any(row["prompt_strict"] for row in rows[at : at + 4]) for at in (0, 4, 8)]
    assert result.pass_at["pass@4"] == pytest.approx(np.mean(passed))


def evaluations(*passed):
    return [
        Evaluation(0, np.array(row), np.array(row), {"strict": row[0]}, {"ok": 1}) for row in passed
    ]


def test_means_and_pass_rates_leave_out_what_has_no_score():
    samples = evaluations([1.0, 0.0], [0.0, 0.0], [0.0, np.nan], [0.0, np.nan])
    assert pass_rates_at(samples) == {
        "pass@1": pytest.approx((0.25 + 0) / 2),
        "pass@2": pytest.approx((0.5 + 0) / 2),
        "pass@4": 1.0,  # of the first prompt alone, the second has two samples
    }
    mean = mean_evaluation(samples)
    assert mean.rewards_P.tolist() == [0.25, 0.0]
    assert (mean.metrics, mean.reasons) == ({"strict": 0.25}, {"ok": 4})
    assert pass_rates_at(samples[:1]) == {}


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"samples": 2}, "would give the same answer 2 times"),
        ({"temperature": -1.0}, "use 0 or more"),
        ({"temperature": float("nan")}, "use 0 or more"),
        ({"task": "ifevil"}, "unknown task 'ifevil'"),
        ({"details": "no/where.jsonl"}, "no is no folder"),
        ({"generation": 3}, "tiny is no run"),
        ({"overrides": ["max_new_tokens=2048"]}, "leaves no room"),
    ],
)
def test_mistakes_are_told_before_a_model_loads(data, asked, told):
    asked = {"task": "ifeval", "data": data, "overrides": HERE, **asked}
    with pytest.raises(ConfigError, match=told):
        evaluate("tiny", **asked)


def test_details_do_not_replace_the_data(data):
    file = data / "input_data.jsonl"
    before = file.read_bytes()
    for given in ({"data": data}, {"overrides": [*HERE, f"task.path={file}"]}):
        with pytest.raises(ConfigError, match="is a file that is read"):
            evaluate("tiny", **{"task": "ifeval", "details": file, "overrides": HERE, **given})
    assert file.read_bytes() == before


@pytest.mark.parametrize("name", ["a #b", "~", "[x]", "12", 'quo"te', "ü"])
def test_a_place_of_data_is_no_yaml(monkeypatch, name):
    monkeypatch.setattr(evaluating, "make_heldout", lambda task: pytest.fail(str(task.path)))
    with pytest.raises(pytest.fail.Exception) as caught:
        evaluate("tiny", task="ifeval", data=name, overrides=HERE)
    assert str(caught.value) == name


def test_an_adapter_is_evaluated_on_its_base(workers_here, data, tmp_path):
    base = find_model("tiny")
    weights = dict(linear_weights(base, ["q_proj", "v_proj", "down_proj"]))
    generator = np.random.default_rng(0)
    import torch

    def factor(rows, columns):
        return torch.from_numpy(generator.normal(size=(rows, columns)).astype(np.float32))

    layers = {n: (factor(2, w.shape[1]), factor(w.shape[0], 2)) for n, w in weights.items()}
    save_adapter(tmp_path / "adapter", layers, "tiny")
    opened = open_target(str(tmp_path / "adapter"), target_config(str(tmp_path / "adapter")), None)
    missing = {layer.name.replace("q_proj", "k_proj") for layer in opened.layers}
    added = [layer for layer in opened.layers if layer.name not in layers]
    assert {layer.name for layer in added} == {n for n in missing if n.endswith("k_proj")}
    assert not any(layer.up_OR.any() or layer.down_RI.any() for layer in added)
    assert len({layer.parameter for layer in opened.layers}) == len(opened.layers)
    merged = tmp_path / "merged"
    from es_align.stored_weights import StoredWeights

    def change(key, tensor):
        down_up = layers.get(key.removesuffix(".weight"))
        return tensor if down_up is None else tensor.float() + down_up[1] @ down_up[0]

    merged.mkdir()
    StoredWeights(base).write_plain(merged, change)
    texts = {}
    with workers_here():
        for name in (str(tmp_path / "adapter"), str(merged), "tiny"):
            details = tmp_path / "d.jsonl"
            evaluate(name, task="ifeval", data=data, details=details, overrides=HERE)
            texts[name] = [row["response"] for row in read(details)]
    adapter, whole, bare = texts.values()
    assert adapter == whole != bare

    (tmp_path / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(ModelError, match="base_model_name_or_path=None"):
        evaluate(str(tmp_path / "adapter"), task="ifeval", data=data, overrides=HERE)


def test_a_run_is_tested_on_another_task(workers_here, data, tiny_config, tmp_path):
    config = apply_overrides(
        tiny_config,
        [
            "evaluation.task.name=ifeval",
            f"evaluation.task.path={data}",
            "evaluation.max_new_tokens=6",
            "reward=letters",  # of the training task alone
        ],
    )
    run = tmp_path / "run"
    details = tmp_path / "d.jsonl"
    with workers_here():
        result = train(config, run_dir=run)
        again = evaluate(str(run), details=details)
    assert result.baseline.n == 3
    assert set(result.baseline.metrics) >= {"prompt_strict", "prompt_loose", "followed_strict"}
    assert (again.task, again.n) == ("ifeval", 3)
    best = {"reward": result.best.reward, "pass_rate": result.best.pass_rate}
    assert best == {"reward": again.reward, "pass_rate": again.pass_rate}
    asked = {row["prompt_id"]: row["prompt"] for row in read(run / "samples.jsonl")}
    assert asked["heldout/0"] == "Write about 30."
    assert not any("Write about" in text for name, text in asked.items() if name[0] == "t")

    with workers_here():
        own = evaluate(str(run), task="instructions", limit=2)
    assert (own.task, own.n) == ("instructions", 2)


def test_the_trained_task_is_asked_as_it_was_trained(workers_here, data, tiny_config, tmp_path):
    config = apply_overrides(
        tiny_config,
        [
            "evaluation.task.name=ifeval",
            f"evaluation.task.path={data}",
            "evaluation.max_new_tokens=6",
            "task.kinds=[punctuation:no_comma]",
            "max_new_tokens=5",
        ],
    )
    details = tmp_path / "d.jsonl"
    with workers_here():
        train(config, run_dir=tmp_path / "run")
        own = evaluate(str(tmp_path / "run"), task="instructions", limit=2, details=details)
    assert "followed" in own.metrics  # of instructions_mix, which task.kinds brings
    assert own.tokens <= 2 * 5


def test_a_generation_that_the_run_has_not_reached(workers_here, tiny_config, tmp_path):
    run = tmp_path / "run"
    with workers_here():
        train(tiny_config, run_dir=run)
        for call in (
            lambda: evaluate(str(run), generation=3),
            lambda: export(run, tmp_path / "out", generation=3),
        ):
            with pytest.raises(ConfigError, match=r"generation=3 is not in .*: use 0 to 2"):
                call()


def test_a_task_with_fewer_prompts_than_a_generation_of_the_run(
    workers_here, data, tiny_config, monkeypatch
):
    own = apply_overrides(tiny_config, ["prompts_per_generation=600", "task.num_train=600"])
    monkeypatch.setattr(evaluating, "target_config", lambda _: own)
    with workers_here():
        result = evaluate("tiny", task="ifeval", data=data, overrides=["max_new_tokens=4"])
    assert result.n == 3


def test_a_longer_answer_and_the_data_are_checked_first(tiny_config, data, tmp_path):
    other = apply_overrides(tiny_config, ["evaluation.task.name=ifeval"])
    assert heldout_new_tokens(tiny_config) == tiny_config.max_new_tokens
    assert heldout_new_tokens(other) == 1280
    with pytest.raises(ConfigError, match=r"evaluation\.max_new_tokens=1280 leaves no room"):
        validate(other)
    changed = changed_fields(tiny_config, other)
    assert list(changed) == ["evaluation.task"]

    same = apply_overrides(
        tiny_config,
        [
            "task.name=gsm8k",
            f"task.path={tmp_path}",
            "task.num_heldout=1",
            "evaluation.task.name=gsm8k",
            f"evaluation.task.path={tmp_path / 'train.jsonl'}",
            "evaluation.max_new_tokens=6",
        ],
    )
    rows = [{"question": f"{n} + 1?", "answer": f"#### {n + 1}"} for n in range(90)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "test.jsonl").write_text(json.dumps({"question": "?", "answer": "#### 1"}))
    with pytest.raises(DataError, match=r"of evaluation\.task \(gsm8k\) are training prompts"):
        train(same, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_training_on_ifeval_is_refused_before_a_folder_is_made(tiny_config, data, tmp_path):
    task = TaskConfig(name="ifeval", path=str(data), num_train=16)
    config = Config.model_validate({**tiny_config.model_dump(), "task": task.model_dump()})
    with pytest.raises(ConfigError, match="has no training split"):
        train(config, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_trained_on_likelihood_and_tested_by_answers(workers_here, data, tiny_config, tmp_path):
    rows = [{"question": f"{n} + 2?", "answer": f"#### {n + 2}"} for n in range(16)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "test.jsonl").write_bytes((data / "test.jsonl").read_bytes())
    config = apply_overrides(
        tiny_config,
        [
            "task.name=gsm8k",
            f"task.path={tmp_path}",
            "reward=log_likelihood",
            "evaluation.task.name=gsm8k",
            "evaluation.task.num_heldout=0",
            f"evaluation.task.path={tmp_path}",
            "evaluation.max_new_tokens=4",
        ],
    )
    with workers_here():
        result = train(config, run_dir=tmp_path / "run")
        again = evaluate(str(tmp_path / "run"))
    assert (result.baseline.n, set(result.baseline.metrics)) == (5, {"strict", "flexible"})
    assert 0.0 <= result.baseline.pass_rate <= 1.0
    assert (again.reward, again.figures["strict"]) == (result.best.reward, result.best.pass_rate)
    trained = [row for row in read(tmp_path / "run" / "metrics.jsonl") if "reward/mean" in row]
    assert all(row["reward/mean"] < 0 for row in trained)  # a log probability


def test_prompts_of_ones_own_are_trained_on_and_tested(workers_here, tiny_config, tmp_path):
    rows = [{"prompt": f"Say {n}.", "answer": str(n)} for n in range(30)]
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = [f"task={{name: prompts, path: {file}, num_train: 8, num_heldout: 5}}"]
    config = apply_overrides(tiny_config, [*own, "reward=exact_match", "generations=1"])
    with workers_here():
        result = train(config, run_dir=tmp_path / "run")
        again = evaluate(str(tmp_path / "run"))
        whole = evaluate("tiny", task="prompts", data=file, overrides=[*HERE, "reward=exact_match"])
    assert (result.baseline.n, again.n, whole.n) == (5, 5, 30)
    assert (again.task, again.reward) == ("prompts", result.best.reward)
    asked = [row["prompt"] for row in read(tmp_path / "run" / "samples.jsonl")]
    assert asked and set(asked) <= {row["prompt"] for row in rows}
    # Beyond what is held out stand the rows that were trained on.
    for override in ("task.num_heldout=6", "task.num_heldout=0", "task.seed=1"):
        with pytest.raises(ConfigError, match=r"the run holds out 5 rows of .* trains on others"):
            evaluate(str(tmp_path / "run"), overrides=[override])
