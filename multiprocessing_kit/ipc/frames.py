"""Whole messages over a pipe, without waiting: a header with kind and length, then that many bytes.

    sender                                             receiver
    ──────                                             ────────
    put() ──▶ outbox ──flush(): os.write──▶ pipe ──fill(): os.read──▶ chunks ──▶ frames

A sender that is killed leaves the beginning of a frame, which never becomes one. Neither end blocks: who
wants to wait polls the descriptor and calls again.

Signal handlers may run between any two bytecodes; they may raise, and they may use the same end. So the count
of bytes that moved is stored by the very call that moved them: `extend(map(os.write, ...))` is one step.
"""

from __future__ import annotations

import os
import struct
import threading
from collections import deque

__all__ = ["FrameReader", "FrameWriter"]

_HEADER = struct.Struct("=QB")
_CHUNK = 1 << 16
_BURST = 64
"""Chunks for one `fill`, so that a sender who is faster than us does not keep us there for ever. They are
more than a pipe holds, so that one `fill` after the sender's end takes all."""


class FrameWriter:
    """The sending end; for any number of threads.

    Args:
        fd: Of a pipe; made non-blocking. Stays the caller's to close.
    """

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._outbox: deque[tuple[memoryview, list[int]]] = deque()
        self._lock = threading.RLock()
        self._flusher = 0

    def put(self, kind: int, data: bytes) -> None:
        """Add a frame to what is to be written."""
        self._outbox.append((memoryview(_HEADER.pack(len(data), kind) + data), []))

    def flush(self) -> bool:
        """Write what the pipe takes now.

        Returns:
            Whether nothing is left for the caller: all is written, or this is a signal handler that has
            interrupted `flush`, which will write it.

        Raises:
            BrokenPipeError: Nobody reads any more.
        """
        me = threading.get_ident()
        if self._flusher == me:
            return True
        with self._lock:
            try:
                self._flusher = me
                while self._outbox:
                    self._write()
            except BlockingIOError:
                return False
            finally:
                self._flusher = 0
        return not self._outbox

    def _write(self) -> None:
        frame, counts = self._outbox[0]
        counts.extend(map(os.write, (self._fd,), (frame[sum(counts) :],)))
        counts[:] = [sum(counts)]
        if counts[0] == len(frame):
            self._outbox.popleft()


class FrameReader:
    """The receiving end; for one thread at a time, and its signal handlers.

    Args:
        fd: Of a pipe; made non-blocking. Stays the caller's to close.

    Attributes:
        frames: Those that have come, as (kind, data), for the caller to take out on the left.
        ended: Whether the other end is closed.
    """

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._chunks: list[bytes] = []
        self._parsed = 0
        self.frames: deque[tuple[int, bytes]] = deque()
        self.ended = False

    def fill(self) -> bool:
        """Read what is there, some MiB at most; returns whether that was anything."""
        anything = False
        try:
            for _ in range(_BURST):
                self._chunks.extend(map(os.read, (self._fd,), (_CHUNK,)))
                if self._chunks and not self._chunks[-1]:
                    self._chunks.pop()
                    self.ended = True
                    break
                anything = True
        except BlockingIOError:
            pass
        while self._parse():
            pass
        return anything

    def _parse(self) -> bool:
        """Make a frame of the first chunks; False if there is no whole one."""
        parsed, chunks = self._parsed, tuple(self._chunks)
        count, length = len(chunks), sum(map(len, chunks))
        if length < _HEADER.size:
            return False
        head = chunks[0] if len(chunks[0]) >= _HEADER.size else b"".join(chunks[: _HEADER.size])
        size, kind = _HEADER.unpack_from(head)
        end = _HEADER.size + size
        if length < end:
            return False
        data = b"".join(chunks)
        frame, rest = (kind, data[_HEADER.size : end]), [data[end:]] if length > end else []
        # A handler that has come since may have parsed the same chunks. From here to `append` there is no
        # call, at which another one could come.
        if self._parsed == parsed:
            self._parsed = parsed + 1
            self._chunks[:count] = rest
            self.frames.append(frame)
        return True
