"""The file: its tables, and a connection that outlives neither an error nor a fork."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from multiprocessing_kit.errors import BrokerError, BrokerUnavailableError, ServiceConfigError
from multiprocessing_kit.service.brokers.sqlite.file_watch import FileWatch

__all__ = ["DEAD", "DELAYED", "HELD", "READY", "Database"]

READY, DELAYED, HELD, DEAD = range(4)
"""States of a job."""

_VERSION = 1
_LOCKED_SECONDS = 5.0
_LAST_LOCKED_SECONDS = 1.0  # for who is about to leave
_AGAIN_SECONDS = 0.005
_LOOK_SECONDS = 1.0  # between two looks whether the file is still the one that is open

_log = logging.getLogger("multiprocessing_kit.service")

_LARGEST_ROW = 1_000_000_000  # where Python cannot ask SQLite
_BESIDE = 10_000  # bytes of a row beside its record

_REMEDY = "run this as its owner, or let a group of both write the file and its directory"
_NOT_OURS = ("unable to open database file", "attempt to write a readonly database")
"""What SQLite says where this user may not write."""

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


class Database:
    """One file.

    Args:
        url: `sqlite:///FILE`, with `?synchronous=full` for a disk that must have each push when it returns.

    Attributes:
        url: As given.
        path: Of the file, absolute.
        watch: Sees what others write, once `hear` was called.
        largest: Record or result that it takes, in bytes; known once it was open.
        lock: Held in each call; a fork waits for it.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.path, self._synchronous = _parsed(url)
        self.watch: FileWatch | None = None
        self._connection: sqlite3.Connection | None = None
        self._pid = 0
        self._file = (0, 0)
        self._look_again = 0.0
        self._patience = _LOCKED_SECONDS
        self.largest = _LARGEST_ROW - _BESIDE
        self.lock = threading.RLock()
        with _forking:
            _databases.add(self)

    def unwritable(self) -> str:
        """Why this user cannot write the file, in words; "" if it seems to be fine. Nothing is opened."""
        if missing := self._missing():
            return missing
        # Beside the file SQLite makes others, also where the file is there already.
        for path in (self.path.parent, self.path):
            if os.path.exists(path) and not os.access(path, os.W_OK):
                return f"cannot write {path}; {_REMEDY}"
        return ""

    @contextlib.contextmanager
    def transaction(self, what: str) -> Iterator[sqlite3.Connection]:
        """Do `what` as a whole or not at all.

        Raises:
            BrokerUnavailableError: The file cannot be reached or written just now.
            BrokerError: It is no file of a service, or not whole.
        """
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
    def reading(self, what: str) -> Iterator[sqlite3.Connection]:
        """Look at what there is; raises as `transaction`."""
        with self._told(what):
            yield self._connected()

    def hear(self) -> None:
        """Have `watch` forget what was written so far."""
        with self.reading("open the file"):
            if self.watch is None:
                self.watch = FileWatch(Path(f"{self.path}-wal"))
            self.watch.clear()

    def hurry(self) -> None:
        """Until the next `disconnect`, wait but a moment where others have the file."""
        self.disconnect()
        self._patience = _LAST_LOCKED_SECONDS

    def disconnect(self) -> None:
        """Idempotent. In a child that was forked since, what the parent has stays open."""
        with self.lock:
            connection, self._connection = self._connection, None
            watch, self.watch = self.watch, None
            self._patience = _LOCKED_SECONDS
            if self._pid == os.getpid():
                if watch is not None:
                    watch.close()
                if connection is not None:
                    connection.close()

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        with self.lock:
            try:
                yield
            except sqlite3.DatabaseError as error:
                self.disconnect()
                raise self._error(what, error) from error

    def _error(self, what: str, error: sqlite3.DatabaseError) -> BrokerError:
        if isinstance(error, sqlite3.OperationalError) and not str(error).startswith("no such"):
            cure = f"; {_REMEDY}" if str(error) in _NOT_OURS else ""
            return BrokerUnavailableError(f"cannot {what} in {self.path}: {error}{cure}", broker=self.url)
        text = f"cannot {what} in {self.path}: {error}; is it a file of a service, and whole?"
        return BrokerError(text, broker=self.url)

    def _connected(self) -> sqlite3.Connection:
        if self._connection is not None and self._pid == os.getpid() and not self._is_gone():
            return self._connection
        # A connection that was open before a fork of C's is its parent's: it is left alone, not closed.
        if missing := self._missing():
            raise BrokerUnavailableError(missing, broker=self.url)
        db = sqlite3.connect(
            self.path,
            timeout=self._patience,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        try:
            self._use_wal(db)
            db.execute(f"PRAGMA synchronous = {self._synchronous}")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                self._create(db)
            elif version != _VERSION:
                text = f"{self.path} is of version {version}, and this program knows {_VERSION}"
                raise BrokerError(text, broker=self.url)
        except BaseException:
            db.close()
            raise
        if sys.version_info >= (3, 11):
            self.largest = db.getlimit(sqlite3.SQLITE_LIMIT_LENGTH) - _BESIDE
        self._connection, self._pid = db, os.getpid()
        self._file = self._found()
        self._look_again = time.monotonic() + _LOOK_SECONDS
        return db

    def _use_wal(self, db: sqlite3.Connection) -> None:
        """Of several that come first, each may find others at this; SQLite does not wait for them here."""
        until = time.monotonic() + self._patience
        while True:
            try:
                db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if str(error) != "database is locked" or time.monotonic() > until:
                    raise
            time.sleep(_AGAIN_SECONDS)

    def _is_gone(self) -> bool:
        """Whether somebody has removed or replaced the file; then it is closed."""
        now = time.monotonic()
        if now < self._look_again:
            return False
        self._look_again = now + _LOOK_SECONDS
        if self._found() == self._file:
            return False
        _log.error("%s was removed or replaced, and its jobs with it: the new one is used", self.path)
        self.disconnect()
        return True

    def _found(self) -> tuple[int, int]:
        try:
            found = self.path.stat()
        except OSError:
            return 0, 0
        return found.st_dev, found.st_ino

    def _missing(self) -> str:
        directory = self.path.parent
        try:
            directory.stat()
        except PermissionError:
            return f"cannot open {self.path}: this user may not look into its directory; {_REMEDY}"
        except OSError:
            return f"cannot open {self.path}: there is no directory {directory}"
        return ""

    def _create(self, db: sqlite3.Connection) -> None:
        db.execute("BEGIN IMMEDIATE")  # of several that come first, one finds it empty
        if db.execute("PRAGMA user_version").fetchone()[0] == _VERSION:
            db.execute("ROLLBACK")
            return
        if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise BrokerError(f"{self.path} is another program's database", broker=self.url)
        for statement in _SCHEMA.split(";\n"):
            db.execute(statement)
        db.execute("COMMIT")


def _parsed(url: str) -> tuple[Path, str]:
    """Path and PRAGMA synchronous; relative to where the program runs."""
    parts = urlsplit(url)
    options = parse_qs(parts.query)
    synchronous = options.pop("synchronous", ["normal"])[-1]
    if parts.netloc or len(parts.path) < 2 or options or synchronous not in ("normal", "full"):
        text = f"broker {url!r} is not sqlite:///FILE, with or without ?synchronous=full"
        raise ServiceConfigError(text, key="broker")
    return Path(os.path.abspath(unquote(parts.path[1:]))), synchronous


# SQLite notes per process which locks of a file it has, in memory that a fork copies. A child that had such a
# copy would count on locks that are its parent's, and the log could be deleted under it with what it wrote.
# So no connection is open at a fork; the next call of either side opens one.

_databases: weakref.WeakSet[Database] = weakref.WeakSet()
_forking = threading.RLock()
_held: list[threading.RLock] = []  # by the thread that forks, which is also the child's


def _before_fork() -> None:
    _forking.acquire()
    _held.append(_forking)
    for database in list(_databases):
        database.lock.acquire()
        _held.append(database.lock)
        database.disconnect()


def _after_fork() -> None:
    while _held:
        _held.pop().release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
