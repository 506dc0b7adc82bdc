"""What the spaces and strategies reach on the quickstart's task and budget.

    python benchmarks/learning.py --cells core-eggroll lora-eggroll --seeds 0 1 2

Every cell of the table is runs of configs/quickstart.yaml by the command line, a process each, with
the overrides below; results are kept in --results, one JSON line a run. A run that is there with
the same overrides is not run again, so the table may be filled over days. Prints the table of all
that is there.
"""

import argparse
import datetime
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from es_align.bench.hardware import find_hardware

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "quickstart.yaml"
RESULTS = ROOT / "docs" / "learning.jsonl"
KEPT = ("baseline", "final", "gain", "gain_ci95", "pass_rate_gain", "pass_rate_gain_ci95", "wall_s")

# Every cell has the quickstart's own sigma, 0.06, and steps: studies of one generation each found
# that sigma right for all spaces.
CELLS: Mapping[str, Sequence[str]] = {
    "singular_values-openai_es": ("space.kind=singular_values",),
    "singular_values-openai_es-bf16": ("space.kind=singular_values", "precision=bf16"),
    "singular_values-cma_es": ("space.kind=singular_values", "strategy.kind=cma_es"),
    "singular_values-sep_cma_es": ("space.kind=singular_values", "strategy.kind=sep_cma_es"),
    "singular_values-snes": ("space.kind=singular_values", "strategy.kind=snes"),
    "core-eggroll": ("space.kind=core",),
    "lora-eggroll": ("space.kind=lora",),
    "weights-eggroll": ("space.kind=weights",),
    "weights-eggroll-bf16": ("space.kind=weights", "precision=bf16"),
}
# Of the quickstart's settings, those that a strategy adapts itself and would refuse.
ADAPTING = ("cma_es", "sep_cma_es", "snes")
RESET = ("strategy.learning_rate=0.1", "strategy.momentum=0.9")


def overrides_of(cell: str) -> list[str]:
    """What the command line is given after the quickstart's configuration."""
    reset = RESET if cell.partition("-")[2].startswith(ADAPTING) else ()
    return [*CELLS[cell], *reset]


def run(cell: str, seed: int, more: Sequence[str]) -> dict:
    """One run; raises CalledProcessError if it fails."""
    overrides = [*overrides_of(cell), *more]
    settings = [part for one in [f"seed={seed}", *overrides] for part in ("--set", one)]
    with tempfile.TemporaryDirectory(prefix="es-align-learning-") as folder:
        command = [sys.executable, "-m", "es_align", "train", str(CONFIG), *settings]
        done = subprocess.run(
            [*command, "--run-dir", f"{folder}/run", "--json"],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        replayed = subprocess.run(
            [sys.executable, "-m", "es_align", "replay", f"{folder}/run", "--json"],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    result = json.loads(done.stdout.splitlines()[-1])
    return {
        "cell": cell,
        "seed": seed,
        "overrides": overrides,
        "date": str(datetime.date.today()),
        "hardware": str(find_hardware()),
        "replay_matches": json.loads(replayed.stdout.splitlines()[-1])["matches"],
        **{name: result[name] for name in KEPT},
    }


def key_of(cell: str, seed: int, overrides: Sequence[str]) -> tuple[str, int, tuple[str, ...]]:
    """What makes a run another one."""
    return cell, seed, tuple(overrides)


def more_of(row: Mapping) -> tuple[str, ...]:
    """The settings that a run had beside its cell's."""
    return tuple(one for one in row["overrides"] if one not in overrides_of(row["cell"]))


def print_table(rows: Sequence[Mapping]) -> None:
    """One line a cell (and settings beside it): the held-out pass rate before and after, and its
    gain, of every seed.
    """
    print("| space, strategy | seeds | before | after | gain in points, 95 % interval | minutes |")
    print("|---|---|---|---|---|---|")
    kinds = dict.fromkeys(
        (cell, more_of(row)) for cell in CELLS for row in rows if row["cell"] == cell
    )
    for cell, more in kinds:
        of_cell = [row for row in rows if (row["cell"], more_of(row)) == (cell, more)]
        of_cell.sort(key=lambda row: row["seed"])
        gains = []
        for row in of_cell:
            low, high = (100 * bound for bound in row["pass_rate_gain_ci95"])
            gains.append(f"{100 * row['pass_rate_gain']:+.1f} [{low:+.1f}, {high:+.1f}]")
        before, after = (
            "; ".join(f"{100 * row[when]['pass_rate']:.1f} %" for row in of_cell)
            for when in ("baseline", "final")
        )
        minutes = statistics.median(row["wall_s"] / 60 for row in of_cell)
        seeds = ", ".join(str(row["seed"]) for row in of_cell)
        named = " ".join((cell, *more))
        print(f"| {named} | {seeds} | {before} | {after} | {'; '.join(gains)} | {minutes:.1f} |")


def main() -> None:
    """Run what is asked for and not there yet, print everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", nargs="*", default=list(CELLS), choices=list(CELLS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", nargs="*", default=[], help="for every run, for example its cores")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    lines = options.results.read_text().splitlines() if options.results.is_file() else []
    rows = [json.loads(line) for line in lines]
    done = {key_of(row["cell"], row["seed"], row["overrides"]) for row in rows}
    for seed in options.seeds:
        for cell in options.cells:
            if key_of(cell, seed, [*overrides_of(cell), *options.set]) in done:
                continue
            rows.append(run(cell, seed, options.set))
            with options.results.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    print_table(rows)


if __name__ == "__main__":
    main()
