"""A sequence classifier from Hugging Face as the judge of completions.

The prompt and the completion go through the chat template of the judge's own tokenizer, as TRL's
trainers do it, or as a pair of texts where it has none; the reward is the raw output. What is too
long loses its start, never the end of the answer, and is counted in the metric `cut`. No code of
a checkpoint is run.

Nothing of torch is imported before a model is loaded. Shape suffixes: _B rows, _T tokens, _L
labels.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kernels.errors import ConfigError, DataError, ModelError
from rewards.base import JsonValue, Prompted, Score, unscored
from rewards.registry import RewardModelOptions
from rewards.specs import RewardSpec

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CLASSIFIER = "ForSequenceClassification"
NUM_LABELS_UNSAID = 2  # a configuration with two labels says nothing of them


class Encoded(NamedTuple):
    """One completion as the model reads it."""

    token_ids: list[int]
    type_ids: list[int] | None  # which of two texts, for models that are told
    is_cut: bool


class RewardModel:
    """A loaded sequence classifier and its tokenizer."""

    def __init__(self, spec: RewardSpec) -> None:
        """Load it, on the GPU if there is one. Raises ModelError or ConfigError if it cannot be."""
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        options = RewardModelOptions(**spec.options)  # pyright: ignore[reportArgumentType]
        index = label_index(options, read_config(options))
        place = {"revision": options.revision, "trust_remote_code": False}
        dtype = options.dtype if options.dtype == "auto" else getattr(torch, options.dtype)
        try:
            tokenizer = AutoTokenizer.from_pretrained(options.model, **place)
            model = AutoModelForSequenceClassification.from_pretrained(
                options.model, dtype=dtype, **place
            )
        except (OSError, ValueError, ImportError) as error:
            said = " ".join(str(error).split())
            raise ModelError(
                f"reward model {options.model} cannot be loaded: {said:.300}; name a complete "
                "checkpoint of a classifier that transformers itself knows"
            ) from error
        self._batch_size = options.batch_size
        self._index = index
        self._tokenizer: PreTrainedTokenizerBase = tokenizer
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model: PreTrainedModel = model.to(device).eval()
        self._max_length = _max_length(options, tokenizer, self._model)

    def score(self, items: Sequence[Prompted]) -> list[Score]:
        """One score for every item, in order; the items make up the batches, so equal items give
        equal scores to the bit.
        """
        scores: dict[int, Score] = {}
        readable: dict[int, Encoded] = {}
        for place, item in enumerate(items):
            try:
                readable[place] = self.encode(item)
            except Exception as error:  # such as a template that refuses a role: one item's fault
                scores[place] = unscored(f"error:{type(error).__name__}")
        by_length = sorted(readable, key=lambda place: len(readable[place].token_ids))
        for start in range(0, len(by_length), self._batch_size):
            places = by_length[start : start + self._batch_size]
            rewards = self._forward([readable[place] for place in places])
            for place, reward in zip(places, rewards, strict=True):
                scores[place] = _score(reward, is_cut=readable[place].is_cut)
        return [scores[place] for place in range(len(items))]

    def encode(self, item: Prompted) -> Encoded:
        """Prompt and completion as the judge's tokenizer writes them, no longer than it can read.

        What is cut away stands before the rest, behind a first special token, such as BOS or CLS.
        """
        tokenizer = self._tokenizer
        if tokenizer.chat_template:
            answer = {"role": "assistant", "content": item.completion}
            messages = [*map(dict, item.messages), answer]
            text = tokenizer.apply_chat_template(messages, tokenize=False)
            assert isinstance(text, str)
            # The template has written its special tokens.
            encoded = tokenizer([text], add_special_tokens=False, verbose=False)
        else:
            asked = "\n\n".join(message["content"] for message in item.messages)
            # As lists, in which an empty completion is a second text and not none at all.
            encoded = tokenizer([asked], [item.completion], verbose=False)
        columns = {name: column[0] for name, column in encoded.items()}
        ids, types = columns["input_ids"], columns.get("token_type_ids")
        if not ids:
            raise DataError("prompt and completion have no token; use prompts that say something")
        excess = len(ids) - self._max_length
        if excess <= 0:
            return Encoded(ids, types, is_cut=False)
        first = 1 if ids[0] in tokenizer.all_special_ids else 0
        kept = [*range(first), *range(first + excess, len(ids))]
        return Encoded(
            [ids[place] for place in kept],
            None if types is None else [types[place] for place in kept],
            is_cut=True,
        )

    def _forward(self, rows: Sequence[Encoded]) -> list[float]:
        import torch

        config, device = self._model.config, self._model.device
        ends = {row.token_ids[-1] for row in rows}
        known = getattr(config, "pad_token_id", None)
        # A causal classifier reads the last token that is not the padding. One without a padding
        # token of its own reads the last of all, so it gets any that ends no row.
        padding = next(n for n in range(len(rows) + 1) if n not in ends) if known is None else known
        width = max(len(row.token_ids) for row in rows)
        inputs = {
            "input_ids": _padded([row.token_ids for row in rows], width, padding),
            "attention_mask": _padded([[1] * len(row.token_ids) for row in rows], width, 0),
        }
        types = [row.type_ids for row in rows if row.type_ids is not None]
        if types and getattr(config, "type_vocab_size", 0) > 1:  # tokenizers give them unasked
            inputs["token_type_ids"] = _padded(types, width, 0)
        config.pad_token_id = padding
        with torch.inference_mode():
            on_device = {name: table_BT.to(device) for name, table_BT in inputs.items()}
            logits_BL = self._model(**on_device).logits
        config.pad_token_id = known
        return logits_BL[:, self._index].float().tolist()


def check_reward_model(options: RewardModelOptions) -> None:
    """Refuse a model that is not there, is no sequence classifier, or whose output is not told.

    Reads its config.json, from a folder, the cache or the hub. Raises ModelError or ConfigError.
    """
    if options.batch_size < 1 or (options.max_length is not None and options.max_length < 2):
        raise ConfigError(
            f"reward=reward_model: batch_size={options.batch_size} must be 1 or more and "
            f"max_length={options.max_length} 2 or more; correct the options"
        )
    label_index(options, read_config(options))


def read_config(options: RewardModelOptions) -> Mapping[str, JsonValue]:
    """The model's config.json; ModelError if there is none, or it is of no sequence classifier."""
    path = config_path(options)
    config = json.loads(path.read_text(encoding="utf-8"))
    architectures = config.get("architectures") or []
    if not any(str(name).endswith(CLASSIFIER) for name in architectures):
        found = ", ".join(map(str, architectures)) or "nothing"
        raise ModelError(
            f"reward model {options.model} has architectures={found}, not one that ends in "
            f"{CLASSIFIER}; name a reward model that transformers loads without code of its own"
        )
    return config


def label_index(options: RewardModelOptions, config: Mapping[str, JsonValue]) -> int:
    """Which output is the reward; ConfigError with the labels there are if that is not clear."""
    named = config.get("id2label")
    labels = {n: f"LABEL_{n}" for n in range(NUM_LABELS_UNSAID)}
    if isinstance(named, dict) and named:
        labels = {int(index): str(label) for index, label in named.items()}
    if options.label is None and len(labels) == 1:
        return 0
    found = [n for n, label in labels.items() if options.label in (n, label)]
    if len(found) == 1:
        return found[0]
    told = ", ".join(f"{n} ({label})" for n, label in sorted(labels.items()))
    what = "has several outputs" if options.label is None else f"has no label {options.label!r}"
    raise ConfigError(
        f"reward=reward_model: {options.model} {what}; set options.label to one of {told}"
    )


def config_path(options: RewardModelOptions) -> Path:
    """The model's config.json in its folder or in the hub's cache; ModelError if there is none."""
    folder = Path(options.model)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"reward model {folder} is a folder without config.json; name a checkpoint folder"
            )
        return folder / "config.json"
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(options.model, "config.json", revision=options.revision))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"reward model {options.model!r} is no folder and could not be fetched from the hub "
            f"({type(error).__name__}); check the spelling, log in with `hf auth login` if it is "
            "gated, or unset HF_HUB_OFFLINE"
        ) from error


def _max_length(
    options: RewardModelOptions, tokenizer: "PreTrainedTokenizerBase", model: "PreTrainedModel"
) -> int:
    """The least of what is asked for and what tokenizer and positions allow; ConfigError if more is
    asked for than there are positions.
    """
    positions = _num_positions(model)
    limit = min(tokenizer.model_max_length, positions or tokenizer.model_max_length)
    if options.max_length is not None and options.max_length > limit:
        raise ConfigError(
            f"reward=reward_model: max_length={options.max_length} is more than the {limit} tokens "
            f"that {options.model} reads; lower it, or leave it out"
        )
    return limit if options.max_length is None else options.max_length


def _num_positions(model: "PreTrainedModel") -> int | None:
    """Positions that tokens can have; None where the configuration names no limit.

    Models of RoBERTa's kind count from behind the padding's index, 514 being 512 of use. Their
    table of positions is the one that has such an index.
    """
    from torch.nn import Embedding

    positions = getattr(model.config, "max_position_embeddings", None)
    tables = [m for name, m in model.named_modules() if name.endswith("position_embeddings")]
    offsets = [t.padding_idx for t in tables if isinstance(t, Embedding)]
    offset = next((offset for offset in offsets if offset is not None), -1)
    return None if positions is None else positions - offset - 1


def _padded(rows: Sequence[Sequence[int]], width: int, padding: int) -> "torch.Tensor":
    """int64 `[B, T]`, padded on the right."""
    import torch

    return torch.tensor([[*row, *[padding] * (width - len(row))] for row in rows])


def _score(reward: float, *, is_cut: bool) -> Score:
    if not math.isfinite(reward):
        return unscored("error:not_finite")
    return Score(reward, False, {"cut": float(is_cut)}, "ok")
