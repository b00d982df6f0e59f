"""Jobs in Redis, 6.2 or newer: one server, many hosts.

The server must keep what it has: `appendonly yes` and `maxmemory-policy noeviction`. With `appendfsync
everysec`, its default, a power cut takes the last second or two; so does a kill of the server while its disk
is slow, since Redis then answers before it has written. With `appendfsync always`, nothing that was
acknowledged is lost.

Keys, where P is `mpkit:{SERVICE}:`, so that all of a service are in one slot:

    P jobs                      HASH    id → record, of every job wherever it is
    P number                    STRING  of the last push or retry
    P ready:TOPIC               ZSET    id by place: -priority * 2^45 + the number of its push or retry
    P since:TOPIC               ZSET    id by the time since when it is ready; the same ids
    P delayed:TOPIC             ZSET    id by the time when it is due
    P places:TOPIC              HASH    id → its place among the ready, of the delayed ones
    P dead:TOPIC                ZSET    id by the time when it died
    P held:CONSUMER:TOPIC       HASH    id → "token place since": the token is of one call of `reserve`
    P consumers                 HASH    name → "generation connection" and a line for each of its topics
    P leases                    ZSET    name by the time when its lease is over
    P asleep:TOPIC              STRING  there while a consumer found too little: who pushes then publishes
    P wake:TOPIC                        the channel for it
    P result:ID                 STRING  result of a job; expires
    P id:ID                     STRING  there while a unique id is refused after its push; expires

Each step is one script (see `scripts`), so that a process killed in it has done all of it or nothing.

A call whose reply was lost may have had its effect, or may have it even after the next connection was made.
So a consumer says its connection's number when it takes jobs, and what an older one takes is refused; with
each new connection it says which jobs it knows that it holds, and what the server holds for it beside is
released; and a settlement that is refused is taken as done if it was sent before and no lease ran out since.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from uuid import uuid4

from multiprocessing_kit.errors import BrokerError, BrokerUnavailableError, PayloadError
from multiprocessing_kit.service.brokers.base import Broker
from multiprocessing_kit.service.brokers.redis import scripts
from multiprocessing_kit.service.brokers.redis.link import RedisLink, RedisServerAt
from multiprocessing_kit.service.job import Backlog, DeadJob, Delivery, Event, Job, Outcome, Settlement

__all__ = ["RedisBroker"]

_log = logging.getLogger("multiprocessing_kit.service")

_YES = ord("1")
_OLDEST_VERSION = (6, 2)
_IDLE_SECONDS = 5.0
_JOBS_AT_ONCE = 500  # in a script that pushes: for others' calls to come between
_BYTES_AT_ONCE = 1 << 20
_SETTLED_BYTES_AT_ONCE = 1 << 24
_NAMING_WORDS = 4  # of one job that is settled: what, id, topic, token
_LARGEST = 1 << 29  # record that a server takes, where it does not tell
_SMALL = 1_000_000  # for any server: the limit cannot be set to less than 1 MiB
_DEAD_AT_ONCE = 200
_PURGED_AT_ONCE = 5000


class RedisBroker(Broker):
    """See `Broker`.

    Args:
        url: `redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]`, `rediss://…` or `unix://PATH`; options of
            redis-py's connections may follow, such as `?socket_timeout=10` or `?ssl_ca_certs=FILE`.
        service: The service's name.
    """

    def __init__(self, url: str, service: str) -> None:
        super().__init__(service)
        self._server = RedisServerAt(url)
        self._key = f"mpkit:{{{service}}}:".encode()
        self._link: RedisLink | None = None
        self._bell: RedisLink | None = None
        self._pid = os.getpid()
        self._consumer = b""
        self._topics: tuple[str, ...] = ()
        self._lease = 0.0
        self._generation = b""
        self._connections = 0
        self._reserves = 0
        self._held: dict[str, bytes] = {}
        self._doubtful: dict[str, bytes] = {}
        self._extended = 0.0
        self._sweeps_from = 0.0
        self._next_due: float | None = None
        self._keeps = True
        self._largest = _LARGEST

    # ── for everybody ─────────────────────────────────────────────────────────────────────────────

    def push(self, jobs: Iterable[Job]) -> list[bool]:
        """See `Broker.push`."""
        jobs = list(jobs)  # whoever makes them is not to run while the server waits for the rest
        with self._told("push") as link:
            if len(jobs) == 1:
                words = [jobs[0].id.encode(), jobs[0].encode(), *_place(jobs[0])]
                if len(words[1]) > _SMALL and (refusal := self._refusal(jobs[0], words[1])):
                    raise PayloadError(refusal)
                return [link.run("push", scripts.PUSH_ONE, self._key, *words, soon=True) == 1]
            for job in jobs:
                if len(job.payload) > _SMALL and (refusal := self._refusal(job, job.encode())):
                    raise PayloadError(refusal)
            replies = link.run_all("push", scripts.PUSH, self._key, _pushes(jobs), soon=True)
        return [added == _YES for reply in replies for added in reply]

    def backlog(self, topic: str) -> Backlog:
        """See `Broker.backlog`."""
        ready, delayed, running, dead, oldest = self._run("count the jobs", scripts.BACKLOG, topic.encode())
        return Backlog(ready, delayed, running, dead, max(0.0, float(oldest)))

    def purge(self, topic: str) -> int:
        """See `Broker.purge`. Jobs that are pushed meanwhile may stay."""
        there = self.backlog(topic)
        count = 0
        while count < there.ready + there.delayed:
            purged = self._run("purge", scripts.PURGE, topic.encode(), b"%d" % _PURGED_AT_ONCE)
            if not purged:
                break
            count += purged
        return count

    def result(self, job_id: str) -> bytes | None:
        """See `Broker.result`."""
        result: bytes | None = self._call(
            "look for a result", [b"GET", self._key + b"result:" + job_id.encode()]
        )
        return result

    def dead_letters(self, topic: str, limit: int) -> list[DeadJob]:
        """See `Broker.dead_letters`."""
        found = []
        for ids in _parts(self._dead_ids(topic, limit - 1) if limit > 0 else [], _DEAD_AT_ONCE):
            reply = self._run("list dead letters", scripts.DEAD, topic.encode(), *ids)
            for job_id, record, died in zip(ids, reply[::2], reply[1::2], strict=True):
                if record is not None:  # it was retried or purged meanwhile
                    found.append(_dead(job_id, topic, record, float(died)))
        return found

    def dead_retry(self, topic: str, job_ids: Sequence[str] | None) -> int:
        """See `Broker.dead_retry`. What is no job stays."""
        count = 0
        for ids in _parts(self._these_dead(topic, job_ids), _DEAD_AT_ONCE):
            reply = self._run("look for dead letters", scripts.DEAD, topic.encode(), *ids)
            words = [topic.encode()]
            for record in reply[::2]:
                job = None if record is None else _decoded(record)
                if job is not None:
                    job.begin_anew()
                    words += [job.id.encode(), _rank(job.priority), job.encode()]
            retried = self._run("retry dead letters", scripts.DEAD_RETRY, *words)
            count += retried
        return count

    def dead_purge(self, topic: str, job_ids: Sequence[str] | None) -> int:
        """See `Broker.dead_purge`."""
        count = 0
        for ids in _parts(self._these_dead(topic, job_ids), _PURGED_AT_ONCE):
            purged = self._run("purge dead letters", scripts.DEAD_PURGE, topic.encode(), *ids)
            count += purged
        return count

    def close(self) -> None:
        """See `Broker.close`."""
        if self._consumer and self._pid == os.getpid():
            with contextlib.suppress(BrokerError):
                self._run("leave", scripts.LEAVE, self._consumer, self._generation)
        self._disconnect()
        self._forget()

    # ── for a consumer ────────────────────────────────────────────────────────────────────────────

    def join(self, consumer: str, topics: Sequence[str], lease: float) -> None:
        """See `Broker.join`."""
        self._disconnect()
        self._forget()
        self._topics, self._lease = tuple(topics), lease
        with self._told("join") as link:
            link.run("join", scripts.LEAVE, self._key, consumer.encode(), b"")
            self._consumer = consumer.encode()
            self._register(link)
        if not self._keeps:
            _log.warning(
                "%s forgets all jobs when it restarts: set its appendonly to yes", self._server.shown
            )

    def reserve(self, limit: int, topics: Sequence[str] | None = None) -> list[Delivery]:
        """See `Broker.reserve`."""
        names = [topic.encode() for topic in (self._topics if topics is None else topics)]
        if limit <= 0 or not names:
            self._next_due = None
            return []
        found: list[Delivery] = []
        with self._told("reserve") as link:
            self._hear()
            while True:
                due, *records = self._reserve(link, limit - len(found), names)
                token = self._token()
                jobs = [job for job in map(_decoded, records) if job is not None]
                found += [Delivery(job, token) for job in jobs]
                if len(jobs) == len(records):
                    break
                self._put_aside(link, names)
        self._next_due = time.monotonic() + float(due) if due else None
        self._held.update((delivery.job.id, delivery.token) for delivery in found)
        return found

    def _reserve(self, link: RedisLink, limit: int, topics: Sequence[bytes]) -> list[bytes]:
        reply = self._taken(link, limit, topics)
        if reply is None:  # our lease was over, and another consumer has seen it
            self._register(link)
            reply = self._taken(link, limit, topics)
        if reply is None:
            text = f"another consumer is called {self._consumer.decode()} at {self._server.shown}"
            raise BrokerUnavailableError(text, broker=self._server.shown)
        return reply

    def _taken(self, link: RedisLink, limit: int, topics: Sequence[bytes]) -> list[bytes] | None:
        self._reserves += 1
        words = [self._consumer, self._mark(), self._token(), b"%d" % limit, *topics]
        reply: list[bytes] | None = link.run("reserve", scripts.RESERVE, self._key, *words)
        return reply

    def _put_aside(self, link: RedisLink, topics: Sequence[bytes]) -> None:
        """What the last call took that is no job."""
        words = [self._consumer, self._token()]
        taken = link.run("look for what is no job", scripts.TAKEN, self._key, *words, *topics)
        for topic, job_id, record in zip(taken[::3], taken[1::3], taken[2::3], strict=True):
            if _decoded(record) is None:
                what = "is gone, and it is dropped" if not record else "is none, and is a dead letter"
                about = job_id.decode(errors="replace"), topic.decode(), what, record
                _log.error("job %s of topic %s: its record %s: %.200r", *about)
                words += [topic, job_id]
        link.run("put aside what is no job", scripts.PUT_ASIDE, self._key, *words)

    def settle(self, settlements: Sequence[Settlement]) -> list[Delivery]:
        """See `Broker.settle`."""
        if not settlements:
            return []
        with self._told("settle") as link:
            calls = self._settling(settlements)
            try:
                replies = link.run_all("settle", scripts.SETTLE, self._key, calls)
            except BrokerError:
                self._doubtful.update((s.delivery.job.id, s.delivery.token) for s in settlements)
                raise
        fenced = []
        for settlement, done in zip(settlements, b"".join(replies), strict=True):
            delivery = settlement.delivery
            if self._held.get(delivery.job.id) == delivery.token:
                del self._held[delivery.job.id]
            was_sent = self._doubtful and self._doubtful.pop(delivery.job.id, None) == delivery.token
            if done != _YES and not was_sent:
                fenced.append(delivery)
        return fenced

    def _settling(self, settlements: Sequence[Settlement]) -> list[list[bytes]]:
        """The arguments of calls of `SETTLE`."""
        calls = [[self._consumer]]
        size = 0
        for settlement in settlements:
            words = _settled(settlement)
            if len(words) > _NAMING_WORDS:
                for word in words[_NAMING_WORDS:]:
                    if refusal := self._refusal(settlement.delivery.job, word):
                        raise BrokerError(refusal, broker=self._server.shown)
                    size += len(word)
                if size > _SETTLED_BYTES_AT_ONCE and len(calls[-1]) > 1:
                    calls.append([self._consumer])
                    size = sum(map(len, words))
            calls[-1] += words
        return calls

    def _refusal(self, job: Job, word: bytes) -> str:
        """Why the server does not take this record or result of a job; "" if it does.

        The limit is asked for with each connection, so that an error for it asks anew.
        """
        if len(word) <= self._largest:
            return ""
        return (
            f"{self._server.shown} takes {self._largest:,} bytes at once (proto-max-bulk-len),"
            f" and job {job.id} of topic {job.topic} has {len(word):,}"
        )

    def extend(self) -> None:
        """See `Broker.extend`."""
        now = time.monotonic()
        if now - self._extended > self._lease / 2:
            # We were late, so others may be: they call within a third of a lease from when they can.
            self._sweeps_from = now + self._lease / 2
        with self._told("extend the lease") as link:
            self._register(link, sweeps=now >= self._sweeps_from)

    def fileno(self) -> int | None:
        """See `Broker.fileno`."""
        return None if self._bell is None else self._bell.fileno()

    def idle(self) -> float:
        """See `Broker.idle`."""
        if self._next_due is None:
            return _IDLE_SECONDS
        return min(_IDLE_SECONDS, max(0.0, self._next_due - time.monotonic()))

    # ── steps ─────────────────────────────────────────────────────────────────────────────────────

    def _register(self, link: RedisLink, *, sweeps: bool = False) -> None:
        """Be a consumer for another lease; notes if we were none meanwhile."""
        new = uuid4().hex[:12].encode()
        words = [
            self._consumer,
            self._generation,
            new,
            b"%d" % self._connections,
            b"%r" % self._lease,
            "\n".join(self._topics).encode(),
            b"%d" % sweeps,
        ]
        was = link.run("extend the lease", scripts.EXTEND, self._key, *words)
        if not was:
            self._generation = new
            self._held.clear()
            self._doubtful.clear()
            self._sweeps_from = time.monotonic() + self._lease / 2
        self._extended = time.monotonic()

    def _keep_only(self, link: RedisLink) -> None:
        """Release what we hold and do not know of: the reply that told us was lost."""
        words = [self._consumer, "\n".join(self._topics).encode()]
        for job_id, token in self._held.items():
            words += [job_id.encode(), token]
        link.run("release lost jobs", scripts.KEEP_ONLY, self._key, *words)

    def _hear(self) -> None:
        """Forget what was published so far: what comes from now on is seen by `reserve`, or rings again."""
        if self._bell is not None and self._bell.drain():
            return
        old, self._bell = self._bell, self._server.connect("reserve")
        if old is not None:  # closed after the new one is there: who waits must see another descriptor
            old.close()
        self._bell.subscribe([self._key + b"wake:" + topic.encode() for topic in self._topics])

    def _mark(self) -> bytes:
        return b"%b %d\n" % (self._generation, self._connections)

    def _token(self) -> bytes:
        """Of the last call of `reserve`."""
        return b"%b.%d" % (self._generation, self._reserves)

    def _forget(self) -> None:
        """Be no consumer."""
        self._consumer, self._topics, self._generation = b"", (), b""
        self._held, self._doubtful = {}, {}
        self._next_due = None

    def _dead_ids(self, topic: str, last: int) -> list[bytes]:
        words = [b"ZRANGE", self._key + b"dead:" + topic.encode(), b"0", b"%d" % last]
        ids: list[bytes] = self._call("list dead letters", words)
        return ids

    def _these_dead(self, topic: str, job_ids: Sequence[str] | None) -> list[bytes]:
        return self._dead_ids(topic, -1) if job_ids is None else [job_id.encode() for job_id in job_ids]

    # ── the connection ────────────────────────────────────────────────────────────────────────────

    def _call(self, what: str, command: Sequence[bytes]) -> Any:
        with self._told(what) as link:
            return link.call(what, command)[0]

    def _run(self, what: str, script: scripts.Script, *arguments: bytes) -> Any:
        with self._told(what) as link:
            return link.run(what, script, self._key, *arguments)

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[RedisLink]:
        """The connection, which does not outlive an error."""
        try:
            yield self._connected(what)
        except BaseException:
            self._disconnect()
            raise

    def _connected(self, what: str) -> RedisLink:
        if self._link is not None and self._pid == os.getpid():
            if not self._link.is_lost():
                return self._link
            # Nothing was sent yet, so nothing is done twice. The bell stays until `_hear` has another one.
            self._link.close()
            self._link = None
        if self._pid != os.getpid():  # the parent is the consumer
            self._disconnect()
            self._forget()
        link = self._server.connect(what)
        try:
            self._check(link)
            self._largest = _largest(link)
            if self._consumer:
                self._connections += 1
                self._register(link)
                self._keep_only(link)
        except BaseException:
            link.close()
            raise
        self._link, self._pid = link, os.getpid()
        return link

    def _check(self, link: RedisLink) -> None:
        sections = (b"server", b"memory", b"persistence")
        replies = link.call("connect", *([b"INFO", section] for section in sections))
        lines = b"".join(replies).decode(errors="replace").splitlines()
        facts = dict(line.split(":", 1) for line in lines if ":" in line)
        version = tuple(int(part) for part in facts.get("redis_version", "6.2").split(".")[:2])
        if version < _OLDEST_VERSION:
            text = f"{self._server.shown} is Redis {facts['redis_version']}; 6.2 or newer is needed"
            raise BrokerError(text, broker=self._server.shown)
        self._keeps = facts.get("aof_enabled") != "0"
        if facts.get("maxmemory", "0") != "0" and facts.get("maxmemory_policy", "").startswith("allkeys"):
            text = (
                f"{self._server.shown} drops keys, and so jobs, when its memory is full:"
                f" set its maxmemory-policy to noeviction, not {facts['maxmemory_policy']}"
            )
            raise BrokerError(text, broker=self._server.shown)

    def _disconnect(self) -> None:
        for link in (self._link, self._bell):
            if link is not None:
                link.close()
        self._link = self._bell = None


def _largest(link: RedisLink) -> int:
    """Word that the server takes in a command."""
    try:
        reply = link.call("connect", [b"CONFIG", b"GET", b"proto-max-bulk-len"])[0]
    except BrokerUnavailableError:
        raise
    except BrokerError:  # not everybody may ask
        return _LARGEST
    return int(reply[1]) if reply else _LARGEST


def _pushes(jobs: Iterable[Job]) -> Iterator[list[bytes]]:
    """The arguments of calls of `PUSH`: runs of jobs that differ in nothing but id and record."""
    words: list[bytes] = [b""]
    like: object = None
    count = size = run = 0
    for job in jobs:
        record = job.encode()
        if count == _JOBS_AT_ONCE or size > _BYTES_AT_ONCE:
            words[0] = b"%d" % count
            yield words
            words, like, count, size = [b""], None, 0, 0
        this = (job.topic, job.priority, job.due, job.is_unique, job.hold)
        if this != like:
            like = this
            words += [*_place(job), b""]
            run = len(words) - 1
        words += [job.id.encode(), record]
        words[run] = b"%d" % ((len(words) - run) // 2)
        count += 1
        size += len(record)
    if count:
        words[0] = b"%d" % count
        yield words


def _place(job: Job) -> list[bytes]:
    """Where a job is pushed, and how long its id is refused: what `PUSH` and `PUSH_ONE` say of it."""
    hold = round(job.hold * 1000) if job.is_unique else -1
    return [job.topic.encode(), _rank(job.priority), b"%r" % float(job.due), b"%d" % hold]


def _settled(settlement: Settlement) -> list[bytes]:
    """The arguments of `SETTLE` for one job."""
    delivery, outcome = settlement.delivery, settlement.outcome
    job = delivery.job
    words = [outcome.encode(), job.id.encode(), job.topic.encode(), delivery.token]
    if outcome == Outcome.DEAD:
        words.append(job.encode())
    elif outcome == Outcome.RETRY:
        words += [job.encode(), _rank(job.priority), b"%r" % float(job.due)]
    if settlement.result is not None and settlement.keep > 0 and outcome != Outcome.RELEASE:
        words += [b"keep", job.id.encode(), b"%d" % max(1, round(settlement.keep * 1000)), settlement.result]
    return words


def _decoded(record: bytes) -> Job | None:
    """A job; None for what is none."""
    try:
        return Job.decode(record)
    except ValueError:
        return None


def _dead(job_id: bytes, topic: str, record: bytes, died: float) -> DeadJob:
    """A dead letter; one that is no job is shown as one that has failed."""
    try:
        return DeadJob(Job.decode(record), died)
    except ValueError as error:
        history = [Event(died, 1, "unreadable", str(error))]
        name = job_id.decode(errors="replace")
        return DeadJob(Job(name, topic, record, pushed=died, history=history), died)


def _rank(priority: int) -> bytes:
    return b"%d" % (-priority << scripts.RANK_BITS)


def _parts(items: Sequence[bytes], size: int) -> Iterator[Sequence[bytes]]:
    return (items[start : start + size] for start in range(0, len(items), size))
