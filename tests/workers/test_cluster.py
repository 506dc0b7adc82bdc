"""Ray clusters: private ones are private, and one reached by address is joined or says why not.

Heads and drivers here are real processes, each in a session of its own, which is all that is ended.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import cast

import psutil
import pytest
import ray
import yaml
from cluster_processes import Head, free_port, wait_until, workers_below
from ledgers import ledger_body

from es_align.config_loading import load_config
from kernels.errors import ConfigError, ModelError
from workers import reaching
from workers.address import Address, parse_address
from workers.cluster import Needs, attach, check_capacity, start_cluster
from workers.labels import is_selected, is_selector
from workers.rendering import Renderer
from workers.starting import WorkerSpec, start_engine

LIMIT_S = 30.0
LONG_S = 280.0  # of a driver, on a machine with much else to do
GONE_S = 60.0  # of workers whose driver is
TOKEN = "0123456789abcdef" * 2


def refused(address: str) -> str:
    """What a driver says of an address, within 30 s of Ray's being imported."""
    started = time.monotonic()
    with pytest.raises(ConfigError) as told:
        attach(address)
    assert time.monotonic() - started < LIMIT_S
    return str(told.value)


@pytest.fixture(autouse=True)
def no_ray_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this machine had no other Ray, and no token of Ray's."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("head:6379", Address("head", 6379, False)),
        ("ray://10.0.0.7:10001", Address("10.0.0.7", 10001, True)),
        ("[::1]:6379", Address("::1", 6379, False)),
        ("auto", None),
    ],
)
def test_addresses_are_read(text: str, parsed: Address | None) -> None:
    assert parse_address(text) == parsed
    assert parsed is None or str(parsed) == text


@pytest.mark.parametrize(
    "text",
    ["", "head", "head:", ":6379", "head:0", "head:65536", "http://head:8265", "local", "a b:1"],
)
def test_malformed_addresses_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"must be auto, host:port or ray://host:port"):
        parse_address(text)


def test_where_nothing_listens_host_and_port_are_named() -> None:
    port = free_port()
    told = refused(f"127.0.0.1:{port}")
    assert told.startswith(f"workers.address=127.0.0.1:{port} does not answer")
    assert "6379" in told and "10001" in told


def test_auto_without_a_cluster_says_how_to_have_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert "no cluster found, as RAY_ADDRESS is not set" in refused("auto")


def test_auto_is_what_ray_start_left_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    port = free_port()
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{port}")
    assert refused("auto").startswith(f"workers.address=auto (127.0.0.1:{port}) does not answer")


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "ray://"])
def test_what_listens_and_is_no_ray_is_given_up_and_leaves_nothing(prefix: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        told = refused(f"{prefix}127.0.0.1:{silent.getsockname()[1]}")
    assert "listens, but did not answer as a Ray" in told
    assert not psutil.Process().children(recursive=True)
    assert threading.active_count() == 1


def test_other_versions_are_told_with_both() -> None:
    said = (
        "Traceback (most recent call last):\n"
        "RuntimeError: Version mismatch: The cluster was started with:\n"
        "    Ray: 2.59.0\n    Python: 3.11.7\n"
        "This process on node 10.0.0.7 was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n\n\n"
        "The above exception was the direct cause of the following exception:\n"
    )
    told = reaching.known_problem(said, Address("head", 6379, False))
    assert told == (
        "cannot be joined: Version mismatch: The cluster was started with: Ray: 2.59.0 Python: "
        "3.11.7 This process on node 10.0.0.7 was started with: Ray: 2.60.0 Python: 3.11.7; use "
        "one environment on all machines, with the versions of constraints.txt"
    )


def node(labels: Mapping[str, str] | None = None, **resources: float) -> dict:
    return {"Alive": True, "Resources": resources, "Labels": labels or {}}


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def pretend(*listed: dict) -> None:
        monkeypatch.setattr(ray, "nodes", lambda: list(listed))

    return pretend


def test_workers_that_fit_on_no_one_node_do_not_fit(nodes: Callable[..., None]) -> None:
    nodes(node(CPU=3.0), node(CPU=3.0))
    assert check_capacity(Needs(3, 0), 2, 2) is None
    with pytest.raises(ConfigError, match=r"3 workers of 2 CPU do not fit .* has 6 CPU on 2 node"):
        check_capacity(Needs(2, 0), 3, 3)


def test_what_is_missing_at_first_may_come_later(nodes: Callable[..., None]) -> None:
    nodes(node(CPU=4.0))
    told = check_capacity(Needs(1, 0), 8, 4)
    assert told is not None and told.endswith("room for 4; the others join when there is more")


def test_a_node_that_is_gone_has_no_room(nodes: Callable[..., None]) -> None:
    nodes(node(CPU=4.0) | {"Alive": False}, node(CPU=1.0))
    with pytest.raises(ConfigError, match=r"set workers\.count to 1"):
        check_capacity(Needs(1, 0), 2, 2)


def test_shares_of_a_gpu_are_counted_exactly(nodes: Callable[..., None]) -> None:
    nodes(node(CPU=8.0, GPU=0.3))
    assert check_capacity(Needs(1, 0.1), 3, 3) is None


def test_labels_and_resources_limit_the_nodes(nodes: Callable[..., None]) -> None:
    fast = node({"ray.io/accelerator-type": "H100"}, CPU=8.0, slot=1.0)
    nodes(fast, node({"ray.io/accelerator-type": "A10"}, CPU=64.0))
    h100 = {"ray.io/accelerator-type": "H100"}
    assert check_capacity(Needs(4, 0, {}, h100), 2, 2) is None
    with pytest.raises(ConfigError, match=r"ray.io/accelerator-type=H100 \(of 2\): room for 2"):
        check_capacity(Needs(4, 0, {}, h100), 3, 3)
    with pytest.raises(ConfigError, match=r"which has 72 CPU, 1 slot on 2 node\(s\): room for 1"):
        check_capacity(Needs(1, 0, {"slot": 1.0}), 2, 2)


@pytest.mark.parametrize(
    ("wanted", "selected"),
    [("H100", "b"), ("!H100", "ac"), ("in(H100, A10)", "ab"), ("!in(H100, A10)", "c")],
)
def test_selectors_mean_what_ray_means(wanted: str, selected: str) -> None:
    labels = {"a": {"kind": "A10"}, "b": {"kind": "H100"}, "c": {}}
    found = [name for name, of in labels.items() if is_selected(of, {"kind": wanted})]
    assert "".join(found) == selected


@pytest.mark.parametrize("text", ["", "in()", "-H100", "!!H100", "in(H100,", "> 4"])
def test_what_ray_does_not_read_is_no_selector(text: str) -> None:
    assert not is_selector(text)


def test_a_package_that_a_machine_lacks_is_named_with_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = WorkerSpec(
        engine="vllm",
        locate_model=Path,
        precision="bf16",
        reward_name="letters",
        max_members=4,
        max_model_len=64,
        max_new_tokens=8,
        kv_cache_gb=1,
        num_threads=1,
    )
    monkeypatch.delitem(sys.modules, "workers.engines.vllm_engine", raising=False)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ModelError) as told:
        start_engine(spec, Path(), None, cast(Renderer, None))
    wanted = f"needs the package vllm, which {sys.executable} on {os.uname().nodename} does not"
    assert wanted in str(told.value)


def test_what_docs_cluster_holds_is_well_formed(repository: Path, tmp_path: Path) -> None:
    folder = repository / "docs" / "cluster"
    kept, job = yaml.safe_load_all((folder / "kuberay.yaml").read_text())
    (tmp_path / "config.yaml").write_text(kept["data"]["config.yaml"])
    (tmp_path / "run.sh").write_text(kept["data"]["run.sh"])
    workers = load_config(tmp_path / "config.yaml").workers
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == ray.__version__
    (group,) = cluster["workerGroupSpecs"]
    assert is_selected(group["labels"], workers.label_selector)
    assert group["replicas"] == workers.count
    for script in (folder / "slurm.sh", tmp_path / "run.sh"):
        subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.slow
def test_a_private_cluster_listens_on_loopback_alone_and_is_nobody_elses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")  # of a cluster, now gone
    before = signal.getsignal(signal.SIGTERM)
    start_cluster(1)
    try:
        assert signal.getsignal(signal.SIGTERM) is before
        ray.get(ray.remote(lambda: None).remote())
        here = psutil.Process()
        processes = [here, *here.children(recursive=True)]
        names = " ".join(process.name() for process in processes)
        assert "gcs_server" in names and "raylet" in names and "ray::" in names
        listening = {
            (process.name(), socket_.laddr.ip)
            for process in processes
            for socket_ in process.net_connections(kind="inet")
            if socket_.status == psutil.CONN_LISTEN
        }
        assert len(listening) >= 4
        others = {
            (name, ip) for name, ip in listening if ip not in ("127.0.0.1", "::ffff:127.0.0.1")
        }
        assert others == set()
    finally:
        ray.shutdown()


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with Head(TOKEN, tmp_path_factory.mktemp("head")) as head:
        yield head.wait()


def settings(folder: Path, *more: str) -> list[str]:
    """Arguments of a short run on a cluster."""
    listed = ["generations=2", "evaluation.noise_floor_repeats=0", *more]
    sets = [part for setting in listed for part in ("--set", setting)]
    return ["train", "configs/tiny.yaml", "--run-dir", str(folder), *sets]


@pytest.mark.slow
@pytest.mark.parametrize("is_client", [False, True])
@pytest.mark.parametrize(("mode", "token"), [("token", "f" * 32), ("disabled", "")])
def test_a_wrong_or_missing_token_is_told(
    head: Head, monkeypatch: pytest.MonkeyPatch, is_client: bool, mode: str, token: str
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    told = refused(head.client_address if is_client else head.address)
    assert (
        f"wants a token, and this driver's is missing or another (RAY_AUTH_MODE is {mode})" in told
    )


@pytest.mark.slow
def test_another_ray_is_told(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, head.environment[name])
    other = reaching.CHILD.replace("ray.init(", "ray.__version__ = '2.1.0'; ray.init(")
    monkeypatch.setattr(reaching, "CHILD", other)
    told = refused(head.address)
    assert f"The cluster was started with: Ray: {ray.__version__} Python: " in told
    assert "was started with: Ray: 2.1.0" in told


def run_to_its_end(head: Head, cwd: Path, log: Path, *arguments: str) -> tuple[int, str]:
    """Exit status of a driver, and what it said."""
    with head.driver(cwd, log, *arguments) as driver:
        return driver.process.wait(LONG_S), driver.said


@pytest.mark.slow
@pytest.mark.parametrize("is_client", [False, True])
def test_a_run_on_a_cluster_leaves_it_as_it_was(
    head: Head, repository: Path, tmp_path: Path, is_client: bool
) -> None:
    address = head.client_address if is_client else head.address
    arguments = [*settings(tmp_path / "run"), "--address", address]
    code, said = run_to_its_end(head, repository, tmp_path / "log", *arguments)
    if code == 2 and "did not answer as a Ray client" in said:  # on a busy machine it takes longer
        code, said = run_to_its_end(head, repository, tmp_path / "log2", *arguments)
    assert code == 0, said
    assert len((tmp_path / "run" / "ledger.jsonl").read_text().splitlines()) == 3
    wait_until(lambda: not workers_below(head.tree), GONE_S)
    assert head.is_running


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_nodes_share_a_run_and_a_killed_driver_leaves_no_worker(
    head: Head, repository: Path, tmp_path: Path
) -> None:
    second = '{"num_cpus": 1, "labels": {"site": "b"}, "resources": {"slot": 1}}'
    arguments = settings(
        tmp_path / "run",
        "generations=100000",
        "workers.count=2",
        "workers.min_count=2",
        "workers.resources.slot=1",
        "workers.label_selector={site: 'in(a, b)'}",
    )
    arguments += ["--address", head.address]
    ledger = tmp_path / "run" / "ledger.jsonl"
    with (
        head.node(second) as node,
        head.driver(repository, tmp_path / "log", *arguments) as driver,
    ):
        wait_until(lambda: num_lines(ledger) > 2, LONG_S, driver)
        assert len(workers_below(head.tree)) == len(workers_below(node.tree)) == 1
        with head.driver(repository, tmp_path / "log2", *arguments, "--resume") as other:
            assert other.process.wait(LONG_S) == 2
        assert f"is being written by process {driver.process.pid}; wait for that" in other.said
        assert "ready in" in driver.said and "ready in" not in other.said
        driver.kill()
        wait_until(lambda: not workers_below(head.tree) and not workers_below(node.tree), GONE_S)
        assert head.is_running and node.is_running


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_node_lost_in_mid_generation_changes_no_number(
    head: Head, repository: Path, tmp_path: Path
) -> None:
    run = ["max_new_tokens=64", "workers.members_per_chunk=2"]
    shared = settings(
        tmp_path / "run", *run, "generations=100000", "workers.count=2", "workers.min_count=2"
    )
    ledger = tmp_path / "run" / "ledger.jsonl"
    with (
        head.node('{"num_cpus": 1}') as node,
        head.driver(repository, tmp_path / "log", *shared, "--address", head.address) as driver,
    ):
        wait_until(lambda: num_lines(ledger) > 3, LONG_S, driver)
        assert workers_below(node.tree)
        node.end()  # the manager and its worker at once, as a machine that loses power
        # Ray may take its time to say so; the other worker is given what is late meanwhile.
        wait_until(lambda: "made again" in driver.said, LONG_S, driver)
        num_told = num_lines(ledger)
        wait_until(lambda: num_lines(ledger) > num_told + 2, LONG_S, driver)
    found = ledger_body(tmp_path / "run")
    run += [f"generations={len(found)}"]
    with head.driver(repository, tmp_path / "log2", *settings(tmp_path / "alone", *run)) as driver:
        assert driver.process.wait(LONG_S) == 0, driver.said
    assert found == ledger_body(tmp_path / "alone")


def num_lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.is_file() else 0
