"""`Child`: one forked process with a target, events, messages and a result. `delay`: one that begins later.

    parent                                   child
    ──────                                   ─────
    start() ── fork ───────────────────────▶ setup of what is attached
      "start"                                target(*args)
    wait(), result(), receive(),             teardown, in reverse
    is_running, exitcode:                    its result or exception, then os._exit
      take in what has come  ◀── two pipes ─▶
      "receive", "success" or "error", "finish"

There is no thread in the parent. It learns of messages and of the end when it looks, and tells listeners
then, in the thread that looks. `parent_side` and `child_side` are the ends of the pipes.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from multiprocessing_kit.child_events import ChildEvent, ChildEvents
from multiprocessing_kit.child_side import ChildSide, Hooks, as_hooks, time_left
from multiprocessing_kit.errors import ChildError, ChildTimeoutError, SerializationError, describe_exit
from multiprocessing_kit.ipc.codec import decode, encode
from multiprocessing_kit.parent_side import ParentSide, Pipes, reap
from multiprocessing_kit.supervise.death import PARENT_GONE
from multiprocessing_kit.supervise.fork import fork_child
from multiprocessing_kit.supervise.held_signals import HeldSignals

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Child", "current_child", "delay"]

R = TypeVar("R")

_log = logging.getLogger("multiprocessing_kit.child")

_numbers = itertools.count(1)
_current: Child[Any] | None = None


class Child(ChildEvents, Generic[R]):
    """One forked process that calls `target`.

    It inherits the target by fork, so closures and open objects work. It dies with this process, and with it
    all that it has started and left running. It goes on when nobody holds this object. In the child, this
    object is for `send` and `receive`; all else is the parent's, in any of its threads.

    Args:
        target: What to call in the child.
        *args: Given to it.
        name: For its process title and messages; "" takes Child-1, Child-2, ...
        **kwargs: Given to it.

    Attributes:
        name: As given.
    """

    def __init__(self, target: Callable[..., R], *args: Any, name: str = "", **kwargs: Any) -> None:
        if not callable(target):
            raise TypeError(f"target must be callable, not {target!r:.100}")
        if not isinstance(name, str):
            raise TypeError(f"name must be a string, not {name!r:.100}")
        super().__init__()
        self.name = name or f"Child-{next(_numbers)}"
        self._call: Callable[[], R] | None = functools.partial(target, *args, **kwargs)
        self._attached: list[Hooks] = []
        self._owner = os.getpid()
        self._parent: ParentSide | None = None
        self._inside: ChildSide | None = None
        self._untold = [ChildEvent.START, ChildEvent.SUCCESS, ChildEvent.FINISH]
        self._telling = threading.RLock()
        self._in_listener = False

    def __repr__(self) -> str:
        if self._parent is None:
            state = "not started"
        elif self._parent.over:
            state = f"pid {self._parent.forked.pid} {describe_exit(self._parent.forked.exitcode)}"
        else:
            state = f"pid {self._parent.forked.pid}"
        return f"<{type(self).__name__} {self.name}: {state}>"

    # ── before the start ──────────────────────────────────────────────────────────────────────────

    def attach(self, item: object) -> Self:
        """Have something set up in the child before the target runs, and torn down after it.

        Set-ups run in the order in which they were attached, teardowns in reverse, and only of what was set
        up, also when the target raises or calls `sys.exit()`. An error in either is the child's error.

        Args:
            item: Has `setup()`, `teardown()` or both; or a plain function, which is called before the target.

        Raises:
            TypeError: It is none of these.
            ChildError: The child was started already.
        """
        if self._call is None:
            raise ChildError(f"{self.name} was started already: attach before start()")
        self._attached.append(as_hooks(item))
        return self

    def start(self) -> None:
        """Fork the child.

        Raises:
            ChildError: It was started already, or was made by another process.
            OSError: The system cannot fork, or has no descriptor left.
        """
        if os.getpid() != self._owner:
            raise self._foreign()
        call, attached = self._call, self._attached
        if call is None:
            raise ChildError(f"{self.name} was started already: a child runs once, make another")
        reap()
        with HeldSignals():
            pipes = Pipes()

            def run(_liveness: int) -> int:
                global _current
                self._inside, _current = ChildSide(pipes.down, pipes.up), self
                return self._inside.run(call, attached)

            try:
                forked = fork_child(run, title=f"mpkit: child {self.name}")
            except BaseException:
                pipes.close_parent_ends()
                raise
            finally:
                pipes.close_child_ends()
            self._parent = ParentSide(forked, pipes)
            self._call, self._attached = None, []
        self._tell_all()

    # ── from start to end ─────────────────────────────────────────────────────────────────────────

    @property
    def pid(self) -> int | None:
        """Its process id; None before the start."""
        if self._inside is not None:
            return self._inside.pid
        return None if self._parent is None else self._parent.forked.pid

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended. Takes in what has come, and tells listeners."""
        return _is_inside(self) or (self._parent is not None and not self._look().over)

    @property
    def exitcode(self) -> int | None:
        """None until it has ended; then its exit status, or minus the number of the signal that ended it.

        0 after the target has returned, 1 after it raised, `sys.exit()`'s own after that. None also if
        somebody else took the status (SIGCHLD is ignored). Takes in what has come, and tells listeners.
        """
        return None if self._parent is None else self._look().forked.exitcode

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended, and tell listeners.

        Args:
            timeout: Seconds; None waits for ever.

        Returns:
            Whether it has ended.

        Raises:
            ChildError: It was not started, or not by this process.
        """
        self._watch(lambda: False, timeout)
        return self._started().over

    def result(self, timeout: float | None = None) -> R:
        """Wait for its end; return what its target returned.

        Raises:
            ChildTimeoutError: It has not ended in `timeout` seconds (it goes on).
            WorkerLostError: It was killed, or exited before the target returned; with its exit code.
            SerializationError: The result cannot be pickled.
            BaseException: What the target raised, with a `RemoteError` that has the traceback as cause.
            ChildError: It was not started, or not by this process.
        """
        if not self.wait(timeout):
            raise ChildTimeoutError(f"{self.name} (pid {self.pid}) has not ended in {timeout:g} s")
        value, error = self._started().outcome(self.name)
        if error is not None:
            raise error
        return cast(R, value)

    def send(self, message: object) -> None:
        """Send a message to the other side: in the parent to the child, in the child to the parent.

        Waits while the pipe is full: the child until the parent looks, the parent until the child receives.

        Raises:
            SerializationError: The message cannot be pickled.
            BrokenPipeError: The other side has ended.
            ChildError: The child was not started, or this is a third process.
        """
        if self._inside is not None and _is_inside(self):
            self._inside.send(message)
        else:
            self._started().send(encode(message, "the message"))

    def receive(self, timeout: float | None = None) -> Any:
        """Wait for the other side's next message and return it; a child that has ended leaves its own behind.

        Raises:
            ChildTimeoutError: None has come in `timeout` seconds.
            EOFError: The other side has ended, and there is no message left.
            SerializationError: The message cannot be unpickled.
            ChildError: "receive" has listeners; the child was not started; this is a third process.
        """
        if self._inside is not None and _is_inside(self):
            return self._inside.receive(timeout)
        parent = self._started()
        if self._wants_messages:
            raise ChildError(
                f"the messages of {self.name} go to its listeners of 'receive'; off() removes them"
            )
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self._watch(lambda: parent.has_message, time_left(deadline))
            data = parent.take_message()
            if data is not None:
                return decode(data, "the message")
            if parent.over:
                raise EOFError(f"{self.name} (pid {self.pid}) has ended, and there is no message left")
            if time_left(deadline) == 0.0:
                raise ChildTimeoutError(f"no message from {self.name} (pid {self.pid}) in {timeout:g} s")

    def terminate(self) -> None:
        """Send SIGTERM, unless it has ended; that ends it, unless it listens to that."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        self.send_signal(signal.SIGKILL)

    def send_signal(self, signum: int) -> None:
        """Send a signal, unless it has ended; to nobody else even where the pid was used again."""
        self._started().send_signal(signum)

    # ── looking and telling ───────────────────────────────────────────────────────────────────────

    def _foreign(self) -> ChildError:
        return ChildError(f"{self.name} was made by process {self._owner}, not by this one ({os.getpid()})")

    def _started(self) -> ParentSide:
        if os.getpid() != self._owner:
            raise self._foreign()
        if self._parent is None:
            raise ChildError(f"{self.name} was not started: call start() first")
        return self._parent

    def _look(self) -> ParentSide:
        parent = self._started()
        parent.look()
        self._tell_all()
        return parent

    def _watch(self, done: Callable[[], bool], timeout: float | None) -> None:
        """Take in what comes until `done()` or the end, and tell listeners as it comes."""
        parent = self._started()
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            found = parent.watch(lambda: done() or self._has_news(), left)
            self._tell_all()
            if not found or done() or parent.over:
                return

    def _has_news(self) -> bool:
        return self._wants_messages and not self._in_listener and self._started().has_message

    def _tell_all(self) -> None:
        """Call the listeners for all that has come; the events that come in one of them are told after it."""
        parent = self._started()
        with self._telling:
            while not self._in_listener:
                try:
                    self._in_listener = True
                    self._tell_in_order(parent)
                finally:
                    self._in_listener = False
                if not (self._has_news() or (parent.over and self._untold)):  # a signal handler has looked
                    return

    def _tell_in_order(self, parent: ParentSide) -> None:
        pid = parent.forked.pid
        if self._untold[:1] == [ChildEvent.START]:
            self._tell(self._untold.pop(0), pid=pid)
        while self._wants_messages and (data := parent.take_message()) is not None:
            try:
                message = decode(data, "the message")
            except SerializationError:
                _log.exception("lost a message of %s (pid %s)", self.name, pid)
            else:
                self._tell(ChildEvent.RECEIVE, pid=pid, message=message)
        while parent.over and self._untold:
            event = self._untold.pop(0)
            value, error = parent.outcome(self.name)
            if event is ChildEvent.SUCCESS and error is not None:
                event = ChildEvent.ERROR
            self._tell(event, pid=pid, value=value, exception=error, exitcode=parent.forked.exitcode)


def current_child() -> Child[Any] | None:
    """The `Child` that this process is, for its target to `send` and `receive`; None in any other process."""
    return _current if _current is not None and _is_inside(_current) else None


def delay(seconds: float, fn: Callable[..., R], *args: Any, name: str = "", **kwargs: Any) -> Child[R]:
    """Call `fn` in a forked child after `seconds`.

    The child is forked at once, sleeps, and then calls `fn`; `terminate()` before that cancels it. It needs
    nobody to hold it, but it does not outlive this process.

    Args:
        seconds: From now.
        fn: What to call.
        *args: Given to it.
        name: As for `Child`.
        **kwargs: Given to `fn`.

    Returns:
        The child, started.

    Raises:
        ValueError: `seconds` is negative or not a number.
        OSError: The system cannot fork, or has no descriptor left.
    """
    if not seconds >= 0:
        raise ValueError(f"seconds must be 0 or more, not {seconds!r}")
    if not callable(fn):
        raise TypeError(f"fn must be callable, not {fn!r:.100}")
    call = functools.partial(fn, *args, **kwargs)
    child: Child[R] = Child(_call_at, time.monotonic() + seconds, os.getpid(), call, name=name)
    child.start()
    return child


def _call_at(deadline: float, parent: int, call: Callable[[], R]) -> R:
    time.sleep(max(0.0, deadline - time.monotonic()))
    if os.getppid() != parent:  # where no signal tells of its death
        os._exit(PARENT_GONE)
    return call()


def _is_inside(child: Child[Any]) -> bool:
    """Whether this process is that child, and not a copy that its target has forked."""
    return child._inside is not None and child._inside.pid == os.getpid()
