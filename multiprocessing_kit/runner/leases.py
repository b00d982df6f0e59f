"""How many jobs a child may hold: the one it runs, and those that wait in its lane.

A lease is one job. A second one in the lane saves the child a sleep and two wake-ups, which cost more than
a tiny job itself; but it waits for as long as the one before it takes. So a child may hold about two
milliseconds of work, by what jobs have taken so far, and one job only where they are longer.
"""

from __future__ import annotations

__all__ = ["Leases"]

_AHEAD = 0.002
_OVERHEAD = 0.00001
"""Seconds that a child spends on a job beside `process()`."""
_WEIGHT = 0.1
"""Of the newest job in the running mean."""


class Leases:
    """Measures the jobs of one run.

    Attributes:
        depth: Jobs that a child may hold now.
    """

    def __init__(self) -> None:
        self.depth = 1
        self._mean = _AHEAD

    def note(self, duration: float) -> None:
        """A job took `duration` seconds in `process()`."""
        self._mean += (duration - self._mean) * _WEIGHT
        self.depth = int(_AHEAD / (self._mean + _OVERHEAD)) or 1
