"""The workers of one consumer: started and stopped, given jobs, relieved of them when they die.

    deal ──▶ seat: jobs in the order they were sent ──▶ worker ──answers, in that order──▶ take

A worker has as many jobs as are worth some 20 ms, by what the topic's last ones took, and one where they take
longer, so that a death puts few at risk and nobody waits long for a message. Where a job turns out long, what
waits behind it is called back and dealt anew, and what is done before it is asked for.
"""

from __future__ import annotations

import logging
import math
import selectors
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from multiprocessing_kit.errors import describe_exit
from multiprocessing_kit.service.channel import HURRY, Answer, Channel, Task
from multiprocessing_kit.service.job import Delivery
from multiprocessing_kit.service.marks import Mark, Marks
from multiprocessing_kit.supervise.child import ForkedChild
from multiprocessing_kit.supervise.respawn import RECYCLED, RespawnPolicy, When
from multiprocessing_kit.supervise.supervisor import Place, State, Supervisor, Then

__all__ = ["Crew", "Done", "WorkerState"]

_LEASE_SECONDS = 0.02
_MOST_JOBS = 64
_STUCK_SECONDS = 0.25
"""A job that runs for so long has others behind it called back, and those before it answered."""

_SEEN_SECONDS = 0.05
"""After which a worker's note that it began a job is seen here, whatever the processors hold back."""

_SMOOTHING = 0.2
_MANY_FAILURES = 4
_PROBLEM_LENGTH = 300

_BROKEN = 1
"""Exit status of a worker that ends by an error."""

_log = logging.getLogger("multiprocessing_kit.service")


@dataclass(frozen=True)
class Done:
    """What came of a delivered job.

    Attributes:
        delivery: Which.
        answer: The worker's; None if it gave none.
        lost: "crashed" or "timeout" where the worker ended in this job; "" where the job was not begun, or
            its answer was lost with the worker: it is to be released.
        error: How the worker ended, in words.
    """

    delivery: Delivery
    answer: Answer | None = None
    lost: str = ""
    error: str = ""


@dataclass(frozen=True)
class WorkerState:
    """Of one worker, for status: see `Place` for `state`, beside "starting", "idle" and "busy".

    `problem` is the error that ended the last one, until one is set up; "" for none.
    """

    pin: int
    pid: int
    state: str
    job: str
    seconds: float
    jobs: int
    restarts: int
    last_exit: str
    problem: str


@dataclass(eq=False)
class _Seat:
    """One worker and the jobs that it has; None stands for one that was called back."""

    pin: int
    mark: Mark
    channel: Channel | None = None
    jobs: deque[Delivery | None] = field(default_factory=deque)
    has_unsent: bool = False
    answered: int = 0
    called_back: float = 0.0
    hurried: float = 0.0
    overdue: Delivery | None = None
    broken: str = ""

    @property
    def number_of_running(self) -> int | None:
        """Index in `jobs` of the one that is being run."""
        running = self.mark.running
        if running is None or not 0 <= running - self.answered < len(self.jobs):
            return None
        return running - self.answered


class Crew:
    """Made by the consumer, in whose loop it works: see `Supervisor`.

    Args:
        most: Workers at most.
        live: What a worker is: gets its PIN, the liveness pipe, its channel and its mark.
        title: The process title of a PIN.
        timeouts: Seconds that a job of a topic may take; None for any time.
        selector: Of the consumer, to watch workers and channels with.
        before_fork: Called before each fork.
    """

    def __init__(
        self,
        most: int,
        live: Callable[[int, int, Channel, Mark], int],
        title: Callable[[int], str],
        timeouts: dict[str, float | None],
        *,
        selector: selectors.BaseSelector,
        before_fork: Callable[[], None],
    ) -> None:
        self._marks = Marks(most)
        self._seats = [_Seat(pin, self._marks.of(pin)) for pin in range(most)]
        self._live = live
        self._timeouts = timeouts
        self._selector = selector
        self._seconds: dict[str, float] = {}
        self._done: list[Done] = []
        self.wanted = 0
        self._before_fork = before_fork
        # None is given up: what fails at its set-up may wait for a database that comes back.
        policy = RespawnPolicy(When.ALWAYS, frozenset({0}), first=0.5, longest=30.0, healthy=10.0, limit=0)
        self._supervisor = Supervisor(self._run, title, policy, self._changed, self._prepare)

    # ── how it is ─────────────────────────────────────────────────────────────────────────────────

    @property
    def held(self) -> list[Delivery]:
        """Jobs that workers have."""
        return [delivery for seat in self._seats for delivery in seat.jobs if delivery is not None]

    @property
    def is_over(self) -> bool:
        """Whether no worker lives, and none will."""
        return self._supervisor.is_over

    @property
    def failing(self) -> list[str]:
        """How workers ended that have ended again and again, without a job done."""
        places = self._supervisor.places.values()
        failing = [place for place in places if place.failures >= _MANY_FAILURES]
        return [": ".join(filter(None, (place.last_exit, self._problem(place)))) for place in failing]

    @property
    def slowest_start(self) -> float:
        """Seconds that the one has been living who takes longest to be set up; 0.0 for none."""
        starting = [
            place.since
            for pin, place in self._supervisor.places.items()
            if place.state is State.RUNNING and not self._seats[pin].mark.is_ready
        ]
        return time.monotonic() - min(starting) if starting else 0.0

    @property
    def living(self) -> int:
        """Workers that are set up."""
        return sum(1 for seat in self._seats if self._takes(seat))

    def states(self) -> list[WorkerState]:
        """Of all, by PIN."""
        return [self._state(place) for _, place in sorted(self._supervisor.places.items())]

    def timeout(self) -> float | None:
        """Seconds after which to `look` though no descriptor told; None for never."""
        times = [] if (seconds := self._supervisor.timeout()) is None else [seconds]
        if any(len(seat.jobs) > 1 for seat in self._seats):
            times.append(_STUCK_SECONDS / 2)
        times += [limit / 5 for seat in self._seats for limit in self._limits(seat)]
        return min(times, default=None)

    def room(self) -> int:
        """Jobs that it can take now."""
        return sum(self._room(seat) for seat in self._seats)

    # ── acting ────────────────────────────────────────────────────────────────────────────────────

    def scale(self, workers: int, patience: float) -> None:
        """Have so many workers. The idle go first; others end after their job, or after `patience`."""
        self.wanted = workers
        going = {pin for pin, place in self._supervisor.places.items() if place.then is Then.REMOVE}
        staying = set(self._supervisor.places) - going
        missing = max(0, workers - len(staying))
        for pin in [seat.pin for seat in self._seats if seat.pin not in staying][:missing]:
            if pin in going:
                self._supervisor.stop(pin, patience, Then.REPLACE)
            else:
                self._supervisor.start(pin)
        too_many = max(0, len(staying) - workers)
        for pin in sorted(staying, key=lambda pin: (len(self._seats[pin].jobs), -pin))[:too_many]:
            self._supervisor.stop(pin, patience, Then.REMOVE)

    def stop(self, patience: float) -> None:
        """Have all end."""
        for pin in list(self._supervisor.places):
            self._supervisor.stop(pin, patience)

    def deal(self, deliveries: deque[Delivery]) -> None:
        """Give jobs to those who have room, the emptiest first, from the left."""
        while deliveries:
            seat = min(filter(self._takes, self._seats), key=lambda one: len(one.jobs), default=None)
            free = 0.0 if seat is None else self._free(seat)
            if seat is None or seat.channel is None or not free:
                return
            # Everybody's share first: what one takes too much, the others lack.
            share = min(max(1, len(deliveries) // self.living), _MOST_JOBS - len(seat.jobs))
            lease: list[Task] = []
            while deliveries and len(lease) < share and free > 0:
                delivery = deliveries.popleft()
                free -= self._expected(delivery)
                seat.jobs.append(delivery)
                lease.append(_task(delivery))
            seat.channel.send(lease)
            self._flush(seat, seat.channel)

    def look(self) -> list[Done]:
        """Take answers, bury the dead, end what takes too long; what came of which job."""
        self._supervisor.look()
        for seat in self._seats:
            if seat.channel is not None:
                self._flush(seat, seat.channel)
                self._end_overdue(seat)
                self._hurry(seat)
                self._call_back(seat)
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        """When it is over."""
        for seat in self._seats:
            self._clear(seat)
        self._marks.close()

    # ── steps ─────────────────────────────────────────────────────────────────────────────────────

    def _flush(self, seat: _Seat, channel: Channel) -> None:
        """Send what is left, and wake up when there is room for more of it."""
        channel.flush()
        if channel.is_full != seat.has_unsent:
            seat.has_unsent = channel.is_full
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if seat.has_unsent else 0)
            self._selector.modify(channel, events, self._selector.get_key(channel).data)

    def _takes(self, seat: _Seat) -> bool:
        place = self._supervisor.places.get(seat.pin)
        running = place is not None and place.state is State.RUNNING
        return running and seat.channel is not None and seat.overdue is None and seat.mark.is_ready

    def _room(self, seat: _Seat) -> int:
        """Jobs that it can take, if they are of the shortest kind."""
        free = self._free(seat)
        shortest = min(self._seconds.values(), default=_LEASE_SECONDS)
        return min(math.ceil(free / max(shortest, 1e-6)), _MOST_JOBS - len(seat.jobs)) if free else 0

    def _free(self, seat: _Seat) -> float:
        """Seconds of work that it can take.

        Half of a lease at a time: one message brings many, and the worker need not wait for the next one.
        """
        is_full = seat.called_back or len(seat.jobs) > _MOST_JOBS // 2
        if not self._takes(seat) or is_full or (seat.channel is not None and seat.channel.is_full):
            return 0.0
        free = _LEASE_SECONDS - sum(
            self._expected(delivery) for delivery in seat.jobs if delivery is not None
        )
        return free if free >= _LEASE_SECONDS / 2 else 0.0

    def _expected(self, delivery: Delivery) -> float:
        return self._seconds.get(delivery.job.topic, _LEASE_SECONDS)

    def _answers(self, seat: _Seat) -> None:
        if seat.channel is None:
            return
        for answer in seat.channel.answers():
            if answer.kind == "broken":
                seat.broken = " ".join(answer.error.split())[:_PROBLEM_LENGTH]
                continue
            if answer.kind == "tried":
                _note_attempt(seat.jobs[0], answer)
                continue
            delivery = seat.jobs.popleft()
            seat.answered += 1
            if delivery is None:
                continue
            if answer.kind == "skipped":
                self._done.append(Done(delivery))
                continue
            topic = delivery.job.topic
            known = self._seconds.get(topic)
            weight = 1.0 if known is None else _SMOOTHING
            self._seconds[topic] = answer.seconds * weight + (known or 0.0) * (1 - weight)
            self._done.append(Done(delivery, answer))
        if not seat.jobs and seat.called_back:
            seat.called_back = 0.0
            seat.mark.allow()

    def _limits(self, seat: _Seat) -> Iterable[float]:
        for delivery in seat.jobs:
            if delivery is not None and (limit := self._timeouts.get(delivery.job.topic)) is not None:
                yield limit

    def _end_overdue(self, seat: _Seat) -> None:
        """Kill a worker whose job takes too long."""
        index = seat.number_of_running
        delivery = None if index is None else seat.jobs[index]
        if delivery is None or seat.overdue is not None:
            return
        limit = self._timeouts.get(delivery.job.topic)
        since = seat.mark.trying
        if limit is None or not since or time.monotonic() - since <= limit:
            return
        if seat.number_of_running != index:
            return  # it has just ended
        seat.overdue = delivery
        job = delivery.job
        _log.warning(
            "job %s of topic %s takes more than %g s",
            job.id,
            job.topic,
            limit,
            extra={"job_id": job.id, "topic": job.topic},
        )
        self._supervisor.stop(seat.pin, 0.0, Then.REPLACE)

    def _hurry(self, seat: _Seat) -> None:
        """Ask for the answers of jobs that are done while a long one is under way: if that one kills the
        worker, they would be run again.
        """
        since, now = seat.mark.since, time.monotonic()
        if not seat.number_of_running or not since or now - max(since, seat.hurried) <= _STUCK_SECONDS:
            return
        seat.hurried = now
        if (child := self._supervisor.places[seat.pin].child) is not None:
            child.send_signal(HURRY)

    def _call_back(self, seat: _Seat) -> None:
        """Take away what waits behind a job that turns out long: first said, and taken when that was seen."""
        if len(seat.jobs) < 2:
            return
        if not seat.called_back:
            since = seat.mark.since
            if since and time.monotonic() - since > _STUCK_SECONDS:
                seat.called_back = time.monotonic()
                seat.mark.call_back(seat.mark.begun)
            return
        if time.monotonic() - seat.called_back < _SEEN_SECONDS:
            return
        begun = max(0, seat.mark.begun - seat.answered)
        for index in range(begun, len(seat.jobs)):
            delivery = seat.jobs[index]
            if delivery is not None:
                seat.jobs[index] = None
                self._done.append(Done(delivery))

    def _run(self, pin: int, liveness: int) -> int:
        """In the worker."""
        seat = self._seats[pin]
        assert seat.channel is not None
        for other in self._seats:
            if other is not seat and other.channel is not None:
                other.channel.close()
        self._selector.close()
        return self._live(pin, liveness, seat.channel, seat.mark)

    def _changed(self, place: Place, gone: ForkedChild | None) -> None:
        seat = self._seats[place.pin]
        if gone is not None:
            self._bury(seat, place, gone)
            self._clear(seat)
        elif place.child is not None:
            self._selector.register(place.child, selectors.EVENT_READ, _nothing)

    def _bury(self, seat: _Seat, place: Place, gone: ForkedChild) -> None:
        self._selector.unregister(gone)
        if seat.overdue is not None:
            place.last_exit = "was killed: its job took too long"
        elif gone.exitcode == RECYCLED and place.state is not State.STOPPING:
            place.last_exit = "was replaced"
        if gone.exitcode != _BROKEN:
            seat.broken = ""  # that of an earlier one
        if seat.channel is None:
            return
        self._answers(seat)  # what it has published counts
        index = seat.number_of_running
        # What ends one that has worked is a job, which is counted there, or a limit.
        place.worked = seat.mark.is_ready and bool(seat.answered or seat.jobs)
        error = describe_exit(gone.exitcode)
        for position, delivery in enumerate(seat.jobs):
            if delivery is None:
                continue
            if position != index:
                self._done.append(Done(delivery))
            elif seat.overdue is delivery:
                limit = self._timeouts.get(delivery.job.topic)
                self._done.append(Done(delivery, lost="timeout", error=f"it took more than {limit:g} s"))
            elif place.state is State.STOPPING:
                self._done.append(Done(delivery))  # it was asked to end, and cut off: not the job's fault
            else:
                self._done.append(Done(delivery, lost="crashed", error=f"its worker {error}"))

    def _prepare(self, pin: int) -> None:
        """Before the fork of a worker, which inherits its end of the channel by it."""
        self._before_fork()
        seat = self._seats[pin]
        self._clear(seat)
        seat.mark.clear()
        seat.channel = Channel()
        self._selector.register(seat.channel, selectors.EVENT_READ, lambda: self._answers(seat))

    def _clear(self, seat: _Seat) -> None:
        if seat.channel is not None:
            self._selector.unregister(seat.channel)
            seat.channel.close()
        seat.channel = None
        seat.jobs.clear()
        seat.has_unsent, seat.answered, seat.called_back, seat.overdue = False, 0, 0.0, None

    def _state(self, place: Place) -> WorkerState:
        seat = self._seats[place.pin]
        index = seat.number_of_running
        running = None if index is None else seat.jobs[index]
        state = place.state.value
        if place.state is State.RUNNING:
            state = "starting" if not seat.mark.is_ready else "idle" if running is None else "busy"
        since = seat.mark.since
        return WorkerState(
            pin=place.pin,
            pid=0 if place.child is None else place.child.pid,
            state=state,
            job="" if running is None else running.job.id,
            seconds=time.monotonic() - since if running is not None and since else 0.0,
            jobs=seat.answered,
            restarts=place.restarts,
            last_exit=place.reason or place.last_exit,
            problem=self._problem(place),
        )

    def _problem(self, place: Place) -> str:
        seat = self._seats[place.pin]
        return "" if place.child is not None and seat.mark.is_ready else seat.broken


def _task(delivery: Delivery) -> Task:
    job = delivery.job
    return Task(
        job.id, job.topic, job.payload, job.attempt, job.crashes, job.idle_for, job.first_run, job.changes
    )


def _note_attempt(delivery: Delivery | None, answer: Answer) -> None:
    """One of several that a worker makes."""
    if delivery is not None:
        job = delivery.job
        job.attempt, job.first_run = answer.attempt, answer.first_run
        job.failed("failed", answer.error)


def _nothing() -> None:
    """The loop looks at its workers after each wake-up anyway."""
