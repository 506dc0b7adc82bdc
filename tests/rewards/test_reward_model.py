"""Reward reward_model: batches give what one forward at a time gives, on classifiers made here."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from kernels.errors import ConfigError, ModelError
from rewards.base import Prompted
from rewards.models import RewardModel, check_reward_model, read_config
from rewards.registry import RewardModelOptions
from rewards.scoring import Scorer
from rewards.specs import RewardSpec, num_together

TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'odd' %}{{ raise_exception('no such role') }}"
    "{% endif %}{{ '<s>' + m['role'] + m['content'] + '</s>' }}{% endfor %}"
)
TOLERANCE = 1e-5  # of an fp32 logit near 1: a batch's products are added in another order
POSITIONS = 96
COMPLETIONS = ("yes", "", "a much longer answer than all the others", "no", "maybe so", "x" * 80)


def byte_tokenizer(folder: Path, *, is_chat: bool, padding: str = "</s>") -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = dict.fromkeys(["<s>", padding, "</s>", *alphabet])
    words = {token: n for n, token in enumerate(tokens)}
    core = Tokenizer(models.BPE(vocab=words, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if not is_chat:
        core.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>",
            pair="<s> $A </s> $B:1 </s>:1",
            special_tokens=[(token, words[token]) for token in ("<s>", "</s>")],
        )
    inputs = ["input_ids", "attention_mask"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token=padding,
        model_input_names=inputs if is_chat else ["token_type_ids", *inputs],
    )
    if is_chat:
        tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One output, a chat template, and no padding token."""
    folder = tmp_path_factory.mktemp("causal")
    byte_tokenizer(folder, is_chat=True)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=258,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        initializer_range=0.2,
        num_labels=1,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three named outputs, no chat template, and text types."""
    folder = tmp_path_factory.mktemp("encoder")
    byte_tokenizer(folder, is_chat=False)
    torch.manual_seed(2)
    config = BertConfig(
        vocab_size=258,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=POSITIONS,
        initializer_range=0.2,
        pad_token_id=1,
        id2label={0: "bad", 1: "so-so", 2: "good"},
        label2id={"bad": 0, "so-so": 1, "good": 2},
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def offset_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One output; positions are counted from behind that of the padding, token 1."""
    folder = tmp_path_factory.mktemp("offset")
    byte_tokenizer(folder, is_chat=False, padding="<pad>")
    torch.manual_seed(3)
    config = RobertaConfig(
        vocab_size=259,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=POSITIONS + 2,
        type_vocab_size=1,
        initializer_range=0.2,
        pad_token_id=1,
        num_labels=1,
    )
    RobertaForSequenceClassification(config).save_pretrained(folder)
    return folder


def items(completions: tuple[str, ...] = COMPLETIONS) -> list[Prompted]:
    messages = ({"role": "user", "content": "Is it?"},)
    return [Prompted(completion, messages, {}) for completion in completions]


def spec_of(folder: Path, **options) -> RewardSpec:
    return RewardSpec("reward_model", {"model": str(folder), **options})


def one_at_a_time(folder: Path, encoded: list[dict], label: int) -> list[float]:
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        rows = [{k: torch.tensor([v]) for k, v in one.items()} for one in encoded]
        return [model(**row).logits[0, label].item() for row in rows]


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_a_causal_classifier_reads_the_conversation_to_its_end(
    causal: Path, batch_size: int
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(causal)
    texts = [f"<s>userIs it?</s><s>assistant{c}</s>" for c in COMPLETIONS]
    written = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    # The first token stays, and the end of the answer.
    cut = [ids if len(ids) <= POSITIONS else [ids[0], *ids[1 - POSITIONS :]] for ids in written]
    assert [len(ids) > POSITIONS for ids in written] == [False] * 5 + [True]
    expected = one_at_a_time(causal, [{"input_ids": ids} for ids in cut], 0)
    scores = RewardModel(spec_of(causal, batch_size=batch_size)).score(items())
    assert [score.reward for score in scores] == pytest.approx(expected, abs=TOLERANCE)
    assert [score.metrics["cut"] for score in scores] == [0, 0, 0, 0, 0, 1]
    assert len({round(score.reward or 0, 3) for score in scores}) == len(scores)


def test_an_encoder_reads_a_pair_of_texts_and_one_of_its_outputs(encoder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    short = COMPLETIONS[:5]
    batch = tokenizer(["Is it?"] * len(short), list(short))
    pairs = [{name: column[n] for name, column in batch.items()} for n in range(len(short))]
    assert all(sum(pair["token_type_ids"]) > 0 for pair in pairs)
    for label, index in (("good", 2), (1, 1)):
        scores = RewardModel(spec_of(encoder, label=label)).score(items(short))
        expected = one_at_a_time(encoder, pairs, index)
        assert [score.reward for score in scores] == pytest.approx(expected, abs=TOLERANCE)


def test_an_encoder_with_an_offset_reads_as_many_tokens_as_it_has_positions_for(
    offset_encoder: Path,
) -> None:
    model = RewardModel(spec_of(offset_encoder))
    encoded = [model.encode(item) for item in items(("x" * 80, "x" * 90))]
    assert [len(one.token_ids) for one in encoded] == [89, POSITIONS]  # of 89 and 99
    assert [one.is_cut for one in encoded] == [False, True]
    scores = model.score(items(("x" * 80, "x" * 90)))
    expected = one_at_a_time(offset_encoder, [{"input_ids": e.token_ids} for e in encoded], 0)
    assert [score.reward for score in scores] == pytest.approx(expected, abs=TOLERANCE)
    with pytest.raises(ConfigError, match=f"max_length=97 is more than the {POSITIONS} tokens"):
        RewardModel(spec_of(offset_encoder, max_length=97))


def test_a_prompt_that_the_template_refuses_is_counted(causal: Path) -> None:
    odd = Prompted("yes", ({"role": "odd", "content": "?"},), {})
    scores = RewardModel(spec_of(causal)).score([odd, *items()])
    assert scores[0] == (None, False, {}, "error:TemplateError")
    assert all(score.reason == "ok" for score in scores[1:])


def test_it_is_added_to_others_by_weight(causal: Path) -> None:
    model = spec_of(causal, batch_size=2)
    alone = RewardModel(model).score(items())
    gold = RewardSpec("exact_match", weight=2.0)
    rows = [item._replace(columns={"answer": "no"}) for item in items()]
    with Scorer([gold, model], 1) as scorer:
        both = scorer.score(rows)
    for item, judged, score in zip(rows, alone, both, strict=True):
        assert score.reward == pytest.approx(2.0 * (item.completion == "no") + judged.reward)
        assert score.passed == (item.completion == "no")
        assert score.metrics["reward_model"] == judged.reward
    with Scorer([RewardSpec(*model_fields(model), pass_at=alone[0].reward)], 1) as scorer:
        assert scorer.score(items())[0].passed
    assert num_together([gold, model]) == 8


def model_fields(spec: RewardSpec) -> tuple:
    return spec.name, spec.options


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"model": "nowhere/at-all"}, ModelError, "is no folder and could not be fetched"),
        ({"model": "ENCODER"}, ConfigError, "set options.label to one of 0 (bad), 1 (so-so), 2 "),
        ({"model": "ENCODER", "label": "fine"}, ConfigError, "has no label 'fine'"),
        ({"model": "CAUSAL", "batch_size": 0}, ConfigError, "batch_size=0 must be 1 or more"),
        ({"model": "EMPTY"}, ModelError, "is a folder without config.json"),
        ({"model": "WRITER"}, ModelError, "has architectures=LlamaForCausalLM, not one that ends"),
    ],
)
def test_what_cannot_judge_is_refused_by_its_configuration_alone(
    options: dict,
    error: type[Exception],
    told: str,
    causal: Path,
    encoder: Path,
    tmp_path: Path,
) -> None:
    writer = tmp_path / "writer"
    writer.mkdir()
    (writer / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    folders = {"ENCODER": encoder, "CAUSAL": causal, "EMPTY": tmp_path, "WRITER": writer}
    model = str(folders.get(options["model"], options["model"]))
    with pytest.raises(error) as caught:
        check_reward_model(RewardModelOptions(**{**options, "model": model}))
    assert told in str(caught.value)


def test_what_cannot_be_read_at_once_is_refused(causal: Path) -> None:
    assert "architectures" in read_config(RewardModelOptions(model=str(causal)))
    with pytest.raises(ConfigError, match=f"max_length=97 is more than the {POSITIONS} tokens"):
        RewardModel(spec_of(causal, max_length=97))
