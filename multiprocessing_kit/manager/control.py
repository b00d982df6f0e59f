"""The master's ear: a socket in the file system that only its owner may open.

    client ── {"command": "stop"} ⏎ ──▶ master          master ── {"ok": true, ...} ⏎ ──▶ client
                                                        ... and its end, when the master has ended

A client that wants to know when the master is gone reads on until the end of the connection: the master
closes it last, after everything else.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from multiprocessing_kit.errors import ManagerConfigError, ManagerError, NotRunningError

__all__ = ["Answer", "Connection", "ControlServer", "check_address", "request"]

_log = logging.getLogger("multiprocessing_kit.manager")

_LONGEST_PATH = 100
_MOST_BYTES = 64 * 1024
_MOST_CONNECTIONS = 64
_IDLE_SECONDS = 10.0
_SEND_SECONDS = 1.0
_LONGEST_WAIT = 1e6  # of a socket, which counts milliseconds, in 32 bits
_PEERCRED = struct.Struct("3i")
_SHORTAGE = (errno.EMFILE, errno.ENFILE)

Answer = dict[str, Any]


class ControlServer:
    """In the master, which no client holds up for long.

    Args:
        path: Of the socket.
        descriptor: Of a socket that listened before; None makes one.
        connections: Descriptors of clients that came before.
    """

    def __init__(self, path: Path, descriptor: int | None = None, connections: Iterable[int] = ()) -> None:
        self.path = path
        self.connections = [Connection(socket.socket(fileno=connected)) for connected in connections]
        if descriptor is None:
            self._socket = _listen(path)
        else:
            self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(False)
        self._spare = _spare()

    def fileno(self) -> int:
        """Readable when a client has come."""
        return self._socket.fileno()

    def accept(self) -> Connection | None:
        """The next client; None if there is none, or it is not the owner's.

        Raises:
            OSError: The client waits, and there is no descriptor for it, nor a spare one.
        """
        if self._spare is None:
            self._spare = _spare()
        try:
            connected, _ = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None
        except OSError as error:
            if error.errno not in _SHORTAGE or self._spare is None:
                raise
            _log.warning("a client gets the last descriptor: %s", error.strerror)
            self._drop_spare()
            connected, _ = self._socket.accept()
        connected.setblocking(False)
        if not _may(connected) or len(self.connections) >= _MOST_CONNECTIONS:
            connected.close()
            return None
        connection = Connection(connected)
        self.connections.append(connection)
        return connection

    def serve(self, connection: Connection, act: Callable[[Answer], Answer]) -> bool:
        """Read what came; where that is a request, `act` on it and send what comes of it.

        Returns:
            Whether the connection goes on.
        """
        try:
            line = connection.read()
        except (EOFError, OSError):
            return False
        if line is not None:
            connection.send(_answered(line, act))
        return True

    def drop(self, connection: Connection) -> None:
        """Close a connection."""
        if connection in self.connections:
            self.connections.remove(connection)
            connection.close()

    def idle(self) -> list[Connection]:
        """Those that have been open for long without a request."""
        before = time.monotonic() - _IDLE_SECONDS
        return [c for c in self.connections if not c.answered and c.opened < before]

    def leave(self) -> None:
        """In a forked child: these are the master's."""
        self._socket.close()
        self.close()

    def unlink(self) -> None:
        """No more clients, from here on."""
        self._socket.close()
        with contextlib.suppress(OSError):  # of a user that may not: the next start replaces it
            os.unlink(self.path)

    def close(self) -> None:
        """Tell those that wait for the end."""
        for connection in list(self.connections):
            self.drop(connection)
        self._drop_spare()

    def _drop_spare(self) -> None:
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None


class Connection:
    """One client.

    Attributes:
        opened: When it came, by `time.monotonic()`.
        answered: Whether it has had an answer.
    """

    def __init__(self, connected: socket.socket) -> None:
        self.opened = time.monotonic()
        self.answered = False
        self._socket = connected
        self._data = b""

    def fileno(self) -> int:
        """Readable when it has sent something, or is gone."""
        return self._socket.fileno()

    def read(self) -> bytes | None:
        """A whole line; None while there is none. EOFError: it is gone, or sends too much."""
        try:
            data = self._socket.recv(_MOST_BYTES)
        except BlockingIOError:
            return None
        self._data += data
        if not data or len(self._data) > _MOST_BYTES:
            raise EOFError
        line, newline, rest = self._data.partition(b"\n")
        if not newline:
            return None
        self._data = rest
        return line

    def send(self, answer: Answer) -> None:
        """Send it; a client that does not read loses it."""
        self.answered = True
        self._socket.settimeout(_SEND_SECONDS)
        with contextlib.suppress(OSError):
            self._socket.sendall(json.dumps(answer).encode() + b"\n")
        self._socket.setblocking(False)

    def close(self) -> None:
        """End it."""
        self._socket.close()


def request(
    path: Path, wanted: Answer, *, name: str, timeout: float, until_end: float | None = None
) -> Answer:
    """Ask the master that listens at `path`.

    Args:
        path: Of the socket.
        wanted: The request.
        name: Of the manager, for messages.
        timeout: Seconds for the answer.
        until_end: Seconds for the master's end, beside those that its answer asks for ("patience"); None not
            to wait for it.

    Raises:
        NotRunningError: Nobody listens there.
        ManagerError: It refused, or did not answer in time.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connected:
        connected.settimeout(timeout)
        try:
            connected.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NotRunningError(f"manager {name!r} is not running (nobody listens at {path})") from error
        except OSError as error:
            raise ManagerError(f"cannot ask manager {name!r} at {path}: {error.strerror or error}") from error
        try:
            connected.sendall(json.dumps(wanted).encode() + b"\n")
            with connected.makefile("rb") as lines:
                line = lines.readline()
                if not line:
                    raise NotRunningError(f"manager {name!r} ended before it answered")
                answer: Answer = json.loads(line)
                if not answer.pop("ok"):
                    raise ManagerError(f"manager {name!r}: {answer['error']}")
                if until_end is not None:
                    timeout = min(until_end + answer.get("patience", 0.0), _LONGEST_WAIT)
                    connected.settimeout(timeout)
                    lines.read()
        except TimeoutError as error:
            what = "answer" if until_end is None else "end"
            raise ManagerError(f"manager {name!r} did not {what} within {timeout:g} s") from error
        except ConnectionError as error:
            raise NotRunningError(f"manager {name!r} ended before it answered") from error
        return answer


def check_address(path: Path) -> None:
    """Raise ManagerConfigError if there cannot be a socket at `path`."""
    if len(os.fsencode(path)) > _LONGEST_PATH:
        text = f"option runtime_dir: {path} is too long for a socket; use a shorter directory"
        raise ManagerConfigError(text, option="runtime_dir")


def _listen(path: Path) -> socket.socket:
    check_address(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # of one that was killed: we hold its lock
        before = os.umask(0o177)
        try:
            listening.bind(str(path))
        finally:
            os.umask(before)
        listening.listen(_MOST_CONNECTIONS)
    except OSError as error:
        listening.close()
        raise ManagerError(f"cannot listen at {path}: {error.strerror}") from error
    return listening


def _spare() -> int | None:
    """A descriptor to give up where none is left, so that a command to stop is heard all the same."""
    try:
        return os.open(os.devnull, os.O_RDONLY)
    except OSError:
        return None


def _may(connected: socket.socket) -> bool:
    """Whether the client is the owner's or root's; where the system cannot tell, the file's mode counts."""
    if sys.platform != "linux":
        return True
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size)
    _, uid, _ = _PEERCRED.unpack(credentials)
    return uid in (0, os.geteuid())


def _answered(line: bytes, act: Callable[[Answer], Answer]) -> Answer:
    try:
        wanted = json.loads(line)
        if not isinstance(wanted, dict):
            raise ValueError("not an object")
    except ValueError as error:
        return {"ok": False, "error": f"a request is one line with a JSON object: {error}"}
    try:
        return {"ok": True, **act(wanted)}
    except ManagerError as error:
        return {"ok": False, "error": str(error)}
    except Exception as error:  # a fault in one command must not end the workers
        _log.exception("command %s failed", wanted.get("command"))
        return {"ok": False, "error": f"{type(error).__name__}: {error}"}
