"""Fork at an instant at which no other thread is inside a logging handler.

`logging` gives each handler a new lock in a forked child. It does not know the locks under it: above all that
of the buffer of the handler's file, which a thread that writes at that instant holds, and which nobody would
ever release in the child. Whoever holds the handler's lock at the fork keeps all threads out of there.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["no_thread_logs"]

_log = logging.getLogger("multiprocessing_kit.supervise")

_TURN = 0.1
"""Seconds to wait for a handler. Who is in there may wait for one that we hold: so they are let go again."""

_TURNS = 50
"""After that the fork goes on as it would without this. Threads that only log can keep us waiting."""


@contextlib.contextmanager
def no_thread_logs() -> Iterator[None]:
    """Hold the locks of all handlers, if they can be had within seconds. Not to be left in the child."""
    if threading.active_count() == 1:
        yield
        return
    for _ in range(_TURNS):
        with contextlib.ExitStack() as held:
            if all(lock.acquire(timeout=_TURN) and held.callback(lock.release) for lock in _handler_locks()):
                yield
                return
    _log.warning("a thread is inside a logging handler for %g s; a job that logs may hang", _TURN * _TURNS)
    yield


def _handler_locks() -> Iterator[Any]:
    for reference in list(logging._handlerList):  # type: ignore[attr-defined]
        lock = getattr(reference(), "lock", None)
        if lock is not None:
            yield lock
