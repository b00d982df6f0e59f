"""How many workers a backlog asks for."""

from __future__ import annotations

__all__ = ["Scaling"]

_IDLE_LOOKS = 5
"""Looks in a row that find too many workers before one of them goes: a lull is no reason."""


class Scaling:
    """Grows at once, as far as the backlog asks for; shrinks one by one, when it has been idle for long
    enough.

    Args:
        least, most: Workers.
        per_worker: Ready jobs for each worker above which there are to be more.
    """

    def __init__(self, least: int, most: int, per_worker: int) -> None:
        self._least = least
        self._most = most
        self._per_worker = per_worker
        self._idle = 0

    def wanted(self, workers: int, ready: int, busy: int) -> int:
        """How many there are to be.

        Args:
            workers: That there are.
            ready: Jobs that wait, in the broker and here.
            busy: Workers that have jobs.
        """
        asked = -(-ready // self._per_worker)  # rounded up: one job asks for one worker
        if asked > workers:
            self._idle = 0
            return min(self._most, max(asked, self._least))
        # Not more than are busy, nor than are asked for: with half a mark for each, so that it does not
        # swing.
        needed = max(busy, -(-2 * ready // self._per_worker), self._least)
        if needed >= workers:
            self._idle = 0
            return max(self._least, min(workers, self._most))
        self._idle += 1
        if self._idle < _IDLE_LOOKS:
            return workers
        self._idle = 0
        return workers - 1
