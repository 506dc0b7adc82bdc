"""What is counted of a dispatch, on a clock that only moves when something happens."""

import heapq
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import ray

from kernels.errors import WorkerError
from workers import ray_metrics
from workers.dispatch import Dispatcher
from workers.fleet import Fleet
from workers.lives import FleetSettings
from workers.protocol import Chunk, ChunkResult, Sampling, WorkerInfo
from workers.ray_metrics import RayMetrics
from workers.transport import PLACED, Event
from workers.usage import Usage, WorkerUsage

PLACE_S, LOAD_S = 1.0, 2.0
TOKENS = 10  # of every chunk
EXPORT_DEADLINE_S = 60
Seconds = Callable[[int, Chunk], float | Exception]  # an exception comes after half a second


class ScriptedTransport:
    """Workers that take as long as they are told, and fail when they are told."""

    def __init__(self, seconds: Seconds) -> None:
        self.seconds = seconds
        self.clock = 0.0
        self.num_calls = 0
        self.coming: list[tuple[float, int, Event]] = []

    def now(self) -> float:
        return self.clock

    def place(self, worker: int) -> int:
        return self._later(PLACE_S, worker, PLACED)

    def call(self, worker: int, method: str, *arguments: object) -> int:
        if method == "load":
            return self._later(LOAD_S, worker, WorkerInfo(worker, 1, "torch", LOAD_S, 0, 1))
        (chunk,) = arguments
        assert isinstance(chunk, Chunk)
        seconds = self.seconds(worker, chunk)
        if isinstance(seconds, Exception):
            return self._later(0.5, worker, seconds)
        return self._later(seconds, worker, answer(chunk))

    def wait(self, timeout_s: float) -> Sequence[Event]:
        if not self.coming or self.coming[0][0] > self.clock + timeout_s:
            self.clock += timeout_s
            return []
        self.clock, _, event = heapq.heappop(self.coming)
        return [event]

    def kill(self, worker: int) -> None:
        self.coming = [entry for entry in self.coming if entry[2].worker != worker]
        heapq.heapify(self.coming)

    def where(self, worker: int) -> str:
        return f"node-{worker}"

    def describe(self, problem: Exception) -> str:
        return str(problem)

    def close(self) -> None:
        return None

    def _later(self, seconds: float, worker: int, outcome: object) -> int:
        self.num_calls += 1
        event = Event(self.num_calls, worker, outcome)
        heapq.heappush(self.coming, (self.clock + seconds, self.num_calls, event))
        return self.num_calls


def make_chunks(num_chunks: int) -> list[Chunk]:
    return [Chunk(i, 0, (i,), None, ("train/0",), Sampling(8)) for i in range(num_chunks)]


def answer(chunk: Chunk) -> ChunkResult:
    zeros = np.zeros((1, 1))
    return ChunkResult(chunk.chunk_id, chunk.members, zeros, zeros, {}, {}, 1, 0, TOKENS, 1, 0, 0)


def started(seconds: Seconds, num_workers: int = 2) -> Dispatcher:
    settings = FleetSettings(num_workers, num_workers, 60, 200, max_retries=2)
    fleet = Fleet(ScriptedTransport(seconds), settings, lambda message: None)
    fleet.start((), ())
    return Dispatcher(fleet)


def test_busy_and_idle_seconds_chunks_and_tokens_of_each_worker() -> None:
    dispatcher = started(lambda worker, chunk: (1.0, 1.5)[worker])
    dispatcher.evaluate(make_chunks(4))
    usage = dispatcher.usage()
    assert usage.workers == (
        WorkerUsage(0, "node-0", "ready", 2, 20, busy_s=2.0, idle_s=1.0, num_starts=1, problem=""),
        WorkerUsage(1, "node-1", "ready", 2, 20, busy_s=3.0, idle_s=0.0, num_starts=1, problem=""),
    )
    assert usage.workers[0].busy_share == pytest.approx(2 / 3)
    assert usage.workers[1].tokens_per_s == pytest.approx(20 / 3)
    assert usage.metrics == pytest.approx(
        {
            "workers/ready": 2,
            "workers/idle_share": 1 / 6,
            "workers/num_retries": 0,
            "workers/num_copies": 0,
            "workers/num_dropped": 0,
            "workers/queue_max": 2,
        }
    )


def test_every_evaluation_counts_anew() -> None:
    dispatcher = started(lambda worker, chunk: 1.0)
    dispatcher.evaluate(make_chunks(8))
    dispatcher.evaluate(make_chunks(1))
    usage = dispatcher.usage()
    assert [worker.num_chunks for worker in usage.workers] == [1, 0]
    assert [worker.busy_s for worker in usage.workers] == [1.0, 0.0]
    assert [worker.idle_s for worker in usage.workers] == [0.0, 1.0]
    assert usage.queue_max == 0 and usage.efficiency == 0.5


def test_a_failure_is_a_retry_and_being_made_anew_is_not_idle() -> None:
    problems = [RuntimeError("out of luck")]

    def seconds(worker: int, chunk: Chunk) -> float | Exception:
        return problems.pop() if worker == 1 and problems else 1.0

    dispatcher = started(seconds)
    dispatcher.evaluate(make_chunks(5))
    usage = dispatcher.usage()
    # Worker 1 fails after .5 s, is placed and loaded by 3.5, has the last chunk but one until 4.5.
    assert usage.num_retries == 1 and usage.num_ready == 2
    assert usage.workers[1] == WorkerUsage(
        1, "node-1", "ready", 1, TOKENS, 1.5, 0.0, num_starts=2, problem="out of luck"
    )
    assert usage.workers[0].num_chunks == 4


def test_a_worker_without_a_machine_has_no_host() -> None:
    def seconds(worker: int, chunk: Chunk) -> float | Exception:
        return RuntimeError("gone") if worker == 1 else 0.6

    dispatcher = started(seconds)
    dispatcher.evaluate(make_chunks(2))  # until 1.2 s: worker 1 fails at .5, is placed at 1.5
    worker = dispatcher.usage().workers[1]
    assert (worker.state, worker.host, worker.problem) == ("placing", "", "gone")


def test_a_late_chunk_is_a_copy_and_its_first_worker_stays_busy() -> None:
    dispatcher = started(lambda worker, chunk: (1.0, 100.0)[worker])
    dispatcher.evaluate(make_chunks(4))
    usage = dispatcher.usage()
    # Late at 2 s, but worker 0 is free at 3: the copy ends at 4.
    assert usage.num_copies == 1 and usage.num_retries == 0
    assert [worker.busy_s for worker in usage.workers] == [4.0, 4.0]
    assert [worker.num_chunks for worker in usage.workers] == [4, 0]
    dispatcher.evaluate(make_chunks(1))
    assert [worker.busy_s for worker in dispatcher.usage().workers] == [1.0, 1.0]


def test_members_that_are_not_waited_for_are_dropped() -> None:
    dispatcher = started(lambda worker, chunk: (1.0, 9.0)[worker])
    dispatcher.evaluate(make_chunks(4), drop_slowest=0.25)
    assert dispatcher.usage().num_dropped == 1


def test_before_the_first_evaluation_workers_are_there_and_did_nothing() -> None:
    usage = started(lambda worker, chunk: 1.0).usage()
    assert usage.num_ready == 2 and np.isnan(usage.efficiency)
    assert [worker.num_starts for worker in usage.workers] == [1, 1]


def test_a_row_is_rounded_to_milliseconds_and_cuts_long_problems() -> None:
    long = replace(USAGE.workers[1], problem="x" * 999)
    row = replace(USAGE, workers=(USAGE.workers[0], long)).row
    assert isinstance(row["workers"], list)
    assert row["workers"][0] == {
        "worker": 0,
        "host": "node-0",
        "state": "ready",
        "num_chunks": 3,
        "num_tokens": 600,
        "busy_s": 2.5,
        "idle_s": 0.333,
        "num_starts": 1,
        "problem": "",
    }
    assert row["workers"][1]["problem"] == "x" * 200


USAGE = Usage(
    workers=(
        WorkerUsage(0, "node-0", "ready", 3, 600, 2.5, 1 / 3, 1, ""),
        WorkerUsage(1, "", "placing", 0, 0, 0.0, 0.0, 2, "gone"),
    ),
    num_ready=1,
    queue_max=4,
    num_retries=0,
    num_copies=2,
    num_dropped=5,
)


class Told:
    """Stands for Ray's gauges and counters: keeps what they were given."""

    values: dict[tuple[str, str], float]

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        assert description
        self.name, self.tag_keys = name.removeprefix("es_align_"), tag_keys

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert tuple(tags) == self.tag_keys and tags["run"] == "mine"
        Told.values[self.name, tags.get("worker", "")] = value

    def inc(self, value: float, tags: dict[str, str]) -> None:
        assert value > 0
        self.set(Told.values.get((self.name, tags.get("worker", "")), 0) + value, tags)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> type[Told]:
    Told.values = {}
    monkeypatch.setattr(ray_metrics, "Gauge", Told)
    monkeypatch.setattr(ray_metrics, "Counter", Told)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    return Told


def test_ray_is_told_the_last_generation_and_totals(told: type[Told]) -> None:
    metrics = RayMetrics("mine", pytest.fail)
    metrics.publish(1, USAGE)
    metrics.publish(2, USAGE)
    assert told.values == pytest.approx(
        {
            ("generation", ""): 2,
            ("workers_ready", ""): 1,
            ("workers_idle_share", ""): 0.11764706,
            ("queue_max", ""): 4,
            ("copies", ""): 4,
            ("dropped_members", ""): 10,
            ("worker_ready", "0"): 1,
            ("worker_busy_share", "0"): 0.88235294,
            ("worker_tokens_per_s", "0"): 240,
            ("worker_starts", "0"): 1,
            ("worker_chunks", "0"): 6,
            ("worker_tokens", "0"): 1200,
            ("worker_ready", "1"): 0,
            ("worker_busy_share", "1"): 0,
            ("worker_tokens_per_s", "1"): 0,
            ("worker_starts", "1"): 2,
        }
    )


def test_what_fails_in_rays_metrics_is_told_once_and_ends_nothing(
    told: type[Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise WorkerError("no agent")

    monkeypatch.setattr(told, "set", refuse)
    said: list[str] = []
    metrics = RayMetrics("mine", said.append)
    metrics.publish(1, USAGE)
    metrics.publish(2, USAGE)
    assert said == ["no more metrics for Ray: WorkerError: no agent"]


def test_without_ray_nothing_is_made(told: type[Told], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    RayMetrics("mine", pytest.fail).publish(1, USAGE)
    assert told.values == {}


@pytest.mark.slow
def test_ray_exports_them(cluster: None) -> None:
    """Reads the node's own endpoint where `ray[default]` is there to serve one."""
    RayMetrics("mine", pytest.fail).publish(7, USAGE)
    pytest.importorskip("aiohttp_cors")
    pytest.importorskip("opentelemetry.exporter.prometheus")
    wanted = {
        "ray_es_align_generation": ("", 7.0),
        "ray_es_align_worker_tokens_per_s": ('worker="0"', 240.0),
        "ray_es_align_worker_tokens_total": ('worker="0"', 600.0),
    }
    until = time.monotonic() + EXPORT_DEADLINE_S
    found: dict[str, float] = {}
    while len(found) < len(wanted) and time.monotonic() < until:
        time.sleep(1)
        for line in exported():
            name = line.partition("{")[0]
            tag, _ = wanted.get(name, ("", 0))
            if name in wanted and 'run="mine"' in line and tag in line:
                found[name] = float(line.rpartition(" ")[2])
    assert found == {name: value for name, (_, value) in wanted.items()}


def exported() -> list[str]:
    """Lines of the Prometheus endpoint of the only node; none before its agent is up."""
    node = ray.nodes()[0]
    if node["MetricsExportPort"] <= 0:
        return []
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(address, timeout=5) as answer:
        return answer.read().decode().splitlines()
