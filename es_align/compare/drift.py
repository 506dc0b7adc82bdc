"""How far a model has moved from its base, where nobody asked it to.

KL(base || model) on paragraphs of prose that have nothing to do with any task, mean over their
tokens, in nats: what the base would have said next and the model no longer expects. Both are run in
torch on the unquantised checkpoint, so ES and GRPO arms of any precision are measured alike.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from es_align.targets import ADAPTER_FILE

TEXTS = "drift_texts.txt"
MAX_TOKENS = 512  # of a text

# From token ids (1, T) to log probabilities of the next tokens, float32 (T, vocabulary).
LogProbabilities = Callable[[torch.Tensor], torch.Tensor]


def drift_texts() -> list[str]:
    """The paragraphs."""
    text = files("es_align.compare").joinpath(TEXTS).read_text(encoding="utf-8")
    return [paragraph.strip() for paragraph in text.split("\n\n") if paragraph.strip()]


@torch.inference_mode()
def kl_to_base(base: Path, tuned: Path, texts: Sequence[str] | None = None) -> float:
    """KL(base || tuned) in nats a token, of a PEFT LoRA on `base` or of a whole checkpoint."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokens = [
        tokenizer(text, return_tensors="pt", truncation=True, max_length=MAX_TOKENS).input_ids
        for text in (drift_texts() if texts is None else texts)
    ]
    total = 0.0
    with _both(base, tuned) as (of_base, of_tuned):
        for ids in tokens:
            base_TV, tuned_TV = of_base(ids), of_tuned(ids)
            total += float((base_TV.exp() * (base_TV - tuned_TV)).sum())
    return total / sum(ids.shape[1] for ids in tokens)


@contextmanager
def _both(base: Path, tuned: Path) -> Iterator[tuple[LogProbabilities, LogProbabilities]]:
    """An adapter and its base are one model, with the adapter and without."""
    model = _load(base)
    if not (tuned / ADAPTER_FILE).is_file():
        other = _load(tuned)
        yield (
            (lambda ids: _log_probabilities(model, ids)),
            (lambda ids: _log_probabilities(other, ids)),
        )
        return
    adapted = PeftModel.from_pretrained(model, tuned)

    def without(ids: torch.Tensor) -> torch.Tensor:
        with adapted.disable_adapter():
            return _log_probabilities(adapted, ids)

    yield without, lambda ids: _log_probabilities(adapted, ids)


def _load(path: Path) -> PreTrainedModel:
    """In float32, so that rounding is no drift."""
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def _log_probabilities(model: PreTrainedModel | PeftModel, ids: torch.Tensor) -> torch.Tensor:
    return model(input_ids=ids).logits[0].float().log_softmax(dim=-1)
