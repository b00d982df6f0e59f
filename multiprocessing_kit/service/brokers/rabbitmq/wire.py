"""One AMQP connection, driven by whoever calls: no thread, no loop of its own, and no call without an end.

pika's ready-made connections cannot do it: the blocking one awaits each publish by itself, and all of them
look up addresses in a thread. So this is an adapter of pika's own kind: pika speaks the protocol, and here is
only the socket and the clock. What is to be sent is gathered, and goes out in one piece with the next `pump`.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import itertools
import select
import socket
import ssl
import sys
import termios
import time
from collections.abc import Callable
from typing import Any

import pika
from pika.exceptions import AMQPConnectionError, StreamLostError

__all__ = ["Line", "Wire"]

_ANSWER_SECONDS = 4.0
"""Longest wait for any answer, counted anew whenever bytes have gone there or come."""

_LOOK_SECONDS = 0.5
_SIGNS_OF_LIFE = 4096
"""Bytes that may come without anything else."""

_PIECE = 1 << 15  # pika copies what it has not read yet with each frame, so that more at once takes longer
_MOST_PIECES = 64


class Wire(pika.connection.Connection):  # type: ignore[misc]  # pika has no annotations
    """Connects when made.

    Args:
        parameters: pika's.

    Raises:
        OSError, pika.exceptions.AMQPError: There is no server, or it does not want us.
    """

    def __init__(self, parameters: pika.connection.Parameters) -> None:
        self._socket: socket.socket | None = None
        self._out: list[bytes] = []
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._canceled: set[int] = set()
        self._numbers = itertools.count(1)  # pika takes 0 for none
        self._ready = False
        self._failure: BaseException | None = None
        self._received = 0
        self.is_blocked = False
        super().__init__(parameters, self._on_ready, self._on_failure, self._on_failure)
        self.add_on_connection_blocked_callback(lambda *_: self._block(True))
        self.add_on_connection_unblocked_callback(lambda *_: self._block(False))
        try:
            self.wait(lambda: self._ready)
        except BaseException:
            self.drop()
            raise

    def fileno(self) -> int:
        """The socket's; -1 when it is closed."""
        return -1 if self._socket is None else self._socket.fileno()

    @property
    def is_usable(self) -> bool:
        """Whether it still stands, as far as is known."""
        return self._failure is None and self._socket is not None

    def pump(self, seconds: float = 0.0) -> None:
        """Send what waits, take in what has come, and call whom it concerns; waits so long for something."""
        self._send()
        if self._socket is not None:
            poller = select.poll()
            poller.register(self._socket, select.POLLIN | (select.POLLOUT if self._out else 0))
            pending = isinstance(self._socket, ssl.SSLSocket) and self._socket.pending()
            if self._timers:
                seconds = min(seconds, max(0.0, self._timers[0][0] - time.monotonic()))
            if pending or poller.poll(seconds * 1000):
                self._receive()
        self._run_timers()  # after what came: a heartbeat that was read late has still come
        self._send()

    def wait(self, done: Callable[[], object], seconds: float = _ANSWER_SECONDS) -> None:
        """Pump until it is so.

        Raises:
            TimeoutError: It is not, and for so long nothing more of what was sent arrived there, nor came.
            OSError, pika.exceptions.AMQPError: The connection ended.
        """
        until = time.monotonic() + seconds
        unsent, received = self._unsent(), self._received
        while not done():
            self.check()
            still = self._unsent() if unsent else 0
            if still < unsent or self._received > received + _SIGNS_OF_LIFE:
                until, received = time.monotonic() + seconds, self._received
            unsent = still
            left = until - time.monotonic()
            if left <= 0:
                why = ", as it has no memory or disk left" if self.is_blocked else ""
                raise TimeoutError(f"the server does not answer{why}")
            self.pump(min(left, _LOOK_SECONDS) if unsent else left)

    def flush(self) -> None:
        """Wait until all is with the kernel."""
        self._send()
        self.wait(lambda: not self._out)

    def check(self) -> None:
        """Raise what ended the connection, if something did."""
        if self._failure is not None:
            raise self._failure

    def end(self) -> None:
        """Close it in friendship, if that does not take long."""
        with contextlib.suppress(Exception):
            if self.is_open:
                self.close()
                self.wait(lambda: self._failure is not None, 2.0)
        self.drop()

    def drop(self) -> None:
        """Close the socket."""
        sock, self._socket = self._socket, None
        self._out.clear()
        self._timers.clear()
        self._failure = self._failure or StreamLostError("closed")
        if sock is not None:
            sock.close()

    # ── what pika wants of an adapter ─────────────────────────────────────────────────────────────

    def _adapter_connect_stream(self) -> None:
        parameters = self.params
        sock = socket.create_connection((parameters.host, parameters.port), _ANSWER_SECONDS)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if (options := parameters.ssl_options) is not None:
                name = options.server_hostname or parameters.host
                sock = options.context.wrap_socket(sock, server_hostname=name)
            sock.setblocking(False)
        except BaseException:
            sock.close()
            raise
        self._socket = sock
        self._on_stream_connected()

    def _adapter_disconnect_stream(self) -> None:
        self._send()
        self._adapter_call_later(0.0, lambda: self._terminated(None))

    def _adapter_emit_data(self, data: bytes) -> None:
        self._out.append(data)

    def _adapter_call_later(self, delay: float, callback: Callable[[], None]) -> int:
        number = next(self._numbers)
        heapq.heappush(self._timers, (time.monotonic() + delay, number, callback))
        return number

    def _adapter_remove_timeout(self, timeout_id: int) -> None:
        self._canceled.add(timeout_id)

    def _adapter_add_callback_threadsafe(self, callback: Callable[[], None]) -> None:
        self._adapter_call_later(0.0, callback)

    # ── steps ─────────────────────────────────────────────────────────────────────────────────────

    def _on_ready(self, _: object) -> None:
        self._ready = True

    def _on_failure(self, _: object, error: BaseException) -> None:
        self._failure = error if isinstance(error, BaseException) else AMQPConnectionError(str(error))

    def _block(self, is_blocked: bool) -> None:
        self.is_blocked = is_blocked

    def _send(self) -> None:
        if not self._out or self._socket is None:
            return
        data = b"".join(self._out)
        self._out.clear()
        sent = 0
        try:
            while sent < len(data):
                sent += self._socket.send(memoryview(data)[sent:])
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            self._out.append(data[sent:])
        except OSError as error:
            self._terminated(error)

    def _receive(self) -> None:
        for _ in range(_MOST_PIECES):
            if self._socket is None:
                return
            try:
                data = self._socket.recv(_PIECE)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError as error:
                self._terminated(error)
                return
            if not data:
                self._terminated(ConnectionResetError("the server closed the connection"))
                return
            self._received += len(data)
            self._on_data_available(data)

    def _unsent(self) -> int:
        """Bytes that are here, or on their way as far as is known."""
        with contextlib.suppress(OSError):
            if self._socket is not None:
                queued = fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(4))
                return sum(map(len, self._out)) + int.from_bytes(queued, sys.byteorder)
        return 0

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            _, number, callback = heapq.heappop(self._timers)
            if number in self._canceled:
                self._canceled.discard(number)
            else:
                callback()

    def _terminated(self, error: OSError | None) -> None:
        sock, self._socket = self._socket, None
        self._out.clear()
        if sock is not None:
            sock.close()
            self._on_stream_terminated(None if error is None else StreamLostError(str(error), error))


class Line:
    """A channel of a wire, whose calls wait for their answers.

    Args:
        wire: That it is on.
    """

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.reason: BaseException | None = None
        opened: list[object] = []
        self.channel = wire.channel(on_open_callback=opened.append)
        self.channel.add_on_close_callback(self._closed)
        self.wire.wait(lambda: opened or self.reason)
        self.check()

    @property
    def is_open(self) -> bool:
        """Whether it still stands, as far as is known."""
        return self.reason is None and self.wire.is_usable

    def call(self, name: str, **arguments: Any) -> Any:
        """Call a method of the channel that the server answers; returns the answer."""
        self.check()
        answers: list[Any] = []
        getattr(self.channel, name)(callback=answers.append, **arguments)
        self.wire.wait(lambda: answers or self.reason)
        if not answers:
            self.check()
        return answers[0].method

    def check(self) -> None:
        """Raise why it was closed, if it was."""
        self.wire.check()
        if self.reason is not None:
            raise self.reason

    def close(self) -> None:
        """Close it, and wait until the server has."""
        if self.is_open:
            self.channel.close()
            self.wire.wait(lambda: self.reason)

    def _closed(self, _: object, reason: BaseException) -> None:
        self.reason = reason
