"""Job book-keeping, all in the caller: where each unanswered job is.

inputs ─▶ take ─▶ leased to a child ─▶ answered          a job is in exactly one of: returned,
            ▲        │        │                           waiting, again, leased; or it is answered
returned ───┤◀───────┘        │  (taken back, or its child died before it began)
again ──────┘◀── waiting ◀────┘  (REQUEUE, after its delay)

Jobs travel as leases: some in a row that one child is given at once. A child answers its jobs in the order
in which it was given them, so what it holds is a queue of leases.
"""

from __future__ import annotations

import heapq
import itertools
import time
import typing
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

if typing.TYPE_CHECKING:
    from multiprocessing_kit.runner.packing import Pickled

__all__ = ["Lease", "Ledger"]


@dataclass(slots=True, eq=False)
class Lease:
    """Unanswered jobs in a row.

    Attributes:
        first: Place of the first one's argument among the inputs, from 0.
        arguments: As the inputs gave them; kept so that they can be sent once more.
        pickles: Of the arguments, if they were pickled as they came: each a pickle, a parcel or an error.
        attempt: The attempt that is next or under way, from 1; above 1 only where there is one job.
        history: What a requeued job carries to the next child, unopened.
        number: Of its first job in the lane that it was sent through.
        done: How many of its jobs, from the first on, have left it.
    """

    first: int
    arguments: Sequence[object]
    attempt: int = 1
    history: bytes | None = None
    number: int = 0
    done: int = 0
    pickles: Sequence[Pickled] | None = None

    def __len__(self) -> int:
        """How many jobs are left in it."""
        return len(self.arguments) - self.done

    @property
    def index(self) -> int:
        """Place among the inputs of the first job that is left."""
        return self.first + self.done

    def cut(self, count: int) -> Lease:
        """Keep the first `count` of the jobs that are left; a lease of the others."""
        at = self.done + count
        rest = replace(
            self, first=self.first + at, arguments=self.arguments[at:], number=self.number + at, done=0
        )
        self.arguments = self.arguments[:at]
        if self.pickles is not None:
            rest.pickles, self.pickles = self.pickles[at:], self.pickles[:at]
        return rest


class Holder(Protocol):
    """Who jobs are leased to: a child.

    Attributes:
        leases: What it has and has not answered, in the order it was sent.
        held: How many jobs these are.
    """

    leases: deque[Lease]
    held: int


H = TypeVar("H", bound=Holder)


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
        self._returned: deque[Lease] = deque()
        self._again: deque[tuple[int, Lease]] = deque()
        self._waiting: list[tuple[float, int, Lease]] = []
        self._order = itertools.count()

    def add(self, arguments: Sequence[object], pickles: Sequence[Pickled] | None = None) -> Lease:
        """Fresh jobs for the next inputs; the caller of this leases or answers them at once."""
        lease = Lease(self.taken, arguments, pickles=pickles)
        self.taken += len(arguments)
        self.unanswered += len(arguments)
        return lease

    def next_known(self, limit: int, *, inputs_left: bool) -> Lease | None:
        """The jobs, at most `limit`, to run before a fresh input is taken, if any.

        Args:
            limit: At least 1.
            inputs_left: Whether a fresh input could be had; if not, requeued jobs are next.
        """
        if self._returned:
            lease = self._returned.popleft()
            if len(lease) > limit:
                self._returned.appendleft(lease.cut(limit))
            return lease
        if self._waiting:
            self._wake_due()
        if self._again and (not inputs_left or self.taken >= self._again[0][0]):
            return self._again.popleft()[1]
        return None

    def lease(self, lease: Lease, holder: Holder) -> None:
        """`lease` was sent to `holder`."""
        holder.leases.append(lease)
        holder.held += len(lease)

    def put_back(self, lease: Lease) -> None:
        """`lease` could not be sent, or was skipped: it is the next one again."""
        self._returned.appendleft(lease)

    def reclaim(self, holder: Holder, number: int) -> int:
        """`holder` will not run the jobs from this number in its lane on; how many go back to the front."""
        held = holder.held
        back = []
        while holder.leases and holder.leases[-1].number + len(holder.leases[-1].arguments) > number:
            lease = holder.leases.pop()
            keep = max(0, number - lease.number - lease.done)
            if keep:
                rest = lease.cut(keep)
                holder.leases.append(lease)
                lease = rest
            back.append(lease)
            holder.held -= len(lease)
        self._returned.extendleft(back)
        return held - holder.held

    def answered(self, holder: Holder, count: int) -> Lease:
        """`holder` answered the `count` jobs it holds longest, which leave the ledger; their lease."""
        self.unanswered -= count
        return self._off(holder, count)

    def drop(self, count: int) -> None:
        """Jobs that nobody holds were answered, by the caller itself."""
        self.unanswered -= count

    def requeue(self, holder: Holder, delay: float, attempt: int, history: bytes) -> None:
        """`holder` wants the job it holds longest to be run again after `delay` seconds."""
        lease = self._single(self._off(holder, 1))
        lease.attempt, lease.history = attempt, history
        self.again(lease, delay)

    def again(self, lease: Lease, delay: float) -> None:
        """The one job of `lease`, which nobody holds, is to be run again after `delay` seconds."""
        if delay > 0:
            heapq.heappush(self._waiting, (time.monotonic() + delay, next(self._order), lease))
        else:
            self._again.append((self.taken + self._queue_length, lease))

    def skipped(self, holder: Holder, number: int, count: int) -> int:
        """`holder` did not run these of its lane; how many of those that it holds go back to the front."""
        held = holder.held
        back = []
        while count and holder.leases:
            lease = holder.leases[0]
            if lease.number + lease.done != number:
                break
            gone = min(count, len(lease))
            rest = lease.cut(gone)
            holder.leases.popleft()
            if rest.arguments:
                holder.leases.appendleft(rest)
            number, count = number + gone, count - gone
            back.append(lease)
            holder.held -= gone
        self._returned.extendleft(reversed(back))
        return held - holder.held

    def give_back(self, holder: Holder) -> None:
        """`holder` died: the jobs that it had not begun go back to the front."""
        self._returned.extendleft(reversed(holder.leases))
        holder.leases.clear()
        holder.held = 0

    def lost(self, holder: Holder, number: int) -> Lease | None:
        """Take the job of this number out of what a dead `holder` has; None if it is not there.

        It still is unanswered: it must be answered (`drop`), or run `again`, or `put_back`.
        """
        for place, lease in enumerate(holder.leases):
            before = number - lease.number - lease.done
            if before >= len(lease) or before < 0:
                continue
            job = lease.cut(before)
            rest = job.cut(1)
            del holder.leases[place]
            for part in (rest, lease):
                if len(part):
                    holder.leases.insert(place, part)
            holder.held -= 1
            return job
        return None

    def holder_of(self, index: int, holders: Iterable[H]) -> tuple[H, int] | None:
        """Who has the job of this index, and its number in that one's lane."""
        for holder in holders:
            for lease in holder.leases:
                if lease.index <= index < lease.index + len(lease):
                    return holder, lease.number + index - lease.first
        return None

    def withdraw(self, index: int) -> Lease | None:
        """Take the job of this index out of what nobody holds; None if it is not there. As for `lost`."""
        for place, lease in enumerate(self._returned):
            if lease.index <= index < lease.index + len(lease):
                job = lease.cut(index - lease.index)
                rest = job.cut(1)
                del self._returned[place]
                for part in (rest, lease):
                    if len(part):
                        self._returned.insert(place, part)
                return job
        for position, (_, lease) in enumerate(self._again):
            if lease.index == index:
                del self._again[position]
                return lease
        for position, (_, _, lease) in enumerate(self._waiting):
            if lease.index == index:
                del self._waiting[position]
                heapq.heapify(self._waiting)
                return lease
        return None

    def next_due(self) -> float | None:
        """When the next waiting job is due (`time.monotonic()`), if one waits."""
        return self._waiting[0][0] if self._waiting else None

    def _off(self, holder: Holder, count: int) -> Lease:
        lease = holder.leases[0]
        lease.done += count
        holder.held -= count
        if not len(lease):
            holder.leases.popleft()
        return lease

    def _single(self, lease: Lease) -> Lease:
        """The job that has just left `lease`, as a lease of its own."""
        place = lease.done - 1
        pickles = None if lease.pickles is None else [lease.pickles[place]]
        arguments = [lease.arguments[place]]
        return Lease(lease.first + place, arguments, lease.attempt, lease.history, pickles=pickles)

    def _wake_due(self) -> None:
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            self._again.append((self.taken + self._queue_length, heapq.heappop(self._waiting)[2]))
