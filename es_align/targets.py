"""What can be evaluated: a run's generation, a model, or a PEFT adapter on its base.

An adapter is the start of space `lora`, whose mean an engine adds to the layers as it adds a run's:
nothing is merged or rounded, whatever the precision of the base.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from es_align.config import Config
from es_align.errors import ConfigError, ModelError, RunFolderError
from es_align.evaluation import Evaluation, best_of
from es_align.models import ModelPaths, linear_shapes, resolve_model
from es_align.rebuild import Rebuilt, check_mean, mean_member, mean_settings, rebuilt_at
from es_align.run_folder import RunFolder
from es_align.space_checks import FUSED
from es_align.spaces import load_space, make_space
from workers.layers import LoraLayer, PerturbedLayer
from workers.means import MeanSettings
from workers.members import Members, NoiseMembers
from workers.protocol import Move, WorkerInfo

ADAPTER_FILE = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class Target:
    """One model to be put into an engine."""

    model: ModelPaths
    generation: int | None  # of a run
    mean: Members | None  # None: the model as it is
    layers: Sequence[PerturbedLayer]
    means: MeanSettings | None  # where workers hold the mean
    rebuilt: Rebuilt | None  # of a run
    folder: RunFolder

    @property
    def moves(self) -> Sequence[Move]:
        """That a worker makes at its start."""
        return () if self.rebuilt is None else self.rebuilt.moves

    def check(self, worker: WorkerInfo) -> None:
        """Raise LedgerError if a worker holds another mean than the run's ledger says."""
        if self.rebuilt is not None:
            ledger, completed = self.folder.ledger, self.generation or 0
            check_mean(worker, self.rebuilt.mean_digest, ledger, completed)


def target_config(target: str) -> Config:
    """A run's own configuration, or the defaults with the model or the adapter in it.

    Raises ModelError for an adapter folder that names no base.
    """
    folder = RunFolder(Path(target))
    if folder.has_run:
        return folder.read_config()
    file = Path(target) / ADAPTER_FILE
    if not file.is_file():
        return Config(model=target)
    return Config.model_validate(
        {
            "model": _base(file),
            "population": 2,  # one is needed, and each takes memory
            "samples_per_generation": 0,
            "space": {"kind": "lora", "basis": "adapter", "adapter": target},
        }
    )


def open_target(target: str, settings: Config, generation: int | None) -> Target:
    """Find the model and what is added to it: of a run its best generation, or the one named.

    Raises ModelError for a model or an adapter that is missing or does not fit, ConfigError for a
    generation of what is no run, RunFolderError or LedgerError for a run that cannot be rebuilt.
    """
    folder = RunFolder(Path(target))
    if not folder.has_run and generation is not None:
        raise ConfigError(
            f"generation={generation}: {target} is no run; leave it out, or name a run folder"
        )
    if folder.has_run:
        at = best_generation(folder) if generation is None else generation
        space, rebuilt = load_space(settings.space, folder.basis), rebuilt_at(folder, at)
        mean = mean_member(settings, space, rebuilt.strategy)
        model = resolve_model(settings.model, settings.precision)
        layers = space.factors
        return Target(model, at, mean, layers, mean_settings(settings), rebuilt, folder)
    model = resolve_model(settings.model, settings.precision)
    if settings.space.adapter is None:
        return Target(model, None, None, (), None, None, folder)
    layers = with_fused(make_space(settings.space, model.reference).factors, model.reference)
    start = NoiseMembers(0, 0, (0,), (0,), settings.strategy.sigma)
    return Target(model, None, start, layers, mean_settings(settings), None, folder)


def with_fused(layers: Sequence[PerturbedLayer], model_path: Path) -> list[PerturbedLayer]:
    """A LoRA's layers, and a zero LoRA for each that vLLM computes in one module with one of them:
    most adapters in the field are on q and v alone.
    """
    shapes, names = linear_shapes(model_path), {layer.name for layer in layers}
    filled = list(layers)
    for layer in layers:
        module, _, part = layer.name.rpartition(".")
        group = next((group for group in FUSED if part in group), ())
        for name in (f"{module}.{other}" for other in group):
            if name in shapes and name not in names:
                assert isinstance(layer, LoraLayer)
                names.add(name)
                filled.append(_zero(name, shapes[name], layer, 2 * len(filled)))
    return filled


def _zero(name: str, shape: tuple[int, int], like: LoraLayer, parameter: int) -> LoraLayer:
    out, width = shape
    down_RI, up_OR = torch.zeros(like.rank, width), torch.zeros(out, like.rank)
    return LoraLayer(name, down_RI, up_OR, like.scaling, like.noise_rank, 0.0, 0.0, parameter)


def best_generation(folder: RunFolder) -> int:
    """Generations done at the best held-out evaluation after the start;
    RunFolderError if there is none yet.
    """
    evaluations = [Evaluation.from_row(row) for row in folder.read_rows(folder.evaluations)]
    later = [evaluation for evaluation in evaluations if evaluation.generation > 0]
    if not later:
        raise RunFolderError(
            f"{folder.path} has no evaluated generation yet; "
            "train further, or name one by generation"
        )
    return best_of(later).generation


def _base(file: Path) -> str:
    try:
        name = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{file} is no JSON object; name a folder written by PEFT") from error
    if not isinstance(name, str) or not name:
        raise ModelError(
            f"{file} has base_model_name_or_path={name!r}; write the name or folder of the model "
            "that the adapter was trained on"
        )
    return name
