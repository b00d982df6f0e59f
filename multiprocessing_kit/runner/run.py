"""Coordination: one run of inputs through a crew, in one loop without threads and without polling.

    ┌─ caller ───────────────────────────────────────────────────────┐      ┌─ child k ────────────────┐
    │ source ─▶ ledger ──lease──▶ lane k ════ down ring ═════════════╪═════▶│ process()                │
    │             ▲                                                  │      │   │                      │
    │ responses ◀─┴── ordered? ◀─ lane k ════ up ring ═══════════════╪══════│ ◀─┘ answers, events      │
    └────────────────────────────────────────────────────────────────┘      └──────────────────────────┘

The loop collects what is in the up rings, feeds children that have room, and sleeps in one `poll`
when there is nothing to do: on the doorbell (an answer, room, a signal), on the children's pidfds (one
ended) and until the next delayed retry is due.

When a child ends, the answers that it published are kept; the job that its lane names as under way is
charged with it (see `losses`); its other jobs go back to the front of the queue.
"""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections import deque

from multiprocessing_kit.errors import JobCanceledError, JobError, PoolError, SerializationError
from multiprocessing_kit.ipc.codec import decode, unpack_exception
from multiprocessing_kit.response import JobResponse, Response
from multiprocessing_kit.runner import messages
from multiprocessing_kit.runner.answers import Opened, Payload, Sealed, open_answer
from multiprocessing_kit.runner.crew import Crew, Member
from multiprocessing_kit.runner.feeding import LOOK_AGAIN, Feeder, Window
from multiprocessing_kit.runner.lane import HURRY
from multiprocessing_kit.runner.leases import STUCK_SECONDS
from multiprocessing_kit.runner.ledger import Lease, Ledger
from multiprocessing_kit.runner.losses import Losses
from multiprocessing_kit.runner.messages import HEADER
from multiprocessing_kit.runner.ready import Ready
from multiprocessing_kit.runner.source import Inputs
from multiprocessing_kit.runner.telling import Audience, Teller
from multiprocessing_kit.runner.watch import Doom, Watch
from multiprocessing_kit.supervise.interrupts import Interrupts
from multiprocessing_kit.worker import Worker

__all__ = ["Run"]

_LOOK_AT_CHILDREN = 0.05
"""Seconds after which a loop that is too busy to sleep looks whether a child has ended."""

_LOOK_FOR_STUCK = 0.002
"""Seconds after which it looks whether answers wait behind a long job."""

_DONE = messages.DONE
_HURRY_AGAIN = 0.1
"""Seconds after which a child that could not send is asked again."""

_LARGE = (messages.DONE_LARGE, messages.RESPONSE_LARGE)
_LEAVES = (messages.RENEW, messages.TOO_LARGE)  # one that takes the place of a RENEW inherits the worker
_MANY = (messages.MANY, messages.MANY_APART)


class Run:
    """One `map` or `imap`.

    Args:
        worker: What to run.
        source: On what.
        crew: By whom.
        ordered: Whether the answers keep to the order of the inputs.
        window: How far inputs are taken ahead of the answers.
        queue_length: How many inputs go before a requeued job.
        batch_size: Jobs that are given to a child at once; None to adapt.
        eager: Whether somebody waits for each answer, rather than for all.
        interrupts: Ctrl-C and SIGTERM.
        audience: The caller's listeners.

    Attributes:
        ready: Answers; `wait_ready` gets more.
        begun: Whether the crew may have work of this run.
    """

    def __init__(
        self,
        worker: Worker,
        source: Inputs,
        crew: Crew,
        *,
        ordered: bool,
        window: Window,
        queue_length: int,
        batch_size: int | None,
        eager: bool,
        interrupts: Interrupts,
        audience: Audience,
    ) -> None:
        self.id = os.urandom(4).hex()
        self._worker = worker
        self._eager = eager
        self._crew = crew
        self._interrupts = interrupts
        self._teller = Teller(audience, self.id, interrupts)
        self._ledger = Ledger(queue_length)
        self.ready = Ready(ordered=ordered)
        self._feeder = Feeder(
            source,
            crew,
            self._ledger,
            self.ready,
            window=window,
            batch_size=batch_size,
            interrupts=interrupts,
            refuse=self._refuse,
        )
        self._losses = Losses(
            worker,
            self.id,
            self._ledger,
            self._teller,
            limits=crew.limits,
            interrupts=interrupts,
            fail=self._fail,
        )
        self._watch = Watch(crew.limits)
        self._aborted: BaseException | None = None
        self._cancels: deque[int] = deque()
        self._canceling: dict[int, JobCanceledError] = {}
        self._looked = self._looked_for_stuck = time.monotonic()
        self.begun = False

    def begin(self) -> None:
        """Make the crew ready for it, unless it is."""
        if not self.begun:
            self.begun = True
            self._crew.begin_run(self._worker, self.id, self._interrupts)

    def hire_all(self) -> None:
        """Fork all children now, rather than one when there is work for it."""
        self.begin()
        while len(self._crew.members) < self._crew.size:
            self._feeder.hire()

    def abort(self, error: BaseException) -> None:
        """Have `wait_ready` raise this. Any thread."""
        self._aborted = error
        self._crew.bell.ring()

    def wait_ready(self) -> bool:
        """Work until an answer is ready; False if all have been given out.

        Raises:
            BaseException: What taking an input raised, after the last response before it.
            PoolError: The children as a whole cannot go on.
            KeyboardInterrupt, SystemExit: A signal came.
        """
        self.begin()
        done = self._advance()
        source = self._feeder.source
        while not self.ready:
            if source.exhausted and not self._ledger.unanswered:
                if source.error is not None:
                    raise source.error
                return False
            if done:
                self._sleep()
            done = self._advance()
        return True

    # ── the loop ──────────────────────────────────────────────────────────────────────────────────

    def _advance(self) -> bool:
        """Do all that can be done without waiting; False if there was more than is good at once."""
        self._interrupts.check()
        if self._aborted is not None:
            raise self._aborted
        crew = self._crew
        crew.set_events(self._teller.look())
        for member in crew.members:
            self._collect(member)
        now = time.monotonic()
        # Again those that are not answered yet: a child was about to begin one, or to send it back.
        for index in tuple(self._canceling):
            self._cancel(index)
        while self._cancels:
            self._cancel(self._cancels.popleft())
        if self._watch.needed:
            self._watch.look(crew.members)
        if now - self._looked_for_stuck > _LOOK_FOR_STUCK:
            self._looked_for_stuck = now
            self._hurry(now)
        if crew.leaving:
            crew.hasten(now)
        if now - self._looked > _LOOK_AT_CHILDREN:
            self._looked = now
            self._bury(crew.wait(0))
        return self._feeder.feed()

    def _sleep(self) -> None:
        """Wait until there is something to do; see `lane` for why nothing is missed."""
        self._interrupts.check()  # its ring may have been cleared with others, unheard
        crew = self._crew
        ended: list[Member] = []
        asleep = []
        ahead = sys.maxsize if self._is_awaited else self._feeder.leases.hold // 2
        try:
            for member in crew.members:
                asleep.append(member)
                if not member.lane.prepare_wait(ahead):
                    return
            due = self._ledger.next_due()
            timeouts = [] if due is None else [max(0.0, due - time.monotonic())]
            if self._feeder.could_take_back():
                timeouts.append(LOOK_AGAIN)
            elif any(member.held > 1 for member in crew.members):
                timeouts.append(STUCK_SECONDS)
            if self._canceling:
                timeouts.append(LOOK_AGAIN)
            if crew.leaving:
                timeouts.append(crew.hasten(time.monotonic()))
            if self._watch.needed and (watch_due := self._watch.due(crew.members)) is not None:
                timeouts.append(watch_due)
            ended = crew.wait(min(timeouts, default=None))
        finally:
            for member in asleep:
                member.lane.end_wait()
        self._bury(ended)

    @property
    def _is_awaited(self) -> bool:
        """Whether somebody waits for each answer."""
        return self._eager or self._teller.listens

    def _hurry(self, now: float) -> None:
        """Have children that are at a long job send the answers that wait behind it.

        Whoever waits for them or not: if the child dies, they are lost, and their jobs run again.
        """
        for member in self._crew.members:
            if member.held < 2 or member.lane.stuck_for(now) < STUCK_SECONDS:
                continue
            oldest = member.leases[0]
            if member.lane.begun > oldest.number + oldest.done and now - member.hurried_at > _HURRY_AGAIN:
                member.hurried_at = now
                member.child.send_signal(HURRY)

    def _bury(self, ended: list[Member]) -> None:
        for member in ended:
            self._collect(member)
            got_further = member.doom is not None and member.lane.is_set_up
            if self._losses.of(member) or got_further:
                self._crew.fruitful()
            self._ledger.give_back(member)
            self._end_all_canceled()
            self._crew.remove(member)

    # ── cancel ────────────────────────────────────────────────────────────────────────────────────

    def index_of(self, job_id: str) -> int | None:
        """The index of this job; None if it is none of this run."""
        run_id, _, index = job_id.rpartition("-")
        return int(index) if run_id == self.id and index.isdecimal() else None

    def cancel(self, index: int) -> None:
        """Have the job of this index end, wherever it is, unless it was answered. Any thread."""
        self._cancels.append(index)
        self._crew.bell.ring()

    def _cancel(self, index: int) -> None:
        job_id = self._job_id(index)
        error = self._canceling.pop(index, None) or JobCanceledError(
            f"job {job_id} was canceled by process.cancel()", job_id=job_id
        )
        if index >= self._ledger.taken:
            self._feeder.canceled[index] = error
            return
        holder = self._ledger.holder_of(index, self._crew.members)
        if holder is not None:
            member, number = holder
            kept_from = member.lane.take_back_from(number)
            if kept_from is not None:
                member.returned += self._ledger.reclaim(member, kept_from)
        job = self._ledger.withdraw(index)
        if job is not None:
            self._fail(job, error, job.attempt - 1, 0)
        elif holder is not None:
            self._canceling[index] = error
            if member.doom is None and member.lane.current == number:
                member.doom = Doom(number, number, 0.0, canceled=error)
                member.child.kill()
        # else it is answered

    def _end_all_canceled(self) -> None:
        """Those that a child has just given back, before another one gets them."""
        for index in tuple(self._canceling):
            job = self._ledger.withdraw(index)
            if job is not None:
                self._fail(job, self._canceling.pop(index), job.attempt - 1, 0)

    # ── answers in ────────────────────────────────────────────────────────────────────────────────

    def _collect(self, member: Member) -> None:
        """Act on what is in the up ring; answers of a lease that came one by one are taken together."""
        receive, unpack = member.lane.receive, HEADER.unpack_from
        pid = member.child.pid
        row: list[bytes] = []
        room, first, row_seconds = 0, 0, 0.0
        while (record := receive()) is not None:
            kind, count, index, seconds = unpack(record)
            if kind == _DONE and count == 1 and len(row) < room and index == first + len(row):
                row.append(record)
                row_seconds += seconds
                continue
            if row:
                self._take(member, Sealed(row, self.id, pid, first, len(row)), row_seconds)
                row, room = [], 0
            if kind == _DONE and count == 1:
                row, room, first, row_seconds = [record], len(member.leases[0]), index, seconds
            elif kind in _MANY:
                self._take(member, Sealed([record], self.id, pid, index, count), seconds)
            else:
                self._act_on(record, member)
        if row:
            self._take(member, Sealed(row, self.id, pid, first, len(row)), row_seconds)

    def _take(self, member: Member, part: Sealed | Opened, seconds: float) -> None:
        """Answer the next jobs of `member`, which took so long."""
        lease = self._ledger.answered(member, len(part))
        self._feeder.leases.answered(len(part), seconds)
        self._crew.fruitful()
        self._answer(lease, part, member.child.pid)

    def _act_on(self, record: bytes, member: Member) -> None:
        """What comes less often than a bare answer."""
        kind, count, index, seconds = HEADER.unpack_from(record)
        if kind == _DONE:
            self._take(member, Sealed([record], self.id, member.child.pid, index, 1), seconds)
        elif kind == messages.RESPONSE:
            response = self._open(record, (memoryview(record)[HEADER.size :], []), member.child.pid)
            self._take(member, Opened(index, [response], count), seconds)
        elif kind in _LARGE:
            self._take(member, Opened(index, [self._land(record, member)], count), seconds)
        elif kind == messages.WANT:
            member.lane.grant(self._crew.shipper.grant(member, index))
        elif kind == messages.FREED:
            self._crew.shipper.returned(member, pickle.loads(record[HEADER.size :]))
        elif kind == messages.REQUEUE:
            self._crew.fruitful()
            self._ledger.requeue(member, seconds, count, record[HEADER.size :])
            self._end_all_canceled()
        elif kind == messages.SKIPPED:
            member.returned += self._ledger.skipped(member, index, count)
            self._end_all_canceled()
        elif kind == messages.EVENT:
            for lease in member.leases:
                if lease.index <= index < lease.index + len(lease):
                    self._teller.relayed(record, lease.arguments[index - lease.first], member.child.pid)
                    break
            # else from a thread that its job left behind
        elif kind == messages.NO_SETUP:
            cause = unpack_exception(decode(record[HEADER.size :], "the exception of setup()"))
            raise PoolError(
                f"setup() of worker {self._worker.name or self._worker!r} failed: {cause!r}"
            ) from cause
        elif kind in _LEAVES:
            self._crew.note_leaving(member)

    def _open(self, record: bytes, payload: Payload, pid: int) -> Response:
        _, _, index, _ = HEADER.unpack_from(record)
        interrupts = self._interrupts
        interrupts_before = interrupts.count
        interrupts.in_user_code = True  # unpickling is
        try:
            response = open_answer(record, payload, self._job_id(index), pid)
        finally:
            interrupts.in_user_code = False
        interrupts.check_user_code(interrupts_before)
        return response

    def _land(self, record: bytes, member: Member) -> Response:
        """Open an answer that came by shared memory."""
        shipper, pid = self._crew.shipper, member.child.pid
        try:
            payload = shipper.land(member, memoryview(record)[HEADER.size :])
            return self._open(record, payload, pid)
        except (OSError, MemoryError) as error:
            _, attempt, index, seconds = HEADER.unpack_from(record)
            job_id = self._job_id(index)
            refused = SerializationError(f"job {job_id}: no memory for its result: {error}", job_id=job_id)
            refused.__cause__ = error
            return JobResponse(None, 0, refused, job_id, attempt, seconds, pid, index)
        finally:
            shipper.landed(member)

    def _answer(self, lease: Lease, part: Sealed | Opened, pid: int) -> None:
        """Answer the jobs that have just left `lease`."""
        if self._teller.listens:
            part = Opened(part.first, part.open(), part.attempt)
            start = part.first - lease.first
            arguments = lease.arguments[start : start + len(part)]
            self._teller.answered(part, arguments, pid)
        self.ready.add(part)

    def _fail(self, job: Lease, error: BaseException, attempts: int, pid: int) -> None:
        """Answer a job that nobody holds."""
        self._ledger.drop(1)
        response = JobResponse(None, 0, error, self._job_id(job.index), attempts, 0.0, pid, job.index)
        self._answer(job, Opened(job.index, [response], job.attempt), pid)

    def _refuse(self, job: Lease, error: JobError) -> None:
        if isinstance(error, SerializationError):
            job_id = self._job_id(job.index)
            named = SerializationError(f"job {job_id}: {error}", job_id=job_id)
            named.__cause__ = error.__cause__
            error = named
        self._fail(job, error, 0, 0)

    def _job_id(self, index: int) -> str:
        return f"{self.id}-{index}"
