"""Signals wait while a child is made and noted.

A handler that raises, as that of Ctrl-C does, would come between a fork and the note of its pid. To block
signals does not hold them off: another thread takes them, also one that Python knows nothing of, as numpy's
are, and Python then runs the handler in the main thread, now or when that looks the next time. So meanwhile
each handler is exchanged for one that takes a note. Signals are blocked for the fork alone, for a child must
not miss what it is sent before it has put its handlers right.
"""

from __future__ import annotations

import sys
import threading

# `signal` makes a member of an enum of each number, which takes 0.3 ms for all of them.
from _signal import getsignal, signal, valid_signals  # type: ignore[import-not-found]
from collections import OrderedDict
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["HeldSignals"]

_Handler = Callable[[int, FrameType | None], Any]


class _Handlers:
    """Of the process; only the main thread comes here, as only that one runs and sets handlers."""

    def __init__(self) -> None:
        self.depth = 0
        self._are_held = False
        # Handlers nest: another signal may come at every instruction, so each look or change is one call.
        self._noted: OrderedDict[int, _Handler] = OrderedDict()
        self._exchanged: dict[int, _Handler] = {}

    def exchange(self) -> None:
        self._are_held = True
        for signum in valid_signals():
            handler = getsignal(signum)
            if callable(handler) and handler != self._note:
                self._exchanged[signum] = handler
                signal(signum, self._note)

    def put_back(self) -> None:
        self._are_held = False
        # One that is put back may raise before the next is. The rest then goes on by way of `_note`. It may
        # also hold signals itself, and put back all of them: so what was exchanged stays on record.
        for signum, handler in list(self._exchanged.items()):
            if getsignal(signum) == self._note:
                signal(signum, handler)

    def call(self) -> None:
        """Call those whose signals have come meanwhile."""
        try:
            signum, handler = self._noted.popitem(last=False)
        except KeyError:
            return
        try:
            handler(signum, sys._getframe())
        finally:
            self.call()

    def forget(self) -> None:
        self.depth = 0
        self._are_held = False
        self._noted.clear()
        self._exchanged.clear()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self._are_held:
            self._noted.setdefault(signum, self._exchanged[signum])  # once, as the system has it
        else:
            self._exchanged[signum](signum, frame)


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
                    _handlers.put_back()
                    raise
            _handlers.depth += 1
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._is_main:
            _handlers.depth -= 1
            if not _handlers.depth:
                try:
                    _handlers.put_back()
                finally:
                    _handlers.call()

    @staticmethod
    def forget() -> None:
        """In a child: what came before is the parent's."""
        _handlers.forget()
