"""Space `weights`: EGGROLL (arXiv 2511.16652) on whole weights, of full rank.

Members add low-rank noise to a layer's weight, `W + sigma * unit * E_p`; the mean is the weight
itself, in fp32 (or bf16 with error feedback) on the workers' hosts, and what the engine runs is
made from it after every move, in the precision of the run. Nothing but scalars leaves the driver.
"""

from collections.abc import Sequence

from es_align.config_search import SpaceConfig
from es_align.spaces.bases import BasisSource
from es_align.spaces.layers import noise_layers
from workers.layers import NoiseLayer, layers_digest


class Weights:
    """The whole weight of each layer."""

    kind = "weights"

    def __init__(self, factors: Sequence[NoiseLayer]) -> None:
        self.factors = list(factors)
        self.dimension = sum(layer.out_features * layer.in_features for layer in self.factors)
        self.digest = layers_digest(self.factors)


def make_weights(config: SpaceConfig, source: BasisSource) -> Weights:
    """Build the space from the full-precision model.

    Raises ConfigError if a target matches no layer or the noise's rank does not fit.
    """
    return Weights(noise_layers(config.noise_rank, source.reference, config.targets))
