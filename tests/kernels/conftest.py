"""How Triton kernels are tested where there is no accelerator.

A test of a kernel is marked `gpu` and puts its tensors on `triton_device`; the same test then runs

- natively, by `pytest -m gpu` where CUDA is available;
- in Triton's interpreter, because one test of the file, which is not marked, calls
  `run_in_interpreter(__file__)`: a child pytest with TRITON_INTERPRET=1 runs the marked tests.

The child is needed because `@triton.jit` reads the variable once, when it is applied, and other
modules of this process (torch, vLLM) must keep the compiled form. `compile_for_cuda` and
`hopper_ptx` take kernels through the real compiler, which refuses things that the interpreter lets
pass.
Files begin with `pytest.importorskip("triton")`, before they import from `kernels.gpu`.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from kernels import native

INTERPRETER_TIMEOUT_S = 280  # under the 300 s of a test, so that the child's output is shown
OLDEST_ARCHITECTURE = 80  # the first with bf16
THREADS_PER_WARP = 32

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def torch_device(request: pytest.FixtureRequest) -> str:
    """Each device that a torch path must give the same numbers on."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    return request.param


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], torch.dtype]:
    """Chooses a path of a CPU (torch_fp32, torch_bf16, native_bf16) and returns its dtype."""

    def choose(path: str) -> torch.dtype:
        if path == "torch_bf16":
            monkeypatch.setattr(native, "library", lambda: None)
        return torch.float32 if path == "torch_fp32" else torch.bfloat16

    return choose


@pytest.fixture
def triton_device() -> str:
    """Where a kernel's tensors go; skips where a kernel can neither run nor be interpreted."""
    if IS_INTERPRETED:
        return "cpu"
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA, or Triton's interpreter (TRITON_INTERPRET=1)")
    return "cuda"


@pytest.fixture
def run_in_interpreter(repository: Path) -> Callable[[str], None]:
    """Runs a file's tests marked `gpu` in Triton's interpreter; all of them have to pass."""

    def run(test_file: str) -> None:
        options = ["-m", "gpu", "-q", "-p", "no:cacheprovider"]
        environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
        child = subprocess.run(
            [sys.executable, "-m", "pytest", *options, test_file],
            cwd=repository,
            env=environment,
            timeout=INTERPRETER_TIMEOUT_S,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        summary = child.stdout.strip().rpartition("\n")[2]
        has_run = re.search(r"\b\d+ passed\b", summary) and "skipped" not in summary
        assert child.returncode == 0 and has_run, child.stdout

    return run


@pytest.fixture
def compile_for_cuda(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[object, Mapping[str, str], Mapping[str, object]], str]:
    """Compiles a kernel to a CUDA binary, which takes no accelerator, and returns its PTX.

    Takes the kernel, the types of its arguments by name ("*i8", "u32", ...) in their order, and the
    values of the constexpr ones.
    """
    triton = pytest.importorskip("triton")
    backends = pytest.importorskip("triton.backends")
    if IS_INTERPRETED:
        pytest.skip("TRITON_INTERPRET=1 turns kernels into Python")
    if "nvidia" not in backends.backends:
        pytest.skip("this triton has no CUDA backend")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))

    def compile_kernel(
        kernel: object, types: Mapping[str, str], constants: Mapping[str, object]
    ) -> str:
        signature = dict(types) | dict.fromkeys(constants, "constexpr")
        source = triton.compiler.ASTSource(kernel, signature=signature, constexprs=dict(constants))
        target = backends.compiler.GPUTarget("cuda", OLDEST_ARCHITECTURE, THREADS_PER_WARP)
        return triton.compile(source, target=target).asm["ptx"]

    return compile_kernel


class HopperWithoutDevice:
    """What Triton asks of a driver in order to compile, for a machine that has no H100."""

    def get_current_target(self) -> object:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, THREADS_PER_WARP)

    def get_current_device(self) -> int:
        return -1  # no device's own: what is compiled for it is never launched

    def get_current_stream(self, device: int) -> int:
        return 0


@pytest.fixture
def hopper_ptx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Launches compile for sm_90 instead of running; their PTX by kernel."""
    if IS_INTERPRETED:
        pytest.skip("TRITON_INTERPRET=1 turns kernels into Python")
    triton = pytest.importorskip("triton")
    compiled: dict[str, str] = {}
    run = triton.runtime.jit.JITFunction.run

    def compile_only(self, *arguments, grid, warmup, **options):
        kernel = run(self, *arguments, grid=grid, warmup=True, **options)
        compiled[self.fn.__name__] = kernel.asm["ptx"]
        return kernel

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(triton.runtime.jit.JITFunction, "run", compile_only)
    monkeypatch.setattr(triton.runtime.driver, "_active", HopperWithoutDevice())
    return compiled
