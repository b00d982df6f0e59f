"""How many jobs a child may hold: the one it runs, and those that wait in its lane.

A lease is one job. A second one in the lane saves the child a sleep and two wake-ups, which cost as much
as hundreds of tiny jobs; but it waits for as long as the one before it takes. So a child may hold about
a millisecond of work, by what jobs have taken so far, and one job only where they are longer.
"""

from __future__ import annotations

__all__ = ["Leases"]

_AHEAD = 0.001
_MOST = 32
_WEIGHT = 0.1


class Leases:
    """Measures the jobs of one run.

    Attributes:
        depth: Jobs that a child may hold now.
    """

    def __init__(self) -> None:
        self.depth = 1
        self._mean = _AHEAD

    def note(self, duration: float) -> None:
        """A job took `duration` seconds."""
        self._mean += (duration - self._mean) * _WEIGHT
        self.depth = 1 if self._mean * 2 > _AHEAD else min(_MOST, int(_AHEAD / (self._mean + 1e-6)))
