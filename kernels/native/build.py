"""Compiles the C++ sources beside it with the machine's compiler, once, into the cache.

Instruction sets differ between machines that may share a home directory, so the file's name carries
the processor's flags beside the source and the compiler. Without a compiler (or with
ES_ALIGN_NATIVE=0) everything runs on the torch path: same results within rounding, slower.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import subprocess
import tempfile
from pathlib import Path

import torch  # first: the library must find torch's OpenMP runtime, not bring its own

from kernels.cache import cache_root
from kernels.compiler import COMPILERS, find_compiler

SOURCES = tuple(Path(__file__).with_name(f"{name}.cpp") for name in ("population", "integers"))
SWITCH = "ES_ALIGN_NATIVE"
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-shared", "-fPIC")
COMPILE_TIMEOUT_S = 120

logger = logging.getLogger(__name__)


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels; None where they are switched off or cannot be built (said once)."""
    if os.environ.get(SWITCH, "1") == "0":
        return None
    compiler = find_compiler()
    if compiler is None:
        logger.warning(
            "no C++ compiler (%s): the population's CPU kernels run on their slower torch path; "
            "install g++ or set CXX",
            ", ".join(COMPILERS),
        )
        return None
    try:
        return ctypes.CDLL(str(_compiled(compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        output = getattr(error, "stderr", "") or ""
        logger.warning(
            "%s cannot build kernels/native, so the population's CPU kernels run on their slower "
            "torch path: %s %s",
            compiler,
            error,
            output[-500:],
        )
        return None


def _compiled(compiler: str) -> Path:
    version = subprocess.run(
        [compiler, "--version"], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    texts = [source.read_text() for source in SOURCES]
    identity = [*texts, compiler, version, " ".join(FLAGS), _processor_flags()]
    name = hashlib.sha256("\0".join([*identity, torch.__version__]).encode()).hexdigest()[:16]
    target = cache_root() / "native" / f"population-{name}.so"
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        built = Path(folder) / target.name
        subprocess.run(
            [compiler, *FLAGS, *map(str, SOURCES), "-o", str(built)],
            capture_output=True,
            text=True,
            check=True,
            timeout=COMPILE_TIMEOUT_S,
        )
        built.rename(target)
    return target


def _processor_flags() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
