"""What the machine's processor is, from the kernel's own list."""

import platform
from pathlib import Path
from typing import NamedTuple

PROCESSOR_INFO = Path("/proc/cpuinfo")
FLAG_LINES = ("flags", "Features")  # x86, Arm


class Processor(NamedTuple):
    """A processor's name and instruction sets; no flags where the system does not list them."""

    name: str
    flags: frozenset[str]


def read_processor(info: Path = PROCESSOR_INFO) -> Processor:
    """This machine's."""
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    pairs = [(key.strip(), value.strip()) for key, _, value in (s.partition(":") for s in lines)]
    names = [value for key, value in pairs if key == "model name"]
    flags = {flag for key, value in pairs if key in FLAG_LINES for flag in value.split()}
    return Processor(
        names[0] if names else platform.processor() or platform.machine(), frozenset(flags)
    )
