"""All that one connection to a RabbitMQ server is used for, except taking jobs."""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import pika
from pika.exceptions import ChannelClosedByBroker

from multiprocessing_kit.errors import BrokerError
from multiprocessing_kit.service.brokers.rabbitmq.names import Names, delay, quorum
from multiprocessing_kit.service.brokers.rabbitmq.publisher import Letter, Publisher
from multiprocessing_kit.service.brokers.rabbitmq.wire import Line, Wire

__all__ = ["LOCKED", "Message", "Session", "TooLargeError"]

LOCKED, _DIFFERENT = 405, 406
"""Reply codes: it is another connection's; it is there, with other arguments."""

_SILENCE_SECONDS = 1.0
_LOOK_AGAIN = 0.005
_LONGEST_PREFETCH = 65535
_MOST_RESULT_BYTES = 1_000_000_000
_SMALL = 1_000_000
"""Bytes of a message that is sent among others without looking whether the server takes so many."""

_TOO_LARGE = re.compile(r"message size (\d+) is larger than configured max size (\d+)")


class TooLargeError(BrokerError):
    """A message is larger than what the server takes.

    That is 128 MiB before its version 4, 16 MiB from then on, or as it is configured; it tells that only by
    closing the channel.

    Attributes:
        size: Of the message.
        largest: That the server takes.
    """

    def __init__(self, size: int, largest: int) -> None:
        text = f"the server takes messages of {largest:,} bytes (max_message_size), and this one has {size:,}"
        super().__init__(text)
        self.size, self.largest = size, largest


class Message:
    """One that lies in a queue, and is ours to look at.

    Attributes:
        mark: Its message id.
        headers: Its headers.
        body: Its body.
        is_dropped: Whether it was removed.
    """

    def __init__(self, line: Line, tag: int, properties: Any, body: bytes) -> None:
        self._line, self._tag = line, tag
        self.is_dropped = False
        self.mark: str = properties.message_id or ""
        self.headers: dict[str, Any] = properties.headers or {}
        self.body = body

    def drop(self) -> None:
        """Remove it."""
        self._line.check()
        self._line.channel.basic_ack(self._tag)
        self.is_dropped = True


class Session:
    """Connects when made.

    Args:
        parameters: pika's.
        names: Of the service.
    """

    def __init__(self, parameters: pika.connection.Parameters, names: Names) -> None:
        self.wire = Wire(parameters)
        self.names = names
        self._control: Line | None = None
        self._publisher: Publisher | None = None
        self._has_indexes = self._has_results = False
        self._taken = _SMALL
        self._largest: int | None = None

    @property
    def control(self) -> Line:
        """For declarations; the server closes it when it refuses one."""
        if self._control is None or not self._control.is_open:
            self._control = Line(self.wire)
        return self._control

    @property
    def publisher(self) -> Publisher:
        """For messages."""
        if self._publisher is None or not self._publisher.line.is_open:
            self._publisher = Publisher(self.wire)
        return self._publisher

    @property
    def posting(self) -> Publisher | None:
        """The publisher, where no waiting is possible; None when it is gone just now."""
        publisher = self._publisher
        return publisher if publisher is not None and publisher.line.is_open else None

    @property
    def published(self) -> int:
        """How many messages so far, until the publisher changes."""
        return 0 if self._publisher is None else self._publisher.number

    # ── declarations ──────────────────────────────────────────────────────────────────────────────

    def declare(self, queue: str, arguments: dict[str, Any]) -> int:
        """See that a durable queue is there; returns its ready messages."""
        try:
            answer = self.control.call("queue_declare", queue=queue, durable=True, arguments=arguments)
        except ChannelClosedByBroker as error:
            if error.reply_code != _DIFFERENT:
                raise
            # An older version of the server or of this program made it: it is used as it is.
            answer = self.control.call("queue_declare", queue=queue, passive=True)
        count: int = answer.message_count
        return count

    def declare_topic(self, topic: str, delays: bool = True) -> dict[str, int]:
        """See that a topic's queues are there, with those for delays or not; returns what each has ready."""
        names = self.names
        plain = [*names.taken_from(topic), names.dead(topic)]
        counts = {queue: self.declare(queue, quorum()) for queue in plain}
        for queue, milliseconds in names.delays(topic) if delays else ():
            arguments = quorum(**delay(names.due(topic), milliseconds))
            counts[queue] = self.declare(queue, arguments)
        return counts

    def declare_indexes(self) -> None:
        """See that there is what finds unique ids."""
        if self._has_indexes:
            return
        self.control.call("exchange_declare", exchange=self.names.ids, exchange_type="direct", durable=True)
        self.declare(self.names.ids, {"x-max-length": 1})
        self._has_indexes = True

    def declare_results(self, asks: bool = False) -> int:
        """See that there is a stream for results; returns its length, if that is asked for."""
        if self._has_results and not asks:
            return 0
        arguments = {
            "x-queue-type": "stream",
            "x-max-length-bytes": _MOST_RESULT_BYTES,
            "x-stream-max-segment-size-bytes": _MOST_RESULT_BYTES // 50,
        }
        count = self.declare(self.names.results, arguments)
        self._has_results = True
        return count

    # ── messages ──────────────────────────────────────────────────────────────────────────────────

    def send(self, letters: Sequence[tuple[str, Letter]]) -> None:
        """Publish to queues of topics, which are made if they are not there.

        Args:
            letters: Each with its topic.

        Raises:
            TooLargeError: One is; then none was published.
        """
        self.see_sizes([letter for _, letter in letters])
        homeless = set(self._sent(letters))
        if not homeless:
            return
        again = [(topic, letter) for topic, letter in letters if letter in homeless]
        if self._has_results:
            self._has_results = False
            self.declare_results()
        for topic in dict.fromkeys(topic for topic, _ in again):
            self.declare_topic(topic)
        if self._sent(again):
            raise BrokerError(f"the server has no queue {again[0][1].key}, though it was just made")

    def see_sizes(self, letters: Sequence[Letter]) -> None:
        """Whether all these can be published, one after the other.

        Raises:
            TooLargeError: One cannot.
        """
        size = max((len(letter.body) for letter in letters), default=0)
        if self._largest is not None and size > self._largest:
            raise TooLargeError(size, self._largest)
        if len(letters) < 2 or size <= self._taken:
            return  # what comes alone is not published in vain
        line = Line(self.wire)
        with self._told_of_size():
            line.channel.basic_publish("", f"probe-{secrets.token_hex(8)}", bytes(size))  # which nobody keeps
            line.call("basic_qos", prefetch_count=1)  # answered when that was looked at
        line.close()
        self._taken = size

    def _sent(self, letters: Sequence[tuple[str, Letter]]) -> list[Letter]:
        with self._told_of_size():
            return self.publisher.send(letter for _, letter in letters)

    @contextlib.contextmanager
    def _told_of_size(self) -> Iterator[None]:
        try:
            yield
        except ChannelClosedByBroker as error:
            if (found := _TOO_LARGE.search(error.reply_text)) is None:
                raise
            size, self._largest = map(int, found.groups())
            raise TooLargeError(size, self._largest) from error

    def is_bound(self, exchange: str, key: str) -> bool:
        """Whether a message with this key would find a queue; it costs a message that nobody keeps."""
        self.declare_indexes()
        letter = Letter(exchange, key, b"", f"probe-{secrets.token_hex(8)}")
        return not self.publisher.send([letter])

    @contextlib.contextmanager
    def looking(self, queue: str) -> Iterator[Iterator[Message]]:
        """See the messages of a queue; those that are not dropped stay in it, in this order."""
        line = Line(self.wire)
        try:
            count: int = line.call("queue_declare", queue=queue, passive=True).message_count
            seen: list[Message] = []
            yield self._messages(line, queue, count, seen)
            if line.is_open:
                self._give_back(line, queue, count - sum(message.is_dropped for message in seen))
        finally:
            if line.is_open:
                line.close()

    def _give_back(self, line: Line, queue: str, count: int) -> None:
        """Closing alone does it too, but some time after it is answered."""
        for tag in line.channel.consumer_tags:
            line.call("basic_cancel", consumer_tag=tag)
        line.channel.basic_nack(0, multiple=True, requeue=True)
        until = time.monotonic() + _SILENCE_SECONDS
        while line.call("queue_declare", queue=queue, passive=True).message_count < count:
            if time.monotonic() > until:
                return  # others have taken some
            self.wire.pump(_LOOK_AGAIN)

    def _messages(self, line: Line, queue: str, left: int, seen: list[Message]) -> Iterator[Message]:
        if left <= 0:
            return
        come: deque[Message] = deque()
        line.call("basic_qos", prefetch_count=min(left, _LONGEST_PREFETCH))
        line.call(
            "basic_consume",
            queue=queue,
            on_message_callback=lambda _, method, properties, body: come.append(
                Message(line, method.delivery_tag, properties, body)
            ),
        )
        while left > 0:
            try:
                self.wire.wait(lambda: come or line.reason, _SILENCE_SECONDS)
            except TimeoutError:
                return  # others took the rest meanwhile
            line.check()
            left -= 1
            seen.append(come[0])
            yield come.popleft()
