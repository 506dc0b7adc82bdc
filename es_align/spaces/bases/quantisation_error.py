"""Basis `quantisation_error`: the leading singular directions of W - Q(W), what rounding took away.

Q(W) is the dequantised weight of the checkpoint that the engine runs. The mean starts at the best
approximation of the error with that rank, so the first generation is a repaired model, and a run
moves on from there: LQ-LoRA (arXiv 2311.12023) starts a LoRA like this, EoRA (arXiv 2410.21271)
stops there. Left out: LQ-LoRA's alternation between quantising and decomposing, since the
checkpoint is given, and EoRA's weighting of the error by the layer's inputs. What INT8 rounds of
the activations at run time is not repaired.

A number is not relative to the error's own singular value, which says how coarse the rounding was
and in INT8 is too small to move an answer, but to what the weight itself makes of that input
direction, |W v|: so a sigma means the same in every precision.
"""

from collections.abc import Iterator

import torch

from es_align.config_search import SpaceConfig
from es_align.errors import ConfigError
from es_align.models import linear_weights
from es_align.spaces.bases.base import BasisSource, LayerBasis
from es_align.stored_weights import StoredWeights
from kernels.shared_basis import SharedBasis
from kernels.svd import leading_svd
from kernels.threads import each_on_one_thread


def error_bases(config: SpaceConfig, source: BasisSource) -> Iterator[LayerBasis]:
    """The basis of every target layer, in name order.

    Raises ConfigError if a target matches no layer or a layer has no error.
    """
    stored = StoredWeights(source.engine or source.reference)

    def make(layer: tuple[str, torch.Tensor]) -> LayerBasis:
        name, weight_OI = layer[0], layer[1].double()
        error_OI = weight_OI - stored.matrix(name).double()
        if not error_OI.any():
            raise ConfigError(
                f"space.basis=quantisation_error: the engine computes {name} with the weight that "
                "is known, so there is nothing to repair; name a full-precision model with "
                "precision=int8 or int4, leave layers that stay unquantised out of space.targets, "
                "or use space.basis=weight"
            )
        left_OR, values_R, right_IR = leading_svd(error_OI, config.rank)
        gain_R = (weight_OI @ right_IR.double()).norm(dim=0).float()
        return LayerBasis(name, SharedBasis(right_IR, left_OR), values_R, gain_R)

    yield from each_on_one_thread(make, linear_weights(source.reference, config.targets))
