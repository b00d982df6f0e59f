"""What can be listened to in the caller: a process, a pool, an executor."""

from __future__ import annotations

import functools
import weakref

from blinker import Signal

from multiprocessing_kit.events import JobEvent
from multiprocessing_kit.observer import EventSource
from multiprocessing_kit.runner.telling import Audience, Tell

__all__ = ["CallerEvents"]


class CallerEvents(EventSource):
    """Its listeners run in the caller; children send events home while there are any."""

    def __init__(self) -> None:
        self._signals = {event: Signal() for event in JobEvent}

    def _signal(self, event: JobEvent) -> Signal:
        return self._signals[event]

    def _audience(self) -> Audience:
        """Its listeners, for a run, which keeps this object alive."""
        return Audience(self._listened, self._teller)

    def _weak_audience(self) -> Audience:
        """Its listeners, for a run that goes on until this object is dropped."""
        me = weakref.ref(self)

        def listened() -> int:
            source = me()
            return 0 if source is None else source._listened()

        def teller(event: JobEvent) -> Tell | None:
            source = me()
            return None if source is None else source._teller(event)

        return Audience(listened, teller)

    def _listened(self) -> int:
        # A copy: another thread may be adding to it.
        return sum(event.bit for event, held in list((self._listeners or {}).items()) if held)

    def _teller(self, event: JobEvent) -> Tell | None:
        listeners = (self._listeners or {}).get(event)
        # The signals are this object's own: nobody else can be connected.
        return None if listeners is None else functools.partial(listeners.tell, self)
