"""Texts from elsewhere through our engines, and lm-evaluation-harness driving them.

The second part runs where lm-eval is installed beside es-align (`EXTRAS=dev,grpo,eval make setup`).
"""

import json

import pytest

from es_align.errors import ConfigError
from es_align.texts import TextEngine, before_stops

HERE = ["precision=fp32", "workers.engine=torch", "workers.cpus=1"]


@pytest.fixture(scope="module")
def engine():
    return TextEngine("tiny", overrides=HERE)


def test_text_ends_before_the_first_stop():
    assert before_stops("one two three", ["three", " two", ""]) == "one"
    assert before_stops("one", ["two"]) == "one"
    assert before_stops("one", ["one"]) == ""


def test_answers_keep_their_order_over_batches_and_stop(engine, monkeypatch):
    texts = [f"Say {n}." for n in range(5)]
    together = engine.complete(texts, max_new_tokens=6)
    monkeypatch.setattr(engine, "_batch", 2)
    assert engine.complete(texts, max_new_tokens=6) == together
    assert len(set(together)) > 1
    first = together[0]
    assert (
        engine.complete(texts[:1], max_new_tokens=6, stops=[first[2:4]])[0]
        == first[: first.index(first[2:4])]
    )


def test_the_same_text_twice_is_drawn_anew_and_the_same_way_again(engine, monkeypatch):
    drawn = engine.complete(["Say."] * 4, max_new_tokens=6, temperature=1.0)
    assert len(set(drawn)) > 1
    monkeypatch.setattr(engine, "_batch", 1)
    assert engine.complete(["Say."] * 4, max_new_tokens=6, temperature=1.0) == drawn


def test_a_long_text_loses_its_beginning(engine, monkeypatch):
    monkeypatch.setattr(engine, "max_model_len", 12)
    ids = engine.tokens("abcdefghijklmnopqrstuvwxyz")
    assert len(ids) > 8
    end = engine.renderer.decode(ids[-8:])
    assert engine.tokens(end) == ids[-8:]
    long, short = engine.complete(["abcdefghijklmnopqrstuvwxyz", end], max_new_tokens=4)
    assert long == short
    with pytest.raises(ConfigError, match="12 new tokens leave no room"):
        engine.complete(["a"], max_new_tokens=12)


@pytest.fixture
def harness():
    pytest.importorskip("lm_eval", reason="no lm-eval: EXTRAS=dev,grpo,eval make setup")
    return pytest.importorskip("es_align.harness")


def test_generation_arguments(harness):
    read = harness.read_generation
    assert read({"until": "a", "max_gen_toks": 5}) == (5, ("a",), 0.0)
    assert read({"until": ["a", "b"], "do_sample": False, "temperature": 0.7, "top_p": 1}) == (
        256,
        ("a", "b"),
        0.0,
    )
    assert read({"temperature": 0.7, "do_sample": True}).temperature == 0.7
    with pytest.raises(ConfigError, match="top_p"):
        read({"temperature": 0.7, "top_p": 0.9})


def test_the_harness_runs_a_task_on_our_engine(harness, tmp_path):
    import lm_eval
    from lm_eval.tasks import TaskManager

    rows = [{"question": f"{n} + 1?", "answer": str(n + 1)} for n in range(3)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "adding.yaml").write_text(
        f"""task: adding
dataset_path: json
dataset_kwargs:
  data_files:
    test: {tmp_path / "d.jsonl"}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  until: ["#"]
  max_gen_toks: 5
metric_list:
  - metric: exact_match
"""
    )
    arguments = "target=tiny,precision=fp32,engine=torch,workers.cpus=1"
    found = lm_eval.simple_evaluate(
        model="es_align",
        model_args=arguments,
        tasks=["adding"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        apply_chat_template=True,
        bootstrap_iters=0,
    )
    samples = sorted(found["samples"]["adding"], key=lambda sample: sample["doc_id"])
    assert len(samples) == 3
    engine = TextEngine("tiny", overrides=HERE)
    tokens = engine.renderer.render([{"role": "user", "content": "0 + 1?"}])
    prompt = samples[0]["arguments"][0][0]
    assert engine.tokens(prompt) == tokens
    ours = engine.complete([prompt], max_new_tokens=5, stops=["#"])
    assert samples[0]["resps"] == [ours]


def test_likelihoods_of_texts_are_those_of_their_tokens(engine, monkeypatch):
    prompt, answer = engine.tokens("One two"), engine.tokens(" three")
    ((total, is_greedy),) = engine.likelihoods([(prompt, answer)])
    assert total < 0 and is_greedy is False
    # A prompt that is too long loses its beginning.
    monkeypatch.setattr(engine, "max_model_len", len(answer) + 3)
    ((cut, _),) = engine.likelihoods([((*prompt, *prompt), answer)])
    ((short, _),) = engine.likelihoods([(prompt[-2:], answer)])
    assert cut == pytest.approx(short, abs=1e-4)
    monkeypatch.setattr(engine, "max_model_len", len(answer) + 1)
    with pytest.raises(ConfigError, match=f"set max_model_len={len(answer) + 2} or more"):
        engine.likelihoods([(prompt, answer)])


def test_the_harness_gets_likelihoods(harness, engine, monkeypatch):
    from lm_eval.api.instance import Instance

    def ask(kind, *arguments):
        return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)

    def ours(prompt, answer):
        ((total, _),) = engine.likelihoods([(prompt, answer)])
        return total

    settings = {"precision": "fp32", "engine": "torch", "workers.cpus": 1}
    model = harness.EsAlignModel(target="tiny", **settings)
    monkeypatch.setattr(model._engine, "max_model_len", 16)
    asked = [ask("loglikelihood", "One two ", "three"), ask("loglikelihood", "", "three")]
    found = model.loglikelihood(asked, disable_tqdm=True)
    context, whole = engine.tokens("One two"), engine.tokens("One two three")
    assert found[0][0] == pytest.approx(ours(context, whole[len(context) :]), abs=1e-4)

    # A text of several windows: each token once, after all that its window has room for.
    text = "one two three four five six seven eight nine ten eleven twelve"
    (rolled,) = model.loglikelihood_rolling([ask("loglikelihood_rolling", text)])
    tokens = engine.renderer.tokenizer.encode(text, add_special_tokens=False)
    size = model._engine.longest_scored - 1
    before = (model.prefix_token_id, *tokens)
    assert len(tokens) > size
    starts = range(0, len(tokens), size)
    ends = [min(start + size, len(tokens)) for start in starts]
    expected = sum(
        ours(before[max(0, end - size) : start + 1], tokens[start:end])
        for start, end in zip(starts, ends, strict=True)
    )
    assert rolled == pytest.approx(expected, abs=1e-3)


def test_a_model_without_a_target_says_what_to_write(harness):
    with pytest.raises(ConfigError, match="target=RUN"):
        harness.EsAlignModel()
