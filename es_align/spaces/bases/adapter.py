"""Basis `adapter`: the singular directions of a PEFT LoRA, B and A separately.

ESSA (arXiv 2507.04453): the mean starts at the adapter, and a number is relative to the factor's
own singular value.
"""

from collections.abc import Iterator
from pathlib import Path

from es_align.adapters import load_adapter
from es_align.config import SpaceConfig
from es_align.spaces.bases.base import BasisSource, LayerBasis
from kernels.shared_basis import SharedBasis
from kernels.svd import leading_svd


def adapter_bases(config: SpaceConfig, source: BasisSource) -> Iterator[LayerBasis]:
    """The LoRA `scaling * B A` of each of the adapter's layers, in the two-factor form of
    `kernels.shared_basis`; its rank is the adapter's.

    Raises ModelError if the adapter is missing or belongs to another model.
    """
    assert config.adapter is not None  # checked with the config, before anything was loaded
    adapter = load_adapter(Path(config.adapter), source.reference)
    for name, (down_RI, up_OR) in adapter.layers.items():
        svd_a = leading_svd(down_RI, len(down_RI))  # A = U_A diag(S_A) V_A^T
        svd_b = leading_svd(up_OR, len(down_RI))  # B = U_B diag(S_B) V_B^T
        core_RR = adapter.scaling * (svd_a.left_OR.T @ svd_b.right_IR)  # U_A^T V_B
        yield LayerBasis(
            name=name,
            basis=SharedBasis(svd_a.right_IR, svd_b.left_OR, core_RR),
            start_R=svd_a.values_R,
            unit_R=svd_a.values_R,
            start_b_R=svd_b.values_R,
            unit_b_R=svd_b.values_R,
        )
