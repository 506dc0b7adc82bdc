"""The layers of a fresh LoRA: where it starts, and what sigma means for it."""

from pathlib import Path

import pytest
import torch

from es_align.errors import ConfigError
from es_align.models import linear_weights, resolve_model
from es_align.spaces.layers import layers_for, lora_layers
from workers.layers import LoraLayer
from workers.members import NoiseMembers
from workers.population import Population

TARGETS = ("q_proj", "down_proj")


@pytest.fixture(scope="module")
def model_path() -> Path:
    return resolve_model("tiny", "fp32").reference


def test_a_fresh_lora_is_the_base_model(model_path: Path) -> None:
    layers = lora_layers(4, model_path, TARGETS)
    assert [layer.parameter for layer in layers] == [0, 2, 4, 6]
    for layer, (name, weight_OI) in zip(layers, linear_weights(model_path, TARGETS), strict=True):
        assert (layer.name, layer.shape, layer.rank) == (name, tuple(weight_OI.shape), 4)
        assert not layer.up_OR.any()
        # A x is as large as x: rows of A have length 1, up to chance.
        assert 0.6 < float(layer.down_RI.square().sum(dim=1).mean()) < 1.4


def test_a_start_belongs_to_its_seed_and_layer(model_path: Path) -> None:
    first, second = (lora_layers(4, model_path, TARGETS)[0].down_RI for _ in range(2))
    assert torch.equal(first, second)
    other_layer = lora_layers(4, model_path, ("q_proj",))[1].down_RI
    other_seed = lora_layers(4, model_path, TARGETS, seed=1)[0].down_RI
    assert not torch.equal(first, other_layer) and not torch.equal(first, other_seed)


def test_at_the_start_sigma_means_the_same_as_for_whole_weights(model_path: Path) -> None:
    """The change of a weight by a member, over many pairs: sigma times the weight's RMS."""
    layer = lora_layers(4, model_path, ("down_proj",))[0]
    weights = dict(linear_weights(model_path, ("down_proj",)))
    population = Population([layer], 128, torch.float32)
    hook = population.hook(layer.name, [layer.name])
    assert hook is not None
    pairs, signs = tuple(m // 2 for m in range(128)), (1, -1) * 64
    population.set_members(NoiseMembers(5, 0, pairs, signs, 0.05))
    eye = torch.eye(layer.shape[1])
    squares = [
        hook.perturbation.definition(eye, torch.full((len(eye),), m, dtype=torch.int32)).square()
        for m in range(0, 128, 2)
    ]
    rms = float(torch.stack(squares).mean().sqrt())
    wanted = 0.05 * float(weights[layer.name].float().square().mean().sqrt())
    assert abs(rms / wanted - 1) < 0.1


def test_a_rank_beyond_a_layer_is_refused(model_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"space\.rank=1000 is larger than the narrow side"):
        layers_for("lora", 1000, model_path)


def test_every_target_is_served(model_path: Path) -> None:
    layers = layers_for("lora", 2, model_path)
    assert len(layers) == 14
    assert all(isinstance(layer, LoraLayer) for layer in layers)
