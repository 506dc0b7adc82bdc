"""Space `singular_values`: every member moves a few singular values and nothing else.

With basis `adapter` this is ESSA (arXiv 2507.04453): B and A of a PEFT LoRA are decomposed
separately, their singular vectors stay frozen and a candidate adds offsets to the leading alpha*r
singular values of both. With basis `weight` the directions are the leading ones of the layer's own
weight (as in PiSSA and SVFit) and a candidate scales them. Numbers are relative: 0.1 moves a
singular value by a tenth of itself, so one sigma carries across layers and model sizes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from es_align.adapters import Adapter, load_adapter
from es_align.config import SpaceConfig
from es_align.errors import ConfigError
from es_align.spaces.base import LoraFactors
from es_align.spaces.bases import weight_bases
from kernels.shared_basis import SharedBasis
from kernels.svd import leading_svd
from workers.layers import LayerFactors, layers_digest


class SingularValues:
    """Offsets of leading singular values, relative to each value."""

    kind = "singular_values"

    def __init__(self, factors: Sequence[LayerFactors]) -> None:
        self.factors = list(factors)
        self.dimension = sum(layer.num_numbers for layer in self.factors)
        self.digest = layers_digest(self.factors)

    def mean_member(self, mean_D: np.ndarray) -> np.ndarray:
        """One member: the mean itself, float32 (1, D)."""
        return mean_D[None].astype(np.float32)

    def lora(self, vector_D: np.ndarray) -> Mapping[str, LoraFactors]:
        """`(down_RI, up_OR)` of every layer at this vector, fp32;
        the scaling is folded into `up_OR`.
        """
        numbers_1D = torch.from_numpy(np.asarray(vector_D, dtype=np.float32))[None]
        start, factors = 0, {}
        for layer in self.factors:
            scale_a_1R, scale_b_1R = layer.scales(numbers_1D[:, start : start + layer.num_numbers])
            start += layer.num_numbers
            down_RI = (layer.basis.right_IR * scale_a_1R).T
            up_OR = layer.basis.left_OR
            if layer.basis.core_RR is not None and scale_b_1R is not None:
                up_OR = up_OR @ (layer.basis.core_RR * scale_b_1R).T
            factors[layer.name] = LoraFactors(down_RI.contiguous(), up_OR.contiguous())
        return factors


def make_singular_values(config: SpaceConfig, model_path: Path) -> SingularValues:
    """Build the space from the full-precision model in `model_path`.

    Raises ConfigError if a target matches no layer, the rank does not fit, or alpha*r rounds to
    nothing; ModelError if the adapter is missing or belongs to another model.
    """
    if config.basis == "adapter":
        assert config.adapter is not None  # checked with the config, before anything was loaded
        adapter = load_adapter(Path(config.adapter), model_path)
        return SingularValues(
            [_adapter_layer(name, adapter, config.alpha) for name in adapter.layers]
        )
    return SingularValues(
        [
            LayerFactors(name, basis, config.rank, torch.zeros(config.rank), values_R)
            for name, basis, values_R in weight_bases(model_path, config.targets, config.rank)
        ]
    )


def _adapter_layer(name: str, adapter: Adapter, alpha: float) -> LayerFactors:
    """The LoRA `scaling * B A` of one layer in the two-factor form of `kernels.shared_basis`."""
    down_RI, up_OR = adapter.layers[name]
    rank = len(down_RI)
    num_moving = round(alpha * rank)
    if num_moving < 1:
        raise ConfigError(
            f"space.alpha={alpha} of rank {rank} rounds to no singular value; "
            f"use at least {1 / rank:g}"
        )
    svd_a = leading_svd(down_RI, rank)  # A = U_A diag(S_A) V_A^T
    svd_b = leading_svd(up_OR, rank)  # B = U_B diag(S_B) V_B^T
    core_RR = adapter.scaling * (svd_a.left_OR.T @ svd_b.right_IR)  # U_A^T V_B
    return LayerFactors(
        name=name,
        basis=SharedBasis(svd_a.right_IR, svd_b.left_OR, core_RR),
        num_moving=num_moving,
        base_a_R=svd_a.values_R,
        unit_a_R=svd_a.values_R,
        base_b_R=svd_b.values_R,
        unit_b_R=svd_b.values_R,
    )
