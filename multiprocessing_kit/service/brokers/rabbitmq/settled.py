"""Which messages this consumer has settled, so that one that comes again is not run again."""

from __future__ import annotations

import time

from multiprocessing_kit.service.job import Delivery

__all__ = ["Settled"]

_REMEMBER_SECONDS = 600.0
_MOST_REMEMBERED = 20_000


class Settled:
    """By their marks."""

    def __init__(self) -> None:
        self._done: dict[str, float] = {}
        self._owed: dict[str, tuple[float, Delivery]] = {}
        self._overdue: list[Delivery] = []

    def done(self, mark: str) -> None:
        """It was acknowledged; the connection may still lose that."""
        self._done[mark] = time.monotonic()

    def owed(self, mark: str, until: float, delivery: Delivery) -> None:
        """It was lost before it was settled, and is to be acknowledged when it comes again, which is until
        then."""
        self._owed[mark] = (until, delivery)

    def has(self, mark: str, comes_again: bool) -> bool:
        """Whether a message that has come is one of them.

        Args:
            mark: Its.
            comes_again: Whether it was delivered before; otherwise the same job may have been pushed once
            more.
        """
        if self._owed.pop(mark, None) is None and not (comes_again and mark in self._done):
            return False
        self.done(mark)
        return True

    def forget_old(self) -> None:
        """What did not come again for long does not come any more."""
        now = time.monotonic()
        for mark, (until, delivery) in list(self._owed.items()):
            if now > until:
                del self._owed[mark]
                self._overdue.append(delivery)
        old = now - _REMEMBER_SECONDS
        for mark in list(self._done):
            if self._done[mark] > old and len(self._done) <= _MOST_REMEMBERED:
                break
            del self._done[mark]

    def overdue(self) -> list[Delivery]:
        """Those that did not come again in time, each once: another consumer has them."""
        overdue, self._overdue = self._overdue, []
        return overdue
