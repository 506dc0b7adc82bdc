"""How much of what a population's fitness says is about the noise, and how much the noise costs.

    python benchmarks/noise_signal.py --set strategy.sigma=0.1 --set space.kind=weights

One population, asked several batches of prompts without moving (noise_reuse, a learning rate of
nothing), so what a pair's difference has in common between batches is told from chance:

    signal = covariance, over the pairs, of f = (fitness(+) - fitness(-)) / 2 between two batches
    share  = signal / variance of f in one batch

The signal is sigma^2 |gradient|^2 of the smoothed reward; the share is what an update of one batch
is made of. Its error is a jackknife over the pairs. With the mean reward of the members beside that
of the model itself, which is what such noise costs, spaces and sigmas can be compared before a run.
The seeded spaces only (core, lora, weights). Default: the quickstart's task, settings and model.
"""

import argparse
import datetime
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from es_align.bench.hardware import find_hardware
from es_align.versions import versions

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "quickstart.yaml"


def measure(config: Path, overrides: list[str], batches: int, folder: Path) -> dict:
    """Ask the population its batches; raises CalledProcessError if the run fails."""
    still = {
        "generations": batches,
        "strategy.noise_reuse": batches,
        "strategy.learning_rate": 1e-9,
        "strategy.momentum": 0,
        "evaluation.every": batches,
    }
    settings = [*overrides, *(f"{name}={value}" for name, value in still.items())]
    command = [sys.executable, "-m", "es_align", "train", str(config), "--run-dir", str(folder)]
    subprocess.run(
        [*command, *(item for setting in settings for item in ("--set", setting))],
        stdout=subprocess.DEVNULL,
        check=True,
    )
    records = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()][1:]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    fitness_MB = np.array([record["reward_mean"] for record in records], dtype=np.float64).T
    odd_NB = (fitness_MB[0::2] - fitness_MB[1::2]) / 2
    signal, variance = common(odd_NB)
    without_N = [common(np.delete(odd_NB, pair, axis=0))[0] for pair in range(len(odd_NB))]
    return {
        "model": next(row["eval/reward"] for row in rows if "eval/reward" in row),
        "members": float(np.nanmean(fitness_MB)),
        "signal": signal,
        "error": math.sqrt((len(odd_NB) - 1) * np.var(without_N)),
        "share": signal / variance,
        "members_std": float(np.nanstd(fitness_MB, axis=0).mean()),
    }


def common(odd_NB: np.ndarray) -> tuple[float, float]:
    """Mean covariance between two batches, and mean variance of one, over the pairs."""
    covariance_BB = np.cov(odd_NB.T)
    size = len(covariance_BB)
    own = float(np.trace(covariance_BB))
    return (float(covariance_BB.sum()) - own) / (size * (size - 1)), own / size


def main() -> None:
    """Measure one setting, print a row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--batches", type=int, default=6, help="of prompts, two or more")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="es-align-signal-")) / "run"
    found = measure(options.config, options.overrides, options.batches, folder)
    print(f"{datetime.date.today()}, {find_hardware()}, {versions()}")
    print("| settings | model | members | their deviation | signal | share |")
    print("|---|---|---|---|---|---|")
    print(
        f"| {' '.join(options.overrides)} | {found['model']:.3f} | {found['members']:.3f} "
        f"| {found['members_std']:.3f} | {found['signal']:.4f} +- {found['error']:.4f} "
        f"| {100 * found['share']:.0f} % |"
    )
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
