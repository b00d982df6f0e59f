"""Results that a handle has read: as many as there is room for, and where the others lie."""

from __future__ import annotations

import time
from collections import OrderedDict

__all__ = ["MOST_KEPT", "Kept"]

MOST_KEPT = 100_000
_MOST_BYTES = 64_000_000
_SWEEP_SECONDS = 1.0


class Kept:
    """By the keys of their jobs; none is known here any longer than it is to be kept.

    Of those that are too large together, the oldest ones' places in the stream are kept alone.
    """

    def __init__(self) -> None:
        self._places: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._results: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0
        self._sweep_at = 0.0

    def put(self, key: str, until: float, place: int) -> None:
        """There is a result, at this place; instead of an earlier one."""
        self.drop(key)
        if until > time.time():
            self._places[key] = until, place
            if len(self._places) > MOST_KEPT:
                self.drop(next(iter(self._places)))

    def hold(self, key: str, result: bytes) -> None:
        """Here it is, if there is room."""
        self._results[key] = result
        self._size += len(result)
        while self._size > _MOST_BYTES:
            self._release(next(iter(self._results)))

    def place(self, key: str) -> int | None:
        """Where it is; None if there is none."""
        until, place = self._places.get(key, (0.0, -1))
        return place if until > time.time() else None

    def result(self, key: str) -> bytes | None:
        """None if it is not here."""
        return self._results.get(key)

    def drop(self, key: str) -> None:
        """There is none."""
        self._places.pop(key, None)
        self._release(key)

    def clear(self) -> None:
        """Nothing is known."""
        self._places.clear()
        self._results.clear()
        self._size = 0

    def sweep(self) -> None:
        """Drop what is not to be kept any longer."""
        if time.monotonic() < self._sweep_at:
            return
        now = time.time()
        for key in [key for key, (until, _) in self._places.items() if until <= now]:
            self.drop(key)
        self._sweep_at = time.monotonic() + _SWEEP_SECONDS

    def _release(self, key: str) -> None:
        self._size -= len(self._results.pop(key, b""))
