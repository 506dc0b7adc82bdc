"""Space `lora`: EGGROLL (arXiv 2511.16652) on the two factors of a LoRA (arXiv 2106.09685).

`y += scaling * B (A x)`. Members add low-rank noise to A, to B or to both; the update of a factor
has full rank. With basis `weight` the LoRA is fresh and starts as the base model, with basis
`adapter` it goes on from a PEFT LoRA, trained or not. What sigma is relative to:
`es_align.spaces.layers`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from es_align.adapters import load_adapter
from es_align.config_search import SpaceConfig
from es_align.errors import ConfigError
from es_align.spaces.base import LoraFactors
from es_align.spaces.bases import BasisSource
from es_align.spaces.layers import adapter_layers, lora_layers
from workers.layers import LoraLayer, layers_digest
from workers.members import NoiseMembers


class Loras:
    """A LoRA for each layer; the mean's vector is A row by row, then B, layer after layer."""

    kind = "lora"

    def __init__(self, factors: Sequence[LoraLayer]) -> None:
        self.factors = list(factors)
        self.dimension = sum(layer.num_numbers for layer in self.factors)
        self.digest = layers_digest(self.factors)

    def mean_member(self, mean_D: np.ndarray) -> NoiseMembers:
        """One member: the mean itself."""
        return NoiseMembers(0, 0, (0,), (0,), 0.0, mean_D=mean_D.astype(np.float32))

    def lora(self, vector_D: np.ndarray) -> Mapping[str, LoraFactors]:
        """`(down_RI, up_OR)` of every layer at this mean, fp32; the scaling is in `up_OR`."""
        numbers_D = torch.from_numpy(np.asarray(vector_D, dtype=np.float32))
        start, factors = 0, {}
        for layer in self.factors:
            down_RI, up_OR = layer.factors(numbers_D[start : start + layer.num_numbers])
            start += layer.num_numbers
            factors[layer.name] = LoraFactors(down_RI.contiguous(), layer.scaling * up_OR)
        return factors


def make_loras(config: SpaceConfig, source: BasisSource) -> Loras:
    """Build the space from the full-precision model.

    Raises ConfigError if a target matches no layer, the rank does not fit or the asked factors move
    nothing; ModelError if the adapter is missing or belongs to another model.
    """
    if config.basis == "adapter":
        assert config.adapter is not None  # checked with the config, before anything was loaded
        adapter = load_adapter(Path(config.adapter), source.reference)
        layers = adapter_layers(adapter, source.reference, config.noise_rank)
    else:
        layers = lora_layers(
            config.rank, source.reference, config.targets, noise_rank=config.noise_rank
        )
    return Loras([_perturbed(layer, config.lora_factors) for layer in layers])


def _perturbed(layer: LoraLayer, which: str) -> LoraLayer:
    """The layer with noise on the factors asked for alone."""
    unit_a = layer.unit_a if which in ("both", "a") else 0.0
    unit_b = layer.unit_b if which in ("both", "b") else 0.0
    if not layer.down_RI.any():
        raise ConfigError(
            f"A of the adapter's layer {layer.name} is zero, so noise on it has no unit and noise "
            "on B changes nothing; name an adapter whose A is not zero, or use space.basis=weight"
        )
    if not unit_b and not layer.up_OR.any():
        raise ConfigError(
            f"space.lora_factors={which} moves nothing in {layer.name}, whose B is zero; use both "
            "or b"
        )
    return replace(layer, unit_a=unit_a, unit_b=unit_b)
