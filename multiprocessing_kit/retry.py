"""When a failed job is run again, and where. A strategy decides; whoever runs the job acts.

`wait`, `retry` and `stop` are tenacity's own objects and mean what tenacity's documentation says. They
are asked in tenacity's order (retry? how long to wait? stop?) with a `RetryCallState`.
"""

from __future__ import annotations

import enum
import time
import typing
from collections.abc import Callable
from dataclasses import dataclass, field

from multiprocessing_kit.response import Response, is_response

if typing.TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = ["History", "RetryStrategy", "RetryType", "Verdict"]


class RetryType(enum.Enum):
    """Where a failed job is run again."""

    IMMEDIATE = "immediate"
    """In the same child, which sleeps for `wait` and does nothing else meanwhile."""

    REQUEUE = "requeue"
    """At the end of the queue, after `wait`, by whichever child is free; no child sleeps."""


@dataclass(frozen=True)
class RetryStrategy:
    """How often, when and where a failed job is run again. Immutable.

    Args:
        max_retries: Runs after the first; a job runs at most `1 + max_retries` times.
        retry_type: Where.
        wait: Seconds before the next attempt, as tenacity's `wait_…` objects tell; None for at once.
        retry: Whether an outcome is to be retried, as tenacity's `retry_if_…` objects tell; it also
            sees results that are ok. None retries every `Exception`, and every response that is not ok.
        stop: Give up before `max_retries`, as tenacity's `stop_…` objects tell.

    Raises:
        TypeError, ValueError: An argument makes no sense.
    """

    max_retries: int = 3
    retry_type: RetryType = RetryType.IMMEDIATE
    wait: Callable[[RetryCallState], float] | None = field(default=None, kw_only=True)
    retry: Callable[[RetryCallState], bool] | None = field(default=None, kw_only=True)
    stop: Callable[[RetryCallState], bool] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.max_retries, int) or isinstance(self.max_retries, bool):
            raise TypeError(f"max_retries must be an int, not {self.max_retries!r}")
        if self.max_retries < 0:
            raise ValueError(f"max_retries must be 0 or more, not {self.max_retries}")
        if not isinstance(self.retry_type, RetryType):
            raise TypeError(f"retry_type must be a RetryType, not {self.retry_type!r}")
        for name in ("wait", "retry", "stop"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise TypeError(f"{name} must be one of tenacity's objects or a callable, not {value!r}")

    def decide(
        self, outcome: object, history: History, call: tuple[Callable[..., object], object]
    ) -> Verdict:
        """What to do after an attempt.

        Args:
            outcome: What `process()` returned, or the exception that it raised.
            history: Of the job so far; the wait decided on is added to it.
            call: `process` and its argument, which tenacity's state shows as `fn` and `args`.
        """
        if self.wait is None and self.retry is None and self.stop is None:
            again = _failed(outcome)
            return Verdict(again and history.counted <= self.max_retries, exhausted=again)
        state = _call_state(outcome, history, call)
        if not (self.retry(state) if self.retry is not None else _failed(outcome)):
            return Verdict(False)
        delay = float(self.wait(state)) if self.wait is not None else 0.0
        state.upcoming_sleep = delay
        if history.counted > self.max_retries or (self.stop is not None and self.stop(state)):
            return Verdict(False, exhausted=True)
        history.idle_for += delay
        return Verdict(True, max(0.0, delay))


@dataclass
class History:
    """What a strategy remembers of one job; it travels with a requeued one.

    Attributes:
        attempt: The current attempt, from 1.
        started_at: When the first began (`time.monotonic()`, which all processes share).
        idle_for: Seconds waited between attempts so far.
        crashes: How many of the attempts before it ended with their child.
    """

    attempt: int = 1
    started_at: float = field(default_factory=time.monotonic)
    idle_for: float = 0.0
    crashes: int = 0

    @property
    def counted(self) -> int:
        """The current attempt, from 1, as a strategy counts: those that crashed have a limit of their own."""
        return self.attempt - self.crashes


@dataclass(frozen=True)
class Verdict:
    """`again` after `delay` seconds or not; `exhausted` if it would have been, had retries been left."""

    again: bool
    delay: float = 0.0
    exhausted: bool = False


def _failed(outcome: object) -> bool:
    """Whether to retry where the user gave no predicate."""
    if isinstance(outcome, BaseException):
        return isinstance(outcome, Exception)
    return is_response(outcome) and not typing.cast(Response, outcome).ok


def _call_state(
    outcome: object, history: History, call: tuple[Callable[..., object], object]
) -> RetryCallState:
    import tenacity  # noqa: PLC0415  # 60 ms that only a retry needs

    function, argument = call
    state = tenacity.RetryCallState(tenacity.Retrying(), function, (argument,), {})
    state.attempt_number = history.counted
    state.start_time = history.started_at
    state.idle_for = history.idle_for
    future = tenacity.Future(history.counted)
    error = outcome
    if is_response(outcome):
        error = typing.cast(Response, outcome).exception
    if isinstance(error, BaseException):
        future.set_exception(error)
    else:
        future.set_result(outcome)
    state.outcome = future
    state.outcome_timestamp = time.monotonic()
    return state
