"""Reads a Redis server's replies (RESP2). redis-py does as well, in four times the time."""

from __future__ import annotations

import fcntl
import os
import socket
import ssl
import struct
import sys
import termios
import time
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ResponseError

__all__ = ["Replies", "unsent"]

_READ = 1 << 16

_SOON_SECONDS = 0.0005
"""How long to look for a reply from the same host. To wake a virtual processor may take as long."""


class Replies:
    """What comes from one socket. After an error that it raises, nothing more can be read.

    Args:
        source: The socket; its timeout holds for each time that nothing comes.

    Attributes:
        unsent: Bytes that were on their way when last looked at: while they get fewer, the reply may be late.
    """

    def __init__(self, source: socket.socket) -> None:
        self._source = source
        self._data = bytearray()
        self._at = 0
        self.unsent = 0
        self._is_near = _is_of_this_host(source) and not isinstance(source, ssl.SSLSocket)

    def look(self) -> None:
        """Wait for a near server's reply without sleep, for a moment: to be woken may take longer than it."""
        if not self._is_near:
            return
        until = time.perf_counter() + _SOON_SECONDS
        while time.perf_counter() < until:
            try:
                part = os.read(self._source.fileno(), _READ)  # sockets with a timeout do not block
            except BlockingIOError:
                os.sched_yield()  # the server may be in need of this processor
                continue
            self._add(part)
            return

    def read(self) -> Any:
        """The next: bytes, int, list, None, or a `ResponseError`, which is returned."""
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"$":
            return self._bytes(int(rest))
        if kind == b":":
            return int(rest)
        if kind == b"*":
            return None if rest == b"-1" else [self.read() for _ in range(int(rest))]
        if kind == b"+":
            return rest
        if kind == b"-":
            return ResponseError(rest.decode(errors="replace"))
        raise InvalidResponse(f"no reply of a Redis server: {line!r:.100}")

    def _line(self) -> bytes:
        while (end := self._data.find(b"\r\n", self._at)) < 0:
            self._more()
        line = bytes(self._data[self._at : end])
        self._at = end + 2
        return line

    def _bytes(self, size: int) -> bytes | None:
        if size < 0:
            return None
        while len(self._data) < self._at + size + 2:
            self._more()
        found = bytes(self._data[self._at : self._at + size])
        self._at += size + 2
        return found

    def _more(self) -> None:
        while True:
            try:
                part = self._source.recv(_READ)
                break
            except TimeoutError:
                left = unsent(self._source) if self.unsent else 0
                if left >= self.unsent:
                    raise
                self.unsent = left
        self._add(part)

    def _add(self, part: bytes) -> None:
        if not part:
            raise RedisConnectionError("the server has closed the connection")
        if self._at == len(self._data):
            self._data.clear()
            self._at = 0
        self._data += part


def unsent(source: socket.socket) -> int:
    """Bytes that the other side does not have yet; 0 where the system does not tell."""
    if sys.platform != "linux":
        return 0
    return int(struct.unpack("i", fcntl.ioctl(source.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0])


def _is_of_this_host(source: socket.socket) -> bool:
    if source.family == socket.AF_UNIX:
        return True
    try:
        here, there = source.getsockname(), source.getpeername()
    except OSError:  # the server has reset the connection already, which the next call is told
        return False
    return bool(here[0] == there[0])
