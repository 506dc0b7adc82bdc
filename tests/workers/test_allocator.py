"""The environment of processes that compute on a CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from workers import allocator
from workers.allocator import allocator_settings, keep_from_children

SHOW = "print(open('/proc/self/maps').read().count('libjemalloc'))"


def test_what_is_set_already_stays(monkeypatch, tmp_path):
    monkeypatch.setattr(allocator, "_jemalloc", lambda: tmp_path / "libjemalloc.so")
    settings = allocator_settings(has_gpu=False, set_already={"MALLOC_ARENA_MAX": "4"})
    assert settings["MALLOC_ARENA_MAX"] == "4"
    assert settings["LD_PRELOAD"] == str(tmp_path / "libjemalloc.so")
    settings = allocator_settings(has_gpu=False, set_already={"LD_PRELOAD": "libtcmalloc.so"})
    assert not {"LD_PRELOAD", "MALLOC_CONF"} & set(settings)  # it inherits its own


@pytest.mark.parametrize(("found", "has_gpu"), [(None, False), (Path("libjemalloc.so"), True)])
def test_without_jemalloc_glibc_is_told_to_keep_its_heap(monkeypatch, found, has_gpu):
    monkeypatch.setattr(allocator, "_jemalloc", lambda: found)
    settings = allocator_settings(has_gpu=has_gpu, set_already={})
    assert "LD_PRELOAD" not in settings
    assert settings["MALLOC_ARENA_MAX"] == "1"


@pytest.mark.skipif(allocator._jemalloc() is None, reason="Ray's wheel has no jemalloc here")
def test_a_process_has_it_and_its_children_have_not():
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SHOW!r}], check=True)"
    code = f"{SHOW}; from workers.allocator import keep_from_children as k; k(); {child}"
    run = subprocess.run(
        [sys.executable, "-u", "-c", code],
        env=os.environ | allocator_settings(has_gpu=False),
        capture_output=True,
        text=True,
        check=True,
    )
    own, inherited = map(int, run.stdout.split())
    assert own > 0
    assert inherited == 0
    assert run.stderr == ""  # where jemalloc says which setting it does not know


def test_a_preload_of_somebody_else_is_left_to_children(monkeypatch):
    monkeypatch.setenv("LD_PRELOAD", "libtcmalloc.so")
    keep_from_children()
    assert os.environ["LD_PRELOAD"] == "libtcmalloc.so"
