"""Signals wait while a child is made and noted.

A handler that raises, as that of Ctrl-C does, would come between a fork and the note of its pid. To block
signals does not hold them off: another thread takes them, also one that Python knows nothing of, as numpy's
are, and Python then runs the handler in the main thread, now or when that looks the next time. So meanwhile
each handler is exchanged for one that takes a note. Signals are blocked for the fork alone, for a child must
not miss what it is sent before it has put its handlers right.
"""

from __future__ import annotations

import os
import threading

# `signal` makes a member of an enum of each number, which takes 0.3 ms for all of them.
from _signal import getsignal, signal, valid_signals  # type: ignore[import-not-found]
from collections.abc import Callable
from functools import partial
from itertools import repeat
from types import FrameType
from typing import Any

__all__ = ["HeldSignals"]

_Handler = Callable[[int, FrameType | None], Any]


class _Handlers:
    """Of the process; only the main thread comes here, as only that one runs and sets handlers."""

    def __init__(self) -> None:
        self.depth = 0
        self.thread = threading.main_thread().ident
        self._are_held = False
        # Handlers nest: another signal may come at every instruction, so each look or change is one call.
        self._noted: dict[int, Callable[[], Any]] = {}
        self._exchanged: dict[int, _Handler] = {}

    def exchange(self) -> None:
        self._are_held = False
        while not self._are_held:
            self._are_held = True
            for signum in valid_signals():
                handler = getsignal(signum)
                if callable(handler) and handler != self._note:
                    self._exchanged[signum] = handler
                    found = signal(signum, self._note)
                    # One that is not exchanged yet may run here. It may have set another one, or held signals
                    # itself, and put back all of them: then once more.
                    if found != handler:
                        signal(signum, found)
                        self._are_held = False

    def release(self) -> None:
        """Put them back, and call those whose signals have come meanwhile."""
        self._are_held = False
        try:
            # One that is put back may hold signals itself, and put back all: so what was exchanged stays on
            # record.
            for signum, handler in list(self._exchanged.items()):
                if getsignal(signum) == self._note:
                    found = signal(signum, handler)
                    if found != self._note:  # it has just run, and set another one
                        signal(signum, found)
            # Between the end of `pop` and the call no other handler can come, and raise.
            for call in map(self._noted.pop, list(self._noted), repeat(_nothing)):
                call()
        except BaseException:  # of a handler; there is more to put back, or to call
            self.release()
            raise

    def forget(self) -> None:
        self.depth = 0
        self._are_held = False
        self._noted.clear()
        self._exchanged.clear()

    def release_in_child(self) -> None:
        self._noted.clear()
        self.release()
        self.forget()
        self.thread = threading.get_ident()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        handler = self._exchanged[signum]
        if self._are_held:
            self._noted.setdefault(signum, partial(handler, signum, frame))  # once, as the system has it
        else:
            handler(signum, frame)


def _nothing() -> None:
    """One that was released in a handler has called it."""


_handlers = _Handlers()


class HeldSignals:
    """Context manager, which may be nested: no handler runs in it, and all that should right after it.

    Only the main thread runs handlers; in others it does nothing. A child that was forked in it does not
    leave it: it calls `forget`.
    """

    def __enter__(self) -> HeldSignals:
        self._is_main = threading.current_thread() is threading.main_thread()
        if self._is_main:
            if not _handlers.depth:
                try:
                    _handlers.exchange()
                except BaseException:
                    _handlers.release()
                    raise
            _handlers.depth += 1
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._is_main:
            _handlers.depth -= 1
            if not _handlers.depth:
                _handlers.release()

    @staticmethod
    def forget() -> None:
        """In a child: what came before is the parent's."""
        _handlers.forget()


def _after_fork_in_child() -> None:
    """A child of another thread, whoever forks it: nobody there leaves what the main thread is in here."""
    if threading.get_ident() != _handlers.thread:
        _handlers.release_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
