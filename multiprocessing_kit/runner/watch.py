"""Children that take too long, or too much memory: found, asked where they are, and killed.

    since (in the lane) + timeout passes ──▶ DUMP: the child writes its stacks ──▶ 50 ms later SIGKILL
    memory beyond twice the limit ─────────────────────────────────────────────▶ SIGKILL

The kernel does the rest: a child in C code cannot refuse, nor one that is stopped. What the job that it was
killed for is answered with is `losses`' business, once the child has ended.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from multiprocessing_kit.errors import JobCanceledError
from multiprocessing_kit.runner.limits import Limits
from multiprocessing_kit.supervise.memory import own_memory

if TYPE_CHECKING:
    from multiprocessing_kit.runner.caller_end import CallerEnd
    from multiprocessing_kit.runner.crew import Member

__all__ = ["Doom", "Watch"]

_DUMP_SECONDS = 0.05
"""For the child to write its stacks; a stopped one cannot."""

_DUMP_TURNS = 20
"""So many times as long where the child is ready to run, and others have the processors."""

_LOOK_AT_MEMORY = 0.1


@dataclass
class Doom:
    """Why a child is killed.

    Attributes:
        number: Of the job that it is killed for, in its lane; None if it was between two.
        begun: Of the job that it had begun last.
        kill_at: When, by `time.monotonic()`.
        memory: Bytes that it had, if that is why.
        canceled: What to answer its job with, if that is why. If nothing is, it took too long.
        turns: How often it has been given more time to write its stacks.
    """

    number: int | None
    begun: int
    kill_at: float
    memory: int | None = None
    canceled: JobCanceledError | None = None
    turns: int = 0

    @property
    def is_for_time(self) -> bool:
        """Whether it took too long."""
        return self.memory is None and self.canceled is None

    def has_passed(self, lane: CallerEnd) -> bool:
        """Whether the child has gone on since."""
        return (lane.current, lane.begun) != (self.number, self.begun)


class Watch:
    """Watches the children of one run.

    Args:
        limits: What they may.
    """

    def __init__(self, limits: Limits) -> None:
        self._timeout = limits.timeout
        self._memory = limits.memory_killed
        self._next_look = 0.0
        self._idle: weakref.WeakKeyDictionary[Member, tuple[int, float]] = weakref.WeakKeyDictionary()
        self.needed = self._timeout is not None or self._memory is not None

    def look(self, members: Iterable[Member]) -> None:
        """Kill who is due."""
        now = time.monotonic()
        look_at_memory = self._memory is not None and now >= self._next_look
        if look_at_memory:
            self._next_look = now + _LOOK_AT_MEMORY
        for member in members:
            if member.doom is not None:
                if now < member.doom.kill_at:
                    continue
                if member.doom.is_for_time and member.doom.has_passed(member.lane):
                    member.doom = None  # its job has ended after all
                elif not self._waits_for_stacks(member, member.doom, now):
                    member.child.kill()
                continue
            number, begun = member.lane.current, member.lane.begun
            late = self._timeout is not None and now >= self._deadline(member, self._timeout, now)
            if late and (member.lane.current, member.lane.begun) == (number, begun):  # else it went on since
                member.doom = Doom(number, begun, now + _DUMP_SECONDS)
                if member.stacks is not None:
                    member.stacks.ask(member.child)
            elif look_at_memory and self._memory is not None and member.held:
                memory = own_memory(member.child.pid)
                if memory > self._memory:
                    member.doom = Doom(number, begun, now, memory=memory)
                    member.child.kill()

    def _waits_for_stacks(self, member: Member, doom: Doom, now: float) -> bool:
        doom.turns += 1
        if not doom.is_for_time or doom.turns > _DUMP_TURNS or member.stacks is None:
            return False
        doom.kill_at = now + _DUMP_SECONDS
        return member.stacks.may_come(member.child)

    def due(self, members: Iterable[Member]) -> float | None:
        """In how many seconds to look again; None if nothing can become due."""
        now = time.monotonic()
        times = [self._next_look] if self._memory is not None else []
        for member in members:
            if member.doom is not None:
                times.append(member.doom.kill_at)
            elif self._timeout is not None and member.held:
                # The job that comes next has at least this long; then the sleep is over, and another begins.
                times.append(min(self._deadline(member, self._timeout, now), now + self._timeout))
        return max(0.0, min(times) - now) if times else None

    def _deadline(self, member: Member, timeout: float, now: float) -> float:
        """When `member` takes too long."""
        since = member.lane.since(now)
        return (self._idle_since(member, now) if since is None else since) + timeout

    def _idle_since(self, member: Member, now: float) -> float:
        """Since when it does not begin the job that it has; now, if there is a reason.

        A child may be stopped between two jobs, also while it sleeps. Before its first one it may have much
        to set up, and it may have to wait until its answers are taken.
        """
        lane = member.lane
        begun = lane.begun
        if not member.held or lane.current is not None or not lane.is_set_up or lane.has_records:
            self._idle.pop(member, None)
            return now
        seen, since = self._idle.get(member, (begun, now))
        if seen != begun:
            since = now
        self._idle[member] = begun, since
        return since
