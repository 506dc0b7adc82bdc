"""The quickstart over several seeds, as the README quotes it.

    python benchmarks/quickstart.py --seeds 0 1 2 --json

Every seed is a run of its own process by the command line, on the same held-out prompts; one whose
result is in --folder already is not run again. Prints a table with date, hardware and versions, and
as its last line one JSON object. Left out: set-up and download time, which `make quickstart` on a
fresh clone shows.
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from es_align.versions import versions
from kernels.processor import read_processor

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "quickstart.yaml"


def run(seed: int, folder: Path, overrides: list[str]) -> dict:
    """One run; returns what `train --json` prints, kept in the folder for the next call.

    Raises CalledProcessError if it fails.
    """
    kept = folder / f"seed-{seed}.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    settings = [item for override in [f"seed={seed}", *overrides] for item in ("--set", override)]
    command = [sys.executable, "-m", "es_align", "train", str(CONFIG), *settings]
    done = subprocess.run(
        [*command, "--run-dir", str(folder / f"seed-{seed}"), "--json"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    kept.write_text(done.stdout.splitlines()[-1])
    return json.loads(kept.read_text())


def processor() -> str:
    """Name and number of the cores this process may use."""
    return f"{read_processor().name}, {len(os.sched_getaffinity(0))} cores"


def main() -> None:
    """Run all seeds, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--folder", type=Path, default=None, help="where the run folders go")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="es-align-quickstart-"))
    results = {seed: run(seed, folder, options.overrides) for seed in options.seeds}

    print(f"{datetime.date.today()}, {processor()}, {versions()}")
    print("| seed | baseline | final | gain in points, 95 % interval | minutes | driver share |")
    print("|---|---|---|---|---|---|")
    for seed, result in results.items():
        low, high = (100 * bound for bound in result["pass_rate_gain_ci95"])
        before, after = result["baseline"]["pass_rate"], result["final"]["pass_rate"]
        print(
            f"| {seed} | {before:.3f} | {after:.3f} "
            f"| {100 * result['pass_rate_gain']:+.1f} [{low:+.1f}, {high:+.1f}] "
            f"| {result['wall_s'] / 60:.1f} | {100 * result['driver_share']:.2f} % |"
        )
    found = [100 * result["pass_rate_gain"] for result in results.values()]
    spread = statistics.stdev(found) if len(found) > 1 else 0.0
    print(f"gain: median {statistics.median(found):.1f} points, standard deviation {spread:.1f}")
    if options.json:
        print(json.dumps({"gains": found, "runs": list(results.values())}))


if __name__ == "__main__":
    main()
