"""Publishing: many messages on the way at once, and each one's fate is known."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pika

from multiprocessing_kit.errors import BrokerError
from multiprocessing_kit.service.brokers.rabbitmq.wire import Line, Wire

__all__ = ["Fate", "Letter", "Publisher"]

_MOST_ON_THE_WAY = 2000
_GATHERED = 64


class Fate:
    """What became of a message."""

    SAFE = "safe"
    """The server has it in a queue."""

    HOMELESS = "homeless"
    """There is no queue for it."""

    REFUSED = "refused"
    """Its queue does not take it."""


@dataclass(eq=False)
class Letter:
    """A message to publish.

    Attributes:
        exchange: To which.
        key: Its routing key.
        body: Its body.
        mark: Its message id.
        headers: More of it.
        then: Called with the letter as soon as its fate is known, or cannot be known any more; must not wait
            for anything.
        fate: One of `Fate`; None as long as it is not known.
    """

    exchange: str
    key: str
    body: bytes
    mark: str
    headers: dict[str, Any] | None = None
    then: Callable[[Letter], None] | None = None
    fate: str | None = None


class Publisher:
    """Of one wire, which must not be lost meanwhile: the fate of what is on the way is unknown then.

    Args:
        wire: That it publishes on.

    Attributes:
        number: Of the latest message.
    """

    def __init__(self, wire: Wire) -> None:
        self.line = Line(wire)
        self._wire = wire
        self.number = 0
        self._on_the_way: dict[int, Letter] = {}
        self._homeless: set[str] = set()
        self.line.call("confirm_delivery", ack_nack_callback=self._answered)
        self.line.channel.add_on_return_callback(self._returned)
        self.line.channel.add_on_close_callback(self._closed)

    def send(self, letters: Iterable[Letter]) -> list[Letter]:
        """Publish, and wait for all their fates.

        Returns:
            Those that are homeless.

        Raises:
            BrokerError: One was refused.
        """
        sent = []
        for letter in letters:
            self.post(letter)
            sent.append(letter)
            if len(sent) % _GATHERED == 0:
                self._wire.pump()
            if len(self._on_the_way) >= _MOST_ON_THE_WAY:
                self._await(self.number - _MOST_ON_THE_WAY // 2)
        self._await(self.number)
        for letter in sent:
            if letter.fate == Fate.REFUSED:
                raise BrokerError(f"the server refused a message for {letter.exchange or letter.key}")
        return [letter for letter in sent if letter.fate == Fate.HOMELESS]

    def post(self, letter: Letter) -> None:
        """Publish, without waiting."""
        self.line.check()
        properties = pika.BasicProperties(delivery_mode=2, message_id=letter.mark, headers=letter.headers)
        letter.fate = None
        self.line.channel.basic_publish(letter.exchange, letter.key, letter.body, properties, mandatory=True)
        self.number += 1
        self._on_the_way[self.number] = letter

    def _await(self, number: int) -> None:
        """Until all are known up to this one; each answer is worth waiting for the next."""
        while next(iter(self._on_the_way), number + 1) <= number:
            self._wait_for_less(len(self._on_the_way))

    def _wait_for_less(self, count: int) -> None:
        self._wire.wait(lambda: len(self._on_the_way) < count or self.line.reason)
        self.line.check()

    def _answered(self, frame: Any) -> None:
        method = frame.method
        fate = Fate.SAFE if isinstance(method, pika.spec.Basic.Ack) else Fate.REFUSED
        if not method.multiple:
            self._settle(method.delivery_tag, fate)
            return
        for number in list(self._on_the_way):
            if number > method.delivery_tag:
                break
            self._settle(number, fate)

    def _settle(self, number: int, fate: str) -> None:
        letter = self._on_the_way.pop(number, None)
        if letter is None:
            return
        if letter.mark in self._homeless:  # its return comes before its answer
            self._homeless.discard(letter.mark)
            fate = Fate.HOMELESS
        letter.fate = fate
        if letter.then is not None:
            letter.then(letter)

    def _closed(self, *_: object) -> None:
        for letter in self._on_the_way.values():
            if letter.then is not None:
                letter.then(letter)

    def _returned(self, _channel: Any, _method: Any, properties: Any, _body: bytes) -> None:
        self._homeless.add(properties.message_id)
