"""Ray heads, nodes and drivers as processes, each in a session of its own, and ended alone.

Never `ray stop`: it ends every Ray on the machine, whoever it belongs to.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import psutil

from es_align.bench.marked import title

START_DEADLINE_S = 120.0
ADDRESS_FILE = "ray_current_cluster"  # written once a head is up
NODE = """
import json, sys, time
from ray._private.node import Node
from ray._private.parameter import RayParams
address, folder, settings = sys.argv[1:]
parameters = RayParams(
    gcs_address=address, node_ip_address="127.0.0.1", temp_dir=folder, min_worker_port=0,
    max_worker_port=0, node_manager_port=0, object_store_memory=80_000_000,
    include_log_monitor=False, **json.loads(settings),
)
Node(parameters, head=False)
print("up", flush=True)
time.sleep(10_000)
"""


def listens(port: int) -> bool:
    """Whether somebody accepts connections at a port of this machine."""
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """A port of this machine that nothing listens on now."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return asked.getsockname()[1]


def wait_until(is_so: Callable[[], bool], limit_s: float, of: "Started | None" = None) -> None:
    """Raise TimeoutError, with what the process `of` has said, unless it becomes so."""
    end = time.monotonic() + limit_s
    while not is_so():
        is_over = of is not None and not of.is_running
        if is_over or time.monotonic() > end:
            said = "" if of is None else f": {of.said}"
            raise TimeoutError(f"not so within {limit_s:.0f} s{said}")
        time.sleep(0.2)


def workers_below(process: psutil.Process) -> list[psutil.Process]:
    """es-align's workers among what a head or a node has started."""
    try:
        return [p for p in process.children(recursive=True) if title(p).startswith("ray::Worker")]
    except psutil.NoSuchProcess:
        return []


class Started:
    """A process with all it starts; ended on leaving the context."""

    def __init__(
        self, arguments: list[str], environment: Mapping[str, str], log: Path, cwd: Path
    ) -> None:
        self.log = log
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                arguments,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                start_new_session=True,
            )
        self.tree = psutil.Process(self.process.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def said(self) -> str:
        """Its output so far."""
        return self.log.read_text(errors="replace")

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def end(self) -> None:
        """End it, and whatever it started."""
        try:
            below = self.tree.children(recursive=True)
        except psutil.NoSuchProcess:
            below = []
        for process in (self.tree, *below):
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait(START_DEADLINE_S)

    def kill(self) -> None:
        """Kill the process alone, as the kernel does when memory runs out."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(START_DEADLINE_S)


class Head(Started):
    """`ray start --head` on loopback with a token, one core and a client server."""

    def __init__(self, token: str, cwd: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="es-align-", dir="/tmp"))  # sockets: short
        self.address = f"127.0.0.1:{free_port()}"
        self.client_address = f"ray://127.0.0.1:{free_port()}"
        self.environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": token,
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # keeps to loopback, see workers/cluster.py
            "RAY_TMPDIR": str(self.folder),
            "RAY_raylet_start_wait_time_s": f"{START_DEADLINE_S:.0f}",
            "RAY_worker_niceness": "0",  # Ray's 15 yields to the tests that run beside this one
        }
        arguments = ["--head", "--block", "--node-ip-address=127.0.0.1", "--num-cpus=1"]
        arguments += [f"--port={self.address.rpartition(':')[2]}"]
        arguments += [f"--ray-client-server-port={self.client_address.rpartition(':')[2]}"]
        arguments += ["--include-dashboard=false", "--disable-usage-stats"]
        arguments += [f"--temp-dir={self.folder}", "--object-store-memory=80000000"]
        arguments += ["--labels=site=a", '--resources={"slot": 1}']
        ray_command = Path(sys.executable).with_name("ray")
        super().__init__(
            [str(ray_command), "start", *arguments], self.environment, self.folder / "log", cwd
        )

    def wait(self) -> Self:
        """Until it is up, its client server too, which comes last."""
        wait_until((self.folder / ADDRESS_FILE).is_file, START_DEADLINE_S, self)
        port = int(self.client_address.rpartition(":")[2])
        wait_until(lambda: listens(port), START_DEADLINE_S, self)
        return self

    def end(self) -> None:
        """End it, and forget its files."""
        super().end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def node(self, settings: str) -> Started:
        """Another node of its cluster on this machine; RayParams as JSON."""
        log = self.folder / "node.log"
        arguments = [sys.executable, "-c", NODE, self.address, str(self.folder), settings]
        added = Started(arguments, self.environment, log, Path("/"))
        wait_until(lambda: "up" in added.said, START_DEADLINE_S, added)
        return added

    def driver(self, cwd: Path, log: Path, *arguments: str, token: str | None = None) -> Started:
        """`es-align` with the head's token, or another."""
        changed = {} if token is None else {"RAY_AUTH_TOKEN": token}
        environment = {**self.environment, "PYTHONPATH": str(cwd), **changed}
        del environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"]  # a user sets none
        return Started([sys.executable, "-m", "es_align", *arguments], environment, log, cwd)
