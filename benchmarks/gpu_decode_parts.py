"""What `gpu_decode.py` runs: models of a size, populations on them, and a step with a context.

Random weights are as good as trained ones for a time, and a model of eight layers of Llama-3.1-8B,
with that part of its vocabulary too, spends its time as the whole one does.

Shape suffixes: _B rows, _V vocabulary, _T tokens, _H heads, _D numbers of a head or of a vector,
_O out features, _I in features, _R directions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

from kernels.shared_basis import SharedBasis
from workers.engines.base import EngineSpec
from workers.engines.torch_engine import TorchEngine
from workers.layers import (
    CoreLayer,
    LayerFactors,
    LoraLayer,
    NoiseLayer,
    PerturbedLayer,
    save_factors,
)
from workers.members import SIGNS, Members, NoiseMembers
from workers.rendering import Renderer

SEED, GENERATION = 2**40 + 3, 5  # of the noise
SIGMA = 0.1  # relative to each layer's weights: an error in it stands out of the rounding
RANK = 8  # of directions, cores and LoRAs
ATTENTION = "es_align_held"
CONTEXT_SCALE = 0.5  # of the numbers in the cache


class Size(NamedTuple):
    """A Llama's, by the names of its configuration."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int


SIZES = {
    "smollm2-135m": Size(576, 1536, 30, 9, 3, 49152),
    "llama-3.2-1b": Size(2048, 8192, 16, 32, 8, 128256),
    "llama-3.1-8b, a quarter": Size(4096, 14336, 8, 32, 8, 32064),
    "toy": Size(64, 128, 2, 4, 2, 128),
}


def save_random(size: Size, folder: Path, seed: int) -> None:
    """A checkpoint of that size in bf16, the embedding being the head as well."""
    torch.manual_seed(seed)
    config = LlamaConfig(**size._asdict(), tie_word_embeddings=True)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)  # pyright: ignore


Weights = Mapping[str, torch.Tensor]


def targets(model: torch.nn.Module) -> Weights:
    """The linear layers of all blocks, by name."""
    return {
        name: module.weight.detach()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith("model.layers.")
    }


def noise_layers(weights: Weights, rank: int) -> list[PerturbedLayer]:
    """EGGROLL on whole weights."""
    return [
        NoiseLayer(name, *weight_OI.shape, rank, rms(weight_OI), parameter)
        for parameter, (name, weight_OI) in enumerate(weights.items())
    ]


def core_layers(weights: Weights) -> list[PerturbedLayer]:
    """Cores between random directions, whose noise moves an output as whole weights' would."""
    layers: list[PerturbedLayer] = []
    for parameter, (name, weight_OI) in enumerate(weights.items()):
        basis, unit = random_basis(weight_OI)
        layers.append(CoreLayer(name, basis, 1, unit, parameter))
    return layers


def scaled_layers(weights: Weights) -> list[PerturbedLayer]:
    """Scales of random directions."""
    layers: list[PerturbedLayer] = []
    for name, weight_OI in weights.items():
        basis, unit = random_basis(weight_OI)
        layers.append(LayerFactors(name, basis, RANK, torch.zeros(RANK), torch.full((RANK,), unit)))
    return layers


def lora_layers(weights: Weights) -> list[PerturbedLayer]:
    """LoRAs that have learned something, both factors perturbed."""
    layers: list[PerturbedLayer] = []
    for place, (name, weight_OI) in enumerate(weights.items()):
        basis, unit = random_basis(weight_OI)
        down_RI, up_OR = basis.right_IR.T.contiguous(), SIGMA * unit * basis.left_OR
        layers.append(LoraLayer(name, down_RI, up_OR, 1.0, 1, rms(down_RI), rms(up_OR), 2 * place))
    return layers


def random_basis(weight_OI: torch.Tensor) -> tuple[SharedBasis, float]:
    """Directions, and the number by which an output through one is as large as the weight's."""
    out_features, in_features = weight_OI.shape
    right_IR = torch.randn(in_features, RANK) / in_features**0.5
    left_OR = torch.randn(out_features, RANK) / RANK**0.5
    return SharedBasis(right_IR, left_OR), rms(weight_OI) * in_features**0.5


def rms(values: torch.Tensor) -> float:
    """Root mean square."""
    return float(values.float().square().mean().sqrt())


SPACES: Mapping[str, Callable[[Weights], list[PerturbedLayer]]] = {
    "weights, rank 1": lambda weights: noise_layers(weights, 1),
    "weights, rank 4": lambda weights: noise_layers(weights, 4),
    f"core, rank {RANK}": core_layers,
    f"lora, rank {RANK}": lora_layers,
    f"singular values, rank {RANK}": scaled_layers,
}


def make_members(layers: list[PerturbedLayer], num_members: int) -> Members:
    """Antithetic pairs, or vectors where the space takes those."""
    if isinstance(layers[0], LayerFactors):
        dimension = sum(layer.num_numbers for layer in layers)
        normals = np.random.Generator(np.random.Philox(SEED)).standard_normal
        return (SIGMA * normals((num_members, dimension))).astype(np.float32)
    pairs = tuple(member // len(SIGNS) for member in range(num_members))
    signs = SIGNS * (num_members // len(SIGNS))
    return NoiseMembers(SEED, GENERATION, pairs, signs, SIGMA)


class Context:
    """Keys and values of what stands before the step's token, and room for its own.

    Given to a model as its cache. The last place is written anew by every step.
    """

    def __init__(self, layers: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        self.layers = layers

    @classmethod
    def random(cls, size: Size, num_rows: int, length: int, device: torch.device) -> "Context":
        """bf16 normals for `length` tokens of every row."""
        heads = size.num_key_value_heads
        shape = (num_rows, heads, length + 1, size.hidden_size // size.num_attention_heads)

        def draw() -> torch.Tensor:
            numbers = torch.empty(shape, dtype=torch.bfloat16, device=device)
            return numbers.normal_(0, CONTEXT_SCALE)

        return cls([(draw(), draw()) for _ in range(size.num_hidden_layers)])

    def first_rows(self, num_rows: int) -> "Context":
        """The same numbers in fp32 on the host."""
        return Context(
            [tuple(held[:num_rows].float().cpu() for held in pair) for pair in self.layers]  # pyright: ignore
        )

    def get_seq_length(self, *_: object) -> int:
        """Tokens before the step's."""
        return self.layers[0][0].shape[2] - 1

    def update(
        self, key_BHTD: torch.Tensor, value_BHTD: torch.Tensor, layer: int, *_: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put the step's own in their place; all of the layer's."""
        for held, new in zip(self.layers[layer], (key_BHTD, value_BHTD), strict=True):
            held[:, :, -1:].copy_(new)
        return self.layers[layer]


def attend(
    module: torch.nn.Module,
    query_BHTD: torch.Tensor,
    key_BHTD: torch.Tensor,
    value_BHTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """One token sees all: no mask, so that the quickest kernel there is may serve."""
    mixed = scaled_dot_product_attention(
        query_BHTD,
        key_BHTD,
        value_BHTD,
        scale=scaling,
        enable_gqa=query_BHTD.shape[1] != key_BHTD.shape[1],
    )
    return mixed.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, attend)


def start_engine(
    path: Path, precision: str, factors: Path | None, max_members: int, device: str, threads: int
) -> TorchEngine:
    """The torch engine with the attention above; it gets no text, so it has no renderer."""
    spec = EngineSpec(
        kind="torch",
        model_path=path,
        precision=precision,
        factors_path=factors,
        max_members=max_members,
        max_model_len=1,
        kv_cache_gb=0.0,
        num_threads=threads,
        device=device,  # pyright: ignore[reportArgumentType]
    )
    engine = TorchEngine(spec, cast(Renderer, None))
    engine.model.set_attn_implementation(ATTENTION)
    return engine


@dataclass(frozen=True, slots=True)
class Spaces:
    """Files of layers, and who the members are."""

    files: Mapping[str, Path]
    members: Mapping[str, Members]


def write_spaces(
    model: torch.nn.Module, names: Sequence[str], folder: Path, num_members: int, seed: int
) -> Spaces:
    """Layers of these spaces for all linear layers of the model's blocks."""
    torch.manual_seed(seed)
    files, members, weights = {}, {}, targets(model)
    for number, name in enumerate(names):
        layers = SPACES[name](weights)
        files[name] = folder / f"{number}.safetensors"
        save_factors(layers, files[name])
        members[name] = make_members(layers, num_members)
    return Spaces(files, members)


class Step:
    """The next token's logits for every row, row r being member r; what a graph captures."""

    def __init__(self, engine: TorchEngine, context: Context, tokens_B: torch.Tensor) -> None:
        self.engine, self.context = engine, context
        self.tokens_B = tokens_B.to(engine.device)
        self.positions_B = torch.full_like(self.tokens_B, context.get_seq_length())
        self.logits_BV = torch.empty(0)
        self.next_B = torch.empty(0)
        engine.rows.set(torch.arange(len(tokens_B), dtype=torch.int32))

    @torch.inference_mode()
    def __call__(self) -> None:
        output = self.engine.model(
            input_ids=self.tokens_B[:, None],
            position_ids=self.positions_B[:, None],
            past_key_values=self.context,
            use_cache=True,
            logits_to_keep=1,
        )
        self.logits_BV = output.logits[:, -1]
        self.next_B = self.logits_BV.argmax(dim=-1)


def parameters_of(model: torch.nn.Module) -> int:
    """How many numbers it has."""
    return sum(parameter.numel() for parameter in model.parameters())
