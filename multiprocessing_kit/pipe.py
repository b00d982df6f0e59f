"""`multiprocessing.Pipe` with deadlines: two connected ends for messages.

    end A   socket ◀─────────────────────────────────────▶ socket   end B
            8 bytes length, payload; 8 bytes length, payload; …

A deadline holds in the middle of a message as well, when its sender is stopped or slow. What has come of
the message by then is kept in the end, and the next call goes on with it: the bytes that follow never
pass for another message. What could not be sent in time is kept in the same way.

The standard library's `Connection` waits with a deadline for the first byte of a message only, and for the
rest without one. Its loops that do so are private, so this is not built on it, and need not import it.
"""

from __future__ import annotations

import math
import pickle
import select
import struct
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from multiprocessing_kit.errors import PipeTimeoutError
from multiprocessing_kit.queues.base import deadline_of, remaining

if TYPE_CHECKING:
    import socket

__all__ = ["Pipe", "PipeEnd"]

_HEAD = struct.Struct("!Q")
_SMALL = 16384  # bytes: below, one piece costs less than two


def Pipe(duplex: bool = True) -> tuple[PipeEnd, PipeEnd]:
    """Two connected ends, as `multiprocessing.Pipe`.

    Args:
        duplex: Both ends send and receive. If False, the first one only receives, and the second only sends.
    """
    import socket  # noqa: PLC0415  # slow to import, and most programs make no pipe

    # Without waiting in the call itself: waiting is `select`'s, which knows deadlines.
    flags = socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0)
    first, second = socket.socketpair()
    return PipeEnd(first, flags, writable=duplex), PipeEnd(second, flags, readable=duplex)


class PipeEnd:
    """One end: what `multiprocessing.connection.Connection` is, with a `timeout` where it may wait.

    Forked children inherit it. As in the standard library, an end is closed for the other side when every
    process has closed it or ended, so let each process close the end that it does not use. One thread of one
    process at a time sends, and one receives.

    `Pipe` makes them.
    """

    def __init__(
        self, connected: socket.socket, flags: int, *, readable: bool = True, writable: bool = True
    ) -> None:
        self._socket: socket.socket | None = connected
        self._flags = flags
        self._readable = readable
        self._writable = writable
        # The piece of a message that is being received, and how much of it is there.
        self._inbox = bytearray(_HEAD.size)
        self._filled = 0
        self._in_payload = False
        self._outbox: list[memoryview] = []  # what has not gone out in time
        # Bytes move at this moment. Found so later, a signal handler raised there: nobody knows how many did.
        self._receiving = self._sending = False

    @property
    def closed(self) -> bool:
        """Whether this process has closed it."""
        return self._socket is None

    @property
    def readable(self) -> bool:
        """Whether it receives."""
        return self._readable

    @property
    def writable(self) -> bool:
        """Whether it sends."""
        return self._writable

    def fileno(self) -> int:
        """Its file descriptor, for `select` and the like."""
        return self._open().fileno()

    def close(self) -> None:
        """Close it. May be called again. What has not gone out is dropped."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def send(self, obj: object, timeout: float | None = None) -> None:
        """Send an object, which must be picklable.

        Args:
            obj: The object.
            timeout: Seconds to wait at most for room in the system's buffer; None: as long as it takes.

        Raises:
            PipeTimeoutError: Not all of it could be sent in time; see its `begun`.
            BrokenPipeError: The other end was closed.
            OSError: This end was closed, or only receives.
            ValueError: `timeout` is negative.
        """
        self._check_writable()
        self._send(memoryview(pickle.dumps(obj, pickle.HIGHEST_PROTOCOL)), timeout)

    def send_bytes(
        self, buf: Any, offset: int = 0, size: int | None = None, timeout: float | None = None
    ) -> None:
        """Send bytes as one message. Raises as `send`.

        Args:
            buf: Any bytes-like object.
            offset: Where in it the message begins, in bytes.
            size: Bytes of the message; None: to its end.
            timeout: As for `send`.
        """
        self._check_writable()
        view = memoryview(buf)
        view = view.cast("B") if view.itemsize > 1 or view.ndim != 1 else view
        most = view.nbytes - offset
        if offset < 0 or most < 0:
            raise ValueError(f"'offset' is from 0 to {view.nbytes}, not {offset}")
        if size is not None and not 0 <= size <= most:
            raise ValueError(f"'size' is from 0 to {most} with this offset, not {size}")
        self._send(view[offset : offset + (most if size is None else size)], timeout)

    def recv(self, timeout: float | None = None) -> Any:
        """Wait for a message and return the object. A message that keeps coming is received to its end.

        Args:
            timeout: Seconds to wait at most; None: as long as it takes.

        Raises:
            PipeTimeoutError: It did not come, or not to its end; the next call goes on.
            EOFError: There is nothing left, or only a part of a message, and the other end was closed.
            OSError: This end was closed, or only sends.
            ValueError: `timeout` is negative.
        """
        return pickle.loads(self._receive(timeout))

    def recv_bytes(self, maxlength: int | None = None, timeout: float | None = None) -> bytes:
        """Wait for a message and return its bytes. Raises as `recv`.

        Args:
            maxlength: A longer one raises OSError, after which this end cannot receive.
            timeout: As for `recv`.
        """
        if maxlength is not None and maxlength < 0:
            raise ValueError(f"'maxlength' is 0 or more, not {maxlength}")
        return bytes(self._receive(timeout, maxlength))

    def recv_bytes_into(self, buf: Any, offset: int = 0, timeout: float | None = None) -> int:
        """Wait for a message and write its bytes into `buf`. Raises as `recv`.

        Args:
            buf: A writable bytes-like object.
            offset: Where in it to begin, in bytes.
            timeout: As for `recv`.

        Returns:
            Bytes of the message.

        Raises:
            multiprocessing.BufferTooShort: There is too little room; its first argument is the message.
        """
        with memoryview(buf) as whole, whole.cast("B") as room:
            if not 0 <= offset <= room.nbytes:
                raise ValueError(f"'offset' is from 0 to {room.nbytes}, not {offset}")
            message = self._receive(timeout)
            end = offset + len(message)
            if end > room.nbytes:
                from multiprocessing import BufferTooShort  # noqa: PLC0415  # slow to import

                raise BufferTooShort(bytes(message))
            room[offset:end] = message
            return len(message)

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Whether there is something to receive, or nothing will ever come.

        Args:
            timeout: Seconds to wait for it; None: as long as it takes.
        """
        self._check_readable()
        return self._wait(select.POLLIN, None if timeout is None else deadline_of(True, max(0.0, timeout)))

    def __enter__(self) -> PipeEnd:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End of the `with` block: `close()`."""
        self.close()

    def __del__(self) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("an end of a Pipe cannot be pickled: children inherit it by fork")

    def __repr__(self) -> str:
        state = "closed" if self._socket is None else f"descriptor {self._socket.fileno()}"
        ways = " ".join(["receives"] * self._readable + ["sends"] * self._writable)
        return f"<PipeEnd {state} {ways}>"

    def _open(self) -> socket.socket:
        if self._socket is None:
            raise OSError(f"{self!r}: it was closed")
        return self._socket

    def _check_readable(self) -> None:
        self._open()
        if not self._readable:
            raise OSError(f"{self!r}: it only sends, or has met a message longer than maxlength")
        if self._receiving:
            raise OSError(f"{self!r}: an interrupt came while bytes were received; close it")

    def _check_writable(self) -> None:
        self._open()
        if not self._writable:
            raise OSError(f"{self!r}: it only receives")
        if self._sending:
            raise OSError(f"{self!r}: an interrupt came while bytes were sent; close it")

    def _wait(self, event: int, deadline: float | None) -> bool:
        """Wait until the socket is ready; False if the time ran out."""
        poll = select.poll()
        poll.register(self._open(), event)
        left = remaining(deadline)
        return bool(poll.poll(None if left is None else math.ceil(left * 1000)))

    def _send(self, payload: memoryview, timeout: float | None) -> None:
        deadline = deadline_of(True, timeout)
        if not self._push(deadline):
            raise PipeTimeoutError(f"{self!r}: no room in {timeout:g} s for the rest of the message before")
        size = payload.nbytes
        head = _HEAD.pack(size)
        self._outbox = [memoryview(head + payload)] if size < _SMALL else [memoryview(head), payload]
        try:
            if self._push(deadline):
                return
        finally:
            begun = self._keep_rest(_HEAD.size + size)
        raise PipeTimeoutError(
            f"{self!r}: no room in {timeout:g} s for "
            + (f"all of a message of {size} bytes; the rest goes before the next" if begun else "a message"),
            begun=begun,
        )

    def _keep_rest(self, size: int) -> bool:
        """Of a message of so many bytes, of which some have gone out; drop it if none have."""
        left = sum(piece.nbytes for piece in self._outbox)
        # Copied: from now on, the caller may change what it gave us.
        self._outbox = [memoryview(bytes(piece)) for piece in self._outbox] if left < size else []
        return left < size

    def _push(self, deadline: float | None) -> bool:
        """Send what is in the outbox, and leave there what did not go out in time; whether all did."""
        connected, pieces = self._open(), self._outbox
        while pieces:
            self._sending = True
            try:
                sent = connected.sendmsg(pieces, (), self._flags)
                _drop(pieces, sent)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._sending = False
                if isinstance(error, ConnectionResetError):
                    raise BrokenPipeError(error.errno, f"{self!r}: the other end was closed") from error
                raise
            self._sending = False
            if not sent and not self._wait(select.POLLOUT, deadline):
                return False
        return True

    def _receive(self, timeout: float | None, maxlength: int | None = None) -> bytearray:
        """The next message."""
        self._check_readable()
        deadline = deadline_of(True, timeout)
        if not self._in_payload:
            self._fill(deadline, timeout)
            (size,) = _HEAD.unpack(self._inbox)
            self._begin(size, in_payload=True)
        if maxlength is not None and len(self._inbox) > maxlength:
            self._refuse()
            raise OSError(f"a message of {len(self._inbox)} bytes came, and maxlength is {maxlength}")
        self._fill(deadline, timeout)
        message = self._inbox
        self._begin(_HEAD.size, in_payload=False)
        return message

    def _begin(self, size: int, *, in_payload: bool) -> None:
        self._inbox, self._filled, self._in_payload = bytearray(size), 0, in_payload

    def _refuse(self) -> None:
        self._readable = False
        if not self._writable:
            self.close()

    def _fill(self, deadline: float | None, timeout: float | None) -> None:
        """Receive until the inbox is full."""
        connected = self._open()
        inbox = self._inbox
        while self._filled < len(inbox):
            self._receiving = True
            try:
                with memoryview(inbox) as whole:
                    count = connected.recv_into(whole[self._filled :], 0, self._flags)
                self._filled += count
            except BlockingIOError:
                count = -1
            except ConnectionResetError:  # closed, with something of ours in it that nobody had received
                count = 0
            self._receiving = False
            if count == 0:
                raise EOFError(self._describe("the other end was closed"))
            if count < 0 and not self._wait(select.POLLIN, deadline):
                begun = self._in_payload or self._filled > 0
                raise PipeTimeoutError(self._describe(f"nothing came in {timeout:g} s"), begun=begun)

    def _describe(self, what: str) -> str:
        if self._in_payload:
            what += f", with {self._filled} of the {len(self._inbox)} bytes of a message received"
        return f"{self!r}: {what}"


def _drop(pieces: list[memoryview], count: int) -> None:
    """Drop so many bytes from the front."""
    while pieces and count >= pieces[0].nbytes:
        count -= pieces.pop(0).nbytes
    if count:
        pieces[0] = pieces[0][count:]
