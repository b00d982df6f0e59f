"""Log records of the workers, written by the master alone.

    worker: logging ─▶ RelayHandler ─▶ socket pair, one datagram a record ─▶ master ─▶ its handlers

A file that several processes write to and rotate loses lines. A datagram arrives whole or not at all, also
when its sender is killed. A full socket makes workers wait for the master, and their records stay in order.
A record too large for a datagram goes into a file without a name, whose descriptor is sent.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import socket
import tempfile
import traceback
from typing import Any

__all__ = ["Relay", "RelayHandler", "name_worker"]

_log = logging.getLogger("multiprocessing_kit.manager")

_LARGEST = 60_000
_IN_A_FILE = b"."
_MOST_AT_ONCE = 500
"""Records that the master writes before it looks at other things."""


class Relay:
    """The pair of sockets; made by the master before it forks.

    Args:
        descriptors: Of a pair that was made before; None makes one.
    """

    def __init__(self, descriptors: tuple[int, int] | None = None) -> None:
        if descriptors is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        else:
            ours, theirs = (socket.socket(fileno=descriptor) for descriptor in descriptors)
        ours.setblocking(False)
        self._ours, self._theirs = ours, theirs
        self._loses = False

    def fileno(self) -> int:
        """Readable when there are records."""
        return self._ours.fileno()

    def descriptors(self) -> tuple[int, int]:
        """Of both sockets."""
        return self._ours.fileno(), self._theirs.fileno()

    def handler(self, worker: str) -> RelayHandler:
        """In a worker, called `worker`: where its records go."""
        self._ours.close()
        return RelayHandler(self._theirs, worker)

    def drain(self) -> bool:
        """In the master: hand waiting records to the loggers they were made with.

        Returns:
            Whether there are none left; otherwise it was enough for once.
        """
        for _ in range(_MOST_AT_ONCE):
            try:
                data, descriptors, _, _ = socket.recv_fds(self._ours, _LARGEST, 1)
            except BlockingIOError:
                return True
            for descriptor in descriptors:
                with io.FileIO(descriptor) as file:
                    file.seek(0)
                    data = file.readall()
            if data == _IN_A_FILE:  # which the system has dropped: this process has no descriptor left
                if not self._loses:
                    _log.error("large log records are lost: no descriptor is left")
                self._loses = True
                continue
            self._loses = self._loses and not descriptors
            record = logging.makeLogRecord(json.loads(data))
            logger = _logger_of(record.name)
            try:
                if logger.isEnabledFor(record.levelno):
                    logger.callHandlers(record)  # its own filters have had the record, in the worker
            except Exception:  # a filter of the program's fails: no reason for a master to end
                traceback.print_exc()
        return False

    def close(self) -> None:
        """In the master."""
        self._ours.close()
        self._theirs.close()


class RelayHandler(logging.Handler):
    """Sends records to the master.

    Args:
        socket_: Their way.
        worker: Name of the process, for the records.
    """

    def __init__(self, socket_: socket.socket, worker: str) -> None:
        super().__init__()
        self._socket = socket_
        self.worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        """Send one; waits while the master has too many."""
        try:
            fields = {**_travelling(record), "processName": self.worker}
            self._send(_encoded(fields))
        except Exception:
            self.handleError(record)

    def _send(self, data: bytes) -> None:
        if len(data) <= _LARGEST:
            try:
                self._socket.send(data)
                return
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    raise
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.flush()
            socket.send_fds(self._socket, [_IN_A_FILE], [file.fileno()])


def name_worker(worker: str) -> None:
    """In a process that a worker has forked: what it logs goes the same way, under this name."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, RelayHandler):
            handler.worker = worker


def _logger_of(name: str) -> logging.Logger:
    """The logger of this name, or the next above it that is there.

    Loggers are never freed, and workers may name them after their jobs.
    """
    while name:
        found = logging.Logger.manager.loggerDict.get(name)
        if isinstance(found, logging.Logger):
            return found
        name = name.rpartition(".")[0]
    return logging.getLogger()


def _encoded(fields: dict[str, Any]) -> bytes:
    try:
        return json.dumps(fields, default=str).encode()
    except Exception:  # one of them refuses to be written; the others need not be lost with it
        return json.dumps({name: _writable(value) for name, value in fields.items()}, default=str).encode()


def _writable(value: object) -> object:
    try:
        json.dumps(value, default=str)
    except Exception:
        return _text(value)
    return value


def _text(value: object) -> str:
    try:
        return repr(value)
    except Exception:
        return object.__repr__(value)


def _travelling(record: logging.LogRecord) -> dict[str, Any]:
    """What the record is, with text in place of the arguments and the exception."""
    fields = dict(record.__dict__)
    fields["msg"], fields["args"] = record.getMessage(), None
    if record.exc_info:
        fields["exc_text"] = record.exc_text or logging.Formatter().formatException(record.exc_info)
        fields["exc_info"] = None
    return fields
