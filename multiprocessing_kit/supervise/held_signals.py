"""Signals wait while a child is made and noted.

A handler that raises, as that of Ctrl-C does, would come between a fork and the note of its pid. To block
signals holds them off this thread only. Any other takes them, also one that Python knows nothing of, as
numpy's are, and Python then runs the handler in the main thread, blocked or not. So meanwhile each handler
is exchanged for one that takes a note.
"""

from __future__ import annotations

import sys
import threading

# `signal` makes a member of an enum of each number, which takes 0.3 ms for all of them.
from _signal import (  # type: ignore[import-not-found]
    SIG_BLOCK,
    SIG_SETMASK,
    getsignal,
    pthread_sigmask,
    signal,
    valid_signals,
)
from collections import deque
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from types import FrameType
from typing import Any

__all__ = ["HeldSignals"]


class _Handlers:
    """Of the process; only the main thread comes here, as only that one runs and sets handlers."""

    def __init__(self) -> None:
        self._are_held = False
        self._noted: deque[int] = deque()
        self._exchanged: dict[int, Callable[[int, FrameType | None], Any]] = {}

    def exchange(self) -> None:
        self._are_held = True
        for signum in valid_signals():
            handler = getsignal(signum)
            if callable(handler) and handler != self._note:
                self._exchanged[signum] = handler
                signal(signum, self._note)

    def put_back(self) -> None:
        self._are_held = False
        # One that is put back may raise before the next is. The rest then goes on by way of `_note`.
        for signum, handler in self._exchanged.items():
            if getsignal(signum) == self._note:
                signal(signum, handler)

    def call(self) -> None:
        """Call those whose signals have come meanwhile."""
        if self._noted:
            signum = self._noted.popleft()
            try:
                self._exchanged[signum](signum, sys._getframe())
            finally:
                self.call()

    def forget(self) -> None:
        self._are_held = False
        self._noted.clear()
        self._exchanged.clear()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self._are_held:
            self._noted.append(signum)
        else:
            self._exchanged[signum](signum, frame)


class _Thread(threading.local):
    depth = 0
    mask: AbstractSet[int] = frozenset()


_handlers = _Handlers()
_thread = _Thread()


class HeldSignals:
    """Context manager, which may be nested: no signal handler runs in it, and all that should right after it.

    A child that was forked in it does not leave it: it calls `forget`.
    """

    def __enter__(self) -> HeldSignals:
        if not _thread.depth:
            self._hold()
        _thread.depth += 1
        return self

    def __exit__(self, *_exc: object) -> None:
        _thread.depth -= 1
        if not _thread.depth:
            self._let_go()

    @property
    def mask(self) -> AbstractSet[int]:
        """Signals that this thread had blocked before."""
        return _thread.mask

    @staticmethod
    def forget() -> None:
        """In a child: what came before is the parent's."""
        _thread.depth = 0
        _handlers.forget()

    def _hold(self) -> None:
        if _is_main():
            try:
                _handlers.exchange()
            except BaseException:
                _handlers.put_back()
                raise
        _thread.mask = pthread_sigmask(SIG_BLOCK, valid_signals())

    def _let_go(self) -> None:
        pthread_sigmask(SIG_SETMASK, _thread.mask)  # what comes now is noted, in its turn
        if _is_main():
            try:
                _handlers.put_back()
            finally:
                _handlers.call()


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()
