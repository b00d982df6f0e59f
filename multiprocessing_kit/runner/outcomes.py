"""What a child's jobs returned, until it is sent: successful jobs in a row, whose bodies travel bare."""

from __future__ import annotations

import pickle
from typing import Any

from multiprocessing_kit.errors import SerializationError
from multiprocessing_kit.ipc.parcel import pack
from multiprocessing_kit.response import is_response
from multiprocessing_kit.runner import messages
from multiprocessing_kit.runner.messages import HEADER

__all__ = ["Outcomes"]

_IMMUTABLE = frozenset({int, float, bool, complex, str, type(None)})
"""Types whose values may wait and be pickled together: nobody can change them meanwhile."""


class Outcomes:
    """Bodies in the order of their jobs.

    Attributes:
        values: The bodies as they are; or, once one had to be pickled at once, the pickles of all.
        kind: The type whose values may be added to `values` as they are; None for none.
        since: When the oldest began, by `time.perf_counter()`.
    """

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.kind: type | None = int
        self.since = 0.0
        self._first = 0
        self._times: list[float] = []

    def begin(self, first: int, now: float) -> None:
        """Job `first` begins now, and others in a row behind it."""
        if not self.values:
            self._first, self.since = first, now

    def keep(self, outcome: object) -> bool:
        """Add an outcome of any type; False if it is one that must travel alone."""
        if type(outcome) is self.kind:
            self.values.append(outcome)
            return True
        if is_response(outcome):
            return False
        if self.kind is not None and type(outcome) in _IMMUTABLE:
            self.kind = type(outcome)
            self.values.append(outcome)
            return True
        try:
            data = pack(outcome, "the result")
        except SerializationError:
            return False
        if not isinstance(data, bytes):
            return False
        if self.kind is not None:  # for good: workers that return such a thing once do it again
            self.kind = None
            self.values[:] = map(pickle.dumps, self.values)
        self.values.append(data)
        return True

    def timed(self, count: int, seconds: float) -> None:
        """The `count` jobs that were added last took so long together."""
        if count:
            self._times += (count, seconds)

    def record(self, untimed: tuple[int, float] = (0, 0.0)) -> bytes:
        """All that is there as one record.

        Args:
            untimed: How many at the end were not `timed`, and how long they took, more or less.
        """
        values, times, apart = self.values, self._times, self.kind is None
        if untimed[0]:
            times = [*times, *untimed]
        seconds = times[1] if len(times) == 2 else sum(times[1::2])  # often one job's
        if len(values) == 1:
            header = HEADER.pack(messages.DONE, 1, self._first, seconds)
            return header + (values[0] if apart else pickle.dumps(values[0], pickle.HIGHEST_PROTOCOL))
        kind = messages.MANY_APART if apart else messages.MANY
        header = HEADER.pack(kind, len(values), self._first, seconds)
        return header + pickle.dumps((times, values), pickle.HIGHEST_PROTOCOL)

    def clear(self) -> None:
        """They were sent."""
        self.values.clear()
        self._times.clear()
