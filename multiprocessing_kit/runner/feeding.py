"""Jobs out: who gets which, and how many at once."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import Final, Literal

from multiprocessing_kit.errors import IpcError, JobCanceledError, JobError, PoolError, SerializationError
from multiprocessing_kit.runner.crew import Crew, Member
from multiprocessing_kit.runner.leases import STUCK_SECONDS, Leases
from multiprocessing_kit.runner.ledger import Lease, Ledger
from multiprocessing_kit.runner.packing import Packer
from multiprocessing_kit.runner.ready import Ready
from multiprocessing_kit.runner.source import Inputs
from multiprocessing_kit.supervise.interrupts import Interrupts

__all__ = ["LOOK_AGAIN", "Feeder", "Window"]

_log = logging.getLogger("multiprocessing_kit.runner")

LOOK_AGAIN = 0.002
"""Seconds that a job may last before those that wait behind it are given to idle children."""

_WORTH_TAKING = 0.0005
"""Seconds of work that it pays to move to an idle child."""

_WORTH_FORKING = 0.02
"""Seconds of work that it pays to move to a child that is to be forked for it."""

_NO_PLACE: Final = False


class Window:
    """At most how many inputs are taken whose responses were not given out yet.

    Args:
        size: So many; None for no limit.
        grows: Whether it grows with the leases, so that each child always has one and another waits.
    """

    def __init__(self, size: int | None, *, grows: bool = False) -> None:
        self._size = size
        self._grows = grows

    def room(self, out: int, lease: int, children: int) -> int:
        """How many more may be taken when `out` are out and a lease has `lease` jobs."""
        if self._size is None:
            return lease
        return (max(self._size, 4 * lease * children) if self._grows else self._size) - out


class Feeder:
    """Gives the jobs of one run to its crew.

    Args:
        source: What the jobs are made of.
        crew: Who runs them.
        ledger: Notes who has which.
        ready: Tells how many responses were given out.
        window: How far inputs may be ahead of these.
        batch_size: Jobs in each lease; None to adapt.
        interrupts: Pickling and the inputs are user code.
        refuse: Called with the index of a job whose argument cannot travel, and the reason.

    Attributes:
        canceled: Indices of jobs that are not to run although their inputs were not taken yet, with why.
    """

    def __init__(
        self,
        source: Inputs,
        crew: Crew,
        ledger: Ledger,
        ready: Ready,
        *,
        window: Window,
        batch_size: int | None,
        interrupts: Interrupts,
        refuse: Callable[[Lease, JobError], None],
    ) -> None:
        self.source = source
        self.leases = Leases(crew.size, batch_size)
        self._batch_size = batch_size or sys.maxsize
        self._packer = Packer(crew.shipper)
        self._crew = crew
        self._ledger = ledger
        self._ready = ready
        self._window = window
        self._interrupts = interrupts
        self._refuse = refuse
        self.canceled: dict[int, JobCanceledError] = {}
        self._looked = 0.0

    def feed(self) -> bool:
        """Give jobs to children as long as there are both.

        Returns:
            False if there may be more at once: inputs come slowly, and answers should not wait for them.
        """
        crew = self._crew
        broken_off = False
        self.leases.adapt()
        for member in crew.members:
            member.lane.flush()
        # Children that are always busy would leave what waits behind a long job to wait for ever.
        is_due = time.monotonic() - self._looked > STUCK_SECONDS
        while (place := self._place()) is not _NO_PLACE:
            idle = place is None or not place.held
            if (idle or is_due) and self._take_back(STUCK_SECONDS, but_from=place):
                continue
            is_due = False
            lease = self._next_lease(place)
            if lease is None:
                if idle and (self._take_back(LOOK_AGAIN) or self._steal(forking=place is None)):
                    continue
                break
            if self.canceled and self._drop_canceled(lease):
                continue
            holder = place or self.hire()
            if holder is None:
                self._ledger.put_back(lease)
                continue
            self._send(lease, holder)
            if self.source.slow:
                broken_off = True
                break
        for member in crew.members:
            member.lane.wake()
            if not member.quota_left and not member.held and member.leave_by is None:
                member.lane.ask_to_stop()
                crew.note_leaving(member)
        return not broken_off

    def could_take_back(self) -> bool:
        """Whether it may come to that while the loop sleeps."""
        members = self._crew.members
        idle = len(members) < self._crew.size or not all(member.held for member in members)
        return idle and any(member.lane.could_take for member in members)

    def _take_back(self, stuck: float, *, but_from: Member | None = None) -> bool:
        """Take back all that waits in a lane behind a job that lasts longer than `stuck` seconds.

        Args:
            stuck: So long.
            but_from: Not from this child, for which it is.

        Returns:
            Whether there is anything.
        """
        self._looked = now = time.monotonic()
        for member in self._crew.members:
            count = member.lane.could_take
            if count and member is not but_from and member.lane.stuck_for(now) > stuck:
                return self._reclaim(member, count)
        return False

    def _steal(self, *, forking: bool) -> bool:
        """Take back half of what waits in the lane where most does, if that is worth it.

        Args:
            forking: Whether the child that it is for must be forked first. Then a single job stays where it
                is: its own child may be as far.

        Returns:
            Whether there is anything.
        """
        count, victim = max(
            ((member.lane.could_take, member) for member in self._crew.members),
            key=lambda pair: pair[0],
            default=(0, None),
        )
        worth = _WORTH_FORKING if forking else _WORTH_TAKING
        if victim is None or count < 1 + forking or count * self.leases.mean < worth:
            return False
        return self._reclaim(victim, -(-count // 2))

    def _reclaim(self, member: Member, count: int) -> bool:
        returned = self._ledger.reclaim(member, member.lane.take_back(count))
        member.returned += returned
        return returned > 0

    def hire(self) -> Member | None:
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
        """The child for the next lease: an idle one, else None for one to be hired, else the least busy.

        `_NO_PLACE` if all have what they may hold.
        """
        least, best = 1 if self.source.gives_large else self.leases.hold, None
        for member in self._crew.members:
            takes_more = member.quota_left and not member.doom and member.leave_by is None
            if member.held < least and takes_more and not member.lane.clogged:
                least, best = member.held, member
        if (best is None or least) and len(self._crew.members) < self._crew.size:
            return None
        return best or _NO_PLACE

    def _next_lease(self, place: Member | None) -> Lease | None:
        """Jobs for this child, or for a new one."""
        source, ledger = self.source, self._ledger
        held, quota = (0, self._crew.limits.least_quota) if place is None else (place.held, place.quota_left)
        size = min(self.leases.size(source.left, self.leases.hold - held), quota)
        room = self._window.room(ledger.taken - self._ready.given, size, self._crew.size)
        may_take = not source.exhausted and room > 0
        lease = ledger.next_known(size, inputs_left=may_take)
        if lease is None and may_take:
            arguments, pickles = source.take(min(size, room))
            if arguments:
                return ledger.add(arguments, pickles)
            return ledger.next_known(size, inputs_left=False)
        return lease

    def _drop_canceled(self, lease: Lease) -> bool:
        """Answer the first job of `lease` that is canceled, put back the others; whether there was one."""
        index = min((i for i in self.canceled if 0 <= i - lease.index < len(lease)), default=None)
        if index is None:
            return False
        job = lease.cut(index - lease.index)
        rest = job.cut(1)
        for part in (rest, lease):
            if len(part):
                self._ledger.put_back(part)
        self._refuse(job, self.canceled.pop(index))
        return True

    def _send(self, lease: Lease, holder: Member) -> None:
        """Send a lease, in as many records as it takes."""
        ledger, lane = self._ledger, holder.lane
        lease = lease.cut(0) if lease.done else lease
        at, size = 0, 0
        while at < len(lease.arguments):
            try:
                record, count, bytes_packed = self._pack(lease, at, holder)
            except SerializationError as error:
                refused = lease.cut(at)
                rest = refused.cut(1)
                if at:
                    ledger.lease(lease, holder)
                self._refuse(refused, error)
                lease, at = rest, 0
                continue
            number = lane.send_jobs(record, count)
            lease.number = number - at
            at += count
            size += bytes_packed
            if lane.clogged and at < len(lease.arguments) and not self.source.gives_large:
                ledger.put_back(lease.cut(at))
        if at:
            ledger.lease(lease, holder)
            self.leases.sent(at, size)

    def _pack(self, lease: Lease, at: int, holder: Member) -> tuple[bytes, int, int]:
        interrupts = self._interrupts
        interrupts_before = interrupts.count
        interrupts.in_user_code = True  # pickling is
        try:
            return self._packer.pack(lease, at, self._batch_size, holder)
        except SerializationError:
            interrupts.check_user_code(interrupts_before)
            raise
        finally:
            interrupts.in_user_code = False
