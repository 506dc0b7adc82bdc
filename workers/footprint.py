"""What a process took of its machine: memory, and of that what its imports alone take, and time."""

import resource
import sys
from collections.abc import Iterable
from typing import NamedTuple

import psutil

RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


class Footprint(NamedTuple):
    """Of one process, or of several together."""

    peak_rss_bytes: int  # largest resident size
    imports_rss_bytes: int  # resident size once everything was imported and nothing loaded
    cpu_s: float  # of all its threads, user and system
    peak_gpu_bytes: int  # that torch held of GPUs; 0 without one

    @property
    def beyond_imports_bytes(self) -> int:
        """What was held at the peak beside the imports."""
        return self.peak_rss_bytes - self.imports_rss_bytes


NO_FOOTPRINT = Footprint(0, 0, 0.0, 0)


def footprint(imports_rss_bytes: int) -> Footprint:
    """This process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Footprint(
        peak_rss_bytes(), imports_rss_bytes, used.ru_utime + used.ru_stime, _peak_gpu_bytes()
    )


def total(footprints: Iterable[Footprint]) -> Footprint:
    """Several processes together. Pages that they share are counted in each."""
    parts = [NO_FOOTPRINT, *footprints]
    return Footprint(*(sum(values) for values in zip(*parts, strict=True)))


def rss_bytes() -> int:
    """Resident size of this process now."""
    return psutil.Process().memory_info().rss


def peak_rss_bytes() -> int:
    """Largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT_BYTES


def _peak_gpu_bytes() -> int:
    """Zero in a process that never used one, without waking a driver up."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0
    devices = range(torch.cuda.device_count())
    return sum(torch.cuda.max_memory_reserved(device) for device in devices)
