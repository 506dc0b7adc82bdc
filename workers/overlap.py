"""Scoring beside generation: one thread scores completions while others are still being written.

Completions end in any order and scores land at their own places. What shares a call of a reward
depends on the requests' order alone: groups of consecutive ones are scored when all of a group are
there. So the results are the same, bit for bit, whatever finishes first.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TypeAlias

from rewards.base import Prompted, Score

# Scores of some items, in order, within so many seconds.
ScoreItems: TypeAlias = Callable[[Sequence[Prompted], float], list[Score]]

_Group: TypeAlias = "int | None"  # None: there are no more


class ScoringBeside:
    """Scores `num_items` completions in a thread of its own; a context manager."""

    def __init__(
        self, score: ScoreItems, num_items: int, num_together: int, limit_s: float
    ) -> None:
        """`num_together` consecutive items make a group; a group of one is scored together with
        whatever is there. All calls of `score` end within `limit_s` of now, so that waiting for
        completions and scoring them have one deadline.
        """
        self._score = score
        self._num_together = num_together
        self._ends = time.monotonic() + limit_s
        self._items: list[Prompted | None] = [None] * num_items
        self._scores: list[Score | None] = [None] * num_items
        self._num_missing = [len(range(num_items)[g]) for g in self._groups()]
        self._ready: queue.SimpleQueue[_Group] = queue.SimpleQueue()
        self._is_stopped = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="scoring", daemon=True)

    def __enter__(self) -> "ScoringBeside":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for the call under way, if any; further ones are not begun."""
        self._is_stopped = True
        self._ready.put(None)
        self._thread.join()

    def add(self, place: int, item: Prompted) -> None:
        """An item is there; returns at once."""
        self._items[place] = item
        group = place // self._num_together
        self._num_missing[group] -= 1
        if self._num_missing[group] == 0:
            self._ready.put(group)

    def scores(self) -> list[Score]:
        """All scores, in the items' order, once they are there; raises what a reward's own start
        raised. Every item must have been added.
        """
        self._ready.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error
        done = [score for score in self._scores if score is not None]
        assert len(done) == len(self._scores), "a completion was not handed in"
        return done

    def _groups(self) -> list[slice]:
        size = self._num_together
        return [slice(start, start + size) for start in range(0, len(self._items), size)]

    def _run(self) -> None:
        try:
            while groups := self._next():
                places = [place for group in groups for place in self._places(group)]
                self._score_places(places)
        except BaseException as error:  # handed over to the thread that asks for the scores
            self._error = error

    def _next(self) -> list[int]:
        """Groups for one call; none at the end."""
        groups: list[int] = []
        group = self._ready.get()
        while group is not None and not self._is_stopped:
            groups.append(group)
            if self._num_together > 1 or self._ready.empty():
                return groups
            group = self._ready.get()
        self._ready.put(None)  # seen again after the last call
        return [] if self._is_stopped else groups

    def _places(self, group: int) -> Sequence[int]:
        return range(len(self._items))[self._groups()[group]]

    def _score_places(self, places: Sequence[int]) -> None:
        items = [item for item in (self._items[place] for place in places) if item is not None]
        scores = self._score(items, self._ends - time.monotonic())
        for place, score in zip(places, scores, strict=True):
            self._scores[place] = score
