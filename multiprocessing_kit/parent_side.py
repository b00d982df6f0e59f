"""The parent's end of a `Child`: takes in what the child sends, and notices its end, while somebody waits.

No thread does that in the background. Of several threads that wait for one child, one leads: it sleeps in
`poll` and takes in what comes, for all; the others sleep until it has, or until it leaves and one of them
leads.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from multiprocessing_kit.child_side import MESSAGE, VALUE, milliseconds, time_left
from multiprocessing_kit.errors import SerializationError, WorkerLostError, describe_exit
from multiprocessing_kit.ipc.codec import decode, unpack_exception
from multiprocessing_kit.ipc.frames import FrameReader, FrameWriter
from multiprocessing_kit.supervise.child import ForkedChild
from multiprocessing_kit.supervise.descriptors import close_private, make_private
from multiprocessing_kit.supervise.stop import StopSteps, stop_children

__all__ = ["ParentSide", "Pipes", "reap"]

_RECHECK = 1.0
"""Seconds after which to look again: a signal handler that came just before the sleep may have taken in what
we wait for. As for `ForkedChild`, where there is no pidfd."""

_AT_EXIT = StopSteps(asked=0.0, terminated=2.0)

_running: set[ParentSide] = set()
"""Those that are not over: they go on when nobody holds their `Child`."""


class Pipes:
    """The two pipes between a parent and a child, from before the fork.

    Attributes:
        down: Read by the child.
        up: Written by the child.
        to_child, from_child: The parent's ends, closed in every process that it forks; -1 when closed.
    """

    def __init__(self) -> None:
        self.down, to_child = os.pipe()
        self.to_child = make_private(to_child)
        try:
            from_child, self.up = os.pipe()
        except BaseException:
            os.close(self.down)
            close_private(self.to_child)
            raise
        self.from_child = make_private(from_child)

    def close_child_ends(self) -> None:
        """In the parent, after the fork."""
        os.close(self.down)
        os.close(self.up)

    def close_parent_ends(self) -> None:
        """In the parent, when nothing more comes. Idempotent."""
        to_child, self.to_child = self.to_child, -1
        close_private(to_child)
        from_child, self.from_child = self.from_child, -1
        close_private(from_child)


class ParentSide:
    """For any number of threads, and for signal handlers that come in between.

    Args:
        forked: The child.
        pipes: To it.

    Attributes:
        over: Whether the child has ended, and all that it sent has been taken in.
    """

    def __init__(self, forked: ForkedChild, pipes: Pipes) -> None:
        self.forked = forked
        self.over = False
        self._pipes = pipes
        self._reader = FrameReader(pipes.from_child)
        self._writer = FrameWriter(pipes.to_child)
        self._news = threading.Condition()
        self._leader = 0
        self._in_use = False
        self._owner = os.getpid()
        self._outcome: tuple[Any, BaseException | None] | None = None
        _running.add(self)

    @property
    def is_ours(self) -> bool:
        """Whether this process forked the child, rather than a parent that it is a copy of."""
        return os.getpid() == self._owner

    @property
    def frames(self) -> deque[tuple[int, bytes]]:
        """What the child has sent."""
        return self._reader.frames

    @property
    def has_message(self) -> bool:
        """Whether there is a message of the child to be taken."""
        try:
            return self.frames[0][0] == MESSAGE
        except IndexError:
            return False

    def look(self) -> None:
        """Take in what is there; where another thread waits, it does that at this moment."""
        with self._news:
            if self._leader in (0, threading.get_ident()):
                self._take_in()
                self._news.notify_all()

    def watch(self, done: Callable[[], bool], timeout: float | None) -> bool:
        """Take in what comes until `done()`, until the child is over, or for `timeout` seconds.

        Returns:
            What `done()` said last.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        me = threading.get_ident()
        outer = me if self._leader == me else 0  # we are a signal handler, and the code under us leads
        while True:
            try:
                with self._news:
                    self.look()
                    left = time_left(deadline)
                    if done() or self.over or left == 0.0:
                        return done()
                    if self._leader not in (0, me):
                        self._news.wait(left)
                        continue
                    self._leader = me
                self._sleep(left)
            finally:
                with self._news:
                    if self._leader == me:
                        self._leader = outer
                        self._news.notify_all()

    def send(self, data: bytes) -> None:
        """Write a message, taking in what comes meanwhile: the child may be waiting for us to do that.

        Raises:
            BrokenPipeError: The child has ended, or has closed its end.
        """
        if not self.over:
            self._writer.put(MESSAGE, data)
        while True:
            with self._news, self._using_pipes():
                if self.over:
                    raise BrokenPipeError(f"child {self.forked.pid} has ended and takes no more messages")
                if self._writer.flush():
                    return
            self._sleep(None, writing=True)
            self.look()

    def send_signal(self, signum: int) -> None:
        """Send a signal, unless it has ended."""
        with self._news, self._using_pipes():
            if not self.over:
                self.forked.send_signal(signum)

    def take_message(self) -> bytes | None:
        """The oldest message that it has sent; None if there is none."""
        frames = self.frames
        with self._news:  # of two threads, one would take what comes next: perhaps the result
            if frames and frames[0][0] == MESSAGE:  # until `popleft` no call, at which a handler could come
                return frames.popleft()[1]
        return None

    def outcome(self, name: str) -> tuple[Any, BaseException | None]:
        """What the target returned, or why it did not; once the child is over.

        Args:
            name: Of the child, for errors.
        """
        with self._news:
            if self._outcome is None:
                found = self._read_outcome(name)
                if self._outcome is None:  # else a signal handler has read it, and it is not there any more
                    self._outcome = found
                frames = self.frames
                while frames and frames[-1][0] != MESSAGE:  # until `pop` no call, as in `take_message`
                    frames.pop()
            return self._outcome

    def _read_outcome(self, name: str) -> tuple[Any, BaseException | None]:
        # A thread that the target has left behind may have sent a message after it.
        kind, data = next((frame for frame in tuple(self.frames) if frame[0] != MESSAGE), (MESSAGE, b""))
        if kind == MESSAGE:
            return None, self._lost(name)
        try:
            content = decode(data, "the result")
        except SerializationError as error:
            return None, error
        return (content, None) if kind == VALUE else (None, unpack_exception(content))

    def _lost(self, name: str) -> WorkerLostError:
        pid, exitcode = self.forked.pid, self.forked.exitcode
        message = f"{name} (pid {pid}) {describe_exit(exitcode)} before its target returned"
        if exitcode == -signal.SIGKILL:
            message += "; if nobody killed it, the system may have run out of memory (see the kernel log)"
        return WorkerLostError(message, pid=pid, exitcode=exitcode, peak_memory=self.forked.peak_memory)

    def _sleep(self, left: float | None, writing: bool = False) -> None:
        sentinel, reading, writing_to = self.forked.fileno(), self._pipes.from_child, self._pipes.to_child
        if -1 in (sentinel, reading, writing_to):
            return  # closed by now
        poll = select.poll()  # one object cannot be used by two at a time
        poll.register(sentinel, select.POLLIN)
        if not self._reader.ended:
            poll.register(reading, select.POLLIN)
        if writing:
            poll.register(writing_to, select.POLLOUT)
        poll.poll(milliseconds(_RECHECK if left is None else min(left, _RECHECK)))

    def _take_in(self) -> None:
        with self._using_pipes():
            if self.over:
                return
            ended = self.forked.poll()
            self._reader.fill()  # once ended, there is no more than the pipe holds
            if ended:
                self.over = True
                _running.discard(self)

    @contextlib.contextmanager
    def _using_pipes(self) -> Iterator[None]:
        """Close the pipes after it when the child is over, but not in a signal handler inside of it."""
        outer = self._in_use
        try:
            self._in_use = True
            yield
        finally:
            self._in_use = outer
            if self.over and not outer:
                self._pipes.close_parent_ends()
                self.forked.close()


def reap() -> None:
    """Take in the ends of children that nobody looks at, so that they are no zombies until the exit."""
    for side in list(_running):
        if side.is_ours:
            side.look()


@atexit.register
def _stop_all() -> None:
    """Without it they would die as well, but their statuses be left to others."""
    stop_children([side.forked for side in list(_running) if side.is_ours], _AT_EXIT, ask=lambda: None)
