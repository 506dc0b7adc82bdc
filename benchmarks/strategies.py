"""What a strategy's ask and tell cost the driver, as a Markdown table.

    python benchmarks/strategies.py --dimension 1536 --population 96

The defaults are ESSA's on a 0.5B model. Medians over several generations after the first; CMA-ES
decomposes its covariance in the ask of every few generations, so the longest are printed as well.
"""

import argparse
import datetime
import statistics
import time

import numpy as np

from es_align.bench.hardware import find_hardware
from es_align.config_search import StrategyConfig
from es_align.strategies import STRATEGIES, make_strategy


def seconds(kind: str, dimension: int, population: int, generations: int) -> list[list[float]]:
    """Seconds of each ask and of each tell, the first generation left out."""
    config = StrategyConfig.model_validate({"kind": kind})
    strategy = make_strategy(
        config, dimension=dimension, population=population, seed=0, generations=generations
    )
    noise = np.random.default_rng(0)
    asks, tells = [], []
    for generation in range(generations):
        started = time.perf_counter()
        candidates = strategy.ask(generation)
        asked = time.perf_counter()
        strategy.tell(candidates, noise.standard_normal(population))
        asks.append(asked - started)
        tells.append(time.perf_counter() - asked)
    return [asks[1:], tells[1:]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dimension", type=int, default=1536)
    parser.add_argument("--population", type=int, default=96)
    parser.add_argument("--generations", type=int, default=16)
    options = parser.parse_args()
    print(f"{datetime.date.today()}, {find_hardware()}")
    print(f"{options.dimension} numbers, {options.population} members, seconds")
    print("| strategy | ask | longest ask | tell | longest tell |")
    print("|---|---|---|---|---|")
    for kind in sorted(set(STRATEGIES) - {"eggroll"}):  # whose step is with the workers
        asks, tells = seconds(kind, options.dimension, options.population, options.generations)
        times = [
            f"{figure(times):.3f}" for times in (asks, tells) for figure in (statistics.median, max)
        ]
        print(f"| {kind} | {' | '.join(times)} |")


if __name__ == "__main__":
    main()
