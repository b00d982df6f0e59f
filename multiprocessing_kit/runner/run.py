"""Coordination: one run of inputs through a crew, in one loop without threads and without polling.

    ┌─ caller ───────────────────────────────────────────────────────┐      ┌─ child k ────────────────┐
    │ source ─▶ ledger ──lease──▶ lane k ════ down ring ═════════════╪═════▶│ process()                │
    │             ▲                                                  │      │   │                      │
    │ responses ◀─┴── ordered? ◀─ lane k ════ up ring ═══════════════╪══════│ ◀─┘ answers, events      │
    └────────────────────────────────────────────────────────────────┘      └──────────────────────────┘

The loop collects what is in the up rings, feeds children that have room, and sleeps in one `poll`
when there is nothing to do: on the doorbell (an answer, room, a signal), on the children's pidfds (one
ended) and until the next delayed retry is due.

When a child ends, the answers that it published are kept; the job that its lane names as running is
answered with `WorkerLostError`; its other jobs go back to the front of the queue.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, Final, Literal

from multiprocessing_kit.errors import (
    IpcError,
    PoolError,
    SerializationError,
    WorkerLostError,
)
from multiprocessing_kit.ipc.codec import decode, encode, unpack_exception
from multiprocessing_kit.response import JobResponse, Response
from multiprocessing_kit.runner import messages
from multiprocessing_kit.runner.answers import open_answer
from multiprocessing_kit.runner.crew import Crew, Member
from multiprocessing_kit.runner.leases import Leases
from multiprocessing_kit.runner.ledger import Job, Ledger
from multiprocessing_kit.runner.messages import AGAIN_LENGTH, HEADER
from multiprocessing_kit.runner.source import Source
from multiprocessing_kit.runner.telling import Audience, Teller
from multiprocessing_kit.supervise.interrupts import Interrupts
from multiprocessing_kit.worker import Worker

__all__ = ["Run"]

_log = logging.getLogger("multiprocessing_kit.runner")

_LOOK_AT_CHILDREN = 0.05
"""Seconds after which a loop that is too busy to sleep looks whether a child has ended."""

_LONG = 0.002
"""Seconds after which a job counts as long, and those that wait behind it are given to idle children."""

_ANSWERS = frozenset({messages.DONE, messages.RESPONSE})

_NO_PLACE: Final = False


class Run:
    """One `map` or `imap`.

    Args:
        worker: What to run.
        inputs: On what.
        crew: By whom.
        ordered: Whether `ready` keeps to the order of the inputs.
        window: At most how many inputs are taken and not yet popped; None for as many as children can use.
        queue_length: How many inputs go before a requeued job.
        interrupts: Ctrl-C and SIGTERM.
        audience: The caller's listeners.

    Attributes:
        begun: Whether the crew may have work of this run.
    """

    def __init__(
        self,
        worker: Worker,
        inputs: Iterator[Any],
        crew: Crew,
        *,
        ordered: bool,
        window: int | None,
        queue_length: int,
        interrupts: Interrupts,
        audience: Audience,
    ) -> None:
        self.id = os.urandom(4).hex()
        self._worker = worker
        self._crew = crew
        self._window = sys.maxsize if window is None else window
        self._interrupts = interrupts
        self._teller = Teller(audience, self.id, interrupts)
        self._source = Source(inputs, interrupts)
        self._ledger = Ledger(queue_length)
        self._leases = Leases()
        self._ready: deque[Response] = deque()
        self._early: dict[int, Response] | None = {} if ordered else None
        self._popped = 0
        self._looked = time.monotonic()
        self.begun = False

    @property
    def ready(self) -> bool:
        """Whether `pop` has a response; `wait_ready` gets one."""
        return bool(self._ready)

    def pop(self) -> Response:
        """The next response."""
        self._popped += 1
        return self._ready.popleft()

    def wait_ready(self) -> bool:
        """Work until a response is ready; False if all have been popped.

        Raises:
            BaseException: What taking an input raised, after the last response before it.
            PoolError: The children as a whole cannot go on.
            KeyboardInterrupt, SystemExit: A signal came.
        """
        if not self.begun:
            self.begun = True
            self._crew.begin_run(self._worker, self.id, self._interrupts)
        self._advance()
        while not self._ready:
            if self._source.exhausted and not self._ledger.unanswered:
                if self._source.error is not None:
                    raise self._source.error
                return False
            self._sleep()
            self._advance()
        return True

    # ── the loop ──────────────────────────────────────────────────────────────────────────────────

    def _advance(self) -> None:
        """Do all that can be done without waiting."""
        self._interrupts.check()
        crew = self._crew
        crew.set_events(self._teller.look())
        for member in crew.members:
            self._collect(member)
        now = time.monotonic()
        if now - self._looked > _LOOK_AT_CHILDREN:
            self._looked = now
            self._bury(crew.wait(0))
        self._feed()

    def _sleep(self) -> None:
        """Wait until there is something to do; see `lane` for why nothing is missed."""
        self._interrupts.check()  # its ring may have been cleared with others, unheard
        crew = self._crew
        ended: list[Member] = []
        asleep = []
        try:
            for member in crew.members:
                asleep.append(member)
                if not member.lane.prepare_wait():
                    return
            due = self._ledger.next_due()
            timeouts = [] if due is None else [max(0.0, due - time.monotonic())]
            if self._could_take_back():
                timeouts.append(_LONG)
            ended = crew.wait(min(timeouts, default=None))
        finally:
            for member in asleep:
                member.lane.end_wait()
        self._bury(ended)

    def _bury(self, ended: list[Member]) -> None:
        for member in ended:
            self._collect(member)
            child = member.child
            running = member.lane.current
            if running in member.jobs:
                lost = self._ledger.answer(member, running)
                error = WorkerLostError.of_child(self._job_id(lost), child.pid, child.exitcode)
                self._answer(lost, self._failure(lost, error, child.pid), child.pid)
                self._crew.fruitful()
            self._ledger.give_back(member)
            self._crew.remove(member)

    # ── jobs out ──────────────────────────────────────────────────────────────────────────────────

    def _feed(self) -> None:
        """Give jobs to children as long as there are both."""
        crew = self._crew
        for member in crew.members:
            member.lane.flush()
        while (place := self._place()) is not _NO_PLACE:
            job = self._next_job()
            if job is None:
                if (place is None or not place.jobs) and self._take_back():
                    continue
                break
            try:
                record = self._record(job)
            except SerializationError as error:
                self._ledger.drop()
                self._answer(job, self._failure(job, self._named(error, job), 0))
                continue
            holder = place or self._hire()
            if holder is None:
                self._ledger.put_back(job)
                continue
            self._ledger.lease(job, holder)
            holder.lane.send_job(record)
        for member in crew.members:
            member.lane.wake()

    def _take_back(self) -> bool:
        """For a child with nothing to do: jobs that wait behind a long one in another's lane."""
        for member in self._crew.members:
            if len(member.jobs) > 1:
                count = member.lane.take_back(_LONG)
                if count:
                    self._ledger.reclaim(member, count)
                    return True
        return False

    def _could_take_back(self) -> bool:
        """Whether it may come to that while the loop sleeps."""
        members = self._crew.members
        idle = len(members) < self._crew.size or not all(member.jobs for member in members)
        return idle and any(len(member.jobs) > 1 and not member.lane.clogged for member in members)

    def _hire(self) -> Member | None:
        """One more child; None where the system allows no more than there are."""
        crew = self._crew
        try:
            return crew.hire()
        except (PoolError, IpcError) as error:
            if not crew.members:
                raise
            crew.size = len(crew.members)
            _log.warning("going on with %d children: %s", crew.size, error)
            return None

    def _place(self) -> Member | Literal[False] | None:
        """The child for the next job: an idle one, else None for one to be hired, else the least busy.

        `_NO_PLACE` if all have what they may hold.
        """
        least, best = self._leases.depth, None
        for member in self._crew.members:
            held = len(member.jobs)
            if held < least and not member.lane.clogged:
                least, best = held, member
        if (best is None or least) and len(self._crew.members) < self._crew.size:
            return None
        return best or _NO_PLACE

    def _next_job(self) -> Job | None:
        may_take = not self._source.exhausted and self._ledger.taken - self._popped < self._window
        job = self._ledger.next_known(inputs_left=may_take)
        if job is None and may_take:
            for argument in self._source.take():
                return self._ledger.add(argument)
            return self._ledger.next_known(inputs_left=False)
        return job

    def _record(self, job: Job) -> bytes:
        interrupts = self._interrupts
        interrupts_before = interrupts.count
        interrupts.in_user_code = True  # pickling is
        try:
            argument = encode(job.argument, "the argument")
        except SerializationError:
            interrupts.check_user_code(interrupts_before)
            raise
        finally:
            interrupts.in_user_code = False
        if job.history is None:
            return HEADER.pack(messages.JOB, job.attempt, job.index, 0.0) + argument
        header = HEADER.pack(messages.AGAIN, job.attempt, job.index, 0.0)
        return b"".join((header, AGAIN_LENGTH.pack(len(job.history)), job.history, argument))

    # ── answers in ────────────────────────────────────────────────────────────────────────────────

    def _collect(self, member: Member) -> None:
        interrupts = self._interrupts
        while (record := member.lane.receive()) is not None:
            header = HEADER.unpack_from(record)
            kind, attempt, index, seconds = header
            if kind in _ANSWERS:
                job = self._ledger.answer(member, index)
                self._crew.fruitful()
                self._leases.note(seconds)
                job.attempt = attempt
                pid = member.child.pid
                interrupts_before = interrupts.count
                interrupts.in_user_code = True  # unpickling is
                try:
                    response = open_answer(record, header, f"{self.id}-{index}", pid)
                finally:
                    interrupts.in_user_code = False
                interrupts.check_user_code(interrupts_before)
                self._answer(job, response, pid)
            elif kind == messages.REQUEUE:
                self._crew.fruitful()
                self._ledger.requeue(member, index, seconds, attempt, record[HEADER.size :])
            elif kind == messages.SKIPPED:
                if not member.lane.took_back(int(seconds)):
                    self._ledger.put_back(member.jobs.pop(index))
            elif kind == messages.EVENT:
                if index in member.jobs:  # else from a thread that its job left behind
                    self._teller.relayed(record, member.jobs[index], member.child.pid)
            elif kind == messages.NO_SETUP:
                cause = unpack_exception(decode(record[HEADER.size :], "the exception of setup()"))
                raise PoolError(
                    f"setup() of worker {self._worker.name or self._worker!r} failed: {cause!r}"
                ) from cause
            # RENEW: the child ends now; the one that takes its place inherits the worker

    def _answer(self, job: Job, response: Response, pid: int = 0) -> None:
        self._teller.answered(job, response, pid)
        if self._early is None:
            self._ready.append(response)
            return
        early = self._early
        wanted = self._popped + len(self._ready)
        if job.index != wanted:
            early[job.index] = response
            return
        self._ready.append(response)
        wanted += 1
        while wanted in early:
            self._ready.append(early.pop(wanted))
            wanted += 1

    def _failure(self, job: Job, error: BaseException, pid: int) -> JobResponse:
        attempts = job.attempt if pid else 0
        return JobResponse(None, 0, error, self._job_id(job), attempts, 0.0, pid, job.index)

    def _named(self, error: SerializationError, job: Job) -> SerializationError:
        named = SerializationError(f"job {self._job_id(job)}: {error}", job_id=self._job_id(job))
        named.__cause__ = error.__cause__
        return named

    def _job_id(self, job: Job) -> str:
        return f"{self.id}-{job.index}"
