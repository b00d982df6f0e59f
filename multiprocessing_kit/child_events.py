"""What a `Child` tells its parent, declared in one place, and who listens.

| event     | told when                                                   | filled beside `event` and `pid` |
|-----------|-------------------------------------------------------------|---------------------------------|
| "start"   | the child was forked                                        |                                 |
| "receive" | it sent a message                                           | `message`                       |
| "success" | it has ended, and its target had returned                   | `value`, `exitcode`             |
| "error"   | it has ended in any other way                               | `exception`, `exitcode`         |
| "finish"  | after "success" or "error", last of all                     | all but `message`               |
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from multiprocessing_kit.events import Listeners

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["CHILD_PAYLOAD", "ChildEvent", "ChildEvents"]

CHILD_PAYLOAD = ("event", "pid", "message", "value", "exception", "exitcode")
"""The names that every event of a `Child` carries; what does not apply is None."""


class ChildEvent(str, enum.Enum):
    """The moments in the life of a `Child`; equal to their lower-case names."""

    START = "start"
    RECEIVE = "receive"
    SUCCESS = "success"
    ERROR = "error"
    FINISH = "finish"

    @classmethod
    def parse(cls, event: object) -> ChildEvent:
        """`event`, or the event of that name; `ValueError` lists the events there are."""
        try:
            return cls(cast(str, event))
        except ValueError:
            known = ", ".join(known.value for known in cls)
            raise ValueError(f"unknown event {event!r}; the events of a child are {known}") from None


class ChildEvents:
    """Holds the listeners of one child."""

    def __init__(self) -> None:
        self._listeners = {event: Listeners(names=CHILD_PAYLOAD) for event in ChildEvent}

    def on(
        self, event: ChildEvent | str, listener: Callable[..., object], *args: object, override: bool = False
    ) -> Self:
        """Call `listener` in the parent at every `event`: "start", "receive", "success", "error", "finish".

        A message goes to the listeners of "receive" if there are any, otherwise to `receive()`. A listener
        that raises is logged, and the next one is called; only `KeyboardInterrupt` passes.

        Args:
            event: One of these names, or a `ChildEvent`.
            listener: Takes the child first, then `args`, then whichever it declares of `event`, `pid`,
                `message`, `value`, `exception` and `exitcode`; `**payload` takes them all.
            *args: Passed on to it.
            override: Replace the listeners added for this event so far.

        Returns:
            This child, for chaining.

        Raises:
            ValueError: There is no such event.
            TypeError: The listener is not callable, or not in this way.
        """
        self._listeners[ChildEvent.parse(event)].add(listener, args, override)
        return self

    def off(self, event: ChildEvent | str, listener: Callable[..., object] | None = None) -> Self:
        """Remove `listener` from `event`, or all of this child's listeners for None."""
        self._listeners[ChildEvent.parse(event)].remove(listener)
        return self

    @property
    def _wants_messages(self) -> bool:
        return bool(self._listeners[ChildEvent.RECEIVE])

    def _tell(self, event: ChildEvent, **payload: object) -> None:
        self._listeners[event].tell(self, dict.fromkeys(CHILD_PAYLOAD) | {"event": event} | payload)
