"""The Ray cluster of a run: a private one on this machine, or one that is there already.

A private cluster listens on loopback only, has no dashboard, and ends with the driver. A cluster
reached by address is looked at before anything loads: whether it answers, whether its Ray and
Python are the driver's, and whether the workers fit.
"""

import logging
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

import ray

from kernels.errors import ConfigError

RAY_OBJECT_STORE_BYTES = 256 * 2**20  # prompts and factors; a private cluster needs no more
CONNECT_DEADLINE_S = 5.0
LOOPBACK = "127.0.0.1"
CLIENT_PREFIX = "ray://"


@dataclass(frozen=True, slots=True)
class Needs:
    """What one worker takes of a machine."""

    num_cpus: int
    num_gpus: float
    resources: Mapping[str, float]  # Ray's custom resources

    @property
    def amounts(self) -> dict[str, float]:
        """By Ray's names, without what is not needed."""
        every = {"CPU": float(self.num_cpus), "GPU": self.num_gpus, **self.resources}
        return {name: amount for name, amount in every.items() if amount > 0}


def start_cluster(num_cpus: int) -> None:
    """Start a private Ray cluster on this machine, which ends with this process; pools find it."""
    _prepare_ray()
    # Ray's own, 15, yields to whatever else the machine runs: deadlines would lie.
    os.environ.setdefault("RAY_worker_niceness", "0")
    ray.init(
        num_cpus=num_cpus,
        include_dashboard=False,
        object_store_memory=RAY_OBJECT_STORE_BYTES,
        log_to_driver=False,
        configure_logging=False,
        _node_ip_address=LOOPBACK,
    )


def attach(address: str) -> None:
    """Connect to a running cluster: `auto`, host:port, or ray://host:port.

    Raises ConfigError if it does not answer or runs another Ray or Python.
    """
    _prepare_ray()
    _check_listens(address)
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except ConnectionError as error:
        raise ConfigError(
            f"workers.address={address}: {_first_line(error)}; start a cluster with "
            "`ray start --head`, name the address of one, or leave the setting out"
        ) from error
    except RuntimeError as error:
        if "ersion mismatch" not in str(error):
            raise
        raise ConfigError(
            f"workers.address={address}: {_joined(error)}; use one environment on all machines, "
            "with the versions of constraints.txt"
        ) from error


def check_capacity(needs: Needs, num_workers: int, num_needed: int) -> str | None:
    """What to tell if the cluster has room for fewer than `num_workers` now; they join when it has
    more. Raises ConfigError if it has none for the `num_needed` that the run begins with.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fitting = sum(_num_fitting(node, needs.amounts) for node in nodes)
    if fitting >= num_workers:
        return None
    each = ", ".join(f"{amount:g} {name}" for name, amount in needs.amounts.items())
    have = ", ".join(
        f"{sum(node.get(name, 0.0) for node in nodes):g} {name}" for name in needs.amounts
    )
    told = (
        f"{num_workers} workers of {each} do not fit the cluster, which has {have} on {len(nodes)} "
        f"node(s): room for {fitting}"
    )
    if fitting >= num_needed:
        return f"{told}; the others join when there is more"
    step = f"set workers.count to {fitting}" if fitting else "lower workers.cpus or workers.gpus"
    raise ConfigError(f"{told}; {step}, or add nodes")


def _num_fitting(node: Mapping[str, float], amounts: Mapping[str, float]) -> int:
    return min(int(node.get(name, 0.0) / amount) for name, amount in amounts.items())


def _prepare_ray() -> None:
    logging.getLogger("ray").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


def _check_listens(address: str) -> None:
    """Ray's own clients wait for minutes where nobody answers."""
    host, _, port = address.removeprefix(CLIENT_PREFIX).rpartition(":")
    if not host or not port.isdigit():
        if address == "auto":
            return
        raise ConfigError(
            f"workers.address={address} must be auto, host:port or ray://host:port; name one"
        )
    try:
        with socket.create_connection((host, int(port)), timeout=CONNECT_DEADLINE_S):
            return
    except OSError as error:
        raise ConfigError(
            f"workers.address={address} does not answer ({error}); check the host and the port, "
            "which is 6379 of a cluster's head and 10001 of its client server (ray://)"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _joined(error: Exception) -> str:
    return " ".join(str(error).split())
