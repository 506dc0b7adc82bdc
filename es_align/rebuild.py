"""A run's state from its folder: checkpoint and ledger in, strategy and mean at any generation out.

No engine starts. The folder is enough, but in space `weights`, whose mean starts at the model's own
weights: these are read from the model, by the name in the configuration.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from es_align.checkpoint import latest
from es_align.config import Config
from es_align.config_search import is_seeded
from es_align.errors import ConfigError, LedgerError
from es_align.ledger import Ledger, LedgerHeader, LedgerRecord, digest
from es_align.models import reference_path
from es_align.run_folder import RunFolder
from es_align.spaces import AdapterSpace, Space
from es_align.strategies import Strategy, Update, make_strategy
from workers.checkpoints import Checkpoint
from workers.layers import PerturbedLayer, load_factors
from workers.mean_files import catch_up
from workers.means import Means, MeanSettings
from workers.members import Members, NoiseMembers
from workers.protocol import Move, WorkerInfo


@dataclass(frozen=True, slots=True)
class Replay:
    """What `replay` found out."""

    run_dir: str
    generation: int  # generations done
    digest: str  # of the mean rebuilt from scalars
    expected: str  # what the ledger says
    matches: bool


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A run after some generations."""

    strategy: Strategy
    moves: Sequence[Move]  # that bring a worker's mean there; none where the strategy has the mean
    mean_digest: str  # as in the ledger
    skipped: tuple[str, ...] = ()  # checkpoints that were of no use, and why


def mean_settings(config: Config) -> MeanSettings | None:
    """How workers move their means; None in a space whose mean is the driver's vector."""
    if not is_seeded(config.space.kind):
        return None
    strategy, master = config.strategy, config.space.master
    return MeanSettings(config.seed, strategy.noise, strategy.optimizer, strategy.momentum, master)


def start_means(config: Config, layers: Sequence[PerturbedLayer]) -> Means:
    """The means of a seeded space before the first generation.

    Whole weights are read from the model, found or fetched by the name in the configuration.
    """
    settings = mean_settings(config)
    assert settings is not None
    if config.space.kind != "weights":
        return Means(layers, settings)
    return Means(layers, settings, Checkpoint(reference_path(config.model)).weight)


def first_digest(config: Config, layers: Sequence[PerturbedLayer], dimension: int) -> str:
    """Digest of the mean before the first generation."""
    if not is_seeded(config.space.kind):
        return digest(np.zeros(dimension))
    return start_means(config, layers).moved.digest


def start_strategy(config: Config, header: LedgerHeader) -> Strategy:
    """The strategy as it was before the first generation."""
    return make_strategy(
        config.strategy,
        dimension=header.dimension,
        population=config.population,
        seed=config.seed,
        generations=config.generations,
    )


def retell(strategy: Strategy, record: LedgerRecord) -> Update:
    """Move the strategy by one recorded generation; candidates are drawn again, fitness is read."""
    return strategy.tell(strategy.ask(record.generation), record.fitness_M)


def run_at(folder: RunFolder, config: Config, ledger: Ledger, completed: int) -> Rebuilt:
    """The run after `completed` generations,
    from the newest checkpoint before and the ledger after it.

    In a seeded space the workers make the mean from the moves, and compare digests. Raises
    LedgerError if the result is not the state the ledger recorded.
    """
    strategy = start_strategy(config, ledger.header)
    found, skipped = latest(folder.checkpoints, at_most=completed)
    first = 0
    if found is not None and found.mean_digest == _expected(ledger, found.generation):
        strategy.load_state(found.state)
        first = found.generation
    elif found is not None:
        skipped += (f"{found.path} is of another mean than {folder.ledger} says",)
    moves = _retold(strategy, ledger.records[first:completed])
    expected = _expected(ledger, completed)
    mean_D = strategy.mean_D
    if mean_D is not None and digest(mean_D) != expected:
        raise LedgerError(
            f"{folder.ledger}: after {completed} generations the rebuilt mean has digest "
            f"{digest(mean_D)[:12]}, the ledger says {expected[:12]}; it was written by another "
            f"version of es-align or NumPy ({dict(ledger.header.versions)}): use that one"
        )
    return Rebuilt(strategy, moves, expected, skipped)


def _retold(strategy: Strategy, records: Sequence[LedgerRecord]) -> list[Move]:
    """Move the strategy by these generations; returns what its workers' means are moved by."""
    updates = [retell(strategy, record) for record in records]
    return [update.move for update in updates if update.move is not None]


def replay_run(folder: RunFolder, generation: int | None) -> Replay:
    """Rebuild the mean after `generation` generations (None: the last)
    from the ledger alone and compare digests.
    """
    config = folder.read_config()
    with Ledger.open(folder.ledger) as ledger:
        completed = ledger.next_generation if generation is None else generation
        _check_held(folder, ledger, completed)
        strategy = start_strategy(config, ledger.header)
        moves = _retold(strategy, ledger.records[:completed])
        expected = _expected(ledger, completed)
    mean_D = strategy.mean_D
    if mean_D is None:
        rebuilt = catch_up(start_means(config, load_factors(folder.basis)), moves).digest
    else:
        rebuilt = digest(mean_D)
    return Replay(str(folder.path), completed, rebuilt, expected, rebuilt == expected)


def rebuilt_at(folder: RunFolder, completed: int) -> Rebuilt:
    """The run after `completed` generations, from its folder; ConfigError if it has fewer."""
    with Ledger.open(folder.ledger) as ledger:
        _check_held(folder, ledger, completed)
        return run_at(folder, folder.read_config(), ledger, completed)


def _check_held(folder: RunFolder, ledger: Ledger, completed: int) -> None:
    if not 0 <= completed <= ledger.next_generation:
        raise ConfigError(
            f"generation={completed} is not in {folder.ledger}; it holds "
            f"{ledger.next_generation} generations: use 0 to {ledger.next_generation}"
        )


def means_at(folder: RunFolder, completed: int) -> Means:
    """The means of a run in a seeded space; raises LedgerError if they are not the ledger's."""
    rebuilt, config = rebuilt_at(folder, completed), folder.read_config()
    start = start_means(config, load_factors(folder.basis))
    means = catch_up(start, rebuilt.moves, folder.checkpoints)
    if means.moved.digest != rebuilt.mean_digest:
        raise LedgerError(
            f"{folder.ledger}: after {completed} generations the rebuilt mean has digest "
            f"{means.moved.digest[:12]}, the ledger says {rebuilt.mean_digest[:12]}; it was "
            "written by other versions, or the model is another: use the same ones"
        )
    return means


def check_mean(worker: WorkerInfo, expected: str, ledger: Path, completed: int) -> None:
    """Raise LedgerError if a worker has made another mean of the moves than the ledger says."""
    if worker.moved is not None and worker.moved.digest != expected:
        raise LedgerError(
            f"worker {worker.worker} rebuilt a mean with digest {worker.moved.digest[:12]}, "
            f"{ledger} says {expected[:12]} after {completed} generations; its machine or versions "
            "are of another kind than those that wrote it, or the model's weights have changed "
            "since the run: use the same"
        )


def mean_member(config: Config, space: Space, strategy: Strategy) -> Members:
    """The mean, for an engine; of a seeded space a worker knows the numbers itself."""
    mean_D = strategy.mean_D
    if mean_D is None:
        sigma, noise = config.strategy.sigma, config.strategy.noise
        return NoiseMembers(config.seed, 0, (0,), (0,), sigma, noise)
    assert isinstance(space, AdapterSpace)  # of a vector, see preflight
    return space.mean_member(mean_D)


def mean_at(folder: RunFolder, completed: int) -> np.ndarray:
    """The mean after `completed` generations, float64 `[D]`; of whole weights there is none."""
    mean_D = rebuilt_at(folder, completed).strategy.mean_D
    return means_at(folder, completed).vector_D if mean_D is None else mean_D


def _expected(ledger: Ledger, completed: int) -> str:
    return ledger.records[completed - 1].mean_digest if completed else ledger.header.mean_digest
