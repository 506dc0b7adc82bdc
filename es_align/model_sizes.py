"""The sizes of a model from its config.json alone: no weight is read or fetched.

Known are dense decoders of Llama's kind (Llama, Qwen, Mistral, SmolLM, Gemma's text part): blocks
of q, k, v, o, gate, up and down. Norms are counted, biases are not.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from es_align.errors import ModelError
from es_align.preflight import BUNDLED_NAMES

KV_BYTES_PER_NUMBER = 2  # bf16, in every precision of the weights
NORMS_PER_BLOCK = 2
HUB_TIMEOUT_S = 5.0
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """What a decoder is made of."""

    hidden: int
    intermediate: int
    num_blocks: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocabulary: int
    is_tied: bool  # the head is the embedding

    @property
    def layers(self) -> dict[str, tuple[int, int]]:
        """`(out, in)` of the linear layers of one block, by the last part of their names."""
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        return {
            "q_proj": (queries, self.hidden),
            "k_proj": (keys, self.hidden),
            "v_proj": (keys, self.hidden),
            "o_proj": (self.hidden, queries),
            "gate_proj": (self.intermediate, self.hidden),
            "up_proj": (self.intermediate, self.hidden),
            "down_proj": (self.hidden, self.intermediate),
        }

    @property
    def num_linear(self) -> int:
        """Numbers of all blocks' linear layers."""
        return self.num_blocks * sum(rows * columns for rows, columns in self.layers.values())

    @property
    def num_parameters(self) -> int:
        """Numbers of the whole model."""
        embeddings = self.vocabulary * self.hidden * (1 if self.is_tied else 2)
        norms = self.hidden * (NORMS_PER_BLOCK * self.num_blocks + 1)
        return self.num_linear + embeddings + norms

    @property
    def kv_bytes(self) -> int:
        """Of one token in the cache."""
        return 2 * self.num_blocks * self.num_kv_heads * self.head_dim * KV_BYTES_PER_NUMBER


# Of `es_align.bundled`, which makes them and imports torch; a test compares both.
BUNDLED_SIZES = {
    "smollm2-135m-instruct": ModelSizes(576, 1536, 30, 9, 3, 64, 49152, True),
    "tiny": ModelSizes(32, 64, 2, 4, 2, 8, 258, False),
}


def read_sizes(name: str) -> ModelSizes:
    """The sizes of a bundled model, of a folder with a config.json, or of a hub id, of which that
    file alone is fetched if it is not in the cache.

    Raises ModelError if there is none, or it describes another kind of model.
    """
    if name in BUNDLED_NAMES:
        return BUNDLED_SIZES[name]
    if Path(name).is_dir():
        path = Path(name) / "config.json"
        if not path.is_file():
            raise ModelError(f"model={name} is a folder without config.json; name a checkpoint's")
        text = path.read_text(encoding="utf-8")
    else:
        text = _from_hub(name)
    try:
        settings = json.loads(text)
    except ValueError as error:
        raise ModelError(f"config.json of model={name} is no JSON ({error})") from error
    return _sizes(name, settings if isinstance(settings, dict) else {})


def _from_hub(name: str) -> str:
    """The text of a hub id's config.json, asked for once: the hub's own download tries for half a
    minute where there is no network.
    """
    # Imported here: half a second that bundled models and folders do without.
    from httpx import HTTPError
    from huggingface_hub import hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    try:
        cached = try_to_load_from_cache(name, "config.json")
        if isinstance(cached, str):
            return Path(cached).read_text(encoding="utf-8")
        response = get_session().get(
            hf_hub_url(name, "config.json"),
            headers=build_hf_headers(),
            follow_redirects=True,
            timeout=HUB_TIMEOUT_S,
        )
        hf_raise_for_status(response)
        return response.text
    except (HFValidationError, HTTPError, OSError) as error:
        raise ModelError(
            f"the config.json of model {name!r} is not on this machine and could not be fetched "
            f"from the hub ({type(error).__name__}); put it into a folder and set model to that "
            f"folder, use a bundled model ({', '.join(BUNDLED_NAMES)}), or unset HF_HUB_OFFLINE"
        ) from error


def _sizes(name: str, settings: Mapping[str, object]) -> ModelSizes:
    nested = settings.get("text_config")
    if isinstance(nested, Mapping):
        settings = {**settings, **nested}
    experts = next((key for key in EXPERTS if isinstance(settings.get(key), int)), None)
    if experts is not None:
        raise ModelError(
            f"model={name} has {experts}={settings[experts]}: mixtures of experts are not planned "
            "for; plan with a dense model of its active size, or measure a run of it"
        )

    def number(key: str, default: int | None = None) -> int:
        value = settings.get(key)
        if isinstance(value, int):
            return value
        if default is None:
            raise ModelError(
                f"config.json of model={name} has no {key}, so it is no decoder of Llama's kind, "
                "and others are not planned for; measure a run of it"
            )
        return default

    hidden, num_heads = number("hidden_size"), number("num_attention_heads")
    return ModelSizes(
        hidden=hidden,
        intermediate=number("intermediate_size"),
        num_blocks=number("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=number("num_key_value_heads", num_heads),
        head_dim=number("head_dim", hidden // num_heads),
        vocabulary=number("vocab_size"),
        is_tied=settings.get("tie_word_embeddings") is True,
    )
