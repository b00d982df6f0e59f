"""Jobs in an SQLite file: no server, many processes, one host.

Each call is one transaction, so that a process killed in it has done all of it or nothing. WAL lets those
that push and those that count work beside the one that takes jobs; `synchronous` is NORMAL, which no kill of
a process can hurt; a power cut may take the last instants, unless the URL says `?synchronous=full`.

Times are of the host's clock; `seq` is the order of pushes.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from multiprocessing_kit.errors import BrokerError, BrokerUnavailableError, ServiceConfigError
from multiprocessing_kit.service.brokers.base import Broker
from multiprocessing_kit.service.brokers.file_watch import FileWatch
from multiprocessing_kit.service.job import Backlog, DeadJob, Delivery, Job, Outcome, Settlement

__all__ = ["SqliteBroker"]

_VERSION = 1
_LOCKED_SECONDS = 5.0
_IDLE_SECONDS = 2.0
_MOST_AT_ONCE = 500  # parameters of a statement, of which old versions take 999

_READY, _DELAYED, _HELD, _DEAD = range(4)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    service TEXT NOT NULL,
    topic TEXT NOT NULL,
    state INTEGER NOT NULL,     -- 0 ready, 1 delayed, 2 held, 3 dead
    rank INTEGER NOT NULL,      -- minus its priority
    place INTEGER NOT NULL,     -- its turn in its rank: nanoseconds, when it was pushed or retried
    due REAL NOT NULL,          -- of a ready one: since when it is; of a dead one: when it died
    consumer TEXT,              -- of a held one
    record BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS ready ON jobs (service, topic, rank, place) WHERE state = 0;
CREATE INDEX IF NOT EXISTS waiting ON jobs (service, topic, due) WHERE state = 0;
CREATE INDEX IF NOT EXISTS delayed ON jobs (service, topic, due) WHERE state = 1;
CREATE INDEX IF NOT EXISTS held ON jobs (consumer, topic) WHERE state = 2;
CREATE INDEX IF NOT EXISTS dead ON jobs (service, topic, due) WHERE state = 3;
CREATE TABLE IF NOT EXISTS ids (id TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS results (
    id TEXT PRIMARY KEY, until REAL NOT NULL, result BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS consumers (
    name TEXT PRIMARY KEY, service TEXT NOT NULL, until REAL NOT NULL
) WITHOUT ROWID;
PRAGMA user_version = 1;
"""


class SqliteBroker(Broker):
    """See `Broker`.

    Args:
        url: `sqlite:///FILE`, with `?synchronous=full` for a disk that must have each push when it returns.
        service: The service's name.
    """

    def __init__(self, url: str, service: str) -> None:
        super().__init__(service)
        self._url = url
        self._path, self._synchronous = _parsed(url)
        self._connection: sqlite3.Connection | None = None
        self._pid = self._joined_by = 0
        self._consumer = ""
        self._topics: tuple[str, ...] = ()
        self._lease = 0.0
        self._extended = self._sweeps_from = 0.0
        self._next_due = 0.0
        self._watch: FileWatch | None = None
        self._reserves = 0
        self._taken: dict[int, int] = {}  # seq of what is held → by which call of `reserve`

    # ── for everybody ─────────────────────────────────────────────────────────────────────────────

    def push(self, jobs: Iterable[Job]) -> list[bool]:
        """See `Broker.push`."""
        with self._transaction("push") as db:
            return [self._push(db, job) for job in jobs]

    def _push(self, db: sqlite3.Connection, job: Job) -> bool:
        now = time.time()
        if job.is_unique:
            held = db.execute(
                "SELECT 1 FROM ids WHERE id = ? AND until > ?", (self._key(job.id), now)
            ).fetchone()
            if held is not None:
                return False
        state = _DELAYED if job.due > now else _READY
        due = job.due if state == _DELAYED else now
        row = (
            self._key(job.id),
            self.service,
            job.topic,
            state,
            -job.priority,
            time.time_ns(),
            due,
            job.encode(),
        )
        added = db.execute(
            "INSERT OR IGNORE INTO jobs (id, service, topic, state, rank, place, due, record)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            row,
        )
        if added.rowcount != 1:
            return False
        if job.is_unique and job.hold > 0:
            db.execute("INSERT OR REPLACE INTO ids VALUES (?, ?)", (self._key(job.id), now + job.hold))
        return True

    def backlog(self, topic: str) -> Backlog:
        """See `Broker.backlog`."""
        now = time.time()
        with self._reading("count the jobs") as db:
            where = "FROM jobs WHERE service = ? AND topic = ? AND state = "
            key = (self.service, topic)
            ready, delayed, dead = (
                db.execute(f"SELECT count(*) {where}{state}", key).fetchone()[0]
                for state in (_READY, _DELAYED, _DEAD)
            )
            running = db.execute(
                f"SELECT count(*) FROM consumers JOIN jobs ON consumer = name"
                f" WHERE consumers.service = ? AND topic = ? AND state = {_HELD}",
                key,
            ).fetchone()[0]
            due = db.execute(f"SELECT count(*) {where}{_DELAYED} AND due <= ?", (*key, now)).fetchone()[0]
            oldest = db.execute(f"SELECT min(due) {where}{_READY}", key).fetchone()[0]
            if due and oldest is None:
                oldest = db.execute(f"SELECT min(due) {where}{_DELAYED}", key).fetchone()[0]
        age = 0.0 if oldest is None else max(0.0, now - oldest)
        return Backlog(ready + due, delayed - due, running, dead, age)

    def purge(self, topic: str) -> int:
        """See `Broker.purge`."""
        with self._transaction("purge") as db:
            return sum(
                db.execute(
                    f"DELETE FROM jobs WHERE service = ? AND topic = ? AND state = {state}",
                    (self.service, topic),
                ).rowcount
                for state in (_READY, _DELAYED)
            )

    def result(self, job_id: str) -> bytes | None:
        """See `Broker.result`."""
        with self._reading("look for a result") as db:
            row = db.execute(
                "SELECT result FROM results WHERE id = ? AND until > ?", (self._key(job_id), time.time())
            ).fetchone()
        return None if row is None else bytes(row[0])

    def dead_letters(self, topic: str, limit: int) -> list[DeadJob]:
        """See `Broker.dead_letters`."""
        with self._reading("list dead letters") as db:
            rows = db.execute(
                f"SELECT record, due FROM jobs WHERE service = ? AND topic = ? AND state = {_DEAD}"
                " ORDER BY due LIMIT ?",
                (self.service, topic, limit),
            ).fetchall()
        return [DeadJob(self._decoded(record), died) for record, died in rows]

    def dead_retry(self, topic: str, job_ids: Sequence[str] | None) -> int:
        """See `Broker.dead_retry`."""
        count = 0
        with self._transaction("retry dead letters") as db:
            for seq, record in self._dead(db, topic, job_ids):
                job = self._decoded(record)
                job.attempt, job.crashes, job.idle_for, job.due = 1, 0, 0.0, 0.0
                self._requeue(db, seq, job, time.time())
                count += 1
        return count

    def dead_purge(self, topic: str, job_ids: Sequence[str] | None) -> int:
        """See `Broker.dead_purge`."""
        with self._transaction("purge dead letters") as db:
            found = self._dead(db, topic, job_ids)
            db.executemany("DELETE FROM jobs WHERE seq = ?", [(seq,) for seq, _ in found])
        return len(found)

    def _dead(
        self, db: sqlite3.Connection, topic: str, job_ids: Sequence[str] | None
    ) -> list[tuple[int, bytes]]:
        query = f"SELECT seq, record FROM jobs WHERE service = ? AND topic = ? AND state = {_DEAD}"
        key = (self.service, topic)
        if job_ids is None:
            return db.execute(f"{query} ORDER BY due", key).fetchall()
        rows = [db.execute(f"{query} AND id = ?", (*key, self._key(job_id))).fetchone() for job_id in job_ids]
        return [row for row in rows if row is not None]

    def close(self) -> None:
        """See `Broker.close`."""
        if self._consumer and self._joined_by == os.getpid():  # a copy of it in a forked child holds nothing
            with contextlib.suppress(BrokerError), self._transaction("leave") as db:
                self._release_all(db, self._consumer)
                db.execute("DELETE FROM consumers WHERE name = ?", (self._consumer,))
        self._consumer = ""
        self._disconnect()

    # ── for a consumer ────────────────────────────────────────────────────────────────────────────

    def join(self, consumer: str, topics: Sequence[str], lease: float) -> None:
        """See `Broker.join`."""
        self._consumer, self._topics, self._lease = f"{self.service}/{consumer}", tuple(topics), lease
        with self._transaction("join") as db:
            self._release_all(db, self._consumer)
            self._renew(db)
        self._joined_by = os.getpid()
        self._sweeps_from = time.monotonic() + lease / 2

    def reserve(self, limit: int, skip: Collection[str] = ()) -> list[Delivery]:
        """See `Broker.reserve`."""
        self._hear()
        now = time.time()
        topics = [topic for topic in self._topics if topic not in skip]
        with self._reading("look for jobs") as db:
            if limit <= 0 or not self._has_some(db, topics, now):
                return []
        deliveries: list[Delivery] = []
        self._reserves += 1
        with self._transaction("reserve") as db:
            # Whose lease was over is none of the consumers, and nobody would look after what it holds.
            row = (self._consumer, self.service, now + self._lease)
            db.execute("INSERT OR IGNORE INTO consumers VALUES (?, ?, ?)", row)
            for topic in topics:
                self._make_ready(db, topic, now)
                rows = db.execute(
                    f"SELECT seq, record FROM jobs WHERE service = ? AND topic = ? AND state = {_READY}"
                    " ORDER BY rank, place, seq LIMIT ?",
                    (self.service, topic, limit - len(deliveries)),
                ).fetchall()
                db.executemany(
                    f"UPDATE jobs SET state = {_HELD}, consumer = ? WHERE seq = ?",
                    [(self._consumer, seq) for seq, _ in rows],
                )
                deliveries += [Delivery(self._decoded(record), (seq, self._reserves)) for seq, record in rows]
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
        with self._transaction("settle") as db:
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
        ours = f" WHERE seq = ? AND state = {_HELD} AND consumer = ?"
        key = (seq, self._consumer)
        if settlement.outcome == Outcome.RELEASE:
            release = f"UPDATE jobs SET state = {_READY}, consumer = NULL"
            return db.execute(release + ours, key).rowcount == 1
        if settlement.outcome == Outcome.ACK:
            if db.execute("DELETE FROM jobs" + ours, key).rowcount != 1:
                return False
        elif db.execute("SELECT 1 FROM jobs" + ours, key).fetchone() is None:
            return False
        if settlement.result is not None:
            row = (self._key(job.id), now + settlement.keep, settlement.result)
            db.execute("INSERT OR REPLACE INTO results VALUES (?, ?, ?)", row)
        if settlement.outcome == Outcome.DEAD:
            db.execute(
                f"UPDATE jobs SET state = {_DEAD}, consumer = NULL, due = ?, record = ? WHERE seq = ?",
                (now, job.encode(), seq),
            )
        elif settlement.outcome == Outcome.RETRY:
            self._requeue(db, seq, job, now)
        return True

    def extend(self) -> None:
        """See `Broker.extend`."""
        now = time.time()
        if time.monotonic() - self._extended > self._lease / 2:
            # The host slept, or the file was locked: others are as late, and are about to extend theirs.
            self._sweeps_from = time.monotonic() + self._lease / 2
        with self._transaction("extend the lease") as db:
            self._renew(db)
            db.execute("DELETE FROM results WHERE until < ?", (now,))
            db.execute("DELETE FROM ids WHERE until < ?", (now,))
            if time.monotonic() < self._sweeps_from:
                return
            over = "SELECT name FROM consumers WHERE service = ? AND until < ?"
            for (name,) in db.execute(over, (self.service, now)).fetchall():
                self._release_all(db, name)
                db.execute("DELETE FROM consumers WHERE name = ?", (name,))

    def detach(self) -> None:
        """See `Broker.detach`: SQLite notes its locks per process, in memory that a fork copies."""
        self._disconnect()

    def fileno(self) -> int | None:
        """See `Broker.fileno`."""
        return None if self._watch is None else self._watch.fileno()

    def idle(self) -> float:
        """See `Broker.idle`."""
        longest = _IDLE_SECONDS if self._watch is not None and self._watch.works else 0.25
        return min(longest, max(0.0, self._next_due - time.time())) if self._next_due else longest

    def _hear(self) -> None:
        """Forget what was written so far: what comes from now on is seen by `reserve`, or rings again."""
        with self._reading("open the file"):
            if self._watch is None:
                self._watch = FileWatch(Path(f"{self._path}-wal"))
            self._watch.clear()

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
            if db.execute(f"SELECT 1 {where}{_READY} LIMIT 1", key).fetchone() is not None:
                return True
            due = db.execute(f"SELECT min(due) {where}{_DELAYED}", key).fetchone()[0]
            if due is not None and due <= now:
                return True
            if due is not None:
                self._next_due = min(self._next_due or due, due)
        return False

    def _make_ready(self, db: sqlite3.Connection, topic: str, now: float) -> None:
        db.execute(
            f"UPDATE jobs SET state = {_READY}"
            f" WHERE service = ? AND topic = ? AND state = {_DELAYED} AND due <= ?",
            (self.service, topic, now),
        )

    def _requeue(self, db: sqlite3.Connection, seq: int, job: Job, now: float) -> None:
        state = _DELAYED if job.due > now else _READY
        db.execute(
            "UPDATE jobs SET state = ?, consumer = NULL, place = ?, due = ?, record = ? WHERE seq = ?",
            (state, time.time_ns(), job.due if state == _DELAYED else now, job.encode(), seq),
        )

    def _release_all(self, db: sqlite3.Connection, consumer: str) -> None:
        db.execute(
            f"UPDATE jobs SET state = {_READY}, consumer = NULL WHERE consumer = ? AND state = {_HELD}",
            (consumer,),
        )

    def _renew(self, db: sqlite3.Connection) -> None:
        row = (self._consumer, self.service, time.time() + self._lease)
        db.execute("INSERT OR REPLACE INTO consumers VALUES (?, ?, ?)", row)
        self._extended = time.monotonic()

    def _decoded(self, record: bytes) -> Job:
        try:
            return Job.decode(bytes(record))
        except ValueError as error:
            raise BrokerError(f"{self._path} holds what is no job: {error}", broker=self._url) from error

    # ── the connection ────────────────────────────────────────────────────────────────────────────

    @contextlib.contextmanager
    def _transaction(self, what: str) -> Iterator[sqlite3.Connection]:
        with self._told(what):
            db = self._connected()
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _reading(self, what: str) -> Iterator[sqlite3.Connection]:
        with self._told(what):
            yield self._connected()

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            self._disconnect()
            if isinstance(error, sqlite3.OperationalError) and not str(error).startswith("no such"):
                text = f"cannot {what} in {self._path}: {error}"
                raise BrokerUnavailableError(text, broker=self._url) from error
            text = f"cannot {what} in {self._path}: {error}; is it a file of a service, and whole?"
            raise BrokerError(text, broker=self._url) from error

    def _connected(self) -> sqlite3.Connection:
        if self._connection is not None and self._pid == os.getpid():
            return self._connection
        # A connection that was open before a fork is its parent's: it is left alone, not closed.
        if not self._path.parent.is_dir():
            text = f"cannot open {self._path}: there is no directory {self._path.parent}"
            raise BrokerUnavailableError(text, broker=self._url)
        db = sqlite3.connect(
            self._path,
            timeout=_LOCKED_SECONDS,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA synchronous = {self._synchronous}")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                self._create(db)
            elif version != _VERSION:
                text = f"{self._path} is of version {version}, and this program knows {_VERSION}"
                raise BrokerError(text, broker=self._url)
        except BaseException:
            db.close()
            raise
        self._connection, self._pid = db, os.getpid()
        return db

    def _create(self, db: sqlite3.Connection) -> None:
        db.execute("BEGIN IMMEDIATE")  # of several that come first, one finds it empty
        if db.execute("PRAGMA user_version").fetchone()[0] == _VERSION:
            db.execute("ROLLBACK")
            return
        if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise BrokerError(f"{self._path} is another program's database", broker=self._url)
        for statement in _SCHEMA.split(";\n"):
            db.execute(statement)
        db.execute("COMMIT")

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        watch, self._watch = self._watch, None
        if self._pid == os.getpid():
            if watch is not None:
                watch.close()
            if connection is not None:
                connection.close()


def _parsed(url: str) -> tuple[Path, str]:
    """Path and PRAGMA synchronous; relative to where the program runs."""
    parts = urlsplit(url)
    options = parse_qs(parts.query)
    synchronous = options.pop("synchronous", ["normal"])[-1]
    if parts.netloc or len(parts.path) < 2 or options or synchronous not in ("normal", "full"):
        text = f"broker {url!r} is not sqlite:///FILE, with or without ?synchronous=full"
        raise ServiceConfigError(text, key="broker")
    return Path(os.path.abspath(unquote(parts.path[1:]))), synchronous
