"""KL to the base: nothing for the base itself, and what the definition says for another model."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from es_align.adapters import save_adapter
from es_align.compare.drift import drift_texts, kl_to_base
from es_align.models import find_model, linear_weights

TEXTS = ["The ferry leaves at seven.", "Bread rises."]


@pytest.fixture(scope="module")
def base():
    return find_model("tiny")


def adapter(base, folder, scale):
    torch.manual_seed(0)
    layers = {
        name: (torch.randn(2, weight.shape[1]), scale * torch.randn(weight.shape[0], 2))
        for name, weight in linear_weights(base, ["q_proj", "o_proj", "down_proj"])
    }
    save_adapter(folder, layers, "tiny")
    return folder


def test_an_adapter_that_changes_nothing_has_none(base, tmp_path):
    assert kl_to_base(base, adapter(base, tmp_path / "a", 0.0), TEXTS) == 0.0
    assert kl_to_base(base, base, TEXTS) == 0.0


def test_it_is_the_mean_over_tokens_of_what_the_definition_says(base, tmp_path):
    tuned = adapter(base, tmp_path / "a", 0.05)
    merged = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged.load_adapter(str(tuned))
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(base)
    total, num = 0.0, 0
    for text in TEXTS:
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            p, q = (model(ids).logits[0].double().softmax(-1) for model in (plain, merged))
        total += float((p * (p.log() - q.log())).sum())
        num += ids.shape[1]
    found = kl_to_base(base, tuned, TEXTS)
    assert found > 1e-4
    assert found == pytest.approx(total / num, rel=1e-3)


def test_the_paragraphs_are_prose_of_some_length():
    texts = drift_texts()
    assert len(texts) == 12
    assert min(len(text.split()) for text in texts) > 50
