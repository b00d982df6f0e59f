"""Everything a job tells the world, declared in one place.

| signal         | sent when                                  | filled beside the common payload       |
|----------------|--------------------------------------------|----------------------------------------|
| `job_start`    | an attempt begins                          |                                        |
| `job_running`  | `worker.running(**info)` inside it         | `info`                                 |
| `job_retry`    | an attempt failed and will be repeated     | `response`, `exception`, `delay`       |
| `job_success`  | the job is answered                        | `response`                             |
| `job_failed`   | the job is answered, not ok                | `response`, `exception`                |
| `job_canceled` | `worker.cancel()` ended it                 | `response`, `exception`                |

The signals below are blinker's and are sent **in the child**, with the worker as sender. A plain
blinker receiver is called blinker's way, `receiver(worker, **payload)`, with every name of `PAYLOAD`. A
listener given to `on()` takes only the names it declares. `Process.on()` has the same events
**in the caller**.

A listener or receiver that raises is logged, and the next one is called: an observer never fails a job.
"""

from __future__ import annotations

import enum
import inspect
import logging
from collections.abc import Callable
from typing import Any, cast

from blinker import Signal

__all__ = [
    "PAYLOAD",
    "SIGNALS",
    "JobEvent",
    "Listeners",
    "job_canceled",
    "job_failed",
    "job_retry",
    "job_running",
    "job_start",
    "job_success",
    "send",
]

_log = logging.getLogger("multiprocessing_kit.events")

PAYLOAD = ("event", "job_id", "argument", "attempt", "response", "exception", "delay", "info", "pid")
"""The names every event carries, on both sides; what does not apply is None (`info`: `{}`)."""

job_start = Signal("An attempt of a job begins.")
job_running = Signal("`worker.running(**info)` was called inside `process()`.")
job_retry = Signal("An attempt failed and the job will be run again after `delay` seconds.")
job_success = Signal("The job is answered.")
job_failed = Signal("The job is answered with a response that is not ok.")
job_canceled = Signal("The job was canceled.")


class JobEvent(str, enum.Enum):
    """The moments in a job's life; equal to their lower-case names.

    Attributes:
        bit: Of this event in a mask of events.
    """

    bit: int

    JOB_START = "job_start"
    JOB_RUNNING = "job_running"
    JOB_RETRY = "job_retry"
    JOB_SUCCESS = "job_success"
    JOB_FAILED = "job_failed"
    JOB_CANCELED = "job_canceled"

    def __new__(cls, name: str) -> JobEvent:
        member = str.__new__(cls, name)
        member._value_ = name
        member.bit = 1 << len(cls.__members__)
        return member

    __hash__ = str.__hash__  # of an equal string, and not a function in Python for each look into a table

    @classmethod
    def parse(cls, event: object) -> JobEvent:
        """`event`, or the event of that name; `ValueError` lists the events there are."""
        try:
            return cls(cast(str, event))
        except ValueError:
            known = ", ".join(known.name for known in cls)
            raise ValueError(f"unknown event {event!r}; the events are {known}") from None


SIGNALS: dict[JobEvent, Signal] = {
    JobEvent.JOB_START: job_start,
    JobEvent.JOB_RUNNING: job_running,
    JobEvent.JOB_RETRY: job_retry,
    JobEvent.JOB_SUCCESS: job_success,
    JobEvent.JOB_FAILED: job_failed,
    JobEvent.JOB_CANCELED: job_canceled,
}


class Listeners:
    """The listeners of one event at one source, in the order they were added: one blinker receiver.

    Args:
        bound: Those to begin with.
        names: What the event carries.
    """

    def __init__(self, bound: tuple[_Bound, ...] = (), names: tuple[str, ...] = PAYLOAD) -> None:
        self._bound = bound  # replaced and never changed: a listener may add and remove others
        self._names = names

    def __call__(self, source: object, **payload: Any) -> None:
        self.tell(source, payload)

    def tell(self, source: object, payload: dict[str, Any]) -> None:
        """Call them, each isolated from the others."""
        for bound in self._bound:
            try:
                names = bound.names
                if names is None:
                    bound.listener(source, *bound.args, **payload)
                elif names:
                    bound.listener(source, *bound.args, **{name: payload[name] for name in names})
                else:
                    bound.listener(source, *bound.args)
            except KeyboardInterrupt:  # the user's own Ctrl-C, not a fault of the listener
                raise
            except BaseException:
                _log_failure(bound.listener, payload)

    def __bool__(self) -> bool:
        return bool(self._bound)

    def copy(self) -> Listeners:
        """Another list with the same listeners."""
        return Listeners(self._bound, self._names)

    def add(self, listener: Callable[..., object], args: tuple[object, ...], override: bool) -> None:
        """Append `listener`, or put it in place of all; `TypeError` as `on` says."""
        fresh = _Bound(listener, args, self._names)
        self._bound = (fresh,) if override else (*self._bound, fresh)

    def remove(self, listener: Callable[..., object] | None) -> None:
        """Take `listener` out, or all of them for None."""
        kept = [b for b in self._bound if listener is not None and b.listener != listener]
        self._bound = tuple(kept)


class _Bound:
    """A listener with its extra arguments and the payload names that it declares."""

    def __init__(
        self, listener: Callable[..., object], args: tuple[object, ...], names: tuple[str, ...]
    ) -> None:
        if not callable(listener):
            raise TypeError(f"a listener must be callable, not {type(listener).__qualname__}")
        self.listener = listener
        self.args = args
        self.names = _declared_names(listener, 1 + len(args), names)


def _declared_names(
    listener: Callable[..., object], positional: int, names: tuple[str, ...]
) -> tuple[str, ...] | None:
    """Those of the payload's `names` that `listener` takes; None for all of them.

    Its first `positional` parameters are the source and the extra arguments of `on`.
    """
    try:
        parameters = list(inspect.signature(listener).parameters.values())
    except ValueError:  # a builtin that does not tell: it gets the source and the arguments
        return ()
    named = []
    takes_all = False
    for parameter in parameters:
        if parameter.kind is parameter.VAR_KEYWORD:
            takes_all = True
        elif parameter.kind is parameter.VAR_POSITIONAL:
            positional = 0
        elif positional and parameter.kind is not parameter.KEYWORD_ONLY:
            positional -= 1
        elif parameter.name in names and parameter.kind is not parameter.POSITIONAL_ONLY:
            named.append(parameter.name)
        elif parameter.default is parameter.empty:
            raise TypeError(
                f"listener {_name(listener)} asks for {parameter.name!r}, which no event carries; after the "
                f"worker, process or child and the arguments of on(), it may name: {', '.join(names)}"
            )
    if positional:
        raise TypeError(
            f"listener {_name(listener)} must take the worker, process or child first, and then the "
            f"arguments given to on(): {positional} parameter(s) are missing"
        )
    return None if takes_all else tuple(named)


def send(signal: Signal, source: object, payload: dict[str, Any]) -> None:
    """Call the receivers of `signal` for `source`, each isolated from the others, unlike blinker's `send`."""
    if signal.is_muted:
        return
    for receiver in list(signal.receivers_for(source)):
        try:
            receiver(source, **payload)
        except KeyboardInterrupt:
            raise
        except BaseException:
            _log_failure(receiver, payload)


def _log_failure(listener: Callable[..., object], payload: dict[str, Any]) -> None:
    kind, name = ("job", payload["job_id"]) if "job_id" in payload else ("child", payload["pid"])
    _log.exception(
        "listener %s failed at %s of %s %s; the %s goes on",
        _name(listener),
        payload["event"].name,
        kind,
        name,
        kind,
    )


def _name(listener: Callable[..., object]) -> str:
    return getattr(listener, "__qualname__", None) or repr(listener)
