"""Callbacks for operating system signals, run in order and one after the other.

    signal ──▶ C handler: notes it ──next bytecode──▶ main thread: callbacks of signal 1, then of signal 2 ...

There is no loop whose turn could be awaited: the interrupted code may be anything, such as the target of a
`Child`. So callbacks run where Python runs its own handlers, in the main thread between two bytecodes. A
signal that comes while a callback runs is noted, and its callbacks run after that; they are never nested.
"""

from __future__ import annotations

import logging
import os
import signal
from collections import deque
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["SignalListener"]

_log = logging.getLogger("multiprocessing_kit.supervise")

_Callback = tuple[Callable[..., object], tuple[object, ...]]


class SignalListener:
    """Calls back when signals come, between `setup()` and `close()`.

    Attach it to a `Child`, and it listens there while the target runs. Or use it in any process as a context
    manager, from the main thread, which alone may set handlers.

    A callback runs in the middle of other code of the main thread, like every signal handler of Python. It
    should not take a lock that this code may hold: set a flag, `send()` a message, or end the code with
    `sys.exit()`. Calls in C that do not look for signals delay it.

    - The system merges signals of one kind that come before the first of them is noted.
    - An `Exception` of a callback is logged, and the next callback runs. `SystemExit`, `KeyboardInterrupt`
      and the like are raised in the interrupted code, after all callbacks that are due.
    """

    def __init__(self) -> None:
        self._callbacks: dict[int, list[_Callback]] = {}
        self._previous: dict[int, Any] = {}
        self._pid = 0
        self._due: deque[int] = deque()
        self._busy = False

    @property
    def is_listening(self) -> bool:
        """Whether it is set up in this process."""
        return self._pid == os.getpid()

    def on(self, signum: int, callback: Callable[..., object], *args: object) -> Self:
        """Call `callback` for each signal `signum`, after those that were added before.

        Args:
            signum: Such as `signal.SIGTERM`.
            callback: Takes the signal, and then `args`.
            *args: Passed on to it.

        Returns:
            This object, for chaining.

        Raises:
            ValueError: There is no such signal, or nobody can listen to it.
            TypeError: The callback is not callable.
        """
        if signum not in signal.valid_signals() or signum in (signal.SIGKILL, signal.SIGSTOP):
            raise ValueError(f"{signum!r} is no signal that can be listened to")
        if not callable(callback):
            raise TypeError(f"a callback must be callable, not {type(callback).__qualname__}")
        self._callbacks.setdefault(int(signum), []).append((callback, args))
        if self.is_listening:
            self._install(int(signum))
        return self

    def off(self, signum: int, callback: Callable[..., object] | None = None) -> Self:
        """Remove `callback` from `signum`, or all of them for None; after the last one, the handler, too."""
        kept = [(c, args) for c, args in self._callbacks.get(signum, ()) if callback not in (None, c)]
        if kept:
            self._callbacks[signum] = kept
        else:
            if self.is_listening:
                self._restore(signum)
            self._callbacks.pop(signum, None)
        return self

    def setup(self) -> None:
        """Begin to listen; no more than once at a time.

        Raises:
            ValueError: This is not the main thread.
        """
        if not self.is_listening:
            self._previous.clear()  # of a parent that listens: in a forked child, its handlers do not count
            self._due.clear()
            self._busy = False
            self._pid = os.getpid()
        try:
            for signum in list(self._callbacks):
                if self.is_listening and signum in self._callbacks:  # a callback may run here already
                    self._install(signum)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Put the former handlers back, where nobody has replaced ours since. Idempotent."""
        if self.is_listening:
            for signum in list(self._previous):
                self._restore(signum)
            self._pid = 0

    teardown = close

    def __enter__(self) -> Self:
        self.setup()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _install(self, signum: int) -> None:
        if signum not in self._previous:
            previous = signal.getsignal(signum)
            self._previous[signum] = signal.SIG_DFL if previous is None else previous  # None: set by C code
            signal.signal(signum, self._handle)

    def _restore(self, signum: int) -> None:
        # A callback may run here and restore it, too, and another handler may raise.
        previous = self._previous.get(signum)
        if previous is not None and signal.getsignal(signum) == self._handle:
            signal.signal(signum, previous)
            self._previous.pop(signum, None)

    def _handle(self, signum: int, _frame: FrameType | None) -> None:
        if not self.is_listening:  # somebody who had replaced us has put us back
            signal.signal(signum, self._previous.pop(signum, signal.SIG_DFL))
            signal.raise_signal(signum)
            return
        self._due.append(signum)
        failure = None
        while self._due and not self._busy:  # once more for what came in before `_busy` was reset
            try:
                self._busy = True
                while self._due:
                    failure = self._call(self._due.popleft()) or failure
            finally:
                self._busy = False
        if failure is not None:
            raise failure

    def _call(self, signum: int) -> BaseException | None:
        """Run the callbacks of one signal; returns what is to be raised."""
        failure: BaseException | None = None
        for callback, args in tuple(self._callbacks.get(signum, ())):
            try:
                callback(_named(signum), *args)
            except Exception:
                name = getattr(callback, "__qualname__", None) or repr(callback)
                _log.exception("callback %s for %r failed", name, _named(signum))
            except BaseException as error:
                failure = error
        return failure


def _named(signum: int) -> int:
    try:
        return signal.Signals(signum)
    except ValueError:  # real-time signals between the first and the last have no name
        return signum
