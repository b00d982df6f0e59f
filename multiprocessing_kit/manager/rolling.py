"""Workers replaced one by one, so that the work never stops."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from multiprocessing_kit.supervise.supervisor import State, Supervisor, Then

__all__ = ["Rolling"]

_log = logging.getLogger("multiprocessing_kit.manager")


class Rolling:
    """One replacement at a time; the next begins when the successor of the last one is ready.

    A successor that fails is started again as the policy says, and the others wait for it with the code
    that they have. Where it is given up, so is the replacement of the rest.

    Args:
        supervisor: Has the places.
        is_ready: Whether the worker with this PIN is past its `init`.
        patience: Seconds for running work.

    Attributes:
        problem: Why the last replacement was given up; "" if it was not.
    """

    def __init__(self, supervisor: Supervisor, is_ready: Callable[[int], bool], patience: float) -> None:
        self._supervisor = supervisor
        self._is_ready = is_ready
        self._patience = patience
        self._waiting: deque[int] = deque()
        self._current: int | None = None
        self._predecessor = 0
        self.problem = ""

    @property
    def is_active(self) -> bool:
        """Whether there are workers to replace."""
        return self._current is not None or bool(self._waiting)

    def begin(self) -> None:
        """Replace all that are there now; begins anew if it is at it."""
        self.problem = ""
        # Those that do not work anyway come first, or they would be missing beside the one that is replaced.
        self._waiting = deque(sorted(self._supervisor.places, key=lambda pin: (self._works(pin), pin)))

    def cancel(self) -> None:
        """Replace no more."""
        self._waiting.clear()
        self._current = None

    def step(self) -> None:
        """Go on, where it is time."""
        while self.is_active and self._current_is_done():
            self._current = None
            if self._waiting:
                pin = self._waiting.popleft()
                place = self._supervisor.places.get(pin)
                if place is not None and place.then is not Then.REMOVE:  # on its way out
                    self._current, self._predecessor = pin, place.child.pid if place.child else 0
                    self._supervisor.stop(pin, self._patience, Then.REPLACE)

    def _works(self, pin: int) -> bool:
        return self._supervisor.places[pin].state is State.RUNNING and self._is_ready(pin)

    def _current_is_done(self) -> bool:
        place = None if self._current is None else self._supervisor.places.get(self._current)
        if place is None or place.state is State.ENDED:
            return True
        if place.state is State.FATAL:
            self.problem = f"worker #{place.pin} does not start anew: the others are not replaced"
            _log.error("%s", self.problem)
            self.cancel()
            return True
        child = place.child
        return child is not None and child.pid != self._predecessor and self._is_ready(place.pin)
