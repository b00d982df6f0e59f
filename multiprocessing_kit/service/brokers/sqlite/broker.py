"""Jobs in an SQLite file: no server, many processes, one host.

Each call is one transaction, so that a process killed in it has done all of it or nothing. WAL lets those
that push and those that count work beside the one that takes jobs; `synchronous` is NORMAL, which no kill of
a process can hurt; a power cut may take the last instants, unless the URL says `?synchronous=full`.

Times are of the host's clock, and so are leases: whoever sees that it was set leaves the others the time to
extend theirs. `seq` is the order of pushes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Sequence
from typing import Any

from multiprocessing_kit.errors import BrokerError, PayloadError
from multiprocessing_kit.service.brokers.base import Broker
from multiprocessing_kit.service.brokers.sqlite.database import DEAD, DELAYED, HELD, READY, Database
from multiprocessing_kit.service.job import Backlog, DeadJob, Delivery, Event, Job, Outcome, Settlement

__all__ = ["SqliteBroker"]

_IDLE_SECONDS = 2.0
_BLIND_SECONDS = 0.25  # where the system does not tell who writes
_STEP_SECONDS = 1.0
_DUE_AT_ONCE = 10_000  # jobs; meanwhile nobody else can write

_JOBS = "FROM jobs WHERE service = :service AND topic = :topic AND state ="
_COUNTS = f"""
SELECT
    (SELECT count(*) {_JOBS} {READY}),
    (SELECT count(*) {_JOBS} {DELAYED}),
    (SELECT count(*) {_JOBS} {DELAYED} AND due <= :now),
    (SELECT count(*) FROM consumers JOIN jobs ON consumer = name
        WHERE consumers.service = :service AND topic = :topic AND state = {HELD}),
    (SELECT count(*) {_JOBS} {DEAD}),
    (SELECT min(due) {_JOBS} {READY}),
    (SELECT min(due) {_JOBS} {DELAYED} AND due <= :now)
"""
"""In one statement, which sees one instant: a job that moves meanwhile is counted, and once."""

_log = logging.getLogger("multiprocessing_kit.service")


class SqliteBroker(Broker):
    """See `Broker`.

    Args:
        url: See `Database`.
        service: The service's name.

    Attributes:
        database: The file.
    """

    def __init__(self, url: str, service: str) -> None:
        super().__init__(service)
        self.database = Database(url)
        self._joined_by = 0
        self._consumer = ""
        self._topics: tuple[str, ...] = ()
        self._lease = 0.0
        self._extended = self._sweeps_from = self._clock = 0.0
        self._next_due = 0.0
        self._reserves = 0
        self._has_more = False
        self._taken: dict[int, int] = {}  # seq of what is held → by which call of `reserve`

    # ── for everybody ─────────────────────────────────────────────────────────────────────────────

    def push(self, jobs: Iterable[Job]) -> list[bool]:
        """See `Broker.push`."""
        jobs = list(jobs)  # whoever makes them is not to run within the transaction
        with self.database.transaction("push") as db:
            return [self._push(db, job) for job in jobs]

    def _push(self, db: sqlite3.Connection, job: Job) -> bool:
        now = time.time()
        if job.is_unique:
            held = db.execute(
                "SELECT 1 FROM ids WHERE id = ? AND until > ?", (self._key(job.id), now)
            ).fetchone()
            if held is not None:
                return False
        record = job.encode()
        if refusal := self._refusal(job, record):
            raise PayloadError(refusal)
        state = DELAYED if job.due > now else READY
        due = job.due if state == DELAYED else now
        row = (
            self._key(job.id),
            self.service,
            job.topic,
            state,
            -job.priority,
            time.time_ns(),
            due,
            record,
        )
        added = db.execute(
            "INSERT OR IGNORE INTO jobs (id, service, topic, state, rank, place, due, record)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            row,
        )
        if added.rowcount != 1:
            return False
        if job.is_unique:
            db.execute("DELETE FROM results WHERE id = ?", (self._key(job.id),))
            if job.hold > 0:
                db.execute("INSERT OR REPLACE INTO ids VALUES (?, ?)", (self._key(job.id), now + job.hold))
        return True

    def backlog(self, topic: str) -> Backlog:
        """See `Broker.backlog`."""
        now = time.time()
        with self.database.reading("count the jobs") as db:
            row = db.execute(_COUNTS, {"service": self.service, "topic": topic, "now": now}).fetchone()
        ready, delayed, due, running, dead, oldest_ready, oldest_due = row
        oldest = oldest_due if oldest_ready is None else oldest_ready
        age = 0.0 if oldest is None else max(0.0, now - oldest)
        return Backlog(ready + due, delayed - due, running, dead, age)

    def purge(self, topic: str) -> int:
        """See `Broker.purge`."""
        with self.database.transaction("purge") as db:
            return sum(
                db.execute(
                    f"DELETE FROM jobs WHERE service = ? AND topic = ? AND state = {state}",
                    (self.service, topic),
                ).rowcount
                for state in (READY, DELAYED)
            )

    def result(self, job_id: str) -> bytes | None:
        """See `Broker.result`."""
        with self.database.reading("look for a result") as db:
            row = db.execute(
                "SELECT result FROM results WHERE id = ? AND until > ?", (self._key(job_id), time.time())
            ).fetchone()
        return None if row is None else bytes(row[0])

    def dead_letters(self, topic: str, limit: int) -> list[DeadJob]:
        """See `Broker.dead_letters`."""
        with self.database.reading("list dead letters") as db:
            rows = db.execute(
                f"SELECT id, record, due FROM jobs WHERE service = ? AND topic = ? AND state = {DEAD}"
                " ORDER BY due LIMIT ?",
                (self.service, topic, limit),
            ).fetchall()
        return [self._dead_job(key, topic, record, died) for key, record, died in rows]

    def _dead_job(self, key: str, topic: str, record: Any, died: float) -> DeadJob:
        """What is no job is shown as one that has failed."""
        raw = _bytes(record)
        try:
            return DeadJob(Job.decode(raw), died)
        except ValueError as error:
            history = [Event(died, 1, "unreadable", str(error))]
            name = key.removeprefix(self._key(""))
            return DeadJob(Job(name, topic, raw, pushed=died, history=history), died)

    def dead_retry(self, topic: str, job_ids: Sequence[str] | None) -> int:
        """See `Broker.dead_retry`."""
        count = 0
        with self.database.transaction("retry dead letters") as db:
            for seq, record in self._dead(db, topic, job_ids):
                try:
                    job = Job.decode(_bytes(record))
                except ValueError:  # it could not be run
                    continue
                job.begin_anew()
                self._requeue(db, seq, job, time.time())
                db.execute("DELETE FROM results WHERE id = ?", (self._key(job.id),))
                count += 1
        return count

    def dead_purge(self, topic: str, job_ids: Sequence[str] | None) -> int:
        """See `Broker.dead_purge`."""
        with self.database.transaction("purge dead letters") as db:
            found = self._dead(db, topic, job_ids)
            db.executemany("DELETE FROM jobs WHERE seq = ?", [(seq,) for seq, _ in found])
        return len(found)

    def _dead(
        self, db: sqlite3.Connection, topic: str, job_ids: Sequence[str] | None
    ) -> list[tuple[int, bytes]]:
        query = f"SELECT seq, record FROM jobs WHERE service = ? AND topic = ? AND state = {DEAD}"
        key = (self.service, topic)
        if job_ids is None:
            return db.execute(f"{query} ORDER BY due", key).fetchall()
        rows = [db.execute(f"{query} AND id = ?", (*key, self._key(job_id))).fetchone() for job_id in job_ids]
        return [row for row in rows if row is not None]

    def close(self) -> None:
        """See `Broker.close`."""
        if self._consumer and self._joined_by == os.getpid():  # a copy of it in a forked child holds nothing
            self.database.hurry()
            with contextlib.suppress(BrokerError), self.database.transaction("leave") as db:
                self._release_all(db, self._consumer)
                db.execute("DELETE FROM consumers WHERE name = ?", (self._consumer,))
        self._consumer = ""
        self.database.disconnect()

    # ── for a consumer ────────────────────────────────────────────────────────────────────────────

    def join(self, consumer: str, topics: Sequence[str], lease: float) -> None:
        """See `Broker.join`."""
        self._consumer, self._topics, self._lease = f"{self.service}/{consumer}", tuple(topics), lease
        with self.database.transaction("join") as db:
            self._release_all(db, self._consumer)
            self._renew(db)
        self._joined_by = os.getpid()
        self._clock = _clock()
        self._sweeps_from = time.monotonic() + lease / 2

    def reserve(self, limit: int, topics: Sequence[str] | None = None) -> list[Delivery]:
        """See `Broker.reserve`."""
        self.database.hear()  # what is written from now on is seen below, or rings again
        now = time.time()
        topics = self._topics if topics is None else topics
        self._has_more = False
        with self.database.reading("look for jobs") as db:
            if limit <= 0 or not self._has_some(db, topics, now):
                return []
        deliveries: list[Delivery] = []
        self._reserves += 1
        with self.database.transaction("reserve") as db:
            # Whose lease was over is none of the consumers, and nobody would look after what it holds.
            row = (self._consumer, self.service, now + self._lease)
            db.execute("INSERT OR IGNORE INTO consumers VALUES (?, ?, ?)", row)
            for topic in topics:
                self._make_ready(db, topic, now)
                rows = db.execute(
                    f"SELECT seq, record FROM jobs WHERE service = ? AND topic = ? AND state = {READY}"
                    " ORDER BY rank, place, seq LIMIT ?",
                    (self.service, topic, limit - len(deliveries)),
                ).fetchall()
                jobs = [(seq, self._job(db, seq, topic, record, now)) for seq, record in rows]
                taken = [(seq, job) for seq, job in jobs if job is not None]
                self._has_more |= len(taken) < len(rows)
                db.executemany(
                    f"UPDATE jobs SET state = {HELD}, consumer = ? WHERE seq = ?",
                    [(self._consumer, seq) for seq, _ in taken],
                )
                deliveries += [Delivery(job, (seq, self._reserves)) for seq, job in taken]
                if len(deliveries) >= limit:
                    break
        self._taken.update(delivery.token for delivery in deliveries)
        return deliveries

    def settle(self, settlements: Sequence[Settlement]) -> list[Delivery]:
        """See `Broker.settle`."""
        if not settlements:
            return []
        now = time.time()
        fenced = []
        with self.database.transaction("settle") as db:
            for settlement in settlements:
                if not self._settle(db, settlement, now):
                    fenced.append(settlement.delivery)
        for seq, taken in (settlement.delivery.token for settlement in settlements):
            if self._taken.get(seq) == taken:
                del self._taken[seq]
        return fenced

    def _settle(self, db: sqlite3.Connection, settlement: Settlement, now: float) -> bool:
        delivery = settlement.delivery
        job, (seq, taken) = delivery.job, delivery.token
        if self._taken.get(seq) != taken:  # settled, or of an earlier lease: it was taken anew since
            return False
        ours = f" WHERE seq = ? AND state = {HELD} AND consumer = ?"
        key = (seq, self._consumer)
        if settlement.outcome == Outcome.RELEASE:
            release = f"UPDATE jobs SET state = {READY}, consumer = NULL"
            return db.execute(release + ours, key).rowcount == 1
        if settlement.outcome == Outcome.ACK:
            if db.execute("DELETE FROM jobs" + ours, key).rowcount != 1:
                return False
        elif db.execute("SELECT 1 FROM jobs" + ours, key).fetchone() is None:
            return False
        if settlement.result is not None:
            row = (self._key(job.id), now + settlement.keep, self._fitting(job, settlement.result))
            db.execute("INSERT OR REPLACE INTO results VALUES (?, ?, ?)", row)
        if settlement.outcome == Outcome.DEAD:
            db.execute(
                f"UPDATE jobs SET state = {DEAD}, consumer = NULL, due = ?, record = ? WHERE seq = ?",
                (now, self._fitting(job, job.encode()), seq),
            )
        elif settlement.outcome == Outcome.RETRY:
            self._requeue(db, seq, job, now)
        return True

    def extend(self) -> None:
        """See `Broker.extend`."""
        now, clock = time.time(), _clock()
        is_set = abs(clock - self._clock) > _STEP_SECONDS
        if is_set or time.monotonic() - self._extended > self._lease / 2:
            # The host slept, or the file was locked: others are as late, and are about to extend theirs.
            self._sweeps_from = time.monotonic() + self._lease / 2
        with self.database.transaction("extend the lease") as db:
            if is_set:  # back: what the dead hold would stay theirs until it is that late again
                last = "UPDATE consumers SET until = ? WHERE service = ? AND until > ?"
                db.execute(last, (now + self._lease, self.service, now + self._lease))
            self._renew(db)
            db.execute("DELETE FROM results WHERE until < ?", (now,))
            db.execute("DELETE FROM ids WHERE until < ?", (now,))
            if time.monotonic() >= self._sweeps_from:
                self._sweep(db, now)
        self._clock = clock

    def detach(self) -> None:
        """See `Broker.detach`: SQLite notes its locks per process, in memory that a fork copies."""
        self.database.disconnect()

    def fileno(self) -> int | None:
        """See `Broker.fileno`."""
        watch = self.database.watch
        return None if watch is None else watch.fileno()

    def idle(self) -> float:
        """See `Broker.idle`."""
        if self._has_more:
            return 0.0
        watch = self.database.watch
        longest = _IDLE_SECONDS if watch is not None and watch.works else _BLIND_SECONDS
        return min(longest, max(0.0, self._next_due - time.time())) if self._next_due else longest

    # ── steps ─────────────────────────────────────────────────────────────────────────────────────

    def _key(self, job_id: str) -> str:
        """Services in one file may use the same ids."""
        return f"{self.service}/{job_id}"

    def _has_some(self, db: sqlite3.Connection, topics: Sequence[str], now: float) -> bool:
        """Whether a job may run now; notes when the next one may."""
        self._next_due = 0.0
        for topic in topics:
            where = "FROM jobs WHERE service = ? AND topic = ? AND state = "
            key = (self.service, topic)
            if db.execute(f"SELECT 1 {where}{READY} LIMIT 1", key).fetchone() is not None:
                return True
            due = db.execute(f"SELECT min(due) {where}{DELAYED}", key).fetchone()[0]
            if due is not None and due <= now:
                return True
            if due is not None:
                self._next_due = min(self._next_due or due, due)
        return False

    def _make_ready(self, db: sqlite3.Connection, topic: str, now: float) -> None:
        due = db.execute(
            f"UPDATE jobs SET state = {READY} WHERE seq IN (SELECT seq FROM jobs"
            f" WHERE service = ? AND topic = ? AND state = {DELAYED} AND due <= ? ORDER BY due LIMIT ?)",
            (self.service, topic, now, _DUE_AT_ONCE),
        )
        self._has_more |= due.rowcount == _DUE_AT_ONCE

    def _requeue(self, db: sqlite3.Connection, seq: int, job: Job, now: float) -> None:
        state = DELAYED if job.due > now else READY
        record = self._fitting(job, job.encode())
        db.execute(
            "UPDATE jobs SET state = ?, consumer = NULL, place = ?, due = ?, record = ? WHERE seq = ?",
            (state, time.time_ns(), job.due if state == DELAYED else now, record, seq),
        )

    def _release_all(self, db: sqlite3.Connection, consumer: str) -> None:
        db.execute(
            f"UPDATE jobs SET state = {READY}, consumer = NULL WHERE consumer = ? AND state = {HELD}",
            (consumer,),
        )

    def _sweep(self, db: sqlite3.Connection, now: float) -> None:
        over = "SELECT name FROM consumers WHERE service = ? AND until < ?"
        for (name,) in db.execute(over, (self.service, now)).fetchall():
            self._release_all(db, name)
            db.execute("DELETE FROM consumers WHERE name = ?", (name,))

    def _renew(self, db: sqlite3.Connection) -> None:
        row = (self._consumer, self.service, time.time() + self._lease)
        db.execute("INSERT OR REPLACE INTO consumers VALUES (?, ?, ?)", row)
        self._extended = time.monotonic()

    def _refusal(self, job: Job, data: bytes) -> str:
        """Why the file does not take this record or result of a job; "" if it does."""
        largest = self.database.largest
        if len(data) <= largest:
            return ""
        return (
            f"{self.database.path} takes {largest:,} bytes at once (SQLITE_LIMIT_LENGTH),"
            f" and job {job.id} of topic {job.topic} has {len(data):,}"
        )

    def _fitting(self, job: Job, data: bytes) -> bytes:
        if refusal := self._refusal(job, data):
            raise BrokerError(refusal, broker=self.database.url)
        return data

    def _job(self, db: sqlite3.Connection, seq: int, topic: str, record: Any, now: float) -> Job | None:
        """A job; what is none is put aside, as others are behind it."""
        try:
            return Job.decode(_bytes(record))
        except ValueError as error:
            path = self.database.path
            _log.error(
                "%s holds what is no job of topic %s: a dead letter from now on: %s", path, topic, error
            )
            db.execute(f"UPDATE jobs SET state = {DEAD}, due = ? WHERE seq = ?", (now, seq))
            return None


def _bytes(record: Any) -> bytes:
    """A record; others may have written a text or a number in its place."""
    return record if isinstance(record, bytes) else str(record).encode()


def _clock() -> float:
    """Changes when somebody sets the clock, or when the host slept."""
    return time.time() - time.monotonic()
