"""What jemalloc does for a worker on a CPU: the quickstart's first generations with and without it.

    python benchmarks/allocator.py --repeats 2 --json

Runs take turns, each a process of its own, and differ in LD_PRELOAD alone: set to nothing, a worker
keeps glibc's allocator (workers/allocator.py). Prints a table with date, hardware and versions, and
as its last line one JSON object.
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

from es_align.bench.hardware import find_hardware
from es_align.versions import versions

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "quickstart.yaml"
GENERATIONS = 6
GIB = 2**30
ALLOCATORS = {"glibc": {"LD_PRELOAD": ""}, "jemalloc": {}}


def run(allocator: str, folder: Path, overrides: list[str]) -> dict:
    """One run; raises CalledProcessError if it fails."""
    inherited = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    fixed = [f"generations={GENERATIONS}", f"evaluation.every={GENERATIONS}"]
    settings = [item for override in [*fixed, *overrides] for item in ("--set", override)]
    command = [sys.executable, "-m", "es_align", "train", str(CONFIG), *settings]
    done = subprocess.run(
        [*command, "--run-dir", str(folder), "--json"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=inherited | ALLOCATORS[allocator],
    )
    result = json.loads(done.stdout.splitlines()[-1])
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    ledger = (folder / "ledger.jsonl").read_text().splitlines()
    return {
        "peak_gib": result["peak_rss_bytes"] / GIB,
        "imports_gib": result["imports_rss_bytes"] / GIB,
        "seconds": [
            row["time/evaluate_s"] + row["time/move_s"] for row in rows if "time/move_s" in row
        ],
        "mean_digest": json.loads(ledger[-1])["mean_digest"],
    }


def main() -> None:
    """Run all, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="es-align-allocator-"))
    runs: dict[str, list[dict]] = {name: [] for name in ALLOCATORS}
    for repeat in range(options.repeats):
        for name in ALLOCATORS:
            runs[name].append(run(name, folder / f"{name}-{repeat}", options.overrides))

    print(f"{datetime.date.today()}, {find_hardware()}, {versions()}")
    print("| allocator | peak memory | of it imports | beyond | a generation | mean digest |")
    print("|---|---|---|---|---|---|")
    for name, found in runs.items():
        peak = statistics.median(one["peak_gib"] for one in found)
        imports = statistics.median(one["imports_gib"] for one in found)
        seconds = statistics.median(second for one in found for second in one["seconds"])
        digests = " ".join(sorted({one["mean_digest"][:12] for one in found}))
        print(
            f"| {name} | {peak:.2f} GiB | {imports:.2f} GiB | {peak - imports:.2f} GiB "
            f"| {seconds:.1f} s | {digests} |"
        )
    if options.json:
        print(json.dumps(runs))


if __name__ == "__main__":
    main()
