"""The one place where messages become token ids and token ids become text,
for every engine, task and phase.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from kernels.errors import ModelError


class Renderer:
    """Chat template, tokeniser and stop tokens of a model directory."""

    def __init__(self, model_path: Path) -> None:
        """Raises ModelError if the model has no chat template."""
        tokenizer = AutoTokenizer.from_pretrained(model_path)
        assert isinstance(tokenizer, PreTrainedTokenizerBase)
        if not tokenizer.chat_template:
            raise ModelError(
                f"model {model_path} has no chat template, so prompts cannot be rendered; "
                "use an instruction-tuned checkpoint or add chat_template.jinja to the directory"
            )
        self.tokenizer = tokenizer
        self.stop_token_ids = stop_token_ids(model_path, tokenizer)

    def render(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        """Token ids of the conversation up to where the assistant starts to answer."""
        return self.encode(self.text(messages))

    def text(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The conversation as the chat template writes it, up to the assistant's turn."""
        text = self.tokenizer.apply_chat_template(
            [dict(message) for message in messages], add_generation_prompt=True, tokenize=False
        )
        assert isinstance(text, str)
        return text

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of what `text` gave."""
        # The template writes its own BOS where the model wants one:
        # adding another is the classic mismatch.
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of a completion without special tokens."""
        text = self.tokenizer.decode(list(token_ids), skip_special_tokens=True)
        assert isinstance(text, str)
        return text


def stop_token_ids(model_path: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """End tokens: the generation config's, which is what the model was tuned with,
    else the tokeniser's.
    """
    generation_config = model_path / "generation_config.json"
    found = None
    if generation_config.is_file():
        found = json.loads(generation_config.read_text()).get("eos_token_id")
    if found is None:
        found = tokenizer.eos_token_id
    if found is None:
        raise ModelError(
            f"model {model_path} names no end-of-text token in generation_config.json or its "
            'tokeniser; add "eos_token_id" to generation_config.json'
        )
    return tuple(int(token) for token in (found if isinstance(found, list) else [found]))
