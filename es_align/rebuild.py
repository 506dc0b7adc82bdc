"""A run's state from its folder: checkpoint and ledger in, the strategy at any generation out.
No model is loaded.
"""

from dataclasses import dataclass

import numpy as np

from es_align.checkpoint import latest
from es_align.config import Config
from es_align.errors import ConfigError, LedgerError
from es_align.ledger import Ledger, LedgerHeader, LedgerRecord, digest
from es_align.run_folder import RunFolder
from es_align.strategies import Strategy, make_strategy


@dataclass(frozen=True, slots=True)
class Replay:
    """What `replay` found out."""

    run_dir: str
    generation: int  # generations done
    digest: str  # of the mean rebuilt from scalars
    expected: str  # what the ledger says
    matches: bool


def start_strategy(config: Config, header: LedgerHeader) -> Strategy:
    """The strategy as it was before the first generation."""
    return make_strategy(
        config.strategy,
        dimension=header.dimension,
        population=config.population,
        seed=config.seed,
        generations=config.generations,
    )


def retell(strategy: Strategy, record: LedgerRecord) -> None:
    """Move the strategy by one recorded generation; candidates are drawn again, fitness is read."""
    strategy.tell(strategy.ask(record.generation), record.fitness_M)


def strategy_at(folder: RunFolder, config: Config, ledger: Ledger, completed: int) -> Strategy:
    """The strategy after `completed` generations,
    from the newest checkpoint before and the ledger after it.

    Raises LedgerError if the result is not the state the ledger recorded.
    """
    strategy = start_strategy(config, ledger.header)
    found = latest(folder.checkpoints, at_most=completed).checkpoint
    first = 0
    if found is not None and found.mean_digest == _expected(ledger, found.generation):
        strategy.load_state(found.state)
        first = found.generation
    for record in ledger.records[first:completed]:
        retell(strategy, record)
    rebuilt = digest(strategy.mean_D)
    if rebuilt != _expected(ledger, completed):
        raise LedgerError(
            f"{folder.ledger}: after {completed} generations the rebuilt mean has digest "
            f"{rebuilt[:12]}, the ledger says {_expected(ledger, completed)[:12]}; it was written "
            "by another version of es-align or NumPy "
            f"({dict(ledger.header.versions)}): use that one"
        )
    return strategy


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
        for record in ledger.records[:completed]:
            retell(strategy, record)
        rebuilt, expected = digest(strategy.mean_D), _expected(ledger, completed)
    return Replay(str(folder.path), completed, rebuilt, expected, rebuilt == expected)


def mean_at(folder: RunFolder, completed: int) -> np.ndarray:
    """The mean after `completed` generations, float64 `[D]`."""
    with Ledger.open(folder.ledger) as ledger:
        return strategy_at(folder, folder.read_config(), ledger, completed).mean_D


def _expected(ledger: Ledger, completed: int) -> str:
    return ledger.records[completed - 1].mean_digest if completed else ledger.header.mean_digest
