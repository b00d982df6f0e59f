"""How a child runs jobs and answers them.

    lease ─▶ block of jobs ─▶ tight loop ─┬─ all went well ────▶ outcomes ──▶ one record, when a millisecond
             (one, where they are long)   │                                   of work or the lease is done
                                          └─ failed, canceled, ─▶ JobRun ───▶ a record of its own
                                             or no bare value

Where somebody listens to every job, each goes through `JobRun` from the start. Between two records, and
after each job that is not tiny, the child puts back what a job may have changed for the next one: the
working directory and the signal handlers. A job that forks and comes back in the copy as well ends that
copy here.
"""

from __future__ import annotations

import contextlib
import pickle
import signal
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any

from multiprocessing_kit.events import JobEvent, job_start, job_success
from multiprocessing_kit.ipc.codec import decode, encode
from multiprocessing_kit.ipc.parcel import Parcel
from multiprocessing_kit.lifecycle import JobRun, JobStatus, Outcome, Requeue
from multiprocessing_kit.response import JobResponse
from multiprocessing_kit.runner import messages
from multiprocessing_kit.runner.answers import seal_answer
from multiprocessing_kit.runner.block import ALL, TAKEN, Block, Pace, PickledBlock, Unreadable, run_jobs
from multiprocessing_kit.runner.child_end import CallerGone, ChildEnd, DescriptorsLost, Stopped
from multiprocessing_kit.runner.hold import Cargo, Hold, size_of
from multiprocessing_kit.runner.host import ChildHost
from multiprocessing_kit.runner.lane import HURRY
from multiprocessing_kit.runner.messages import AGAIN_LENGTH, HEADER
from multiprocessing_kit.runner.outcomes import Outcomes
from multiprocessing_kit.runner.surroundings import Surroundings
from multiprocessing_kit.supervise.held_signals import HeldSignals
from multiprocessing_kit.worker import FunctionWorker

__all__ = ["JobRunner"]

_PUBLISH_SECONDS = 0.001
"""Answers are sent when they have waited for so long."""

_TINY = 2e-5
"""Seconds below which looking after the surroundings would be a good part of a job's time."""

_EACH_TIME = JobEvent.JOB_START.bit | JobEvent.JOB_RUNNING.bit
"""Events of every job, which cost more than all that the hot path saves."""

_LARGE = {messages.DONE: messages.DONE_LARGE, messages.RESPONSE: messages.RESPONSE_LARGE}


class JobRunner:
    """Runs the jobs of one worker.

    Args:
        host: Of the worker.
        lane: The child's end of the lane.
        hold: What the child has of the caller's shared memory.
        run_id: Prefix of the job ids; may be changed between two leases.
    """

    def __init__(self, host: ChildHost, lane: ChildEnd, hold: Hold, run_id: str) -> None:
        self._host = host
        self._worker = host.worker
        self._check_process = host.check_process
        self._lane = lane
        self._hold = hold
        self.run_id = run_id
        self._outcomes = Outcomes()
        self._block: Block | None = None
        self._pace = Pace()
        self._may_hurry = False  # only while `process()` runs: the handler would find all else half done
        signal.signal(HURRY, self._hurry)
        self._restored = 0.0
        self.look_around()

    def look_around(self) -> None:
        """What is put back after jobs, from now on."""
        self._surroundings = Surroundings()

    def run_single(self, index: int, argument: memoryview) -> None:
        """Run a job that travels alone."""
        if self._is_watched():
            self._run_alone(index, argument, 1, apart=True)
        else:
            self._run_quick(index, argument, 1, apart=True)
            self.send_outcomes()
            self._lane.end()  # not before: a job that is given alone is not run again once it has begun
        self._worker._argument = None  # else it would be kept while there is nothing to do
        if self._pace.mean > _TINY or time.perf_counter() - self._restored > _PUBLISH_SECONDS:
            self._restore()

    def run_large(self, index: int, cargo: Cargo) -> None:
        """Run a job whose argument is in shared memory."""
        quick = not self._is_watched()
        if quick:
            self._run_quick(index, cargo, 1, apart=True)
        else:
            self._run_alone(index, cargo, 1, apart=True)
        cargo.settle()
        self._worker._argument = None  # else its memory would be kept while there is nothing to do
        if quick:
            self.report_dead()  # before the answer, which has the caller send another job in this memory
            self.send_outcomes()
            self._lane.end()
        self._restore()

    def run_lease(self, first: int, record: bytes, *, apart: bool) -> None:
        """Run jobs in a row, each of which was pickled `apart` or all in one."""
        arguments: Sequence[Any] = decode(memoryview(record)[HEADER.size :], "the arguments")
        at, count = 0, len(arguments)
        while at < count and not self._lane.stopping:
            if self._is_watched():
                self._publish()
                at += self._run_alone(first + at, arguments[at], count - at, apart=apart)
                continue
            if self._pace.jobs == 1:
                at += self._run_quick(first + at, arguments[at], count - at, apart=apart)
                self._lane.end()
                if self._pace.mean > _TINY:
                    self._restore()
            else:
                part = list(arguments[at : at + self._pace.jobs])
                at += self._run_block(first + at, part, count - at, apart=apart)
            if at < count and time.perf_counter() - self._outcomes.since > _PUBLISH_SECONDS:
                self._publish()
        self._publish()

    def run_again(self, index: int, record: bytes) -> None:
        """Run a job that was requeued."""
        kind, attempt, _, _ = HEADER.unpack_from(record)
        start = HEADER.size + AGAIN_LENGTH.size
        (length,) = AGAIN_LENGTH.unpack_from(record, HEADER.size)
        data = memoryview(record)[start + length :]
        argument = data if kind == messages.AGAIN else Cargo(self._hold, data)
        if not self._lane.begin():
            self._skip(1)
        else:
            self._host.index = index
            job_id = f"{self.run_id}-{index}"
            history, changes = decode(memoryview(record)[start : start + length], "the history", job_id)
            try:
                value = _opened(argument, job_id)
            except BaseException as error:
                self._check_process()
                self._send_failure(error, attempt)
            else:
                run = JobRun(self._worker, value, job_id, history=history, changes=changes, host=self._host)
                self._run_job(run, attempt)
        if isinstance(argument, Cargo):
            argument.settle()
        self._worker._argument = None

    def send_outcomes(self) -> None:
        """Send what is done."""
        if self._outcomes.values:
            self._lane.send(self._outcomes.record())
            self._outcomes.clear()

    def report_dead(self) -> None:
        """Tell the caller which of its blocks are not looked at here any more."""
        dead = self._hold.dead
        if dead:
            places = [dead.popleft() for _ in range(len(dead))]
            self._lane.send(HEADER.pack(messages.FREED, 0, 0, 0.0) + pickle.dumps(places), wake=False)

    def _is_watched(self) -> bool:
        """Whether there is more to be done about each job than to call `process()`."""
        retry = self._worker.retry
        return bool(
            job_start.receivers
            or job_success.receivers
            or self._lane.events & _EACH_TIME
            or (retry is not None and retry.retry is not None)
        )

    def _publish(self) -> None:
        """Send what is done, and tidy up behind it."""
        if self._outcomes.values:
            self.send_outcomes()
            self._restore()

    def _restore(self) -> None:
        self._surroundings.restore()
        self._restored = time.perf_counter()

    def _hurry(self, _signum: int, _frame: FrameType | None) -> None:
        """HURRY has come: the job under way is long, and answers wait behind it. Send them from its midst."""
        outcomes, block = self._outcomes, self._block
        if not self._may_hurry or self._host.is_copy or self._is_noted():
            return
        self._may_hurry = False
        try:
            # Another HURRY would find this half done, and send the same once more. So would the next one
            # where a handler of the job's has raised in here.
            with HeldSignals(), contextlib.suppress(DescriptorsLost):
                if outcomes.values:  # looked at now: one that came before that line has sent them
                    self._send_early(block)
        finally:
            self._may_hurry = True

    def _send_early(self, block: Block | None) -> None:
        outcomes = self._outcomes
        done = 0 if block is None else block.done
        if self._lane.try_send(outcomes.record((done, done * self._pace.mean))):
            if block is not None:
                block.clear()
            outcomes.clear()
            outcomes.begin(self._host.index if block is None else block.index, time.perf_counter())

    def _skip(self, most: int) -> int:
        """Pass jobs that were taken back; how many."""
        number, count = self._lane.skip(most)
        self._publish()
        self._lane.send(HEADER.pack(messages.SKIPPED, count, number, 0.0))
        return count

    # ── a job, where nobody watches ───────────────────────────────────────────────────────────────────

    def _run_quick(self, index: int, argument: Any, most: int, *, apart: bool) -> int:
        """Run a job that is timed by itself; how many are done with then, at most `most`."""
        lane, worker, outcomes = self._lane, self._worker, self._outcomes
        if not lane.begin():
            return self._skip(most)
        self._host.index = index
        try:
            if apart:
                argument = _opened(argument, f"{self.run_id}-{index}")
        except BaseException as error:
            return self._fail(index, error)
        worker._begin(None, f"{self.run_id}-{index}", argument)
        process = worker.function if type(worker) is FunctionWorker else worker.process
        began = time.perf_counter()
        outcomes.begin(index, began)
        try:
            self._may_hurry = True
            outcome = process(argument)
            self._may_hurry = False
        except BaseException as error:
            self._may_hurry = False
            seconds = time.perf_counter() - began
            self._check_process()  # while `sys.exc_info` still tells what to exit with
            self._conclude(index, argument, (error, True, seconds))
            return 1
        seconds = time.perf_counter() - began
        self._check_process()
        try:
            kept = not self._is_noted() and outcomes.keep(outcome)
        except BaseException as error:  # Ctrl-C, or an alarm that the job has left, while it is pickled
            self._conclude(index, argument, (error, True, seconds))
            return 1
        if not kept:
            self._conclude(index, argument, (outcome, False, seconds))
            return 1
        outcomes.timed(1, seconds)
        self._pace.note(1, seconds)
        worker.status = JobStatus.SUCCESS
        return 1

    # ── a block ───────────────────────────────────────────────────────────────────────────────────────

    def _run_block(self, first: int, arguments: list[Any], most: int, *, apart: bool) -> int:
        """Run jobs as long as all goes well; how many are done with then, at most `most`."""
        outcomes, lane, worker = self._outcomes, self._lane, self._worker
        began = time.perf_counter()
        outcomes.begin(first, began)
        kind = PickledBlock if apart else Block
        block = kind(self.run_id, first, arguments, outcomes.values, lane)
        worker._begin(block)
        self._block = block
        outcome, raised = self._run_jobs(block)
        self._block = None
        seconds = time.perf_counter() - began
        done, argument = block.passed, None if outcome is ALL else block.argument
        worker._leave(block)
        ended = done if outcome is ALL or outcome is TAKEN else done + 1
        if ended:
            self._pace.note(ended, seconds)
            outcomes.timed(block.done, seconds * block.done / ended)
        if outcome is ALL:
            lane.end()
        elif outcome is TAKEN or (raised and isinstance(outcome, Unreadable) and lane.is_begun_taken()):
            return done + self._skip(most - done)
        elif raised and isinstance(outcome, Unreadable):
            self._fail(first + done, outcome.__cause__ or outcome)
        else:
            self._conclude(first + done, argument, (outcome, raised, seconds / ended))
        return ended

    def _run_jobs(self, block: Block) -> tuple[object, bool]:
        """Run jobs of a block.

        Returns:
            `ALL`, `TAKEN`, or what the next one returned or raised if that takes more than keeping it; and
            whether it was raised.
        """
        outcomes, worker = self._outcomes, self._worker
        process = worker.function if type(worker) is FunctionWorker else worker.process
        remaining = iter(block)
        try:
            while True:
                self._may_hurry = True
                outcome = run_jobs(block, process, remaining, outcomes.kind)
                self._may_hurry = False
                if outcome is ALL:
                    break
                self._check_process()
                if outcome is TAKEN or self._is_noted() or not outcomes.keep(outcome):
                    return outcome, False
        except BaseException as error:
            self._may_hurry = False
            self._check_process()  # while `sys.exc_info` still tells what to exit with
            return error, True
        self._check_process()
        if outcomes.kind is not None and self._is_noted():
            return outcomes.values.pop(), False
        return ALL, False

    def _is_noted(self) -> bool:
        """Whether the job that has just run did something about itself."""
        return self._worker._canceled or bool(job_success.receivers)

    # ── one job ───────────────────────────────────────────────────────────────────────────────────────

    def _run_alone(self, index: int, argument: Any, most: int, *, apart: bool) -> int:
        """Run a job with all that may be done about it; how many are done with then, at most `most`."""
        if not self._lane.begin():
            return self._skip(most)
        self._host.index = index
        job_id = f"{self.run_id}-{index}"
        try:
            if apart:
                argument = _opened(argument, job_id)
        except BaseException as error:
            return self._fail(index, error)
        self._run_job(JobRun(self._worker, argument, job_id, host=self._host), 1)
        return 1

    def _fail(self, index: int, error: BaseException) -> int:
        """Answer a job whose argument cannot be had."""
        self._check_process()
        self.send_outcomes()
        self._host.index = index
        self._send_failure(error, 1)
        return 1

    def _conclude(self, index: int, argument: Any, outcome: Outcome) -> None:
        """Go on with a job that has run once."""
        self.send_outcomes()
        self._host.index = index
        run = JobRun(self._worker, argument, f"{self.run_id}-{index}", host=self._host, outcome=outcome)
        self._run_job(run, 1)

    def _run_job(self, run: JobRun, attempt: int) -> None:
        try:
            outcome = run.run()
        except (CallerGone, DescriptorsLost, Stopped):
            raise
        except BaseException as error:  # a Response whose `ok` raises, a listener's Ctrl-C
            self._check_process()
            self._send_failure(error, attempt)
            return
        self._check_process()  # listeners and `__reduce__` may fork, too
        self._send_answer(*(self._requeue(outcome) if isinstance(outcome, Requeue) else self._host.sealed))

    def _send_failure(self, error: BaseException, attempt: int) -> None:
        job_id = f"{self.run_id}-{self._host.index}"
        response = JobResponse(exception=error, job_id=job_id, attempts=attempt, pid=self._host.pid)
        _, header, payload = seal_answer(response, self._host.index, attempt, job_id)
        self._send_answer(header, payload)

    def _send_answer(self, header: bytes, payload: bytes | Parcel) -> None:
        if isinstance(payload, Parcel):
            header, payload = self._load(header, payload)
        self._lane.send(header + payload)
        self._lane.end()
        self._restore()

    def _load(self, header: bytes, parcel: Parcel) -> tuple[bytes, bytes]:
        """Copy a large answer to where the caller wants it; what to send."""
        kind, attempt, index, seconds = HEADER.unpack(header)
        self._lane.send(HEADER.pack(messages.WANT, 0, size_of(parcel), 0.0))
        data = self._hold.load(parcel, self._lane.wait_for_grant())
        return HEADER.pack(_LARGE[kind], attempt, index, seconds), data

    def _requeue(self, requeue: Requeue) -> tuple[bytes, bytes]:
        header = HEADER.pack(messages.REQUEUE, requeue.history.attempt, self._host.index, requeue.delay)
        return header, encode((requeue.history, requeue.changes), "the history", self._worker.job_id)


def _opened(argument: bytes | memoryview | Cargo, job_id: str) -> Any:
    return argument.open(job_id) if isinstance(argument, Cargo) else decode(argument, "the argument", job_id)
