"""Jobs whose child died: whether they are run again, or answered for it.

child dies ─▶ its job ─┬─ it crashed, and may again ───▶ JOB_RETRY, front of the queue
                       ├─ it took too long ────────────▶ the retry strategy decides, as for any failure
                       ├─ we killed the child for another job, just ended ─▶ front of the queue, uncharged
                       └─ none of these ───────────────▶ WorkerLostError
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from multiprocessing_kit.errors import JobTimeoutError, WorkerLostError
from multiprocessing_kit.ipc.codec import decode, encode
from multiprocessing_kit.response import JobResponse
from multiprocessing_kit.retry import History, RetryType
from multiprocessing_kit.runner.ledger import Lease, Ledger
from multiprocessing_kit.runner.limits import Limits
from multiprocessing_kit.runner.telling import Teller
from multiprocessing_kit.supervise.interrupts import Interrupts

if TYPE_CHECKING:
    from multiprocessing_kit.runner.crew import Member
    from multiprocessing_kit.worker import Worker

__all__ = ["Losses"]


class Losses:
    """Decides for the jobs of one run.

    Args:
        worker: The caller's, whose retry strategy is asked.
        run_id: Prefix of the job ids.
        ledger: Where jobs go back to.
        teller: Tells of retries.
        limits: How often jobs may crash, and how long they may last.
        interrupts: Strategies are user code.
        fail: Answers a job with an error: job, error, attempts, pid.
    """

    def __init__(
        self,
        worker: Worker,
        run_id: str,
        ledger: Ledger,
        teller: Teller,
        *,
        limits: Limits,
        interrupts: Interrupts,
        fail: Callable[[Lease, BaseException, int, int], None],
    ) -> None:
        self._worker = worker
        self._run_id = run_id
        self._ledger = ledger
        self._teller = teller
        self._limits = limits
        self._interrupts = interrupts
        self._fail = fail

    def of(self, member: Member) -> bool:
        """Deal with the job that an ended child was at; whether there was one."""
        number, doom = member.lane.current, member.doom
        job = None if number is None else self._ledger.lost(member, number)
        if job is None:
            return False
        job.attempt = member.lane.attempt or job.attempt
        if doom is not None and doom.number != number:
            self._ledger.put_back(job)
        elif doom is not None and doom.canceled is not None:
            self._fail(job, doom.canceled, job.attempt, member.child.pid)
        elif doom is not None and doom.is_for_time:
            self._timed_out(job, member)
        else:
            self._crashed(job, member)
        return True

    def _crashed(self, job: Lease, member: Member) -> None:
        child, doom = member.child, member.doom
        history, changes = self._history(job)
        error = WorkerLostError.of_child(
            f"{self._run_id}-{job.index}",
            child.pid,
            child.exitcode,
            attempts=job.attempt,
            peak_memory=child.peak_memory,
            killed_for=None if doom is None else doom.memory,
        )
        if history.crashes >= self._limits.crash_retries:
            self._fail(job, error, job.attempt, child.pid)
            return
        history.crashes += 1
        self._tell(job, error, 0.0, child.pid)
        self._again(job, history, changes)
        self._ledger.put_back(job)

    def _timed_out(self, job: Lease, member: Member) -> None:
        assert self._limits.timeout is not None
        pid, stacks = member.child.pid, "" if member.stacks is None else member.stacks.read()
        error: BaseException = JobTimeoutError.of_child(
            f"{self._run_id}-{job.index}", pid, self._limits.timeout, stacks
        )
        strategy = self._worker.retry
        if strategy is None:
            self._fail(job, error, job.attempt, pid)
            return
        history, changes = self._history(job)
        interrupts_before = self._interrupts.count
        self._interrupts.in_user_code = True
        try:
            verdict = strategy.decide(error, history, (self._worker.process, job.arguments[job.done]))
        except Exception as mistake:
            self._interrupts.check_user_code(interrupts_before)
            self._fail(job, mistake, job.attempt, pid)
            return
        finally:
            self._interrupts.in_user_code = False
        if not verdict.again:
            self._fail(job, error, job.attempt, pid)
            return
        self._tell(job, error, verdict.delay, pid)
        self._again(job, history, changes)
        if strategy.retry_type is RetryType.REQUEUE or verdict.delay:
            self._ledger.again(job, verdict.delay)
        else:
            self._ledger.put_back(job)

    def _history(self, job: Lease) -> tuple[History, object]:
        """Of its attempts so far, up to the one that was lost; and the changes that travel with it."""
        if job.history is None:
            return History(job.attempt), None
        history, changes = decode(job.history, "the history")
        history.attempt = job.attempt
        return history, changes

    @staticmethod
    def _again(job: Lease, history: History, changes: object) -> None:
        history.attempt += 1
        job.attempt, job.history = history.attempt, encode((history, changes), "the history")

    def _tell(self, job: Lease, error: BaseException, delay: float, pid: int) -> None:
        job_id = f"{self._run_id}-{job.index}"
        response = JobResponse(None, 0, error, job_id, job.attempt, 0.0, pid, job.index)
        self._teller.retried(response, job.arguments[job.done], delay)
