"""Signal handlers that raise at any instant, for tests of what that leaves."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator

__all__ = ["Interrupted", "interrupt", "interrupted"]


class Interrupted(BaseException):
    """Raised by the signal handler."""


def interrupt(*_: object) -> None:
    """The signal handler."""
    raise Interrupted


def interrupted(action: Callable[[], object], times: int, least: float, most: float) -> Iterator[None]:
    """Do `action` again and again until a signal handler raises in it; and all this so many times.

    For a forked child, as the handler stays.

    Args:
        action: Takes less than `most`, as a rule.
        times: How many signals come.
        least, most: Seconds until one comes.

    Yields:
        After each.
    """
    signal.signal(signal.SIGALRM, interrupt)
    chance = random.Random(7)
    for _ in range(times):
        try:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(least, most))
            while True:
                action()
        except Interrupted:
            yield
