"""What the workers did as metrics of Ray, for a dashboard or Prometheus beside a cluster's own.

Ray exports them from the node that the driver runs on, with `ray_` before each name and `_total`
behind a counter's, if `ray[default]` is installed there; a driver that is connected through
`ray://` runs on none, and exports nothing. They are for looking at: what fails here is told once
and ends no run.
"""

import math
from collections.abc import Callable

import ray
from ray.util.metrics import Counter, Gauge

from workers.lives import State
from workers.usage import Usage, WorkerUsage

OF_RUN = ("run",)
OF_WORKER = ("run", "worker")
RUN_GAUGES = {
    "es_align_generation": "Generations done",
    "es_align_workers_ready": "Workers that are ready",
    "es_align_workers_idle_share": "Share of ready worker seconds without a chunk, last generation",
    "es_align_queue_max": "Most chunks that waited for a worker at once, last generation",
}
RUN_COUNTERS = {
    "es_align_retries": "Chunks given out again after a failure",
    "es_align_copies": "Late chunks given to a second worker",
    "es_align_dropped_members": "Members that were not waited for",
}
WORKER_GAUGES = {
    "es_align_worker_ready": "1 if the worker is ready, else 0",
    "es_align_worker_busy_share": "Share of its ready seconds with a chunk, last generation",
    "es_align_worker_tokens_per_s": "Generated tokens a busy second, last generation",
    "es_align_worker_starts": "How often the worker was started",
}
WORKER_COUNTERS = {
    "es_align_worker_chunks": "Chunks answered",
    "es_align_worker_tokens": "Tokens generated",
}


class RayMetrics:
    """The metrics of one run; without a connection to Ray it does nothing."""

    def __init__(self, run: str, tell: Callable[[str], None]) -> None:
        """`run` becomes the tag of that name; `tell` hears what goes wrong."""
        self._run = run
        self._tell = tell
        self._gauges: dict[str, Gauge] = {}
        self._counters: dict[str, Counter] = {}
        self._is_on = ray.is_initialized()

    def publish(self, num_done: int, usage: Usage) -> None:
        """Set what a generation came to, `num_done` being how many there are now."""
        if not self._is_on:
            return
        try:  # Ray's own statistics, which no generation depends on
            self._publish(num_done, usage)
        except Exception as error:
            self._is_on = False
            self._tell(f"no more metrics for Ray: {type(error).__name__}: {error}")

    def _publish(self, num_done: int, usage: Usage) -> None:
        if not self._gauges:
            self._make()
        tags = {"run": self._run}
        self._set("es_align_generation", num_done, tags)
        self._set("es_align_workers_ready", usage.num_ready, tags)
        self._set("es_align_workers_idle_share", 1.0 - usage.efficiency, tags)
        self._set("es_align_queue_max", usage.queue_max, tags)
        self._add("es_align_retries", usage.num_retries, tags)
        self._add("es_align_copies", usage.num_copies, tags)
        self._add("es_align_dropped_members", usage.num_dropped, tags)
        for worker in usage.workers:
            self._publish_worker(worker, tags | {"worker": str(worker.worker)})

    def _publish_worker(self, worker: WorkerUsage, tags: dict[str, str]) -> None:
        self._set("es_align_worker_ready", worker.state == State.READY.value, tags)
        self._set("es_align_worker_busy_share", worker.busy_share, tags)
        self._set("es_align_worker_tokens_per_s", worker.tokens_per_s, tags)
        self._set("es_align_worker_starts", worker.num_starts, tags)
        self._add("es_align_worker_chunks", worker.num_chunks, tags)
        self._add("es_align_worker_tokens", worker.num_tokens, tags)

    def _make(self) -> None:
        for keys, gauges in ((OF_RUN, RUN_GAUGES), (OF_WORKER, WORKER_GAUGES)):
            self._gauges |= {name: Gauge(name, text, keys) for name, text in gauges.items()}
        for keys, counters in ((OF_RUN, RUN_COUNTERS), (OF_WORKER, WORKER_COUNTERS)):
            self._counters |= {name: Counter(name, text, keys) for name, text in counters.items()}

    def _set(self, name: str, value: float, tags: dict[str, str]) -> None:
        # What could not be measured is 0: a gauge would otherwise keep an older generation's value.
        self._gauges[name].set(0.0 if math.isnan(value) else float(value), tags)

    def _add(self, name: str, count: int, tags: dict[str, str]) -> None:
        if count > 0:  # Ray refuses 0
            self._counters[name].inc(count, tags)
