"""What is perturbed: each space in its own file, all behind `es_align.spaces.base.Space`."""

from collections.abc import Sequence
from pathlib import Path

from es_align.config_search import SpaceConfig
from es_align.spaces.base import AdapterSpace, Space
from es_align.spaces.bases import BasisSource
from es_align.spaces.cores import Cores, make_cores
from es_align.spaces.layers import layers_for
from es_align.spaces.loras import Loras, make_loras
from es_align.spaces.singular_values import SingularValues, make_singular_values
from es_align.spaces.weights import Weights, make_weights
from workers.layers import CoreLayer, LayerFactors, LoraLayer, NoiseLayer, load_factors
from workers.protocol import Prompt

MAKERS = {
    "singular_values": make_singular_values,
    "core": make_cores,
    "lora": make_loras,
    "weights": make_weights,
}


def make_space(
    config: SpaceConfig,
    model_path: Path,
    *,
    engine_path: Path | None = None,
    prompts: Sequence[Prompt] = (),
) -> Space:
    """Build the configured space from the full-precision model in `model_path`.

    `engine_path` is the checkpoint that the engine runs (basis `quantisation_error`), `prompts` are
    the task's training prompts (basis `activations`). Raises ConfigError or ModelError as
    `es_align.spaces.bases.layer_bases` does.
    """
    return MAKERS[config.kind](config, BasisSource(model_path, engine_path, prompts))


def load_space(config: SpaceConfig, basis_path: Path) -> Space:
    """The space of a run from the factors kept in its folder; no model is read."""
    layers = load_factors(basis_path)
    match config.kind:
        case "core":
            return Cores([layer for layer in layers if isinstance(layer, CoreLayer)])
        case "lora":
            return Loras([layer for layer in layers if isinstance(layer, LoraLayer)])
        case "weights":
            return Weights([layer for layer in layers if isinstance(layer, NoiseLayer)])
        case _:
            return SingularValues([layer for layer in layers if isinstance(layer, LayerFactors)])


__all__ = ["AdapterSpace", "Space", "layers_for", "load_space", "make_space"]
