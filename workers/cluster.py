"""The Ray cluster of a run: a private one on this machine, or one that is there already.

A private cluster listens on loopback only, has no dashboard, and ends with the driver. A cluster
reached by address is looked at before a model is: whether it answers, whether it takes this
driver's token, and whether its Ray and Python are the driver's (see `workers.reaching`).
"""

import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import ray
from ray._private import ray_constants

from kernels.errors import ConfigError
from workers.address import Address, parse_address
from workers.labels import is_selected
from workers.reaching import check_answers, check_listens, find_cluster

RAY_OBJECT_STORE_BYTES = 256 * 2**20  # prompts and factors; a private cluster needs no more
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Needs:
    """What one worker takes of a machine, and which machines may be it."""

    num_cpus: int
    num_gpus: float
    resources: Mapping[str, float] = field(default_factory=dict)  # Ray's custom resources
    labels: Mapping[str, str] = field(default_factory=dict)  # selectors, see `workers.labels`

    @property
    def amounts(self) -> dict[str, float]:
        """By Ray's names, without what is not needed."""
        every = {"CPU": float(self.num_cpus), "GPU": self.num_gpus, **self.resources}
        return {name: amount for name, amount in every.items() if amount > 0}


def start_cluster(num_cpus: int) -> None:
    """Start a private Ray cluster on this machine, which ends with this process; pools find it.

    Raises ConfigError if it would listen to more than this machine.
    """
    _prepare_ray()
    # Ray's own, 15, yields to whatever else the machine runs: deadlines would lie.
    os.environ.setdefault("RAY_worker_niceness", "0")
    with _loopback_stays(), _sigterm_stays():
        ray.init(
            address="local",  # without it Ray joins whatever cluster this machine has
            num_cpus=num_cpus,
            include_dashboard=False,
            object_store_memory=RAY_OBJECT_STORE_BYTES,
            log_to_driver=False,
            configure_logging=False,
            _node_ip_address=LOOPBACK,
        )
    listens_on = ray.nodes()[0]["NodeManagerAddress"]
    if not Address(listens_on, 0, is_client=False).is_loopback:
        ray.shutdown()
        raise ConfigError(
            f"a private cluster of Ray {ray.__version__} listens on {listens_on}, not on {LOOPBACK}"
            " alone; use the Ray of constraints.txt"
        )


@contextmanager
def joined(address: str | None) -> Iterator[None]:
    """Within, this process is a driver of the cluster at `address`; None: pools start their own.

    Raises ConfigError as `attach` does.
    """
    if address is None or ray.is_initialized():
        yield
        return
    attach(address)
    try:
        yield
    finally:
        ray.shutdown()


def attach(address: str) -> None:
    """Connect to a running cluster: `auto`, host:port, or ray://host:port.

    Raises ConfigError within 30 s if it does not answer, does not take this driver, or runs another
    Ray or Python.
    """
    _prepare_ray()
    target = parse_address(address)
    if target is None:
        target = find_cluster()
    named = address if str(target) == address else f"{address} ({target})"
    check_listens(named, target)
    check_answers(named, target)
    with _loopback_stays(target.is_loopback), _sigterm_stays():
        ray.init(address=str(target), log_to_driver=False, configure_logging=False)


def check_capacity(needs: Needs, num_workers: int, num_needed: int) -> str | None:
    """What to tell if the cluster has room for fewer than `num_workers` now; they join when it has
    more. Raises ConfigError if it has none for the `num_needed` that the run begins with.
    """
    alive = [node for node in ray.nodes() if node["Alive"]]
    selected = [node for node in alive if is_selected(node["Labels"], needs.labels)]
    nodes = [node["Resources"] for node in selected]
    fitting = sum(_num_fitting(node, needs.amounts) for node in nodes)
    if fitting >= num_workers:
        return None
    each = ", ".join(f"{amount:g} {name}" for name, amount in needs.amounts.items())
    have = ", ".join(
        f"{sum(node.get(name, 0.0) for node in nodes):g} {name}" for name in needs.amounts
    )
    labels = " ".join(f"{name}={value}" for name, value in needs.labels.items())
    where = f" with {labels} (of {len(alive)})" if labels else ""
    told = (
        f"{num_workers} workers of {each} do not fit the cluster, which has {have} on "
        f"{len(nodes)} node(s){where}: room for {fitting}"
    )
    if fitting >= num_needed:
        return f"{told}; the others join when there is more"
    step = (
        f"set workers.count to {fitting}, or workers.min_count and let the others join later"
        if fitting
        else "lower what a worker takes (workers.cpus, gpus, resources) or change its "
        "label_selector"
    )
    raise ConfigError(f"{told}; {step}, or add nodes")


def _num_fitting(node: Mapping[str, float], amounts: Mapping[str, float]) -> int:
    # A tenth of a GPU fits three times into .3 of one, whatever floats say.
    return min(int(node.get(name, 0.0) / amount + 1e-9) for name, amount in amounts.items())


def _prepare_ray() -> None:
    logging.getLogger("ray").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


@contextmanager
def _loopback_stays(is_so: bool = True) -> Iterator[None]:
    """Keep Ray from taking 127.0.0.1 for this machine's address in its network, on which it would
    listen to everybody; so it does where it cannot make clusters of several machines.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = before and not is_so
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _sigterm_stays() -> Iterator[None]:
    """Keep what a scheduler's polite end does; Ray's own handler would end a run without a word."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
