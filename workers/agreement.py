"""Which mean the workers hold after a move: the one that most of them say, by its digest.

Those that are still catching up, or busy with a chunk, have no vote; they are compared afterwards.
"""

from collections import Counter

from kernels.errors import WorkerError
from workers.protocol import Moved

_NEXT_STEP = "their machines or versions differ: use one kind, then go on with --resume"


class Agreement:
    """What is agreed on, or what was said so far."""

    def __init__(self) -> None:
        self.moved: Moved | None = None  # every worker's mean; None: not agreed on, or none is held
        self._votes: dict[int, Moved] = {}
        self._has_tied = False

    @property
    def has_votes(self) -> bool:
        """Whether a worker said what it holds, and it is not agreed on."""
        return bool(self._votes)

    def reopen(self) -> None:
        """Forget what was agreed on: the workers are making a move."""
        self.moved, self._votes = None, {}

    def withdraw(self, worker: int) -> None:
        """Forget what a worker said: it is gone."""
        self._votes.pop(worker, None)

    def hear(self, worker: int, moved: Moved, num_moves: int) -> WorkerError | None:
        """Hear what a worker holds after all moves: a vote, or a problem if something else is
        agreed on.
        """
        if self.moved is None:
            self._votes[worker] = moved
            return None
        if moved.digest == self.moved.digest:
            return None
        return WorkerError(
            f"after {num_moves} moves worker {worker} holds a mean with digest "
            f"{moved.digest[:12]}, others one with {self.moved.digest[:12]}; {_NEXT_STEP}"
        )

    def settle(self, num_moves: int) -> dict[int, WorkerError]:
        """Agree on what most of the votes say; the problems of those that said something else.

        If no digest has most of them nothing is agreed on and every voter has the problem: made
        anew they move to the same mean, or never will. Raises that problem the second time.
        """
        votes = dict(sorted(self._votes.items()))
        counts = Counter(moved.digest for moved in votes.values()).most_common(2)
        self._votes = {}
        if len(counts) > 1 and counts[0][1] == counts[1][1]:
            told = ", ".join(f"worker {w} {moved.digest[:12]}" for w, moved in votes.items())
            tie = WorkerError(
                f"after {num_moves} moves the workers hold different means ({told}); {_NEXT_STEP}"
            )
            if self._has_tied:
                raise tie
            self._has_tied = True
            return dict.fromkeys(votes, tie)
        self.moved = next(m for m in votes.values() if m.digest == counts[0][0])
        heard = {worker: self.hear(worker, moved, num_moves) for worker, moved in votes.items()}
        return {worker: problem for worker, problem in heard.items() if problem is not None}
