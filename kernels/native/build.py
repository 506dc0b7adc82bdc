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
import subprocess
import tempfile
from pathlib import Path

import torch  # first: the library must find torch's OpenMP runtime, not bring its own

from kernels.cache import cache_root
from kernels.compiler import COMPILERS, find_compiler
from kernels.processor import read_processor

FOLDER = Path(__file__).parent
SOURCES = tuple(
    FOLDER / f"{name}.cpp"
    for name in ("population", "lora", "integers", "update", "encode", "checksum")
)
HEADERS = (FOLDER / "bf16.h", FOLDER / "directions.h")
SWITCH = "ES_ALIGN_NATIVE"
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-fPIC")
# These round where torch rounds: no multiplication is fused with an addition.
OWN_FLAGS = {"update": ("-ffp-contract=off",), "encode": ("-ffp-contract=off",)}
COMPILE_TIMEOUT_S = 120

_POINTER, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
# Result and arguments of every function; ctypes would pass what it is not told as a C int.
SIGNATURES: dict[str, tuple[type | None, list[type]]] = {
    "es_add_shared_basis": (None, [_POINTER] * 4 + [_INT] * 3),
    "es_add_low_rank": (None, [_POINTER] * 4 + [_INT] * 3),
    "es_add_lora": (None, [_POINTER] * 4 + [_INT] * 3),
    "es_pack_left": (None, [_POINTER] * 3 + [_INT] * 2),
    "es_packed_size": (_INT, [_POINTER] + [_INT] * 2),
    "es_fill_noise": (
        None,
        [_POINTER] * 2 + [_INT] * 7 + [ctypes.c_uint32] * 4 + [ctypes.c_int32],
    ),
    "es_argmax": (None, [_POINTER] * 2 + [_INT] * 3),
    "es_descend": (
        ctypes.c_double,
        [_POINTER] * 5 + [_INT] * 4 + [ctypes.c_double, ctypes.c_int32] + [_FLOAT] * 4,
    ),
    "es_encode": (None, [_POINTER] * 3 + [_INT] * 4),
    "es_row_checksums": (None, [_POINTER] * 3 + [_INT] * 2),
}

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
        return _declared(ctypes.CDLL(str(_compiled(compiler))))
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


def _declared(native: ctypes.CDLL) -> ctypes.CDLL:
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(native, name)
        function.restype, function.argtypes = result, arguments
    return native


def _compiled(compiler: str) -> Path:
    version = subprocess.run(
        [compiler, "--version"], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    texts = [source.read_text() for source in (*SOURCES, *HEADERS)]
    processor = read_processor()
    machine = [processor.name, *sorted(processor.flags)]
    flags = [" ".join(_command(compiler, source)) for source in SOURCES]
    identity = [*texts, version, *flags, *machine, torch.__version__]
    name = hashlib.sha256("\0".join(identity).encode()).hexdigest()[:16]
    target = cache_root() / "native" / f"population-{name}.so"
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        built = Path(folder) / target.name
        objects = [Path(folder) / f"{source.stem}.o" for source in SOURCES]
        for source, made in zip(SOURCES, objects, strict=True):
            _run([*_command(compiler, source), "-c", str(source), "-o", str(made)])
        _run([compiler, *FLAGS, "-shared", *map(str, objects), "-o", str(built)])
        built.rename(target)
    return target


def _command(compiler: str, source: Path) -> list[str]:
    return [compiler, *FLAGS, *OWN_FLAGS.get(source.stem, ())]


def _run(command: list[str]) -> None:
    subprocess.run(command, capture_output=True, text=True, check=True, timeout=COMPILE_TIMEOUT_S)
