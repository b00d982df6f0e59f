"""The jobs that a consumer of a RabbitMQ server has.

    queue ──delivery──▶ kept here ──take──▶ given out ──done──▶ acknowledged
                          │  ▲                 │  ▲
             not yet due: │  │                 │  └─ adopted: the same message, come again
             published to └──┘ after its rest  └──── its channel is lost
             a delay queue

A server takes back what was delivered to a channel that ends, be it by a broken connection or because a job
ran longer than the server's consumer timeout. But the job still runs here: so a message that comes again is
adopted, which only renews what it is to be acknowledged with; and one that was done meanwhile is acknowledged
when it comes. Before the server loses its patience, a long job's message is moved to this consumer's own hold
queue, whence it comes again. If it does not come again within a lease, another consumer has it.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from multiprocessing_kit.service.brokers.rabbitmq.forwarding import Forwarding
from multiprocessing_kit.service.brokers.rabbitmq.names import Names, delay, mark_of, place_of, quorum
from multiprocessing_kit.service.brokers.rabbitmq.publisher import Letter
from multiprocessing_kit.service.brokers.rabbitmq.session import Session
from multiprocessing_kit.service.brokers.rabbitmq.settled import Settled
from multiprocessing_kit.service.brokers.rabbitmq.wire import Line
from multiprocessing_kit.service.job import Delivery, Job

__all__ = ["Held", "Intake"]

_MOST_CONSUMERS = 8
"""Of one queue: each asks for some more jobs; then one asks for all of them."""

_SWIFT_FILLS, _SWIFT_SECONDS = 8, 2.0
"""So many times as many jobs as were asked for, within so long."""

_MOST_PREFETCHED = 65535
_ARRIVAL_SECONDS, _LATE_SECONDS = 0.05, 0.01
"""For the first job of those that were asked for, and then for one of a topic that comes before its own."""

_UNASKED_SECONDS = 3.0
"""After which jobs that nobody here asks for are given to others."""

_HOLD_EXPIRES_MS = 24 * 3600 * 1000

_log = logging.getLogger("multiprocessing_kit.service")


class Held:
    """One job that is here.

    Attributes:
        delivery: As given out.
        mark: Of its message.
        tags: What to acknowledge on the present channel; none while it is lost.
        since: When the latest of them came, or when they were lost, by `time.monotonic()`.
        is_out: Whether it was given out.
        letter: What is published instead of it, once that was tried.
    """

    __slots__ = ("delivery", "is_out", "letter", "mark", "since", "tags")

    def __init__(self, job: Job, mark: str, tag: int) -> None:
        self.delivery = Delivery(job, self)
        self.mark = mark
        self.tags = [tag]
        self.since = time.monotonic()
        self.is_out = False
        self.letter: Letter | None = None


class Intake:
    """Of one consumer, over all its connections.

    Args:
        consumer: Its name.
        topics: That it serves.
        lease: Seconds that others wait for it.
        patience: The server's consumer timeout.

    Attributes:
        known: All jobs that are here, by their marks.
        settled: Those that were.
        has_stopped: Whether nothing more comes until `take` is called again.
    """

    def __init__(self, consumer: str, topics: Sequence[str], lease: float, patience: float) -> None:
        self.consumer = consumer
        self.topics = tuple(topics)
        self.lease = lease
        self.known: dict[str, Held] = {}
        self._move_after = patience / 2
        self._session: Session | None = None
        self._line: Line | None = None
        self._is_canceled = self.has_stopped = False
        self._uses_hold = False
        self._kept: dict[str, list[tuple[int, int, int, Held]]] = {topic: [] for topic in topics}
        self._order = itertools.count()
        self._consumers: dict[str, list[tuple[str, int]]] = {}
        self.settled = Settled()
        self._forwarding: Forwarding | None = None
        self._fills: deque[float] = deque(maxlen=_SWIFT_FILLS)
        self._asked = self._renewed = time.monotonic()

    # ── the channel ───────────────────────────────────────────────────────────────────────────────

    def attach(self, session: Session) -> None:
        """Go on with this connection, on a channel that stands."""
        if (
            session is self._session
            and self._line is not None
            and self._line.is_open
            and not self._is_canceled
        ):
            return
        line, self._line = self._line, None
        if line is not None and session is self._session and line.is_open:
            line.close()
        self._forget()
        self._session, self._is_canceled = session, False
        for topic in self.topics:
            session.declare_topic(topic)
        self._line = Line(session.wire)
        self._forwarding = Forwarding(session, self._line)
        self._line.channel.add_on_cancel_callback(self._canceled)
        if self._uses_hold:
            self._take_held()

    def _canceled(self, _: object) -> None:
        """A queue was removed, or its server left."""
        self._is_canceled = True

    def _forget(self) -> None:
        """What came over a lost channel comes again."""
        for held in list(self.known.values()):
            if not held.is_out:
                del self.known[held.mark]
            elif held.tags:  # since when is not known: it may be since we were last heard of
                held.tags, held.since = [], max(held.since, self._renewed)
        for kept in self._kept.values():
            kept.clear()
        self._consumers.clear()
        self.has_stopped = True

    @property
    def _now(self) -> Line:
        assert self._line is not None
        return self._line

    # ── taking ────────────────────────────────────────────────────────────────────────────────────

    @property
    def has_some(self) -> bool:
        """Whether something is here that was not given out."""
        return any(self._kept.values())

    def kept(self, topic: str) -> int:
        """How many of a topic are here that were not given out."""
        return len(self._kept.get(topic, ()))

    def out(self, topic: str) -> int:
        """How many of a topic were given out."""
        return sum(held.is_out and held.delivery.job.topic == topic for held in self.known.values())

    def take(self, limit: int, topics: Sequence[str]) -> list[Delivery]:
        """Give out what is here, of these topics, and ask for more of them, but of no others."""
        self._asked = time.monotonic()
        self.has_stopped = False
        for topic in set(self._consumers) - set(topics):
            self.stop(topic)
        started = [self._want(topic, limit) for topic in topics]
        self._now.wire.pump()
        if any(started):
            self._await(topics[0])
        found: list[Held] = []
        for topic in topics:
            kept = self._kept[topic]
            while kept and len(found) < limit:
                found.append(heapq.heappop(kept)[-1])
        if found and len(found) >= limit:
            self._fills.append(time.monotonic())
            if not self._is_swift:
                self._stop_all()
        for held in found:  # last: where the connection ends in `stop`, nobody has got them
            held.is_out = True
        return [held.delivery for held in found]

    def _await(self, first: str) -> None:
        """Wait for what comes, and a moment longer for the first topic: queues answer in any order."""
        until = time.monotonic() + _ARRIVAL_SECONDS
        while not self._kept[first] and self._now.is_open:
            now = time.monotonic()
            if self.has_some:
                until = min(until, now + _LATE_SECONDS)
            if now >= until:
                return
            self._now.wire.pump(until - now)

    @property
    def _is_swift(self) -> bool:
        """Whether jobs are taken so fast that it is worth having more here, which nobody else can have."""
        is_full = len(self._fills) == _SWIFT_FILLS
        return is_full and time.monotonic() - self._fills[0] < _SWIFT_SECONDS

    def _want(self, topic: str, limit: int) -> bool:
        """Let the server send as many as are out, and so many more.

        Where jobs are taken fast, twice so many: the next ones of a topic are to be here before those that
        are out are acknowledged, or one of lower priority would come before them.
        """
        wanted = self.out(topic) + (2 * limit if self._is_swift else limit)
        consumers = self._consumers.setdefault(topic, [])
        missing = wanted - sum(prefetch for _, prefetch in consumers)
        if missing <= 0 or limit <= 0:
            return False
        assert self._session is not None
        queues = self._session.names.taken_from(topic)
        if len(consumers) >= _MOST_CONSUMERS * len(queues):
            self._cancel(topic)
            missing = wanted
        self._now.call("basic_qos", prefetch_count=min(missing, _MOST_PREFETCHED))
        for queue in queues:
            tag = self._consume(queue, topic)
            self._consumers[topic].append((tag, missing if queue == queues[0] else 0))
        return True

    def _consume(self, queue: str, topic: str) -> str:
        tag: str = self._now.call(
            "basic_consume",
            queue=queue,
            on_message_callback=lambda _, *message: self._come(topic, *message),
        ).consumer_tag
        return tag

    def _cancel(self, topic: str) -> None:
        for tag, _ in self._consumers.get(topic, ()):
            self._now.call("basic_cancel", consumer_tag=tag)
        self._consumers[topic] = []

    def stop(self, topic: str) -> None:
        """Take no more of a topic, and give back what was not given out."""
        self._cancel(topic)
        del self._consumers[topic]
        for held in sorted(self._kept[topic], reverse=True):
            self.back(held[-1])
        self._kept[topic].clear()

    def _stop_all(self) -> None:
        for topic in list(self._consumers):
            self.stop(topic)
        self.has_stopped = True

    def drop_kept(self, topic: str) -> list[Job]:
        """Take no more of a topic for now, and remove what was not given out; returns it."""
        if topic in self._consumers:
            self._cancel(topic)
        kept = self._kept.get(topic, [])
        jobs = [held.delivery.job for *_, held in kept]
        for *_, held in kept:
            self.done(held)
        kept.clear()
        return jobs

    def _come(self, topic: str, method: Any, properties: Any, body: bytes) -> None:
        tag, channel = method.delivery_tag, self._now.channel
        mark = properties.message_id or ""
        if self.settled.has(mark, method.redelivered or self._was_held(properties)):
            channel.basic_ack(tag)
            return
        held = self.known.get(mark)
        if held is not None and held.is_out and self.is_over(held):
            held = None  # it was others' meanwhile, and is not the same any more
        if held is not None:
            held.tags.append(tag)
            held.since = time.monotonic()
            return
        try:
            job = Job.decode(body)
            mark, now = mark or mark_of(job), time.time()
            is_ours = job.due <= now and job.topic in self._kept
            elsewhere = "" if is_ours else self._names.of(job, now)
        except (ValueError, OverflowError) as error:
            _log.error("what is no job came from the broker, and is a dead letter of %s: %s", topic, error)
            died = {"died": repr(time.time())}
            self._pass_on(tag, Letter("", self._names.dead(topic), body, mark, died))
            return
        if elsewhere:
            # It came early: its delay queue was the longest that does not come late. Or this consumer took it
            # when it served other topics.
            self._pass_on(tag, Letter("", elsewhere, body, mark))
            return
        kept = self._kept[job.topic]
        held = self.known[mark] = Held(job, mark, tag)
        heapq.heappush(kept, (-job.priority, place_of(mark), next(self._order), held))

    def _was_held(self, properties: Any) -> bool:
        deaths = (properties.headers or {}).get("x-death") or [{}]
        return bool(deaths[0].get("queue") == self._names.hold(self.consumer))

    def _pass_on(self, tag: int, letter: Letter) -> None:
        assert self._forwarding is not None
        self._forwarding.send(tag, letter)

    @property
    def _names(self) -> Names:
        assert self._session is not None
        return self._session.names

    # ── what becomes of them ──────────────────────────────────────────────────────────────────────

    def done(self, held: Held) -> None:
        """Its job is done, or is published anew."""
        for tag in held.tags:
            self._now.channel.basic_ack(tag)
        if held.tags:
            self.settled.done(held.mark)
        else:
            self.settled.owed(held.mark, held.since + self.lease, held.delivery)
        del self.known[held.mark]

    def back(self, held: Held) -> None:
        """It was not run. One that is lost goes back by itself."""
        for tag in held.tags[1:]:
            self._now.channel.basic_ack(tag)
        for tag in held.tags[:1]:
            self._now.channel.basic_nack(tag, requeue=True)
        del self.known[held.mark]

    def is_over(self, held: Held) -> bool:
        """Whether another consumer has it by now."""
        gone = not held.tags and time.monotonic() - held.since > self.lease
        return gone or self.known.get(held.mark) is not held

    # ── time ──────────────────────────────────────────────────────────────────────────────────────

    def renew(self) -> None:
        """Keep what is here ours, give up what is not, give back what nobody asks for."""
        now = self._renewed = time.monotonic()
        self.settled.forget_old()
        for held in [held for held in self.known.values() if held.is_out and self.is_over(held)]:
            del self.known[held.mark]
        if self.has_some and now - self._asked > _UNASKED_SECONDS:
            self._stop_all()
        if self._forwarding is not None:
            self._forwarding.unstick(self.topics)
        self._move(
            [h for h in self.known.values() if h.is_out and h.tags and now - h.since > self._move_after]
        )

    def _move(self, long: list[Held]) -> None:
        """From the queues whence they came to the hold queue, whence they come again at once."""
        if not long or self._session is None:
            return
        if not self._uses_hold:
            self._take_held()
        hold = self._names.hold(self.consumer)
        letters = [
            Letter(hold, self._names.low(held.delivery.job.topic), held.delivery.job.encode(), held.mark)
            for held in long
        ]
        tags = {held.mark: tuple(held.tags) for held in long}
        homeless = self._session.publisher.send(letters)
        if homeless:  # the queue was removed: it is made anew, and asked again with the next renewal
            self._uses_hold = False
        for letter in letters:
            if letter in homeless:
                continue
            for tag in tags[letter.mark]:
                self._now.channel.basic_ack(tag)
            moved = self.known[letter.mark]
            moved.tags = [tag for tag in moved.tags if tag not in tags[letter.mark]]
            moved.since = time.monotonic()  # it is on its way, and not lost for longer than that

    def _take_held(self) -> None:
        assert self._session is not None
        session, hold = self._session, self._names.hold(self.consumer)
        session.control.call("exchange_declare", exchange=hold, exchange_type="fanout", durable=True)
        arguments = delay("", int(self.lease * 1000)) | {"x-expires": _HOLD_EXPIRES_MS}
        session.declare(hold, quorum(**arguments))
        session.control.call("queue_bind", queue=hold, exchange=hold, routing_key="")
        self._now.call("basic_qos", prefetch_count=0)
        self._consume(hold, self.topics[0])
        self._uses_hold = True
