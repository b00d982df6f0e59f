"""Child book-keeping: which children there are, with which worker, and how they go.

Children are forked one by one, when there is a job that no idle child can take. They inherit the
worker. Those of a resident crew live on for the next run: if its worker differs (by its pickle), they get
that pickle, and if it has none, they are replaced by new forks.
"""

from __future__ import annotations

import logging
import os
import select
import sys
import time
from collections import deque
from dataclasses import dataclass, field

from multiprocessing_kit.errors import IpcError, PoolError, SerializationError, describe_exit
from multiprocessing_kit.ipc.codec import encode
from multiprocessing_kit.ipc.doorbell import Doorbell
from multiprocessing_kit.runner import messages
from multiprocessing_kit.runner.caller_end import CallerEnd
from multiprocessing_kit.runner.child import LOST_DESCRIPTORS, JobChild
from multiprocessing_kit.runner.child_end import ChildEnd
from multiprocessing_kit.runner.freight import Freight, Shipper
from multiprocessing_kit.runner.lane import Lane
from multiprocessing_kit.runner.ledger import Lease
from multiprocessing_kit.runner.limits import Limits
from multiprocessing_kit.runner.messages import HEADER
from multiprocessing_kit.runner.watch import Doom
from multiprocessing_kit.supervise.child import ForkedChild
from multiprocessing_kit.supervise.fork import flush_stdio, fork_child
from multiprocessing_kit.supervise.held_signals import HeldSignals
from multiprocessing_kit.supervise.interrupts import Interrupts
from multiprocessing_kit.supervise.stacks import Stacks
from multiprocessing_kit.supervise.stop import StopSteps, stop_children
from multiprocessing_kit.worker import Worker

__all__ = ["ABANDONED", "AT_ONCE", "IN_ORDER", "Crew", "Member"]

_log = logging.getLogger("multiprocessing_kit.runner")

IN_ORDER = StopSteps(asked=30.0, terminated=2.0)
"""After a run: every job is answered, only `teardown()` is left."""

ABANDONED = StopSteps(asked=1.0, terminated=0.5)
"""After Ctrl-C, an error or a dropped iterator: running jobs may finish if they are quick."""

AT_ONCE = StopSteps(asked=0.1, terminated=0.5)
"""When somebody said so: time for idle children to end in order."""


@dataclass(eq=False)
class Member:
    """One child and our end of its lane.

    Attributes:
        pin: Its index, 0 to processes - 1, kept by the child that replaces it.
        leases: The unanswered jobs that it has, in the order it was sent.
        held: How many these are.
        freight: Its part in the large payloads.
        hurried_at: When it was last sent HURRY, by `time.monotonic()`.
        quota: Jobs in its life.
        returned: Jobs that it was sent and did not run.
        stacks: Where it writes what it was at, if it may be killed for taking too long.
        doom: Why it is being killed, if it is.
        leave_by: When it is to have ended, by `time.monotonic()`, if it was asked to or said that it would.
        was_terminated: Whether it was sent SIGTERM for it.
    """

    pin: int
    child: ForkedChild
    lane: CallerEnd
    leases: deque[Lease] = field(default_factory=deque)
    held: int = 0
    freight: Freight = field(default_factory=Freight)
    hurried_at: float = 0.0
    quota: int = sys.maxsize
    returned: int = 0
    stacks: Stacks | None = None
    doom: Doom | None = None
    leave_by: float | None = None
    was_terminated: bool = False

    @property
    def quota_left(self) -> int:
        """How many more jobs it may be sent."""
        return self.quota - self.lane.sent_jobs + self.returned


class Crew:
    """The children of one `Process`.

    Args:
        size: At most how many.
        name: For their titles; "" takes the worker's name.
        limits: What they may.
        resident: Whether they will serve more than one run.

    Attributes:
        members: Those there are.
        leaving: Those of them that were asked to end, or said that they would.
    """

    def __init__(self, size: int, name: str, limits: Limits, *, resident: bool) -> None:
        self.size = size
        self.members: list[Member] = []
        self.leaving: list[Member] = []
        try:
            self.bell = Doorbell()
        except OSError as error:
            raise PoolError(f"no descriptor to wait with: {error}; raise the limit (ulimit -n)") from error
        self._name = name
        self.limits = limits
        self._resident = resident
        self._owner = os.getpid()
        self._poll = select.poll()
        self._poll.register(self.bell, select.POLLIN)
        self._by_fd: dict[int, Member] = {}
        self.shipper = Shipper()
        self._worker: Worker | None = None
        self._pickled: bytes | None = None
        self._run_id = ""
        self._events = 0
        self._barren = 0

    # ── runs ──────────────────────────────────────────────────────────────────────────────────────

    def begin_run(self, worker: Worker, run_id: str, interrupts: Interrupts) -> None:
        """Make ready for the jobs of `worker`."""
        pickled = _pickle_of(worker) if self._resident else None
        if self.members:
            if pickled is None:
                self.stop(IN_ORDER, interrupts)
            news = None if pickled == self._pickled else pickled
            record = HEADER.pack(messages.RUN, 0, 0, 0.0) + encode((run_id, news), "the worker")
            for member in self.members:
                member.lane.send(record)
                member.lane.wake()
        self._worker, self._pickled, self._run_id = worker, pickled, run_id

    def set_events(self, mask: int) -> None:
        """Which events the children are to send home."""
        if mask != self._events:
            self._events = mask
            for member in self.members:
                member.lane.set_events(mask)

    @property
    def is_ours(self) -> bool:
        """Whether this process forked the children, rather than a parent that it is a copy of."""
        return os.getpid() == self._owner

    # ── members ───────────────────────────────────────────────────────────────────────────────────

    def hire(self) -> Member:
        """Fork one more child.

        Raises:
            PoolError: The system would not fork.
            IpcError: There is no shared memory for its lane.
        """
        assert self._worker is not None
        worker, run_id, limits = self._worker, self._run_id, self.limits
        pin = min(set(range(self.size)) - {member.pin for member in self.members})
        siblings = list(self.members)
        stacks = None
        try:
            stacks = None if limits.timeout is None else Stacks()
            lane = Lane(self.bell)
        except OSError as error:
            if stacks is not None:
                stacks.close()
            if isinstance(error, IpcError):
                raise
            raise self._no_fork(pin, error) from error

        def run(liveness: int) -> int:
            for sibling in siblings:
                sibling.lane.close()
                if sibling.stacks is not None:
                    sibling.stacks.close()
            if stacks is not None:
                stacks.arm()
            end = ChildEnd(lane, liveness, flush_stdio, timed=limits.timeout is not None)
            return JobChild(end, worker, run_id, memory=limits.memory).main()

        label = self._name or worker.name or type(worker).__name__
        caller_end = CallerEnd(lane)
        caller_end.set_events(self._events)
        with HeldSignals():  # also those of the program's own handlers
            try:
                child = fork_child(run, title=f"mpkit: worker {label} #{pin}")
            except OSError as error:
                caller_end.close()
                if stacks is not None:
                    stacks.close()
                raise self._no_fork(pin, error) from error
            member = Member(pin, child, caller_end, quota=limits.quota(), stacks=stacks)
            self.members.append(member)
            self._by_fd[child.fileno()] = member
            self._poll.register(child, select.POLLIN)
        return member

    def _no_fork(self, pin: int, error: OSError) -> PoolError:
        return PoolError(
            f"cannot fork child #{pin} of {self.size}: {error}; use fewer processes, or raise the limit "
            "(ulimit -u for processes, ulimit -n for descriptors)"
        )

    def wait(self, timeout: float | None) -> list[Member]:
        """Sleep until a child rings, one ends, or `timeout` seconds have passed; the ended ones."""
        timeouts = [m.child.recheck for m in self.members if m.child.recheck is not None]
        if timeout is not None:
            timeouts.append(timeout)
        ready = self._poll.poll(min(timeouts) * 1000 if timeouts else None)
        self.bell.clear()
        suspects = [self._by_fd[fd] for fd, _ in ready if fd in self._by_fd]
        if not suspects and timeouts:
            suspects = [m for m in self.members if m.child.recheck is not None]
        return [member for member in suspects if member.child.poll()]

    def note_leaving(self, member: Member) -> None:
        """It takes no more jobs, and has the time for `teardown()` that it has at the end of a run."""
        member.leave_by = time.monotonic() + (IN_ORDER.asked or 0.0)
        self.leaving.append(member)

    def hasten(self, now: float) -> float:
        """End those that do not leave; in how many seconds to look again."""
        for member in self.leaving:
            assert member.leave_by is not None
            if now >= member.leave_by:
                if member.was_terminated:
                    member.child.kill()
                else:
                    member.child.terminate()
                member.was_terminated = True
                member.leave_by = now + IN_ORDER.terminated
        return min(member.leave_by or now for member in self.leaving) - now

    def fruitful(self) -> None:
        """A child answered a job: the children as such are sound."""
        self._barren = 0

    def remove(self, member: Member) -> None:
        """Forget an ended child.

        Raises:
            PoolError: Several in a row have died before they got to a job, and none that got further is left.
        """
        self.members.remove(member)
        self._barren += not member.lane.was_asked_to_stop
        was_set_up = member.lane.is_set_up
        self._let_go(member)
        status = describe_exit(member.child.exitcode)
        if member.child.exitcode == LOST_DESCRIPTORS:
            status = "was ended because a job had closed its descriptors"
        elif member.doom is not None and member.doom.memory is not None:
            status += f", since it had {member.doom.memory >> 20} MiB (see max_memory_per_child)"
        _log.info("child %d (#%d) %s", member.child.pid, member.pin, status)
        if self._barren <= max(3, 2 * self.size):
            return
        what = (
            f"{self._barren} children in a row ended without answering a job; the last, "
            f"{member.child.pid}, {status}: look at setup(), and for what they wrote to stderr"
        )
        if not any(m.lane.is_set_up for m in self.members):
            raise PoolError(what)
        if not was_set_up:  # there is only place for those that are
            self._barren = 0
            self.size = len(self.members)
            _log.warning("going on with %d children: %s", self.size, what)

    def stop(self, steps: StopSteps, interrupts: Interrupts) -> None:
        """End all children; a further signal cuts the patience of `steps` short."""
        if not self.is_ours:
            return

        def ask() -> None:
            for member in self.members:
                member.lane.ask_to_stop()

        try:
            stop_children(
                [m.child for m in self.members], steps, ask=ask, hurry=_Hurry(self.bell, interrupts)
            )
        finally:
            # A handler of the program's own may have raised. Nobody would end later who is not ended now.
            with HeldSignals():
                for member in self.members:
                    member.child.kill()
                for member in self.members:
                    member.child.wait()
                    self._let_go(member)
                    if member.child.exitcode:
                        _log.warning(
                            "child %d (#%d) %s at the end of its work",
                            member.child.pid,
                            member.pin,
                            describe_exit(member.child.exitcode),
                        )
                self.members = []

    def close(self) -> None:
        """Give up the doorbell; the children are stopped."""
        if self.is_ours:
            self.bell.close()
            self.shipper.close()

    def _let_go(self, member: Member) -> None:
        if member in self.leaving:
            self.leaving.remove(member)
        self._poll.unregister(member.child)
        del self._by_fd[member.child.fileno()]
        member.lane.close()
        member.child.close()
        if member.stacks is not None:
            member.stacks.close()
        self.shipper.lost(member)


class _Hurry:
    """Impatience by signal: the handler rings the crew's bell."""

    def __init__(self, bell: Doorbell, interrupts: Interrupts) -> None:
        self._bell = bell
        self._interrupts = interrupts
        self._patient_until = interrupts.count

    def fileno(self) -> int:
        return self._bell.fileno()

    def wanted(self) -> bool:
        self._bell.clear()
        return self._interrupts.count > self._patient_until


def _pickle_of(worker: Worker) -> bytes | None:
    try:
        return encode(worker, "the worker")
    except SerializationError as error:
        _log.info("children cannot be kept for another worker: %s", error)
        return None
