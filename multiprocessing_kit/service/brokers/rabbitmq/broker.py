"""Jobs on a RabbitMQ server, 3.10 or newer: quorum queues, publisher confirms, nothing that needs a plugin.

`names` tells what lies where; `wire` is the connection, `publisher` what is
published on it, `session` what is declared and looked at, `intake` what is taken,
`ids` unique ids, `results` results.

What differs from the other brokers, as the server cannot do it:

- There are two ranks of priority, above 0 and not; within them jobs are ordered by priority only among those
  that have come to this host.
- Jobs that were sent to a consumer that has not begun them are counted neither as ready nor as running by
  others.
- A job changes its place in two steps, publishing and acknowledging; a kill between them leaves two of it,
  one of which runs again. None is lost.
- The oldest job's age is not known, and a consumer counts what others delay every 15 s only.
"""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
import time
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import pika
from pika.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelClosedByBroker,
    ConnectionClosedByBroker,
    ProbableAuthenticationError,
)

from multiprocessing_kit.errors import BrokerError, BrokerUnavailableError, PayloadError, ServiceConfigError
from multiprocessing_kit.service.brokers.base import Broker
from multiprocessing_kit.service.brokers.rabbitmq import ids
from multiprocessing_kit.service.brokers.rabbitmq.bell import Bell
from multiprocessing_kit.service.brokers.rabbitmq.intake import Held, Intake
from multiprocessing_kit.service.brokers.rabbitmq.lying import Lying
from multiprocessing_kit.service.brokers.rabbitmq.names import Names, mark_of, new_mark
from multiprocessing_kit.service.brokers.rabbitmq.publisher import Fate, Letter
from multiprocessing_kit.service.brokers.rabbitmq.results import Results, result_letter
from multiprocessing_kit.service.brokers.rabbitmq.session import Session, TooLargeError
from multiprocessing_kit.service.job import Backlog, DeadJob, Delivery, Job, Outcome, Settlement

__all__ = ["RabbitBroker"]

_IDLE_SECONDS = 2.0
_COUNT_SECONDS = 15.0
_CONSUMER_TIMEOUT = 1800.0
_REFUSED, _GONE = 403, 404
"""Reply codes."""


class RabbitBroker(Broker):
    """See `Broker`.

    Args:
        url: `amqp://USER:PASSWORD@HOST:PORT/VHOST` or `amqps://…`, with the options that pika knows, and
            `?consumer_timeout=SECONDS`, if the server has another than its default of 1800.
        service: The service's name.
    """

    def __init__(self, url: str, service: str) -> None:
        super().__init__(service)
        _silence_pika()
        self._shown = _without_password(url)
        self._parameters, self._patience = _parsed(url, self._shown)
        self._names = Names(service)
        self._session: Session | None = None
        self._intake: Intake | None = None
        self._results = Results(self._names)
        self._delayed: dict[str, tuple[float, int, int]] = {}
        self._half: set[Held] = set()
        self._bell: Bell | None = None
        self._pid = os.getpid()
        self._inherited: list[object] = []

    # ── for everybody ─────────────────────────────────────────────────────────────────────────────

    def push(self, jobs: Iterable[Job]) -> list[bool]:
        """See `Broker.push`."""
        jobs = list(jobs)
        try:
            return self._push(jobs)
        except TooLargeError as error:
            largest = max(jobs, key=lambda job: len(job.encode()))
            text = (
                f"{self._shown} takes {error.largest:,} bytes at once (max_message_size),"
                f" and job {largest.id} of topic {largest.topic} has {error.size:,}"
            )
            raise PayloadError(text) from error

    def _push(self, jobs: list[Job]) -> list[bool]:
        with self._told("push"):
            session, now = self._connected(), time.time()
            self._results.expect(jobs)
            letters = [Letter("", self._names.of(job, now), job.encode(), mark_of(job)) for job in jobs]
            session.see_sizes(letters)
            pairs = list(zip(jobs, letters, strict=True))
            session.send([(job.topic, letter) for job, letter in pairs if not job.is_unique])
            return [
                not job.is_unique or ids.push_unique(session, self._results, job, letter)
                for job, letter in pairs
            ]

    def backlog(self, topic: str) -> Backlog:
        """See `Broker.backlog`."""
        with self._told("count the jobs"):
            session, now = self._connected(), time.monotonic()
            at, published, delayed = self._delayed.get(topic, (0.0, 0, 0))
            # A consumer counts all the time, to know what is ready.
            is_old = self._intake is None or now - at > _COUNT_SECONDS or published != session.published
            counts = session.declare_topic(topic, delays=is_old)
            if is_old:
                delayed = sum(counts[queue] for queue, _ in self._names.delays(topic))
                self._delayed[topic] = (now, session.published, delayed)
        ready = sum(counts[queue] for queue in self._names.taken_from(topic))
        running = None
        if self._intake is not None and topic in self._intake.topics:
            ready += self._intake.kept(topic)
            running = self._intake.out(topic)
        return Backlog(ready, delayed, running, counts[self._names.dead(topic)], None)

    def purge(self, topic: str) -> int:
        """See `Broker.purge`."""
        with self._told("purge"):
            session = self._connected()
            count = 0
            if self._intake is not None:
                self._intake.attach(session)
                for job in self._intake.drop_kept(topic):
                    count += 1
                    if job.is_unique:
                        ids.free(session, job)
            counts = session.declare_topic(topic)
            delays = [queue for queue, _ in self._names.delays(topic)]
            for queue in [*self._names.taken_from(topic), *delays]:
                count += Lying(session, topic, queue).purge(None) if counts[queue] else 0
            return count

    def result(self, job_id: str) -> bytes | None:
        """See `Broker.result`."""
        with self._told("look for a result"):
            return self._results.get(self._connected(), job_id)

    def dead_letters(self, topic: str, limit: int) -> list[DeadJob]:
        """See `Broker.dead_letters`."""
        with self._told("list dead letters"):
            return self._dead(topic).list(limit)

    def dead_retry(self, topic: str, job_ids: Sequence[str] | None) -> int:
        """See `Broker.dead_retry`."""
        with self._told("retry dead letters"):
            return self._dead(topic).retry(job_ids, self._results)

    def dead_purge(self, topic: str, job_ids: Sequence[str] | None) -> int:
        """See `Broker.dead_purge`."""
        with self._told("purge dead letters"):
            return self._dead(topic).purge(job_ids)

    def _dead(self, topic: str) -> Lying:
        session = self._connected()
        session.declare_topic(topic)
        return Lying(session, topic, self._names.dead(topic))

    def close(self) -> None:
        """See `Broker.close`."""
        self._leave_parents()
        session, self._session = self._session, None
        if session is not None:
            with contextlib.suppress(Exception):
                if session.posting is not None:
                    session.posting.send([])  # what is on its way
            session.wire.end()  # the server takes back what was sent to it
        self._intake = None
        bell, self._bell = self._bell, None
        if bell is not None:
            bell.close()

    # ── for a consumer ────────────────────────────────────────────────────────────────────────────

    def join(self, consumer: str, topics: Sequence[str], lease: float) -> None:
        """See `Broker.join`. What a dead one held is released when the server sees its connection's end."""
        self.close()
        intake = Intake(consumer, topics, lease, self._patience)
        # A server gives up a connection after two or three of them without a sign of life.
        self._parameters.heartbeat = max(1, int(lease / 3))
        self._intake = intake
        with self._told("join"):
            self._consuming()

    def reserve(self, limit: int, topics: Sequence[str] | None = None) -> list[Delivery]:
        """See `Broker.reserve`."""
        with self._told("reserve"):
            intake = self._consuming()
            return intake.take(limit, intake.topics if topics is None else topics)

    def settle(self, settlements: Sequence[Settlement]) -> list[Delivery]:
        """See `Broker.settle`."""
        if not settlements:
            return []
        with self._told("settle"):
            intake, session = self._consuming(), self._connected()
            fenced: list[Delivery] = []
            ours: dict[Held, Settlement] = {}
            for settlement in settlements:
                held: Held = settlement.delivery.token
                if held in self._half:
                    continue  # settled by a call that did not come to its end
                if held in ours or intake.is_over(held):
                    fenced.append(settlement.delivery)
                else:
                    ours[held] = settlement
            self._publish(session, ours)
            for held, settlement in ours.items():
                if settlement.outcome == Outcome.RELEASE:
                    intake.back(held)
                else:
                    intake.done(held)
                self._half.add(held)
            session.wire.flush()
            self._half.clear()
            return fenced + intake.settled.overdue()

    def _publish(self, session: Session, ours: dict[Held, Settlement]) -> None:
        """What must be safe before the messages are acknowledged."""
        now = time.time()
        letters = []
        for held, settlement in ours.items():
            job = settlement.delivery.job
            if settlement.outcome in (Outcome.RETRY, Outcome.DEAD) and (
                held.letter is None or held.letter.fate != Fate.SAFE
            ):
                is_dead = settlement.outcome == Outcome.DEAD
                held.letter = Letter(
                    "",
                    self._names.dead(job.topic) if is_dead else self._names.of(job, now),
                    job.encode(),
                    new_mark(job) if held.letter is None else held.letter.mark,
                    {"died": repr(now)} if is_dead else None,
                )
                letters.append((job.topic, held.letter))
            if settlement.result is not None and settlement.keep > 0:
                session.declare_results()
                letter = result_letter(self._names, job.id, settlement.result, settlement.keep)
                letters.append((job.topic, letter))
        session.send(letters)
        for settlement in ours.values():
            job = settlement.delivery.job
            if settlement.outcome == Outcome.ACK and job.is_unique:
                ids.free(session, job)

    def extend(self) -> None:
        """See `Broker.extend`."""
        with self._told("extend the lease"):
            intake, session = self._consuming(), self._connected()
            intake.renew()
            session.control.call("basic_qos", prefetch_count=1)  # does it answer?

    def fileno(self) -> int | None:
        """See `Broker.fileno`."""
        self._leave_parents()
        if self._bell is None:
            self._bell = Bell()
        self._bell.follow(None if self._session is None else self._session.wire)
        intake = self._intake
        self._bell.ring(intake is not None and (intake.has_some or intake.has_stopped))
        return self._bell.fileno()

    def idle(self) -> float:
        """See `Broker.idle`."""
        return _IDLE_SECONDS

    # ── the connection ────────────────────────────────────────────────────────────────────────────

    def _consuming(self) -> Intake:
        session = self._connected()
        if self._intake is None:
            raise BrokerError("this is no consumer: it has not joined, or was closed", broker=self._shown)
        self._intake.attach(session)
        return self._intake

    def _connected(self) -> Session:
        self._leave_parents()
        session = self._session
        if session is not None:
            session.wire.pump()  # it may have ended long ago
            if session.wire.is_usable:
                return session
            self._disconnect()
        if self._intake is None:
            self._parameters.heartbeat = 0  # nobody would answer while nothing is pushed
        self._session = Session(self._parameters, self._names)
        return self._session

    def _disconnect(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.wire.drop()
        if self._bell is not None:
            self._bell.follow(None)

    def _leave_parents(self) -> None:
        """What was open before a fork is the parent's: it is left alone, not closed."""
        if self._pid != os.getpid():
            self._inherited += [self._session, self._intake, self._bell, self._results]
            self._results = Results(self._names)
            self._session = self._intake = self._bell = None
            self._pid = os.getpid()

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except BrokerError as error:
            error.broker = self._shown
            raise
        except ChannelClosedByBroker as error:
            # The connection still stands. A queue that is gone is made again, and a consumer that took too
            # long takes its jobs again; anything else was refused for good.
            text = f"cannot {what} on {self._shown}: {error.reply_text}"
            passes = error.reply_code == _GONE or "timed out" in error.reply_text
            raise (BrokerUnavailableError if passes else BrokerError)(text, broker=self._shown) from error
        except (AuthenticationError, ProbableAuthenticationError, ConnectionClosedByBroker) as error:
            self._disconnect()
            if getattr(error, "reply_code", _REFUSED) == _REFUSED:
                why = _said(error).removeprefix("ConnectionClosedByBroker: (403) ").strip("'")
                text = f"{self._shown} does not let us in: {why}"
                raise BrokerError(text, broker=self._shown) from error
            text = f"cannot {what} on {self._shown}: {_said(error)}"
            raise BrokerUnavailableError(text, broker=self._shown) from error
        except ssl.SSLCertVerificationError as error:
            self._disconnect()
            raise BrokerError(f"cannot {what} on {self._shown}: {error}", broker=self._shown) from error
        except (AMQPError, OSError) as error:
            self._disconnect()
            text = f"cannot {what} on {self._shown}: {_said(error)}"
            raise BrokerUnavailableError(text, broker=self._shown) from error
        except BaseException:  # interrupted anywhere: what is on the way is not known
            self._disconnect()
            raise


def _silence_pika() -> None:
    """Its lines at each try tell nothing that we do not raise; who has set its level wants them."""
    logger = logging.getLogger("pika")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)


def _said(error: BaseException) -> str:
    return str(getattr(error, "reply_text", "") or error) or type(error).__name__


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    account, at, host = parts.netloc.rpartition("@")
    user, colon, _ = account.partition(":")
    netloc = f"{user}:***@{host}" if colon else f"{account}{at}{host}"
    return urlunsplit(parts._replace(netloc=netloc))


def _parsed(url: str, shown: str) -> tuple[pika.connection.Parameters, float]:
    """For pika, and the consumer timeout."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    patience = options.pop("consumer_timeout", str(_CONSUMER_TIMEOUT))
    try:
        seconds = float(patience)
        if not 0 < seconds < float("inf"):
            raise ValueError("consumer_timeout is not a number of seconds")
        if parts.username is not None and parts.password is None:
            raise ValueError("a user needs a password, which may be empty (USER:@HOST)")
        return pika.URLParameters(urlunsplit(parts._replace(query=urlencode(options)))), seconds
    except Exception as error:  # whatever its option makes of it
        what = f"broker {shown!r} is not amqp://USER:PASSWORD@HOST:PORT/VHOST?OPTIONS: {error}"
        raise ServiceConfigError(what, key="broker") from None
