"""Ctrl-C and SIGTERM of the caller, held back until its loop can act on them.

Python raises `KeyboardInterrupt` between any two bytecodes: between a fork and the note of its pid,
inside a logging call, in a weakref callback where it is printed and lost. So while the loop runs, a
handler only notes the signal and rings a bell; the loop asks `check()` at a safe point. While the user's
own code runs (an input generator that blocks, a listener), the exception is raised at once, as they
would expect. A program's own handlers are left alone.
"""

from __future__ import annotations

# The module behind `signal`, whose wrappers take 20 times as long: `imap` comes here for each response.
import _signal  # type: ignore[import-not-found]
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

__all__ = ["Interrupts"]

_DEFAULTS = ((int(signal.SIGINT), signal.default_int_handler), (int(signal.SIGTERM), int(signal.SIG_DFL)))


class Interrupts:
    """Re-entrant context manager around the loop; idle outside the main thread, which sets all handlers.

    SIGINT ends in `KeyboardInterrupt`; SIGTERM, where nobody handles it, in `SystemExit(143)`, so that
    `finally` blocks and exit work run. They are raised by `check`, and after `__exit__` has put the
    handlers back.

    Args:
        wake: Called by the handler; must make the loop's wait return.

    Attributes:
        in_user_code: Set while user code runs; a signal then raises where it strikes.
        count: How many signals have come, raised or not.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._seen: list[int] = []
        self.count = 0
        self._raised = 0
        self.in_user_code = False
        self._depth = 0
        self._owner = 0
        self._outermost: FrameType | None = None

    def __enter__(self) -> Interrupts:
        if not self._depth and threading.current_thread() is threading.main_thread():
            self._owner, self._outermost = os.getpid(), sys._getframe(1)
            try:
                for signum, default in _DEFAULTS:
                    if _signal.getsignal(signum) == default:
                        _signal.signal(signum, self._note)
            except BaseException:  # of a handler of the program's own
                self._put_back()
                raise
        self._depth += 1
        return self

    def __exit__(self, *_exc: object) -> None:
        self._depth -= 1
        if self._depth:
            return
        try:
            self._put_back()
        except BaseException:
            self._put_back()
            raise
        finally:
            self._outermost = None
            self.check()

    def _put_back(self) -> None:
        for signum, default in _DEFAULTS:
            if _signal.getsignal(signum) == self._note:
                _signal.signal(signum, default)

    def check(self) -> None:
        """Raise for a signal that was noted and not raised yet."""
        if self.count > self._raised:
            self._raise(self._seen[-1])

    def check_user_code(self, count_before: int) -> None:
        """Raise `SystemExit` again where code that isolates user code from the loop has swallowed it.

        Args:
            count_before: `count` before that user code.
        """
        if self.count > count_before and self._seen[-1] != signal.SIGINT:
            self._raise(self._seen[-1])

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        # A copy that user code or another thread has forked has no loop. And a handler of the program's own
        # may have raised at the first instruction of `__exit__`.
        if os.getpid() != self._owner or not _is_running(self._outermost):
            self._put_back()
            _signal.raise_signal(signum)
            return
        self._seen.append(signum)
        self.count += 1
        if self.in_user_code:
            self.in_user_code = False
            self._raise(signum)
        self._wake()

    def _raise(self, signum: int) -> None:
        self._raised = self.count
        if signum == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + signum)


def _is_running(sought: FrameType | None) -> bool:
    """Whether the code of this frame is under way in this thread."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame is not sought:
        frame = frame.f_back
    return frame is not None
