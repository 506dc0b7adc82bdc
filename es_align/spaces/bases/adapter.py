"""Basis `adapter`: the singular directions of a PEFT LoRA, B and A separately.

ESSA (arXiv 2507.04453): the mean starts at the adapter, and a number is relative to the factor's
own singular value.

A factor that is narrower than the adapter's rank (B of a narrow layer) has only as many singular
values as it is wide; zeros stand in for the others, so that both factors have as many numbers.
"""

from collections.abc import Iterator
from pathlib import Path

import torch

from es_align.adapters import load_adapter
from es_align.config_search import SpaceConfig
from es_align.errors import ConfigError
from es_align.spaces.bases.base import BasisSource, LayerBasis
from kernels.shared_basis import SharedBasis
from kernels.svd import Svd, leading_svd


def adapter_bases(config: SpaceConfig, source: BasisSource) -> Iterator[LayerBasis]:
    """The LoRA `scaling * B A` of each of the adapter's layers, in the two-factor form of
    `kernels.shared_basis`. Its rank is the adapter's, or the wider factor's narrow side if that is
    less.

    Raises ModelError if the adapter is missing or belongs to another model, ConfigError if a factor
    is zero, which no scale moves.
    """
    assert config.adapter is not None  # checked with the config, before anything was loaded
    adapter = load_adapter(Path(config.adapter), source.reference)
    for name, (down_RI, up_OR) in adapter.layers.items():
        for factor, values in (("A", down_RI), ("B", up_OR)):
            if not values.any():
                raise ConfigError(
                    f"space.adapter={config.adapter}: {factor} of {name} is zero, and "
                    "space.kind=singular_values only scales what is there; train the adapter "
                    "first, or use space.kind=lora"
                )
        rank = min(len(down_RI), max(down_RI.shape[1], len(up_OR)))
        svd_a = _full_svd(down_RI, rank)  # A = U_A diag(S_A) V_A^T
        svd_b = _full_svd(up_OR, rank)  # B = U_B diag(S_B) V_B^T
        core_RR = adapter.scaling * (svd_a.left_OR.T @ svd_b.right_IR)  # U_A^T V_B
        yield LayerBasis(
            name=name,
            basis=SharedBasis(svd_a.right_IR, svd_b.left_OR, core_RR),
            start_R=svd_a.values_R,
            unit_R=svd_a.values_R,
            start_b_R=svd_b.values_R,
            unit_b_R=svd_b.values_R,
        )


def _full_svd(matrix_OI: torch.Tensor, rank: int) -> Svd:
    """All singular values of a matrix and their vectors, filled up to `rank` with zeros."""
    known = min(rank, *matrix_OI.shape)
    svd, missing = leading_svd(matrix_OI, known), (0, rank - known)
    return Svd(*(torch.nn.functional.pad(part, missing) for part in svd))
