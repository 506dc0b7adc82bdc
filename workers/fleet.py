"""The workers of a run and their lives: made, loaded, brought to the run's mean, killed, made anew.

A worker that fails is killed and comes back by itself, later after each failure in a row, while the
others work on; so does one whose machine is gone, once there is another. A worker gets work only
when it holds the mean that the others hold: digests are compared after it has loaded and after
every move, and one that differs is fenced off and started again.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from kernels.errors import EsAlignError, WorkerError
from workers.agreement import Agreement
from workers.calls import OpenCalls
from workers.lives import (
    FOREVER,
    Call,
    FleetSettings,
    Over,
    State,
    TookTooLong,
    Worker,
    count_states,
    told_problems,
    told_states,
)
from workers.protocol import Move, Moved, WorkerInfo
from workers.roster import Roster
from workers.transport import Transport

LONGEST_PAUSE_S = 60.0  # before a worker that keeps failing is made again

Tell = Callable[[str], None]


class Fleet:
    """Workers behind a transport."""

    def __init__(self, transport: Transport, settings: FleetSettings, tell: Tell) -> None:
        self.roster = Roster(settings.num_workers)
        self.num_failures = 0
        self.settings = settings
        self.began = transport.now()
        self._transport = transport
        self._tell = tell
        self._load_arguments: Sequence[object] = ()
        self._calls = OpenCalls()
        self._moves: list[Move] = []
        self._agreement = Agreement()
        self._is_started = False
        self._set_aside: list[Over] = []  # until what is going on is over
        self._lost: list[Over] = []  # chunks of workers that failed with something else
        self._none_ready_since = transport.now()  # FOREVER while one is

    def now(self) -> float:
        """Seconds on the transport's clock."""
        return self._transport.now()

    def start(self, load_arguments: Sequence[object], moves: Sequence[Move]) -> list[WorkerInfo]:
        """Make all workers and wait until as many as are needed have loaded and made `moves`.

        Raises what a worker raised if it is an error a user can mend, WorkerError if they are not
        ready in time.
        """
        self._load_arguments, self._moves = load_arguments, list(moves)
        infos: dict[int, WorkerInfo] = {}
        ends = self._transport.now() + self._patience_s
        while self.roster.num_ready < self.settings.num_needed:
            if self._transport.now() >= ends:
                raise WorkerError(
                    f"{self.roster.num_ready} of the {self.settings.num_needed} workers that the "
                    f"run begins with are ready after {self._patience_s:.0f} s "
                    f"({told_states(self.workers)}); raise workers.load_deadline_s, lower "
                    "workers.min_count, or make room on the cluster"
                )
            num_left = len(self.workers) - self.states()[State.GIVEN_UP]
            if num_left < self.settings.num_needed:
                problems = told_problems(self.workers)
                raise WorkerError(f"{num_left} of {len(self.workers)} workers are left: {problems}")
            for over in self.step(ends):
                if isinstance(over.outcome, WorkerInfo):
                    infos[over.call.worker] = over.outcome
        self._is_started = True
        return [infos[number] for number in sorted(infos)]

    def move(self, move: Move) -> Moved:
        """Let every worker take a step with its mean and agree on what it is then.

        Those still busy, with a chunk that somebody else has answered or with moves before it, take
        it when they are done, and are compared then. Raises WorkerError if they cannot agree.
        """
        self._moves.append(move)
        self._agreement.reopen()
        for worker in self.roster.ready:
            self._send_moves(worker)
        while self._agreement.moved is None:
            self._agree()
            if self._agreement.moved is None:
                self._put_aside(self.step(FOREVER))
        self._give_back()
        return self._agreement.moved

    def call(
        self,
        worker: int,
        method: str,
        *arguments: object,
        deadline_s: float,
        subject: object = None,
    ) -> Call:
        """Call a ready worker; `step` says how it ended."""
        number = self._transport.call(worker, method, *arguments)
        return self._note(number, worker, method, deadline_s, subject)

    def call_all(self, method: str, *arguments: object, deadline_s: float) -> list[object]:
        """What the workers without a chunk answer, in their order; one that fails is made anew.

        Raises an error that a user can mend, and WorkerError if nobody answers.
        """
        answers, problem = self._ask(self.idle, method, arguments, deadline_s)
        if not answers:
            raise self.as_user_error(problem or TookTooLong("every worker is busy"), method)
        return answers

    def try_one(self, method: str, *arguments: object, deadline_s: float) -> object | None:
        """What a worker without a chunk answers; None if there is none, or it fails and is made
        anew. For what a run can do without.
        """
        answers, _ = self._ask(self.idle[:1], method, arguments, deadline_s)
        return answers[0] if answers else None

    def _ask(
        self, workers: Sequence[Worker], method: str, arguments: Sequence[object], deadline_s: float
    ) -> tuple[list[object], Exception | None]:
        """Answers in the order of the workers, and what went wrong with one of the others."""
        waiting = {
            self.call(worker.number, method, *arguments, deadline_s=deadline_s).number
            for worker in workers
        }
        answers: dict[int, object] = {}
        problem: Exception | None = None
        while waiting:
            over = self.step(FOREVER)
            self._put_aside(over)
            for call, outcome in over:
                if call.number not in waiting:
                    continue
                if isinstance(outcome, EsAlignError):
                    raise outcome
                if isinstance(outcome, Exception):
                    problem = outcome
                    self.fail(self.workers[call.worker], outcome)
                else:
                    answers[call.worker] = outcome
            waiting = self._calls.still_open(waiting)
        self._give_back()
        return [answers[worker] for worker in sorted(answers)], problem

    def step(self, until: float) -> list[Over]:
        """Wait for the next thing to happen, at most until `until` on the transport's clock, and
        see to the workers' lives; returns the calls that are over.
        """
        now = self._transport.now()
        self._place_due(now)
        timeout_s = 0.0 if self._lost else max(0.0, min(until, self._next_timer()) - now)
        events = self._transport.wait(timeout_s)
        over = [Over(self._calls.pop(e.call), e.outcome) for e in events if e.call in self._calls]
        over += self._late(self._transport.now())
        over += self._lost
        self._lost = []
        for call, outcome in over:
            self._live(call, outcome)
        self._require_hope()
        return over

    def _put_aside(self, over: Sequence[Over]) -> None:
        """Keep ends of chunks, which are the dispatcher's to see to, for its next `step`."""
        self._set_aside += [one for one in over if one.call.method == "evaluate"]

    def _give_back(self) -> None:
        self._lost += self._set_aside
        self._set_aside = []

    def fail(self, worker: Worker, problem: Exception) -> None:
        """Kill a worker that failed; it is made again, at once the first time and later after each
        failure in a row.
        """
        self._transport.kill(worker.number)
        busy = worker.working_on
        if busy is not None and busy.number in self._calls:
            self._lost.append(Over(busy, problem))
        self._calls.forget(worker.number)
        self.num_failures += 1
        worker.failures += 1
        pause_s = min(2.0 ** (worker.failures - 1), LONGEST_PAUSE_S) if worker.failures > 1 else 0.0
        where = self._transport.where(worker.number)
        if worker.ready_since is not None:
            worker.ready_s += self.now() - worker.ready_since
        worker.ready_since = worker.working_on = None
        self.roster.enter(worker, State.PAUSED)
        worker.not_before = self._transport.now() + pause_s
        if not self.roster.num_ready:
            self._none_ready_since = min(self._none_ready_since, self._transport.now())
        worker.problem = self._transport.describe(problem)
        self._agreement.withdraw(worker.number)
        again = f"made again in {pause_s:.0f} s" if pause_s else "made again"
        on = f" on {where}" if where else ""
        self._tell(f"worker {worker.number}{on}: {worker.problem}; {again}")

    def as_user_error(self, problem: Exception, what: str) -> EsAlignError:
        """The error that ends a run."""
        if isinstance(problem, EsAlignError):
            return problem
        return WorkerError(
            f"{what}: {self._transport.describe(problem)}; finished generations are in the ledger, "
            "repair the cause and go on with --resume"
        )

    @property
    def workers(self) -> list[Worker]:
        """All of them, by number."""
        return self.roster.workers

    @property
    def idle(self) -> list[Worker]:
        """Those that would begin at once: no chunk, and no moves still to make."""
        return [one for one in self.roster.idle if one.num_made == one.num_moves]

    def states(self) -> Counter[State]:
        """How many workers are in each state."""
        return count_states(self.workers)

    def where(self, worker: int) -> str:
        """See `Transport.where`."""
        return self._transport.where(worker)

    @property
    def digest(self) -> str | None:
        """Of the mean that every worker must hold; None where they hold none."""
        moved = self._agreement.moved
        return None if moved is None else moved.digest

    def _note(
        self, number: int, worker: int, method: str, deadline_s: float, subject: object = None
    ) -> Call:
        call = Call(number, worker, method, self._transport.now(), deadline_s, subject)
        self._calls.add(call)
        return call

    def _place_due(self, now: float) -> None:
        for worker in self.roster.paused:
            if worker.not_before <= now:
                self.roster.enter(worker, State.PLACING)
                # However long no machine has room: another may come.
                self._note(self._transport.place(worker.number), worker.number, "place", FOREVER)

    def _next_timer(self) -> float:
        timers = [worker.not_before for worker in self.roster.paused]
        timers.append(self._calls.next_deadline)
        if not self.roster.num_ready:
            timers.append(self._none_ready_since + self._patience_s)
        return min(timers)

    def _late(self, now: float) -> list[Over]:
        return [
            Over(call, TookTooLong(f"no answer after {now - call.started:.0f} s"))
            for call in self._calls.pop_late(now)
        ]

    def _live(self, call: Call, outcome: object) -> None:
        """What a call's end means for its worker."""
        worker = self.workers[call.worker]
        if call.method not in ("place", "load", "move"):
            return
        if isinstance(outcome, Exception):
            self._fail_or_raise(worker, call, outcome)
        elif call.method == "place":
            self.roster.enter(worker, State.LOADING)
            worker.num_moves = len(self._moves)
            arguments = (*self._load_arguments, list(self._moves))
            number = self._transport.call(worker.number, "load", *arguments)
            self._note(number, worker.number, "load", self._load_deadline_s)
        elif call.method == "load":
            assert isinstance(outcome, WorkerInfo)
            self._join(worker, outcome)
        else:
            assert isinstance(outcome, Moved) and isinstance(call.subject, int)
            worker.num_made = call.subject
            if call.subject == len(self._moves):  # else one of several that it has to catch up with
                worker.failed_moves = 0
                self._compare(worker, outcome)

    def _join(self, worker: Worker, info: WorkerInfo) -> None:
        is_late = self._is_started or worker.num_started > 0
        self.roster.enter(worker, State.READY)
        worker.ready_since = self.now()
        worker.num_started += 1
        worker.num_made = worker.num_moves
        if is_late:
            where = self._transport.where(worker.number)
            self._tell(f"worker {worker.number} joins{f' on {where}' if where else ''}")
        if worker.num_moves < len(self._moves):
            self._send_moves(worker)
        elif info.moved is not None:
            self._compare(worker, info.moved)
        self._none_ready_since = FOREVER

    def _send_moves(self, worker: Worker) -> None:
        busy, num_open = worker.working_on, worker.num_moves - worker.num_made
        deadline_s = num_open * self.settings.call_deadline_s
        deadline_s += 0.0 if busy is None else busy.deadline_s
        for num_moves, move in enumerate(self._moves[worker.num_moves :], worker.num_moves + 1):
            number = self._transport.call(worker.number, "move", move)
            deadline_s += self.settings.call_deadline_s
            self._note(number, worker.number, "move", deadline_s, num_moves)
        worker.num_moves = len(self._moves)

    def _compare(self, worker: Worker, moved: Moved) -> None:
        if not self._is_started and self._agreement.moved is None:
            self._agreement.moved = moved  # the caller holds the first against the ledger
        problem = self._agreement.hear(worker.number, moved, len(self._moves))
        if problem is not None:
            self._fence(worker, problem)

    def _fence(self, worker: Worker, problem: WorkerError) -> None:
        # Made anew it moves from the start: only what is not an accident differs again.
        if worker.failures and len(self.workers) == 2:
            raise problem
        self.fail(worker, problem)
        if worker.failures > self.settings.max_retries:
            self._give_up(worker)

    def _agree(self) -> None:
        """Settle what the mean is once nobody is left to wait for."""
        is_waiting = any(  # not for one that has earlier moves to make: it would hold up the others
            one.num_made == len(self._moves) - 1 and one.working_on is None
            for one in self.roster.ready
        )
        if is_waiting or not self._agreement.has_votes:
            return
        problems = self._agreement.settle(len(self._moves))
        restart = self.fail if self._agreement.moved is None else self._fence
        for number, problem in problems.items():
            restart(self.workers[number], problem)

    def _fail_or_raise(self, worker: Worker, call: Call, problem: Exception) -> None:
        what = {"place": "starting", "load": self._loading, "move": "moving its mean"}[call.method]
        is_mendable = isinstance(problem, EsAlignError)
        if is_mendable and not self._is_started:
            raise problem
        told = problem if is_mendable else self.as_user_error(problem, what)
        self.fail(worker, problem)
        if is_mendable:  # what it said once it would say again
            self._give_up(worker)
        worker.failed_moves += call.method == "move"
        failures = max(worker.failures, worker.failed_moves)
        if failures <= self.settings.max_retries:
            return
        if not self.roster.num_ready or not self._is_started:
            raise WorkerError(f"worker {worker.number} failed {failures} times in a row: {told}")
        if worker.failed_moves == failures:  # too slow or too small for this run's mean
            self._give_up(worker)

    def _give_up(self, worker: Worker) -> None:
        self.roster.enter(worker, State.GIVEN_UP)
        self._tell(f"worker {worker.number} is given up: {worker.problem}")

    def _require_hope(self) -> None:
        """Raise WorkerError if no worker is left, or none came back in time."""
        if self.roster.num_ready:
            return
        problems = told_problems(self.workers)
        if self.states()[State.GIVEN_UP] == len(self.workers):
            raise WorkerError(f"no worker is left ({problems}); go on with --resume")
        waited_s = self._transport.now() - self._none_ready_since
        if waited_s >= self._patience_s:
            told = f"({told_states(self.workers)}){f': {problems}' if problems else ''}"
            raise WorkerError(
                f"no worker was ready for {waited_s:.0f} s {told}; raise "
                "workers.load_deadline_s, or look at the machines and the workers' logs, then go "
                "on with --resume"
            )

    @property
    def _loading(self) -> str:
        moves = f" and making {len(self._moves)} moves" if self._moves else ""
        return f"loading the model{moves}"

    @property
    def _patience_s(self) -> float:
        """One that hangs while it loads has time for a second attempt."""
        return 2 * self._load_deadline_s

    @property
    def _load_deadline_s(self) -> float:
        """Moves that are made anew may take as long as they could the first time, and no longer
        than loading: one that hangs meanwhile must be noticed."""
        load_s = self.settings.load_deadline_s
        return load_s + min(load_s, len(self._moves) * self.settings.call_deadline_s)
