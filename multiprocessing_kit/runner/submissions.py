"""Jobs that are handed in one by one, from any thread: inputs of a run that goes on until they are closed.

    any thread                                  the run's thread
    submit: pickle ─▶ ┌─────────┐ ─▶ take ─▶ future "running" ─▶ ledger, children
    future.cancel ──▶ │ waiting │      (canceled ones are left out)        │
                      └─────────┘      future's result ◀── answered ◀──────┘

A job is pickled by the thread that hands it in, which may change its argument afterwards.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from multiprocessing_kit.response import Response
from multiprocessing_kit.runner.packing import Pickled, pickled
from multiprocessing_kit.runner.source import Taken

__all__ = ["Settle", "Submissions", "with_body", "with_response"]

Settle = Callable[["Future[Any]", Response], None]


def with_body(future: Future[Any], response: Response) -> None:
    """Give a future what the call returned or raised."""
    if response.exception is None:
        future.set_result(response.body)
    else:
        future.set_exception(response.exception)


def with_response(future: Future[Any], response: Response) -> None:
    """Give a future the response as it is."""
    future.set_result(response)


class Submissions:
    """Stands where `Source` does.

    Args:
        wake: Wakes the run, from any thread; not called after `end`.
        settle: Gives a future its job's response.

    Attributes:
        slow, gives_large, left, error: As of `Source`.
    """

    slow = False
    gives_large = False
    left: int | None = None
    error: BaseException | None = None

    def __init__(self, wake: Callable[[], None], settle: Settle) -> None:
        self._wake = wake
        self._settle = settle
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Future[Any], Any, Pickled]] = deque()
        self._running: dict[int, Future[Any]] = {}
        self._taken = 0
        self._closed: BaseException | None = None

    @property
    def exhausted(self) -> bool:
        """Whether nothing waits and nothing will come."""
        return self._closed is not None and not self._waiting

    @property
    def unanswered(self) -> int:
        """How many jobs wait or run."""
        return len(self._waiting) + len(self._running)

    def submit(self, argument: Any, *, again: bool = False) -> Future[Any]:
        """Hand a job in. Any thread.

        Args:
            argument: The job's.
            again: It is of a job that was taken before: welcome until the end.

        Raises:
            BaseException: What `close` was given, or `end`.
        """
        data = pickled(argument)
        future: Future[Any] = Future()
        with self._lock:
            if self._closed is not None and not (again and self._wake is not _nobody):
                raise self._closed
            self._waiting.append((future, argument, data))
            self._wake()
        return future

    def close(self, reason: BaseException, *, cancel: bool = False) -> None:
        """Take no more. Any thread; again for `cancel`, which cancels those that wait.

        Args:
            reason: What `submit` raises from now on.
            cancel: Whether to cancel those that wait.
        """
        with self._lock:
            self._closed = self._closed or reason
            canceled = list(self._waiting) if cancel else []
        for future, _, _ in canceled:  # without the lock: it calls what waits for the future's end
            future.cancel()  # `take` leaves it out
        with self._lock:
            self._wake()

    def take(self, count: int) -> Taken:
        """The next jobs, at most `count`; empty if none waits now."""
        arguments: list[Any] = []
        pickles: list[Pickled] = []
        while self._waiting and len(arguments) < count:
            future, argument, data = self._waiting.popleft()
            if future.set_running_or_notify_cancel():
                self._running[self._taken] = future
                self._taken += 1
                arguments.append(argument)
                pickles.append(data)
        return arguments, pickles

    def answered(self, first: int, responses: Sequence[Response]) -> None:
        """These are the answers of jobs in a row."""
        for index, response in enumerate(responses, first):
            self._settle(self._running.pop(index), response)

    def end(self, error: BaseException) -> None:
        """The run is over: nobody is woken any more, and `submit` raises `error`."""
        with self._lock:
            self._closed = error
            self._wake = _nobody

    def unless_ended(self, act: Callable[[], None]) -> bool:
        """Do what is not to be done after `end`. Any thread. Whether it was done."""
        with self._lock:
            if self._wake is _nobody:
                return False
            act()
            return True

    def fail(self, error: BaseException) -> None:
        """Answer all that is left with `error`; after `end`."""
        for future in [*self._running.values()]:
            future.set_exception(error)
        self._running.clear()
        while self._waiting:
            future, _, _ = self._waiting.popleft()
            if future.set_running_or_notify_cancel():
                future.set_exception(error)


def _nobody() -> None:
    """There is nobody to wake any more."""
