"""Breaks a run in every way it can and compares its ledger with that of a run left in peace.

    python benchmarks/chaos.py                 # or: make chaos
    python benchmarks/chaos.py --generations 40 --faults 12 --seed 1
    python benchmarks/chaos.py --nodes 4 --generations 30 --faults 8 --kinds "node lost"

The tiny configuration on a Ray cluster of several nodes on this machine (Ray's own test cluster), a
driver in a process of its own, and faults at random generations: see `FAULTS`. Prints a table of
the faults and, in the end, whether ledgers and final digests are the same bit for bit, whether a
generation was lost or doubled, and whether a process is left behind. Exit status 1 if not.
Disk full needs root, for a small file system of its own, and is left out otherwise.
"""

import argparse
import datetime
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import psutil
import ray
from ray.cluster_utils import Cluster
from rich.console import Console
from rich.table import Table

from es_align.bench.hardware import find_hardware
from es_align.bench.marked import is_stopped, mark, processes_with, started_here, title
from es_align.ledger import Ledger

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "tiny.yaml"
DISK_BYTES = 64 * 2**20
MEMORY_BYTES = 2**20  # of address space, less than any worker has already
STEP_DEADLINE_S = 300.0  # without a new generation
EXIT_DEADLINE_S = 90.0  # a driver that was told to end; Ray's agents wait a minute for their head
HELD_OUT_EVERY = 50
# A process that Ray is still starting: it has no deadline, since it may be waiting for room.
NOT_THERE_YET = "__init__"


class Place(NamedTuple):
    """Where the run's files are."""

    folder: Path
    filler: Path | None  # beside them, on the same small disk


@dataclass(slots=True)
class Chaos:
    """A cluster, a driver on it, and what has been done to both."""

    cluster: Cluster
    workers: int
    place: Place
    overrides: list[str]
    log: Path
    random: random.Random
    nodes: list = field(default_factory=list)
    driver: subprocess.Popen | None = None
    num_starts: int = 0
    done: list[tuple[int, str, str]] = field(default_factory=list)  # generation, fault, what came

    def start_driver(self) -> None:
        """Begin the run, or go on with it."""
        command = [*train_command(self.place.folder, self.overrides), "--json"]
        command += ["--resume"] if ledger_file(self.place.folder).is_file() else []
        self.num_starts += 1
        with self.log.open("ab") as stream:
            self.driver = subprocess.Popen(
                command, stdout=stream, stderr=stream, start_new_session=True, cwd=ROOT
            )

    def add_node(self) -> None:
        """One with room for half of the workers."""
        self.nodes.append(self.cluster.add_node(num_cpus=-(-self.workers // 2)))

    def worker_processes(self) -> list[psutil.Process]:
        """Processes of the run's workers that are alive and not stopped."""
        return [
            process
            for process in processes_with("ray::Worker")
            if not is_stopped(process) and NOT_THERE_YET not in title(process)
        ]

    def a_worker(self) -> psutil.Process | None:
        """One of them, drawn."""
        found = sorted(self.worker_processes(), key=lambda process: process.pid)
        return self.random.choice(found) if found else None


def kill_worker(chaos: Chaos) -> str | None:
    return _signal_worker(chaos, signal.SIGKILL)


def hang_worker(chaos: Chaos) -> str | None:
    return _signal_worker(chaos, signal.SIGSTOP)


def pause_worker(chaos: Chaos) -> str | None:
    """Shorter than any deadline."""
    worker = chaos.a_worker()
    if worker is None:
        return None
    worker.suspend()
    time.sleep(chaos.random.uniform(0.5, 3.0))
    worker.resume()
    return f"pid {worker.pid}"


def starve_worker(chaos: Chaos) -> str | None:
    """No more memory than it has: its next allocation of size fails."""
    worker = chaos.a_worker()
    if worker is None:
        return None
    worker.rlimit(psutil.RLIMIT_AS, (MEMORY_BYTES, psutil.RLIM_INFINITY))
    return f"pid {worker.pid}"


def lose_node(chaos: Chaos) -> str | None:
    """One node vanishes with its workers, another comes a little later."""
    node = chaos.nodes.pop(chaos.random.randrange(len(chaos.nodes)))
    chaos.cluster.remove_node(node, allow_graceful=False)
    time.sleep(chaos.random.uniform(0.0, 3.0))
    chaos.add_node()
    return "and another joined"


def freeze_node(chaos: Chaos) -> str | None:
    """A node's manager stands still for some seconds."""
    managers = sorted(processes_with("raylet/raylet"), key=lambda process: process.pid)
    manager = chaos.random.choice(managers[1:])  # not the head's
    manager.suspend()
    time.sleep(chaos.random.uniform(1.0, 4.0))
    manager.resume()
    return f"pid {manager.pid}"


def kill_driver(chaos: Chaos) -> str | None:
    return _end_driver(chaos, signal.SIGKILL)


def interrupt_driver(chaos: Chaos) -> str | None:
    return _end_driver(chaos, signal.SIGINT)


def fill_disk(chaos: Chaos) -> str | None:
    """Until the driver stops for it; then there is room again."""
    filler, driver = chaos.place.filler, chaos.driver
    assert filler is not None and driver is not None
    with filler.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(4096))
        except OSError as error:
            told = error.strerror
    code = driver.wait(EXIT_DEADLINE_S)
    filler.unlink()
    chaos.start_driver()
    return f"{told}; the driver ended with {code}"


FAULTS: Mapping[str, Callable[[Chaos], str | None]] = {
    "worker killed": kill_worker,
    "worker hung": hang_worker,
    "worker paused": pause_worker,
    "worker out of memory": starve_worker,
    "node lost": lose_node,
    "node frozen": freeze_node,
    "driver killed": kill_driver,
    "driver interrupted": interrupt_driver,
    "disk full": fill_disk,
}
COSTLY = ("node lost", "driver killed", "driver interrupted", "disk full")  # drawn half as often


def _signal_worker(chaos: Chaos, what: signal.Signals) -> str | None:
    worker = chaos.a_worker()
    if worker is None:
        return None
    worker.send_signal(what)
    return f"pid {worker.pid}"


def _end_driver(chaos: Chaos, what: signal.Signals) -> str | None:
    assert chaos.driver is not None
    chaos.driver.send_signal(what)
    code = chaos.driver.wait(EXIT_DEADLINE_S)
    chaos.start_driver()
    return f"exit status {code}"


def train_command(folder: Path, overrides: list[str]) -> list[str]:
    settings = [part for override in overrides for part in ("--set", override)]
    command = [sys.executable, "-m", "es_align", "train", str(CONFIG)]
    return [*command, "--run-dir", str(folder), *settings]


def ledger_file(folder: Path) -> Path:
    return folder / "ledger.jsonl"


def num_generations(folder: Path) -> int:
    """Complete lines of the ledger, without its header."""
    file = ledger_file(folder)
    return max(0, file.read_bytes().count(b"\n") - 1) if file.is_file() else 0


def plan_faults(chaos: Chaos, faults: list[str], num: int, generations: int) -> dict[int, str]:
    """Which fault comes after which generation: every kind at least once, the others drawn."""
    weights = [1 if fault in COSTLY else 2 for fault in faults]
    drawn = (faults + chaos.random.choices(faults, weights, k=num))[:num]
    chaos.random.shuffle(drawn)
    places = sorted(chaos.random.sample(range(1, generations - 1), num))
    return dict(zip(places, drawn, strict=True))


def run_chaos(chaos: Chaos, faults: Mapping[int, str], generations: int, console: Console) -> None:
    """Inject every fault once its generation is done, and wait for the run to end."""
    chaos.start_driver()
    for after, fault in faults.items():
        wait_for(chaos, after)
        time.sleep(chaos.random.uniform(0.0, 0.3))
        told = None
        ends = time.monotonic() + STEP_DEADLINE_S
        while (told := FAULTS[fault](chaos)) is None and time.monotonic() < ends:
            assert num_generations(chaos.place.folder) < generations, f"over before a {fault}"
            time.sleep(0.2)
        assert told is not None, f"no worker to be had for {fault}; see {chaos.log}"
        chaos.done.append((num_generations(chaos.place.folder), fault, told))
        console.print(f"generation {chaos.done[-1][0]:>3}: {fault} ({told})")
    wait_for(chaos, generations)
    assert chaos.driver is not None
    code = chaos.driver.wait(STEP_DEADLINE_S)
    assert code == 0, f"the driver ended with {code}; see {chaos.log}"


def wait_for(chaos: Chaos, generation: int) -> None:
    """Until so many are done; the driver must not end before."""
    last, ends = -1, 0.0
    while (now := num_generations(chaos.place.folder)) < generation:
        if now != last:
            last, ends = now, time.monotonic() + STEP_DEADLINE_S
        assert time.monotonic() < ends, f"no generation after {now} for long; see {chaos.log}"
        assert chaos.driver is not None
        code = chaos.driver.poll()
        assert code is None, f"the driver ended with {code} after {now}; see {chaos.log}"
        time.sleep(0.05)


def body(folder: Path) -> list[dict]:
    """Every generation's record, without the chain that starts at the header's random run id."""
    lines = ledger_file(folder).read_bytes().splitlines()[1:]
    rows = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if k not in ("previous", "checksum")} for row in rows]


def make_disk(folder: Path) -> bool:
    """Mount a small file system; False where that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--generations", type=int, default=200)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--kinds", nargs="+", choices=list(FAULTS), default=list(FAULTS))
    parser.add_argument("--space", default="core")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True, stderr=options.json)
    mark()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what is under way is cleaned up
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="es-align-chaos-") as name:
        result = measure(Path(name), options, console)
    result |= {
        "minutes": round((time.monotonic() - started) / 60, 1),
        "date": str(datetime.date.today()),
        "hardware": str(find_hardware()),
    }
    table = Table("fault", "times", box=None)
    for fault, times in result["faults"].items():
        table.add_row(fault, str(times))
    console.print(table)
    for key in ("ledgers_equal", "digest", "peaceful_digest", "generations", "processes_left"):
        console.print(f"{key.replace('_', ' ')}: {result[key]}", markup=False)
    console.print(f"{result['num_faults']} faults of {len(result['faults'])} kinds in", end=" ")
    console.print(f"{result['minutes']} min; {result['date']}, {result['hardware']}")
    if options.json:
        print(json.dumps(result))
    sys.exit(0 if result["ok"] else 1)


def measure(folder: Path, options: argparse.Namespace, console: Console) -> dict:
    """Both runs, and what they have in common."""
    same = [
        f"generations={options.generations}",
        f"space.kind={options.space}",
        "population=64",
        "max_new_tokens=48",  # a generation lasts about a second, so faults find it at work
        "workers.members_per_chunk=4",
        f"evaluation.every={HELD_OUT_EVERY}",
    ]
    peace = folder / "peace"
    subprocess.run(train_command(peace, same), check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    console.print(f"a run left in peace: {num_generations(peace)} generations")

    disk = folder / "disk"
    has_disk = make_disk(disk)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    overrides = [
        *same,
        f"workers.count={options.workers}",
        f"workers.address={cluster.address}",
        "workers.chunk_deadline_s=20",
        "workers.load_deadline_s=60",
    ]
    log = Path(tempfile.gettempdir()) / f"es-align-chaos-{os.getpid()}.log"
    place = Place(disk / "run", disk / "filler" if has_disk else None)
    chaos = Chaos(cluster, options.workers, place, overrides, log, random.Random(options.seed))
    faults = [fault for fault in options.kinds if has_disk or fault != "disk full"]
    planned = plan_faults(chaos, faults, options.faults, options.generations)
    try:
        for _ in range(options.nodes):
            chaos.add_node()
        run_chaos(chaos, planned, options.generations, console)
        chaotic, peaceful = body(place.folder), body(peace)
        with Ledger.open(ledger_file(place.folder)) as ledger:
            digest = ledger.records[-1].mean_digest
    finally:
        if chaos.driver is not None and chaos.driver.poll() is None:
            chaos.driver.kill()
            chaos.driver.wait()
        workers_left = outliving(lambda: processes_with("ray::Worker"))  # of a cluster that lives
        ray.shutdown()
        cluster.shutdown()
        if has_disk:
            subprocess.run(["umount", str(disk)], check=False)
    log.unlink()
    left = workers_left + outliving(started_here)
    numbers = [record["generation"] for record in chaotic]
    counts = Counter(fault for _, fault, _ in chaos.done)
    return {
        "ok": chaotic == peaceful and not left and numbers == list(range(options.generations)),
        "ledgers_equal": chaotic == peaceful,
        "digest": digest,
        "peaceful_digest": peaceful[-1]["mean_digest"],
        "generations": f"{len(numbers)}, none lost or doubled"
        if numbers == list(range(options.generations))
        else f"not 0 to {options.generations - 1} once each",
        "num_faults": len(chaos.done),
        "num_driver_starts": chaos.num_starts,
        "faults": dict(sorted(counts.items())),
        "processes_left": left,
    }


def outliving(find: Callable[[], list[psutil.Process]]) -> list[str]:
    """What is still found when all of it has had time to end."""
    ends = time.monotonic() + EXIT_DEADLINE_S
    while (found := find()) and time.monotonic() < ends:
        time.sleep(0.5)
    return [title(process) for process in found]


if __name__ == "__main__":
    main()
