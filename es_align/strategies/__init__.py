"""The strategies by name; each has a file and passes tests/strategies/test_contract.py."""

from es_align.config_search import StrategyConfig
from es_align.strategies.base import Population, Strategy, StrategyFactory, StrategyState, Update
from es_align.strategies.cma_es import CMAES
from es_align.strategies.eggroll import Eggroll
from es_align.strategies.openai_es import OpenAIES
from es_align.strategies.sep_cma_es import SepCMAES
from es_align.strategies.snes import SNES

STRATEGIES: dict[str, StrategyFactory] = {
    OpenAIES.kind: OpenAIES,
    CMAES.kind: CMAES,
    SepCMAES.kind: SepCMAES,
    SNES.kind: SNES,
    Eggroll.kind: Eggroll,
}


def make_strategy(
    config: StrategyConfig, *, dimension: int, population: int, seed: int, generations: int
) -> Strategy:
    """The configured strategy at its start, for `population` members of `dimension` numbers.

    `generations` is the run's length, over which the schedules of sigma and learning rate go.
    Raises ConfigError if the strategy cannot serve that population or dimension.
    """
    assert config.kind is not None  # filled in with the whole configuration
    factory = STRATEGIES[config.kind]
    return factory(
        config, dimension=dimension, population=population, seed=seed, generations=generations
    )


__all__ = [
    "STRATEGIES",
    "Population",
    "Strategy",
    "StrategyFactory",
    "StrategyState",
    "Update",
    "make_strategy",
]
