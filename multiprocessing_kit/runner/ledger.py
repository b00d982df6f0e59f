"""Job book-keeping, all in the caller: where each unanswered job is.

inputs ─▶ take ─▶ leased to a child ─▶ answered          a job is in exactly one of: fresh, returned,
            ▲        │        │                           waiting, again, leased; or it is answered
returned ───┤◀───────┘        │  (its child died before it began)
again ──────┘◀── waiting ◀────┘  (REQUEUE, after its delay)
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections import deque
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Job", "Ledger"]


@dataclass(slots=True)
class Job:
    """One unanswered job.

    Attributes:
        index: Its argument's place among the inputs, from 0.
        argument: As the inputs gave it; kept so that it can be sent once more.
        attempt: The attempt that is next or under way, from 1.
        history: What a requeued job carries to the next child, unopened.
    """

    index: int
    argument: object
    attempt: int = 1
    history: bytes | None = None


class Holder(Protocol):
    """Who jobs are leased to: a child.

    Attributes:
        jobs: The unanswered jobs that it has, by index, in the order they were sent.
    """

    jobs: dict[int, Job]


class Ledger:
    """The jobs of one run.

    Args:
        queue_length: How many fresh inputs go before a requeued job: "the end of the queue", where
            the queue of inputs may have no end.

    Attributes:
        taken: How many inputs have become jobs.
        unanswered: How many of these are not answered yet.
    """

    def __init__(self, queue_length: int) -> None:
        self._queue_length = queue_length
        self.taken = 0
        self.unanswered = 0
        self._returned: deque[Job] = deque()
        self._again: deque[tuple[int, Job]] = deque()
        self._waiting: list[tuple[float, int, Job]] = []
        self._order = itertools.count()

    def add(self, argument: object) -> Job:
        """A fresh job for the next input; the caller of this leases or answers it at once."""
        job = Job(self.taken, argument)
        self.taken += 1
        self.unanswered += 1
        return job

    def next_known(self, *, inputs_left: bool) -> Job | None:
        """The job to run before a fresh input is taken, if any.

        Args:
            inputs_left: Whether a fresh input could be had; if not, requeued jobs are next.
        """
        if self._returned:
            return self._returned.popleft()
        if self._waiting:
            self._wake_due()
        if self._again and (not inputs_left or self.taken >= self._again[0][0]):
            return self._again.popleft()[1]
        return None

    def lease(self, job: Job, holder: Holder) -> None:
        """`job` was sent to `holder`."""
        holder.jobs[job.index] = job

    def put_back(self, job: Job) -> None:
        """`job` could not be sent: it is the next one again."""
        self._returned.appendleft(job)

    def reclaim(self, holder: Holder, count: int) -> None:
        """`holder` will not run the last `count` jobs that it was sent: they go back to the front."""
        indices = list(holder.jobs)[-count:]
        self._returned.extendleft(holder.jobs.pop(index) for index in reversed(indices))

    def answer(self, holder: Holder, index: int) -> Job:
        """`holder` answered a job, which leaves the ledger."""
        self.unanswered -= 1
        return holder.jobs.pop(index)

    def drop(self) -> None:
        """A job that nobody holds was answered, by the caller itself."""
        self.unanswered -= 1

    def requeue(self, holder: Holder, index: int, delay: float, attempt: int, history: bytes) -> None:
        """`holder` wants a job to be run again after `delay` seconds."""
        job = holder.jobs.pop(index)
        job.attempt, job.history = attempt, history
        if delay > 0:
            heapq.heappush(self._waiting, (time.monotonic() + delay, next(self._order), job))
        else:
            self._again.append((self.taken + self._queue_length, job))

    def give_back(self, holder: Holder) -> None:
        """`holder` died: the jobs that it had not begun go back to the front."""
        self._returned.extendleft(reversed(holder.jobs.values()))
        holder.jobs.clear()

    def next_due(self) -> float | None:
        """When the next waiting job is due (`time.monotonic()`), if one waits."""
        return self._waiting[0][0] if self._waiting else None

    def _wake_due(self) -> None:
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            self._again.append((self.taken + self._queue_length, heapq.heappop(self._waiting)[2]))
