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

__all__ = ["no_thread_logs"]

_PATIENCE = 0.1
"""Seconds for each handler. Who holds its lock may wait for another one's, which we have; then the fork goes
on as it would without this."""


@contextlib.contextmanager
def no_thread_logs() -> Iterator[None]:
    """Hold the locks of all handlers, as far as they can be had in a moment. Not to be left in the child."""
    with contextlib.ExitStack() as stack:
        if threading.active_count() > 1:
            for reference in list(logging._handlerList):  # type: ignore[attr-defined]
                lock = getattr(reference(), "lock", None)
                if lock is not None and lock.acquire(timeout=_PATIENCE):
                    stack.callback(lock.release)
        yield
