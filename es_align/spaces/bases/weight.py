"""Basis `weight`: the leading singular directions of each layer's own weight.

As PiSSA (arXiv 2404.02948) and SVFit (arXiv 2409.05926) take them. A number is relative to the
direction's singular value.
"""

from collections.abc import Iterator

import torch

from es_align.config_search import SpaceConfig
from es_align.models import linear_weights
from es_align.spaces.bases.base import BasisSource, LayerBasis
from kernels.shared_basis import SharedBasis
from kernels.svd import leading_svd
from kernels.threads import each_on_one_thread


def weight_bases(config: SpaceConfig, source: BasisSource) -> Iterator[LayerBasis]:
    """The basis of every target layer, in name order.

    Raises ConfigError if a target matches no layer.
    """

    def make(layer: tuple[str, torch.Tensor]) -> LayerBasis:
        name, weight_OI = layer
        left_OR, values_R, right_IR = leading_svd(weight_OI, config.rank)
        return LayerBasis(name, SharedBasis(right_IR, left_OR), torch.zeros(config.rank), values_R)

    yield from each_on_one_thread(make, linear_weights(source.reference, config.targets))
