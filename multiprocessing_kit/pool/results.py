"""What a pool's calls that do not wait give: results to come, and iterators over them."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from queue import Empty, SimpleQueue
from typing import Any, NoReturn

from multiprocessing_kit.runner.parts import Part, PartFuture

__all__ = ["AsyncResult", "ResultIterator", "UnorderedResultIterator"]

_log = logging.getLogger("multiprocessing_kit.pool")

Callback = Callable[[Any], object]


class AsyncResult:
    """A result to come; see `multiprocessing.pool.AsyncResult`.

    Args:
        futures: Of all that it takes.
        combine: Makes the result of them when all are done, or raises.
        callback: Called with the result.
        error_callback: Called with the exception, if there is one instead.
    """

    def __init__(
        self,
        futures: Sequence[Future[Any]],
        combine: Callable[[], Any],
        callback: Callback | None,
        error_callback: Callback | None,
    ) -> None:
        self._combine = combine
        self._callbacks = callback, error_callback
        self._done = threading.Event()
        self._value: Any = None
        self._error: BaseException | None = None
        self._left = len(futures)
        self._lock = threading.Lock()
        if not futures:
            self._finish()
        for future in futures:
            future.add_done_callback(self._one_done)

    def get(self, timeout: float | None = None) -> Any:
        """The result, or the exception that was raised in its place.

        Raises:
            multiprocessing.TimeoutError: It is not there after `timeout` seconds.
            BaseException: What the call raised; WorkerLostError if its child died again and again.
        """
        self.wait(timeout)
        if not self._done.is_set():
            _late()
        if self._error is not None:
            raise self._error
        return self._value

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it is there, at most `timeout` seconds."""
        self._done.wait(timeout)

    def ready(self) -> bool:
        """Whether it is there."""
        return self._done.is_set()

    def successful(self) -> bool:
        """Whether there is a result and no exception; ValueError while it is not there."""
        if not self._done.is_set():
            raise ValueError(f"{self!r} not ready")
        return self._error is None

    def _one_done(self, _future: Future[Any]) -> None:
        with self._lock:
            self._left -= 1
            last = not self._left
        if last:
            self._finish()

    def _finish(self) -> None:
        try:
            self._value = self._combine()
        except BaseException as error:
            self._error = error
        callback, error_callback = self._callbacks
        try:
            if self._error is None and callback is not None:
                callback(self._value)
            elif self._error is not None and error_callback is not None:
                error_callback(self._error)
        except Exception:
            _log.exception("a callback of %r raised", self)
        finally:
            self._done.set()


class ResultIterator(Iterator[Any]):
    """The results of `imap`, in order; jobs are handed in as results are taken.

    Args:
        handed_in: Hands in a part each time that it is asked.
        ahead: How many parts are handed in before their results are taken.
        has_room: Whether one more part may be handed in. One that nothing stands before always may.
    """

    def __init__(self, handed_in: Iterator[PartFuture], ahead: int, has_room: Callable[[], bool]) -> None:
        self._handed_in = handed_in
        self._ahead = ahead
        self._has_room = has_room
        self._futures: deque[PartFuture] = deque()
        self._results: Iterator[Any] = iter(())
        self._error: BaseException | None = None
        self._input_error: BaseException | None = None
        self._lock = threading.Lock()
        # Another one, for `hand_in_all` must not wait for who waits for a result.
        self._input_lock = threading.Lock()
        self._hand_in()

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """The next result.

        Raises:
            StopIteration: There is none.
            multiprocessing.TimeoutError: It is not there after `timeout` seconds.
            BaseException: What that call raised, or what taking an item raised; then one may go on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            while True:
                for result in self._results:
                    return result
                if self._error is not None:
                    error, self._error = self._error, None
                    raise error
                self._hand_in()
                part = self._next_part(deadline)
                self._results, self._error = iter(part.results), part.error

    def hand_in_all(self) -> None:
        """Hand in all that is left, whether there is room or not: nothing else will be."""
        self._ahead = sys.maxsize
        self._has_room = _always
        self._hand_in()

    def _hand_in(self) -> None:
        with self._input_lock:
            while self._input_error is None:
                outstanding = self._outstanding()
                if outstanding and not (outstanding < self._ahead and self._has_room()):
                    return
                try:
                    self._note(next(self._handed_in))
                except StopIteration as end:
                    self._input_error = end
                except Exception as error:
                    self._input_error = error

    def _next_part(self, deadline: float | None) -> Part:
        if not self._futures:
            self._end()
        try:
            part = self._futures[0].result(_left(deadline))
        except FutureTimeoutError:
            _late()
        self._futures.popleft()
        return part

    def _outstanding(self) -> int:
        return len(self._futures)

    def _note(self, future: PartFuture) -> None:
        self._futures.append(future)

    def _end(self) -> NoReturn:
        error, self._input_error = self._input_error, StopIteration()
        raise error or StopIteration


class UnorderedResultIterator(ResultIterator):
    """The results of `imap_unordered`, as they come."""

    def __init__(self, handed_in: Iterator[PartFuture], ahead: int, has_room: Callable[[], bool]) -> None:
        self._done: SimpleQueue[PartFuture] = SimpleQueue()
        self._noted = self._taken = 0  # each counted by one thread at a time, under locks of their own
        super().__init__(handed_in, ahead, has_room)

    def _outstanding(self) -> int:
        return self._noted - self._taken

    def _note(self, future: PartFuture) -> None:
        self._noted += 1
        future.add_done_callback(self._done.put)  # type: ignore[arg-type]

    def _next_part(self, deadline: float | None) -> Part:
        if not self._outstanding():
            self._end()
        try:
            future = self._done.get(timeout=_left(deadline))
        except Empty:
            _late()
        self._taken += 1
        return future.result()


def _always() -> bool:
    return True


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _late() -> NoReturn:
    from multiprocessing import TimeoutError as LateError  # noqa: PLC0415  # slow to import, and seldom needed

    raise LateError
