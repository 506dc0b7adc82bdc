"""What processes that compute on a CPU allocate with, told to them as they start.

An engine's tensors come and go by the megabyte, of a size for every number of rows. glibc 2.36
cannot put an aligned block into a hole of its own size, so its heap grows to a multiple of what is
in use; and giving memory back at once is paid for in page faults. jemalloc, which Ray brings along,
fills its holes: less memory at the same speed, the same bits (docs/benchmarks.md).

glibc's settings are for where there is no jemalloc: one heap that keeps what a generation frees.
oneDNN keeps 1,024 products, one for each number of rows that a layer ever saw, which are .2 GB of a
135M model's worker; all layers of one shape use the same at a step, so few are enough.
"""

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

GLIBC = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),  # its largest
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}
ONEDNN = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64"}
Settings = dict[str, str]
PRELOAD, JEMALLOC_SETTINGS = "LD_PRELOAD", "MALLOC_CONF"
# One arena that keeps what is freed. Blocks above 128 MiB go back at once: kept, those of ever
# other sizes pile up, and their page faults are few beside what is computed in them.
JEMALLOC = f"narenas:1,oversize_threshold:{2**27},dirty_decay_ms:-1,muzzy_decay_ms:-1"


def allocator_settings(*, has_gpu: bool, set_already: Mapping[str, str] = os.environ) -> Settings:
    """Environment variables for a process that is about to start. What is set already stays, and a
    process with a GPU, whose tensors are there, keeps glibc's allocator.

    The library's path is this machine's. Where another one has none there, its loader says so in
    the worker's log and goes on without.
    """
    settings = GLIBC | ONEDNN
    jemalloc = _jemalloc()
    if jemalloc is not None and PRELOAD not in set_already and not has_gpu:
        settings |= {PRELOAD: str(jemalloc), JEMALLOC_SETTINGS: JEMALLOC}
    return {name: set_already.get(name, value) for name, value in settings.items()}


def keep_from_children() -> None:
    """This process has its allocator; what it starts is not to be given the same. To be called
    before anything is started.
    """
    if os.environ.get(PRELOAD) == str(_jemalloc()):
        del os.environ[PRELOAD]
        os.environ.pop(JEMALLOC_SETTINGS, None)


def _jemalloc() -> Path | None:
    """Ray's, where its wheel has one."""
    ray = find_spec("ray")
    assert ray is not None and ray.origin is not None
    library = Path(ray.origin).parent / "core" / "libjemalloc.so"
    return library if library.is_file() else None
