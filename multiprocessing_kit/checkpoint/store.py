"""The file: an SQLite database in WAL mode, where what was committed outlives any end of the program."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from multiprocessing_kit.checkpoint.lock import Lock
from multiprocessing_kit.checkpoint.rows import FAILED, Row, response_of, row_of
from multiprocessing_kit.errors import CheckpointError, SerializationError
from multiprocessing_kit.response import Response

__all__ = ["Content", "Store", "clear", "content"]

_log = logging.getLogger("multiprocessing_kit.checkpoint")

FORMAT = 1
"""Of the tables and of what is in them."""

_APPLICATION = 0x4D4B4350
"""Tells our files from other SQLite databases."""

_TABLES = (
    "CREATE TABLE about (name TEXT PRIMARY KEY, value) WITHOUT ROWID",
    "CREATE TABLE runs (id INTEGER PRIMARY KEY, name TEXT, started REAL, written REAL)",
    "CREATE TABLE answers (position INTEGER PRIMARY KEY, digest BLOB, kind INTEGER, seconds REAL, "
    "attempts INTEGER, pid INTEGER, run INTEGER, job INTEGER, body)",
    f"PRAGMA application_id = {_APPLICATION}",
    f"PRAGMA user_version = {FORMAT}",
)

_ROWS = 20_000
_BYTES = 1 << 22
_SECONDS = 0.1
"""What may wait to be written while more answers come, and how long."""

_KEPT = "; the answers written before are kept: make room and run the same again"

_READ_ROWS = 256
_READ_BYTES = 1 << 20
"""How much is read at once, but for one large answer."""


class Store:
    """The answers of one map, open for one program.

    Args:
        path: Made if it is not there.
        worker: Whose answers they are.

    Raises:
        CheckpointError: The file is in use, is no checkpoint, belongs to another worker, cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], worker: str) -> None:
        self.path = os.path.realpath(os.fsdecode(path))
        self._rows: list[Row] = []
        self._bytes = 0
        self._run: int | None = None
        self._written = time.monotonic()
        self._owner = os.getpid()
        self._warned = False
        with _told(self.path, "cannot be opened"):
            self._lock = Lock(self.path)
        try:
            with _told(self.path, "cannot be opened"):
                self._connection = _connect(self.path)
        except BaseException:
            self._lock.release()
            raise
        try:
            with _told(self.path, "cannot be opened"):
                _prepare(self._connection, self.path)
                self._claim(worker)
                self._runs: dict[int, str] = dict(self._connection.execute("SELECT id, name FROM runs"))
        except BaseException:
            self.close()
            raise

    def _claim(self, worker: str) -> None:
        self._connection.execute("INSERT OR IGNORE INTO about VALUES ('worker', ?)", (worker,))
        (owner,) = self._connection.execute("SELECT value FROM about WHERE name = 'worker'").fetchone()
        if owner != worker:
            raise CheckpointError(
                f"{self.path} has answers of the worker {owner}, not of {worker}: give this one another "
                f"file, or drop those answers with `mpkit checkpoint clear {self.path}`",
                path=self.path,
            )

    # ── reading ───────────────────────────────────────────────────────────────────────────────────

    def __len__(self) -> int:
        """How many answers are in the file."""
        with _told(self.path, "cannot be read"):
            return int(self._connection.execute("SELECT count(*) FROM answers").fetchone()[0])

    def digests(self, first: int) -> list[tuple[int, bytes]]:
        """Positions and digests of answers in the file, from position `first` on: many, but not all."""
        query = "SELECT position, digest FROM answers WHERE position >= ? ORDER BY position LIMIT 1024"
        with _told(self.path, "cannot be read"):
            return self._connection.execute(query, (first,)).fetchall()

    def rows(self, first: int) -> list[Row]:
        """Answers from position `first` on: as many as are good at once."""
        query = "SELECT * FROM answers WHERE position >= ? ORDER BY position LIMIT ?"
        rows: list[Row] = []
        size = 0
        with (
            _told(self.path, "cannot be read"),
            contextlib.closing(self._connection.execute(query, (first, _READ_ROWS))) as cursor,
        ):
            for row in cursor:
                rows.append(row)
                if type(row[-1]) in (bytes, str):
                    size += len(row[-1])
                    if size > _READ_BYTES:
                        break
        return rows

    def open(self, row: Row) -> Response:
        """The response in a row; runs code of the user's."""
        return response_of(row, self._runs, self.path)

    # ── writing ───────────────────────────────────────────────────────────────────────────────────

    def begin_run(self, name: str) -> None:
        """Answers come from here on that belong to this run."""
        now = time.time()
        with _told(self.path, "cannot be written"):
            query = "INSERT INTO runs (name, started, written) VALUES (?, ?, ?)"
            self._run = self._connection.execute(query, (name, now, now)).lastrowid
        assert self._run is not None
        self._runs[self._run] = name

    @property
    def has_run(self) -> bool:
        """Whether `begin_run` was called."""
        return self._run is not None

    def add(self, position: int, digest: bytes, response: Response, job: int) -> None:
        """Have an answer written with the next ones; runs code of the user's."""
        assert self._run is not None
        try:
            row = row_of(position, digest, response, self._run, job)
        except SerializationError as error:
            if not self._warned:
                self._warned = True
                _log.warning("%s: input %d will run again next time: %s", self.path, position, error)
            return
        self._rows.append(row)
        body = row[-1]
        if type(body) is bytes or type(body) is str:
            self._bytes += len(body)

    def write_if_due(self) -> None:
        """Write what waits, unless it is little and has not waited long."""
        if self._rows and (
            time.monotonic() - self._written > _SECONDS or len(self._rows) >= _ROWS or self._bytes >= _BYTES
        ):
            self.write()

    def write(self) -> None:
        """Write what waits, in one transaction."""
        if not self._rows:
            return
        connection = self._connection
        with _told(self.path, "cannot be written", _KEPT):
            try:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany("INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", self._rows)
                connection.execute("UPDATE runs SET written = ? WHERE id = ?", (time.time(), self._run))
                connection.execute("COMMIT")
            except BaseException:
                self._rows, self._bytes = [], 0  # the map ends here: they are not to be tried again
                with contextlib.suppress(sqlite3.Error):
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                raise
        self._rows, self._bytes = [], 0
        self._written = time.monotonic()

    def close(self) -> None:
        """Leave the file to others; what waits is dropped."""
        if os.getpid() != self._owner:
            return  # a copy of the parent's, whose connection must not be touched
        with contextlib.suppress(sqlite3.Error):  # the disk is full: its log is read next time
            self._connection.close()
        self._lock.release()


@dataclass
class Content:
    """What is in a file.

    Attributes:
        worker: Whose answers; "" if it was cleared.
        ok, failed: How many answers.
        last: The highest position answered; -1 for none.
        runs: How many runs added answers.
        started, written: When the first of them began and the last answer came, as `time.time()`; None for
            never.
        size: Bytes of the file, and of the log that belongs to it.
    """

    worker: str
    ok: int
    failed: int
    last: int
    runs: int
    started: float | None
    written: float | None
    size: int


def content(path: str) -> Content:
    """What is in a file, which may be in use.

    Raises:
        CheckpointError: It is not there, or is no checkpoint.
    """
    path = os.path.realpath(path)
    size = _size(path)
    with _told(path, "cannot be read"), contextlib.closing(_connect(path)) as connection:
        _check(connection, path)
        one = connection.execute("SELECT value FROM about WHERE name = 'worker'").fetchone()
        query = "SELECT count(*), coalesce(sum(kind = ?), 0), coalesce(max(position), -1) FROM answers"
        answers, failed, last = connection.execute(query, (FAILED,)).fetchone()
        query = "SELECT count(*), min(started), max(written) FROM runs"
        runs, started, written = connection.execute(query).fetchone()
    return Content(one[0] if one else "", answers - failed, failed, last, runs, started, written, size)


def clear(path: str, *, only_failed: bool) -> int:
    """Delete answers, so that their jobs run again; with all of them, the file takes any worker's.

    Returns:
        How many.

    Raises:
        CheckpointError: The file is not there, is no checkpoint, is in use, cannot be written.
    """
    path = os.path.realpath(path)
    _size(path)
    with _told(path, "cannot be written"):
        lock = Lock(path)
        try:
            with contextlib.closing(_connect(path)) as connection:
                _check(connection, path)
                if only_failed:
                    return connection.execute("DELETE FROM answers WHERE kind = ?", (FAILED,)).rowcount
                connection.execute("BEGIN IMMEDIATE")
                count = connection.execute("DELETE FROM answers").rowcount
                connection.execute("DELETE FROM runs")
                connection.execute("DELETE FROM about")
                connection.execute("COMMIT")
                with contextlib.suppress(sqlite3.Error):  # needs as much room again; it is cleared anyway
                    connection.execute("VACUUM")
                return count
        finally:
            lock.release()


def _size(path: str) -> int:
    """Bytes of the file and its log; CheckpointError if there is no such file, which SQLite would make."""
    with _told(path, "cannot be read"):
        size = os.stat(path).st_size
    with contextlib.suppress(OSError):
        size += os.stat(f"{path}-wal").st_size
    return size


def _connect(path: str) -> sqlite3.Connection:
    # An iterator of `imap` may be used by another thread than the one that made it.
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False)


def _prepare(connection: sqlite3.Connection, path: str) -> None:
    """Make the tables, in a file that has none."""
    (count,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if count:
        _check(connection, path)
    connection.execute("PRAGMA journal_mode = WAL").fetchone()
    # Nothing waits for the disk; a crash of the system may cost the last answers, not the file.
    connection.execute("PRAGMA synchronous = NORMAL")
    if not count:
        connection.execute("BEGIN IMMEDIATE")
        for statement in _TABLES:
            connection.execute(statement)
        connection.execute("COMMIT")


def _check(connection: sqlite3.Connection, path: str) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != _APPLICATION:
        raise CheckpointError(f"{path} is a database of something else, no checkpoint", path=path)
    if version != FORMAT:
        raise CheckpointError(
            f"{path} has checkpoint format {version}, but this version of the package has {FORMAT}: finish "
            "with the version that made it, or give another file",
            path=path,
        )


@contextlib.contextmanager
def _told(path: str, what: str, more: str = "") -> Iterator[None]:
    """Turn what SQLite and the system raise into our own error."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise CheckpointError(f"{path} {what}: {_reason(error)}{more}", path=path) from error


def _reason(error: Any) -> str:
    return getattr(error, "strerror", None) or str(error)
