"""A run's state from its folder: checkpoint and ledger in, strategy and mean at any generation out.
No model is loaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from es_align.checkpoint import latest
from es_align.config import Config, is_seeded
from es_align.errors import ConfigError, LedgerError
from es_align.ledger import Ledger, LedgerHeader, LedgerRecord, digest
from es_align.run_folder import RunFolder
from es_align.strategies import Strategy, Update, make_strategy
from workers.layers import PerturbedLayer, load_factors
from workers.means import Means, MeanSettings
from workers.protocol import Move


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
    mean_D: np.ndarray  # float64
    mean_digest: str  # as in the ledger


def mean_settings(config: Config) -> MeanSettings | None:
    """How workers move their means; None in a space whose mean is the driver's vector."""
    if not is_seeded(config.space.kind):
        return None
    strategy = config.strategy
    return MeanSettings(config.seed, strategy.noise, strategy.optimizer, strategy.momentum)


def first_digest(config: Config, layers: Sequence[PerturbedLayer], dimension: int) -> str:
    """Digest of the mean before the first generation."""
    settings = mean_settings(config)
    return digest(np.zeros(dimension)) if settings is None else Means(layers, settings).moved.digest


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

    Raises LedgerError if the result is not the state the ledger recorded.
    """
    strategy = start_strategy(config, ledger.header)
    found = latest(folder.checkpoints, at_most=completed).checkpoint
    first = 0
    if found is not None and found.mean_digest == _expected(ledger, found.generation):
        strategy.load_state(found.state)
        first = found.generation
    rebuilt = _retold(folder, config, strategy, ledger.records[first:completed])
    if rebuilt.mean_digest != _expected(ledger, completed):
        raise LedgerError(
            f"{folder.ledger}: after {completed} generations the rebuilt mean has digest "
            f"{rebuilt.mean_digest[:12]}, the ledger says {_expected(ledger, completed)[:12]}; it "
            "was written by another version of es-align or NumPy "
            f"({dict(ledger.header.versions)}): use that one"
        )
    return rebuilt


def _retold(
    folder: RunFolder, config: Config, strategy: Strategy, records: Sequence[LedgerRecord]
) -> Rebuilt:
    updates = [retell(strategy, record) for record in records]
    moves = [update.move for update in updates if update.move is not None]
    mean_D, settings = strategy.mean_D, mean_settings(config)
    if mean_D is not None:
        return Rebuilt(strategy, moves, mean_D, digest(mean_D))
    assert settings is not None  # a strategy without a mean is a seeded space's, see preflight
    means = Means(load_factors(folder.basis), settings)
    for move in moves:
        means.move(move)
    return Rebuilt(strategy, moves, means.vector_D, means.moved.digest)


def replay_run(folder: RunFolder, generation: int | None) -> Replay:
    """Rebuild the mean after `generation` generations (None: the last)
    from the ledger alone and compare digests.
    """
    config = folder.read_config()
    with Ledger.open(folder.ledger) as ledger:
        completed = ledger.next_generation if generation is None else generation
        if not 0 <= completed <= ledger.next_generation:
            raise ConfigError(
                f"generation={completed} is not in {folder.ledger}; it holds "
                f"{ledger.next_generation} generations: use 0 to {ledger.next_generation}"
            )
        strategy = start_strategy(config, ledger.header)
        rebuilt = _retold(folder, config, strategy, ledger.records[:completed]).mean_digest
        expected = _expected(ledger, completed)
    return Replay(str(folder.path), completed, rebuilt, expected, rebuilt == expected)


def mean_at(folder: RunFolder, completed: int) -> np.ndarray:
    """The mean after `completed` generations, float64 `[D]`."""
    with Ledger.open(folder.ledger) as ledger:
        return run_at(folder, folder.read_config(), ledger, completed).mean_D


def _expected(ledger: Ledger, completed: int) -> str:
    return ledger.records[completed - 1].mean_digest if completed else ledger.header.mean_digest
