"""What can be listened to: `on`, `off`, `attach`, `detach`, shared by `Worker` and `Process`."""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any

from blinker import Signal

from multiprocessing_kit.events import JobEvent, Listeners

if typing.TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["EventSource", "Observer"]


class Observer:
    """Hears of every event; override the methods you need.

    A method follows the rules of a listener given to `on()`: the worker (attached in the child) or
    the process (attached in the caller) comes first, then whichever payload names it declares:
    `def failed(self, process, job_id, exception): ...`. A method that is not overridden costs nothing.
    """

    def start(self, *args: Any, **payload: Any) -> None:
        """JOB_START: an attempt begins."""

    def running(self, *args: Any, **payload: Any) -> None:
        """JOB_RUNNING: `worker.running(**info)` was called."""

    def retry(self, *args: Any, **payload: Any) -> None:
        """JOB_RETRY: an attempt failed and will be repeated after `delay` seconds."""

    def success(self, *args: Any, **payload: Any) -> None:
        """JOB_SUCCESS: the job is answered."""

    def failed(self, *args: Any, **payload: Any) -> None:
        """JOB_FAILED: the job is answered with a response that is not ok."""

    def canceled(self, *args: Any, **payload: Any) -> None:
        """JOB_CANCELED: the job was canceled."""


def _overridden(observer: Observer) -> list[tuple[JobEvent, Callable[..., object]]]:
    if not isinstance(observer, Observer):
        raise TypeError(f"an observer must be an Observer, not {type(observer).__qualname__}")
    methods = []
    for event in JobEvent:
        name = event.value.removeprefix("job_")
        if getattr(type(observer), name) is not getattr(Observer, name) or name in vars(observer):
            methods.append((event, getattr(observer, name)))
    return methods


class EventSource:
    """Holds the listeners of one worker or process; a subclass says which signals they hang on."""

    # blinker holds receivers weakly, so these lists live and die with the source. The default is the
    # class's, so that a subclass whose __init__ does not call ours works.
    _listeners: dict[JobEvent, Listeners] | None = None

    def _signal(self, event: JobEvent) -> Signal:
        raise NotImplementedError

    def on(
        self, event: JobEvent | str, listener: Callable[..., object], *args: object, override: bool = False
    ) -> Self:
        """Call `listener` at every `event`.

        Args:
            event: A `JobEvent` or its name.
            listener: Takes this object first, then `args`, then whichever payload names it declares (see
                `events`); `**payload` takes them all.
            *args: Passed on to it.
            override: Replace the listeners added for this event so far.

        Returns:
            This object, for chaining.

        Raises:
            ValueError: There is no such event.
            TypeError: The listener is not callable, or not in this way.
        """
        event = JobEvent.parse(event)
        if self._listeners is None:
            self._listeners = {}
        held = self._listeners.setdefault(event, Listeners())
        held.add(listener, args, override)
        self._signal(event).connect(held, sender=self)
        return self

    def off(self, event: JobEvent | str, listener: Callable[..., object] | None = None) -> Self:
        """Remove `listener` from `event`, or all of this object's listeners for None."""
        event = JobEvent.parse(event)
        listeners = (self._listeners or {}).get(event)
        if listeners is not None:
            listeners.remove(listener)
            if not listeners:  # it stays in the table, for a run that is calling it
                self._signal(event).disconnect(listeners)  # from any sender: else the signal keeps it
        return self

    def attach(self, observer: Observer) -> Self:
        """Connect the methods that `observer` overrides."""
        for event, method in _overridden(observer):
            self.on(event, method)
        return self

    def detach(self, observer: Observer) -> Self:
        """Undo `attach`."""
        for event, method in _overridden(observer):
            self.off(event, method)
        return self

    def _reconnect(self, listeners: dict[JobEvent, Listeners]) -> None:
        """Take over `listeners`, as a copy or an unpickled worker does."""
        self._listeners = {event: held.copy() for event, held in listeners.items()}
        for event, held in self._listeners.items():
            self._signal(event).connect(held, sender=self)
