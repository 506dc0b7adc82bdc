"""Frozen directions that several spaces work between, by name (`space.basis`)."""

from collections.abc import Callable, Iterator, Mapping

from es_align.config_search import BasisKind, SpaceConfig
from es_align.spaces.bases.activations import activation_bases
from es_align.spaces.bases.adapter import adapter_bases
from es_align.spaces.bases.base import BasisSource, LayerBasis, check_rank
from es_align.spaces.bases.quantisation_error import error_bases
from es_align.spaces.bases.random_directions import random_bases
from es_align.spaces.bases.weight import weight_bases

BASES: Mapping[BasisKind, Callable[[SpaceConfig, BasisSource], Iterator[LayerBasis]]] = {
    "weight": weight_bases,
    "activations": activation_bases,
    "quantisation_error": error_bases,
    "random": random_bases,
    "adapter": adapter_bases,
}


def layer_bases(config: SpaceConfig, source: BasisSource) -> Iterator[LayerBasis]:
    """The configured basis of every target layer, in name order.

    Raises ConfigError at once if a target matches no layer or the rank does not fit, later if there
    is nothing to repair or to scale; ModelError if an adapter does not fit or a layer's inputs
    cannot be seen.
    """
    if config.basis != "adapter":  # whose rank is the adapter's
        check_rank(config.rank, source.reference, config.targets)
    return BASES[config.basis](config, source)


__all__ = ["BasisSource", "LayerBasis", "check_rank", "layer_bases"]
