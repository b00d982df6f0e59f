"""Results of jobs on a RabbitMQ server: a stream, which many can read, each at its own place.

A result is one message, `UNTIL KEY` (milliseconds, key of the job's id), a newline, and the result. A handle
reads the stream from about its own first push on, and keeps what belongs to the jobs that it has pushed;
asked for another's, it reads the stream from its begin, once, and keeps the places of all. What it has no
room for is read again at its place. The stream is cut at 1 GB.

Of several results of an id the latest counts. Before an id is used again, a message `0 KEY` says that what is
before it is an earlier job's; who published it takes no result of this id until it has read it.
"""

from __future__ import annotations

import datetime
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from multiprocessing_kit.service.brokers.rabbitmq.kept import MOST_KEPT, Kept
from multiprocessing_kit.service.brokers.rabbitmq.names import Names, key_of, new_mark
from multiprocessing_kit.service.brokers.rabbitmq.publisher import Letter
from multiprocessing_kit.service.brokers.rabbitmq.session import Session
from multiprocessing_kit.service.brokers.rabbitmq.wire import Line
from multiprocessing_kit.service.job import Job

__all__ = ["Results", "result_letter"]

_PREFETCH = 500
_ACKNOWLEDGED = 100
_MARGIN_SECONDS = 120.0
"""That the clocks of pushers and server may differ by."""

_PAUSE_SECONDS = 0.25


def result_letter(names: Names, job_id: str, result: bytes, keep: float) -> Letter:
    """The message that keeps a result so long."""
    key = key_of(job_id)
    head = f"{int((time.time() + keep) * 1000)} {key}\n".encode()
    return Letter("", names.results, head + result, key)


class Results:
    """What one handle has read of its service's results.

    Args:
        names: Of the service.
    """

    def __init__(self, names: Names) -> None:
        self._names = names
        self._own: OrderedDict[str, str] = OrderedDict()  # each with the mark that it must read first
        self._since: float | None = None
        self._is_whole = False
        self._kept = Kept()
        self._line: Line | None = None
        self._next = -1
        self._unacknowledged = 0

    def expect(self, jobs: Iterable[Job]) -> None:
        """These are about to be pushed here: their results come later than now."""
        if self._since is None:
            self._since = time.time() - _MARGIN_SECONDS
        for job in jobs:
            self._want(key_of(job.id))

    def forget(self, session: Session, job: Job) -> None:
        """This job is about to begin: what is there is of an earlier one of its id, and nobody's any more."""
        self.expect([job])
        key = key_of(job.id)
        letter = Letter("", self._names.results, f"0 {key}\n".encode(), new_mark(job))
        self._own[key] = letter.mark
        self._kept.drop(key)
        is_there = False
        try:
            is_there = not session.publisher.send([letter])
        finally:
            if not is_there:  # nor any result
                self._own[key] = ""

    def get(self, session: Session, job_id: str) -> bytes | None:
        """A result, if there is one by now."""
        key = key_of(job_id)
        session.declare_results()
        if not self._is_whole and key not in self._own:
            self._is_whole, self._next = True, -1
            self._close()
        self._want(key)
        if self._line is None or self._line.wire is not session.wire or not self._line.is_open:
            self._read_from(session)
        self._catch_up(session)
        self._kept.sweep()
        place, result = self._kept.place(key), self._kept.result(key)
        if place is not None and result is None:
            result = self._read_at(session, place)
            if result is None:
                self._kept.drop(key)
            elif self._kept.place(key) == place:
                self._kept.hold(key, result)
        return None if place is None else result

    def _want(self, key: str) -> None:
        self._own.setdefault(key, "")
        while len(self._own) > MOST_KEPT:
            self._own.popitem(last=False)

    def _read_from(self, session: Session) -> None:
        offset: Any = "first"
        if self._next >= 0:
            offset = self._next
        elif not self._is_whole and self._since is not None:
            offset = datetime.datetime.fromtimestamp(self._since, datetime.timezone.utc)
        self._line = line = Line(session.wire)
        self._unacknowledged = 0
        self._consume(line, _PREFETCH, offset, self._come)

    def _read_at(self, session: Session, place: int) -> bytes | None:
        """What lies there; None if it was cut."""
        line = Line(session.wire)
        come: list[tuple[int, bytes]] = []
        self._consume(line, 1, place, lambda _, __, properties, body: come.append((_place(properties), body)))
        session.wire.wait(lambda: come or line.reason)
        line.check()
        line.close()
        found, body = come[0]
        return body.partition(b"\n")[2] if found == place else None

    def _consume(self, line: Line, prefetch: int, offset: Any, come: Callable[..., None]) -> None:
        line.call("basic_qos", prefetch_count=prefetch)
        line.call(
            "basic_consume",
            queue=self._names.results,
            on_message_callback=lambda _, method, properties, body: come(line, method, properties, body),
            arguments={"x-stream-offset": offset},
        )

    def _come(self, line: Line, method: Any, properties: Any, body: bytes) -> None:
        place = _place(properties)
        self._next = max(self._next, place + 1)
        self._unacknowledged += 1
        if self._unacknowledged >= _ACKNOWLEDGED:
            line.channel.basic_ack(method.delivery_tag, multiple=True)
            self._unacknowledged = 0
        head, newline, result = body.partition(b"\n")
        until, space, key = head.partition(b" ")
        if not newline or not space or not until.isdigit():
            return  # nothing of ours
        name, seconds = key.decode(), int(until) / 1000
        if not self._is_whole and name not in self._own:
            return
        awaited = self._own.get(name)
        if awaited and awaited != properties.message_id:
            return
        if awaited:
            self._own[name] = ""
        self._kept.sweep()
        self._kept.put(name, seconds, place)
        if awaited is not None and self._kept.place(name) is not None:
            self._kept.hold(name, result)

    def _catch_up(self, session: Session) -> None:
        """Read what is there, or what comes of it without a long pause.

        Where it ends is told by its length, unless it was cut or nothing was read yet: later calls find more.
        """
        count = session.declare_results(asks=True)
        while self._next < count and self._line is not None and self._line.is_open:
            place = self._next
            until = time.monotonic() + _PAUSE_SECONDS
            while self._next == place and (left := until - time.monotonic()) > 0:
                session.wire.pump(left)
                self._line.check()
            if self._next == place:
                return
        session.wire.pump()

    def _close(self) -> None:
        line, self._line = self._line, None
        self._kept.clear()
        if line is not None and line.is_open:
            line.close()


def _place(properties: Any) -> int:
    place: int = (properties.headers or {}).get("x-stream-offset", -1)
    return place
