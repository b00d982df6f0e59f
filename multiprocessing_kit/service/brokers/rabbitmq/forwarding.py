"""Messages that go on to another queue as they come, while nothing can be awaited."""

from __future__ import annotations

from multiprocessing_kit.service.brokers.rabbitmq.publisher import Fate, Letter
from multiprocessing_kit.service.brokers.rabbitmq.session import Session
from multiprocessing_kit.service.brokers.rabbitmq.wire import Line

__all__ = ["Forwarding"]


class Forwarding:
    """Of one channel: a message is acknowledged there when its copy is safe elsewhere.

    Args:
        session: That the copies are published by.
        line: That the messages come by.
    """

    def __init__(self, session: Session, line: Line) -> None:
        self._session = session
        self._line = line
        self._stuck: list[int] = []
        _ = session.publisher  # which can only be made where its answer can be awaited

    def send(self, tag: int, letter: Letter) -> None:
        """Have this copy instead of the message with this tag."""

        def then(letter: Letter) -> None:
            if letter.fate != Fate.SAFE:
                self._stuck.append(tag)
            elif self._line.is_open:
                self._line.channel.basic_ack(tag)

        letter.then = then
        publisher = self._session.posting
        if publisher is None:
            self._stuck.append(tag)
        else:
            publisher.post(letter)

    def unstick(self, topics: tuple[str, ...]) -> None:
        """Have what could not go on come again, after its queue was made."""
        stuck, self._stuck = self._stuck, []
        if not stuck:
            return
        _ = self._session.publisher
        for topic in topics:
            self._session.declare_topic(topic)
        for tag in stuck:
            self._line.channel.basic_nack(tag, requeue=True)
