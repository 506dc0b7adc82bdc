"""The calls of a fleet that are under way, with their deadlines."""

import heapq
from collections.abc import Iterable, Iterator

from workers.lives import FOREVER, Call


class OpenCalls:
    """Calls that are not over, by their numbers."""

    def __init__(self) -> None:
        self._calls: dict[int, Call] = {}
        self._deadlines: list[tuple[float, int]] = []  # a heap, with calls that are over

    def __contains__(self, number: int) -> bool:
        return number in self._calls

    def __iter__(self) -> Iterator[Call]:
        return iter(self._calls.values())

    def add(self, call: Call) -> None:
        """It is under way."""
        self._calls[call.number] = call
        if call.deadline_s != FOREVER:
            heapq.heappush(self._deadlines, (call.started + call.deadline_s, call.number))

    def pop(self, number: int) -> Call:
        """It is over."""
        return self._calls.pop(number)

    def still_open(self, numbers: Iterable[int]) -> set[int]:
        """Those of them that are not over."""
        return self._calls.keys() & set(numbers)

    def forget(self, worker: int) -> None:
        """Drop all calls to a worker."""
        self._calls = {n: call for n, call in self._calls.items() if call.worker != worker}

    @property
    def next_deadline(self) -> float:
        """When the next call is late; FOREVER if none will be."""
        while self._deadlines and self._deadlines[0][1] not in self._calls:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else FOREVER

    def pop_late(self, now: float) -> list[Call]:
        """Take out the calls whose deadline is over."""
        late = []
        while self.next_deadline <= now:
            late.append(self._calls.pop(heapq.heappop(self._deadlines)[1]))
        return late
