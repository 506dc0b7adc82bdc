"""How `gpu_linear.py` measures: graphs between device events, on cold caches, in turns.

An engine replays its decode steps as CUDA graphs, so that is what is timed: one graph holds several
layers with tensors of their own, which leaves no launch gaps to measure and nothing in the cache of
one layer for the next. Before every replay a buffer several times the cache is read, which leaves
no lines that the timed work would have to write back. The works to be compared take turns, forwards
and backwards, so that a drift of the machine's clock cancels in the ratio of one round.

Without a GPU the same works are timed by the wall clock, which says that the script runs and
nothing about speed.
"""

import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from es_align.versions import versions

Work = Callable[[], object]

MICROSECONDS_PER_MS, MICROSECONDS_PER_S = 1e3, 1e6
WARM_UPS = 3
FLUSH_CACHES, LEAST_FLUSH_BYTES = 4, 2**28  # the read also hides the launch of what follows
LANES_PER_MULTIPROCESSOR = 128  # four schedulers, each a warp's instruction a clock
PEAK_ROUNDS = 7
# By NVIDIA's data sheets, dense: bytes and bf16, int8, float64 (tensor core) operations a second.
DATA_SHEETS = {
    "NVIDIA A100-SXM4-40GB": (1.555e12, 312e12, 624e12, 19.5e12),
    "NVIDIA A100-SXM4-80GB": (2.039e12, 312e12, 624e12, 19.5e12),
    "NVIDIA H100 PCIe": (2.0e12, 756e12, 1513e12, 51e12),
    "NVIDIA H100 80GB HBM3": (3.35e12, 989e12, 1979e12, 67e12),
    "NVIDIA GH200 480GB": (4.0e12, 990e12, 1979e12, 67e12),
    "NVIDIA H200": (4.8e12, 989e12, 1979e12, 67e12),
}


@dataclass(frozen=True, slots=True)
class Machine:
    """What the figures are of; a CPU has a name and nothing else."""

    name: str
    driver: str = ""
    multiprocessors: int = 0
    clock_mhz: int = 0  # the highest that the driver allows; 0: not known
    cache_bytes: int = 0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Peaks:
    """What floors are counted with: rates that this run measured, and the data sheet's beside them.

    Operations are by unit: "bf16", "int8" and "float64" of the largest product, "instructions" what
    the schedulers can issue at the highest clock (0: not known).
    """

    bytes_per_s: float
    operations_per_s: dict[str, float]
    sheet: Mapping[str, float] | None
    origin: str = "measured in this run: a copy (read and written), and the largest square products"


class Clock(Protocol):
    """Measures works."""

    unit: str

    def prepare(self, work: Work, *, is_captured: bool = True) -> Work:
        """The work as it is timed, warmed up; the caller keeps alive what the work uses."""
        ...

    def microseconds(self, work: Work) -> float:
        """Of one call, everything that it started included."""
        ...


class DeviceClock:
    """CUDA events around one replay."""

    unit = "microseconds between device events, median"

    def __init__(self, machine: Machine) -> None:
        num_bytes = max(LEAST_FLUSH_BYTES, FLUSH_CACHES * machine.cache_bytes)
        self._flush = torch.ones(num_bytes // 4, device="cuda")

    def prepare(self, work: Work, *, is_captured: bool = True) -> Work:
        """Run it on a side stream, as captures ask for, then capture it unless it cannot be."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                work()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        if not is_captured:
            return work
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        graph.replay()
        torch.cuda.synchronize()
        return graph.replay

    def microseconds(self, work: Work) -> float:
        """From the end of the read that empties the caches to the end of the work."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.sum(self._flush)
        start.record()
        work()
        end.record()
        end.synchronize()
        return MICROSECONDS_PER_MS * start.elapsed_time(end)


class WallClock:
    """Where there is no GPU."""

    unit = "microseconds of wall clock, median (no GPU: kernels interpreted, speeds mean nothing)"

    def prepare(self, work: Work, *, is_captured: bool = True) -> Work:
        """The interpreter compiles nothing and captures nothing."""
        return work

    def microseconds(self, work: Work) -> float:
        """Of this process."""
        start = time.perf_counter()
        work()
        return MICROSECONDS_PER_S * (time.perf_counter() - start)


def make_clock(device: str, machine: Machine) -> Clock:
    """The device's own, or the wall's where there is no GPU."""
    return WallClock() if device == "cpu" else DeviceClock(machine)


class Times(NamedTuple):
    """One work's microseconds, one a round."""

    rounds: list[float]

    @property
    def median(self) -> float:
        """Of all rounds."""
        return statistics.median(self.rounds)

    def ratios(self, plain: "Times") -> list[float]:
        """`plain` over this, round by round: 1 is the same speed, less is slower than plain."""
        return [base / mine for base, mine in zip(plain.rounds, self.rounds, strict=True)]

    def differences(self, plain: "Times") -> list[float]:
        """This less `plain`, round by round, microseconds."""
        return [mine - base for base, mine in zip(plain.rounds, self.rounds, strict=True)]


def take_turns(
    clock: Clock, works: Mapping[str, Work], num_rounds: int, num_layers: int = 1
) -> dict[str, Times]:
    """Times of every work for one of its layers, the order turned about from round to round."""
    names = list(works)
    times = {name: Times([]) for name in names}
    for index in range(num_rounds):
        for name in names if index % 2 == 0 else reversed(names):
            times[name].rounds.append(clock.microseconds(works[name]) / num_layers)
    return times


def find_machine(device: str) -> Machine:
    """The first CUDA device, or this processor."""
    if device == "cpu":
        return Machine("CPU")
    found = torch.cuda.get_device_properties(0)
    driver, clock = "unknown", "0"
    if shutil.which("nvidia-smi"):
        asked = ("--query-gpu=driver_version,clocks.max.sm", "--format=csv,noheader,nounits")
        told = subprocess.run(["nvidia-smi", *asked], capture_output=True, text=True, check=False)
        if told.returncode == 0:
            driver, clock = told.stdout.splitlines()[0].split(", ")
    return Machine(
        found.name,
        driver,
        found.multi_processor_count,
        int(clock) if clock.isdigit() else 0,
        found.L2_cache_size,
        found.total_memory,
    )


def find_versions(packages: Sequence[str]) -> dict[str, str]:
    """Of the packages, of Python, and of CUDA where torch was built for it."""
    found = versions(packages) | {"python": platform.python_version()}
    return found if torch.version.cuda is None else found | {"cuda": torch.version.cuda}


def measure_peaks(
    clock: Clock, machine: Machine, device: str, copy_bytes: int, product: int
) -> Peaks:
    """Copy `copy_bytes`, multiply square matrices of `product` (half of it in float64)."""
    generator = torch.Generator(device).manual_seed(0)
    source = torch.randn(copy_bytes // 4, generator=generator, device=device)
    target = torch.empty_like(source)
    works: dict[str, Work] = {"copy": lambda: target.copy_(source)}
    sizes = {"bf16": product, "float64": product // 2}
    for unit, dtype in (("bf16", torch.bfloat16), ("float64", torch.float64)):
        left, right = (
            torch.randn(sizes[unit], sizes[unit], generator=generator, device=device).to(dtype)
            for _ in range(2)
        )
        works[unit] = lambda left=left, right=right: torch.mm(left, right)
    codes = torch.randn(product, product, generator=generator, device=device).mul(32)
    codes = codes.clamp_(-127, 127).to(torch.int8)
    sizes["int8"] = product
    works["int8"] = lambda: torch._int_mm(codes, codes.T)
    prepared = {name: clock.prepare(work) for name, work in works.items()}
    times = take_turns(clock, prepared, PEAK_ROUNDS)
    seconds = {name: min(found.rounds) / MICROSECONDS_PER_S for name, found in times.items()}
    rates = {unit: 2 * size**3 / seconds[unit] for unit, size in sizes.items()}
    rates["instructions"] = (
        machine.multiprocessors * LANES_PER_MULTIPROCESSOR * machine.clock_mhz * 1e6
    )
    sheet = DATA_SHEETS.get(machine.name)
    names: tuple[str, ...] = ("bytes", "bf16", "int8", "float64")
    told = None if sheet is None else dict(zip(names, sheet, strict=True))
    return Peaks(2 * copy_bytes / seconds["copy"], rates, told)
