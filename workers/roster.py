"""A fleet's workers by what they are doing, kept at hand because every event asks."""

from workers.lives import Call, State, Worker


class Roster:
    """All workers, and those of them that are paused, ready, and ready without a chunk."""

    def __init__(self, num_workers: int) -> None:
        self.workers = [Worker(number) for number in range(num_workers)]
        self._paused = {worker.number: worker for worker in self.workers}
        self._ready: dict[int, Worker] = {}
        self._idle: dict[int, Worker] = {}

    @property
    def paused(self) -> list[Worker]:
        """Dead ones, to be made again."""
        return list(self._paused.values())

    @property
    def ready(self) -> list[Worker]:
        """Those that work or could."""
        return list(self._ready.values())

    @property
    def idle(self) -> list[Worker]:
        """Ready ones without a chunk, those that wait longest first."""
        return list(self._idle.values())

    @property
    def num_ready(self) -> int:
        """How many work or could."""
        return len(self._ready)

    def enter(self, worker: Worker, state: State) -> None:
        """A worker comes into a state."""
        worker.state = state
        for workers, of_state in ((self._paused, State.PAUSED), (self._ready, State.READY)):
            workers.pop(worker.number, None)
            if state is of_state:
                workers[worker.number] = worker
        self._idle.pop(worker.number, None)
        if state is State.READY and worker.working_on is None:
            self._idle[worker.number] = worker

    def occupy(self, worker: Worker, call: Call) -> None:
        """An idle worker has a chunk from here on."""
        worker.working_on = call
        del self._idle[worker.number]

    def release(self, worker: Worker, call: Call) -> None:
        """The call that a worker had its chunk by is over."""
        if worker.working_on is call:
            worker.working_on = None
            self._idle[worker.number] = worker
