"""The bases: what each decomposes, where the mean starts, and what a number means for the model."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from es_align.config import TaskConfig
from es_align.config_search import BasisKind, SpaceConfig
from es_align.errors import ConfigError, ModelError
from es_align.models import ModelPaths, linear_weights, resolve_model
from es_align.spaces import Space, layers, load_space, make_space
from es_align.spaces.bases import BasisSource, activations, layer_bases, weight
from es_align.stored_weights import StoredWeights
from es_align.tasks import make_task
from workers.layers import CoreLayer, LayerFactors, save_factors
from workers.protocol import Prompt
from workers.rendering import Renderer

RANK = 4
NEW_BASES: tuple[BasisKind, ...] = ("activations", "quantisation_error", "random")
Kind = Literal["singular_values", "core"]


@pytest.fixture(scope="module")
def model() -> ModelPaths:
    return resolve_model("tiny", "int4")


@pytest.fixture(scope="module")
def prompts() -> tuple[Prompt, ...]:
    config = TaskConfig(name="letters", num_train=8, num_heldout=4)
    return tuple(make_task(config, seed=0, prompts_per_generation=2).train)


@pytest.fixture(scope="module")
def source(model: ModelPaths, prompts: tuple[Prompt, ...]) -> BasisSource:
    return BasisSource(model.reference, model.engine, prompts)


def weights_of(model: ModelPaths) -> dict[str, torch.Tensor]:
    return dict(linear_weights(model.reference, SpaceConfig().targets))


def product(left_OR: torch.Tensor, values_R: torch.Tensor, right_IR: torch.Tensor) -> torch.Tensor:
    return left_OR @ torch.diag(values_R) @ right_IR.T


def best_of_rank(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    return (left[:, :rank] @ torch.diag(values[:rank]) @ right[:rank]).float()


class Toy(torch.nn.Module):
    """Two tokens' embeddings in one plane of six dimensions, then two layers."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(1)
        plane = torch.linalg.qr(torch.randn(6, 2, generator=random)).Q
        self.embedding = torch.randn(9, 2, generator=random) @ plane.T
        self.plane = plane
        self.first, self.second = torch.nn.Linear(6, 5), torch.nn.Linear(5, 3)
        self.also_first = torch.nn.Linear(6, 7)

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> torch.Tensor:
        assert not use_cache
        x = self.embedding[input_ids]
        self.also_first(x)
        return self.second(torch.tanh(self.first(x)))


def test_moments_are_those_of_all_tokens_and_shared_inputs_are_found() -> None:
    toy, tokens = Toy(), [(0, 3, 5), (8,), (1, 1)]
    leaders = activations.shared_inputs(toy, ["first", "second", "also_first"], tokens[0])
    assert leaders == {"also_first": "also_first", "first": "also_first", "second": "second"}
    got = activations.second_moments(toy, ["also_first", "second"], tokens)
    x_TI = toy.embedding[[0, 3, 5, 8, 1, 1]]
    hidden_TI = torch.tanh(toy.first(x_TI)).detach()
    for name, rows in (("also_first", x_TI), ("second", hidden_TI)):
        wanted = sum(torch.outer(row, row) for row in rows.double())
        torch.testing.assert_close(got[name], wanted, atol=1e-6, rtol=1e-6)


def test_directions_recover_a_planted_plane(tmp_path: Path, model: ModelPaths) -> None:
    """A model whose embeddings lie in a plane, before a norm that only rescales each of them."""
    planted = AutoModelForCausalLM.from_pretrained(model.reference, dtype=torch.float32)
    table = planted.get_input_embeddings().weight
    random = torch.Generator().manual_seed(2)
    plane = torch.linalg.qr(torch.randn(table.shape[1], 2, generator=random)).Q
    table.data = torch.randn(len(table), 2, generator=random) @ plane.T
    planted.save_pretrained(tmp_path)
    Renderer(model.reference).tokenizer.save_pretrained(tmp_path)
    name = "model.layers.0.self_attn.q_proj"
    prompt = Prompt("train/0", ({"role": "user", "content": "a planted plane"},), {})
    found_IR = activations.input_directions(tmp_path, [name], [prompt], 2)[name].float()
    torch.testing.assert_close(found_IR @ found_IR.T, plane @ plane.T, atol=1e-4, rtol=1e-4)


def test_activations_work_between_the_weight_as_the_inputs_see_it(
    model: ModelPaths, source: BasisSource, prompts: tuple[Prompt, ...]
) -> None:
    """Against the first layer's inputs, computed here from the embeddings."""
    loaded = AutoModelForCausalLM.from_pretrained(model.reference, dtype=torch.float32)
    renderer = Renderer(model.reference)
    ids = [token for prompt in prompts for token in renderer.render(prompt.messages)]
    with torch.inference_mode():
        embedded = loaded.get_input_embeddings()(torch.tensor(ids))
        inputs_TI = loaded.get_submodule("model.layers.0.input_layernorm")(embedded).double()
    span_IR = torch.linalg.svd(inputs_TI, full_matrices=False).Vh[:RANK].T.float()
    weights, checked = weights_of(model), 0
    config = SpaceConfig(basis="activations", rank=RANK)
    for name, basis, start_R, unit_R, *_ in layer_bases(config, source):
        eye = torch.eye(RANK)
        for directions in (basis.right_IR, basis.left_OR):
            torch.testing.assert_close(directions.T @ directions, eye, atol=1e-5, rtol=1e-5)
        assert not start_R.any() and bool((unit_R.diff() <= 0).all())
        if name in [f"model.layers.0.self_attn.{part}_proj" for part in "qkv"]:
            seen_OI = weights[name].float() @ span_IR @ span_IR.T
            got_OI = product(basis.left_OR, unit_R, basis.right_IR)
            torch.testing.assert_close(got_OI, seen_OI, atol=1e-4, rtol=1e-4)
            checked += 1
    assert checked == 3


def test_little_memory_means_more_passes_and_the_same_directions(
    source: BasisSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SpaceConfig(basis="activations", rank=2, targets=("q_proj", "v_proj", "down_proj"))
    passes = []
    plain = activations.second_moments

    def counted(
        model: torch.nn.Module, names: list[str], tokens: list[tuple[int, ...]]
    ) -> dict[str, torch.Tensor]:
        passes.append(list(names))
        return plain(model, names, tokens)

    monkeypatch.setattr(activations, "second_moments", counted)
    at_once = [layer.basis for layer in layer_bases(config, source)]
    monkeypatch.setattr(activations, "MOMENT_BYTES", 8 * (64**2 + 32**2))
    in_parts = [layer.basis for layer in layer_bases(config, source)]
    assert [len(names) for names in passes] == [4, 2, 2]
    for one, other in zip(at_once, in_parts, strict=True):
        assert torch.equal(one.right_IR, other.right_IR)
        assert torch.equal(one.left_OR, other.left_OR)


def test_a_repair_is_the_best_of_its_rank(model: ModelPaths, source: BasisSource) -> None:
    weights, quantised = weights_of(model), StoredWeights(model.engine)
    config = SpaceConfig(basis="quantisation_error", rank=RANK)
    for name, basis, start_R, unit_R, *_ in layer_bases(config, source):
        weight_OI, rounded_OI = weights[name].float(), quantised.matrix(name).float()
        repaired_OI = rounded_OI + product(basis.left_OR, start_R, basis.right_IR)
        wanted_OI = rounded_OI + best_of_rank(weight_OI - rounded_OI, RANK)
        torch.testing.assert_close(repaired_OI, wanted_OI, atol=1e-5, rtol=1e-5)
        gain_R = (weight_OI @ basis.right_IR).square().sum(dim=0).sqrt()
        torch.testing.assert_close(unit_R, gain_R, atol=1e-5, rtol=1e-5)
        assert bool((start_R < unit_R).all())  # the error's own values would move nothing


@pytest.mark.parametrize("kind", ["singular_values", "core"])
def test_a_run_starts_nearer_to_full_precision_than_the_quantised_model(
    model: ModelPaths, source: BasisSource, kind: Kind
) -> None:
    config = SpaceConfig(kind=kind, basis="quantisation_error", rank=RANK)
    space = make_space(config, model.reference, engine_path=model.engine)
    renderer = Renderer(model.reference)
    tokens = [renderer.render(prompt.messages) for prompt in source.prompts]
    full = logits(model.reference, tokens)
    quantised = logits(model.dequantised, tokens)
    repaired = logits(model.dequantised, tokens, space, start_of(space))
    assert float((repaired - full).norm()) < 0.9 * float((quantised - full).norm())


@torch.inference_mode()
def logits(
    path: Path,
    tokens: list[tuple[int, ...]],
    space: Space | None = None,
    vector_D: np.ndarray | None = None,
) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    if space is not None and vector_D is not None:
        for name, (down_RI, up_OR) in space.lora(vector_D).items():
            model.get_submodule(name).weight += up_OR @ down_RI
    return torch.cat([model(input_ids=torch.tensor([ids])).logits[0] for ids in tokens])


def start_of(space: Space) -> np.ndarray:
    """The mean before the first generation."""
    starts = [layer.start_K for layer in space.factors if isinstance(layer, CoreLayer)]
    return torch.cat(starts).numpy() if starts else np.zeros(space.dimension)


def test_random_directions_are_orthonormal_and_each_layer_s_own(
    model: ModelPaths, source: BasisSource
) -> None:
    weights, config = weights_of(model), SpaceConfig(basis="random", rank=RANK)
    seen = []
    for name, basis, start_R, unit_R, *_ in layer_bases(config, source):
        for directions in (basis.right_IR, basis.left_OR):
            eye = torch.eye(RANK)
            torch.testing.assert_close(directions.T @ directions, eye, atol=1e-6, rtol=1e-6)
            assert not any(directions.shape == x.shape and torch.equal(directions, x) for x in seen)
            seen.append(directions)
        values = torch.linalg.svdvals(weights[name].float())
        rms = float(values.square().mean().sqrt())
        assert unit_R.tolist() == pytest.approx([rms] * RANK, rel=1e-5) and not start_R.any()
    assert len(seen) == 28
    again = next(layer_bases(config, source)).basis
    assert torch.equal(again.right_IR, seen[0])


@pytest.mark.parametrize("basis", ["weight", *NEW_BASES])
def test_singular_values_export_as_the_definition(
    source: BasisSource, basis: BasisKind, tmp_path: Path
) -> None:
    space = reloaded("singular_values", basis, source, tmp_path)
    vector_D = np.random.Generator(np.random.Philox(7)).normal(size=space.dimension)
    made = space.lora(vector_D)
    for index, layer in enumerate(space.factors):
        assert isinstance(layer, LayerFactors)
        numbers_R = torch.tensor(vector_D[index * RANK : (index + 1) * RANK]).float()
        values_R = layer.base_a_R + layer.unit_a_R * numbers_R
        wanted_OI = product(layer.basis.left_OR, values_R, layer.basis.right_IR)
        got_OI = made[layer.name].up_OR @ made[layer.name].down_RI
        torch.testing.assert_close(got_OI, wanted_OI, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("basis", ["weight", *NEW_BASES])
def test_cores_export_as_the_definition(
    source: BasisSource, basis: BasisKind, tmp_path: Path
) -> None:
    space = reloaded("core", basis, source, tmp_path)
    vector_D = np.random.Generator(np.random.Philox(8)).normal(size=space.dimension)
    made = space.lora(vector_D)
    units = [layer.unit_R for layer in layer_bases(SpaceConfig(basis=basis, rank=RANK), source)]
    for index, layer in enumerate(space.factors):
        assert isinstance(layer, CoreLayer)
        assert layer.unit == pytest.approx(float(units[index].square().mean().sqrt()), rel=1e-5)
        assert (layer.start_RR is not None) == (basis == "quantisation_error")
        core_K = torch.tensor(vector_D[index * RANK**2 : (index + 1) * RANK**2]).float()
        wanted_OI = layer.basis.left_OR @ core_K.view(RANK, RANK).T @ layer.basis.right_IR.T
        got_OI = made[layer.name].up_OR @ made[layer.name].down_RI
        torch.testing.assert_close(got_OI, wanted_OI, atol=1e-5, rtol=1e-5)


def reloaded(kind: Kind, basis: BasisKind, source: BasisSource, folder: Path) -> Space:
    """The space after it went through a run folder's file."""
    config = SpaceConfig(kind=kind, basis=basis, rank=RANK)
    space = make_space(config, source.reference, engine_path=source.engine, prompts=source.prompts)
    assert len(space.factors) == 14
    save_factors(space.factors, folder / "basis.safetensors")
    again = load_space(config, folder / "basis.safetensors")
    assert again.digest == space.digest
    return again


def test_a_layer_that_is_not_rounded_has_nothing_to_repair(model: ModelPaths) -> None:
    config = SpaceConfig(basis="quantisation_error", rank=2)
    with pytest.raises(ConfigError, match=r"computes model\.layers\.0\.\S+ with .* nothing to rep"):
        make_space(config, model.reference)


def test_a_layer_whose_inputs_cannot_be_seen_is_named(source: BasisSource) -> None:
    prompts, path = source.prompts, source.reference
    with pytest.raises(ModelError, match=r"inputs of model\.norm: .* leave it out of space\.targ"):
        activations.input_directions(path, ["model.norm"], prompts, 2)


@pytest.mark.parametrize("basis", NEW_BASES)
def test_a_rank_above_the_width_names_the_limit(source: BasisSource, basis: BasisKind) -> None:
    config = SpaceConfig(basis=basis, rank=33, targets=("q_proj",))
    with pytest.raises(ConfigError, match=r"rank=33 is larger .* \(32 x 32\), .* use at most 32"):
        next(layer_bases(config, source))


@pytest.mark.parametrize("kind", ["singular_values", "core", "lora", "weights"])
def test_a_rank_is_refused_at_the_narrowest_target_before_any_work(
    source: BasisSource, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By shapes alone, and with the limit of all targets: what is proposed is accepted."""
    for module in (weight, layers):
        monkeypatch.setattr(module, "linear_weights", lambda *_: pytest.fail("reads weights"))
    setting = "noise_rank" if kind == "weights" else "rank"
    config = SpaceConfig.model_validate({"kind": kind, setting: 33})
    narrowest = (
        r"space\.%s=33 is larger than the narrow side of \S+k_proj \(16 x 32\), .* at most 16"
    )
    with pytest.raises(ConfigError, match=narrowest % setting):
        make_space(config, source.reference)
