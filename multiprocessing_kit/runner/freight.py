"""Large payloads: the caller's side. They lie in the arena, and the lanes carry where.

    caller ── copies an argument's buffers into blocks ── JOB_LARGE ──▶ child: read-only views, no copy
      ▲ releases a block ◀────────────── FREED ── its last view there has died, or it was skipped
    child ── WANT, so many bytes ──▶ caller ── grants a block, in the lane's header ──▶ child
    child ── has copied the result's buffers into it ── DONE_LARGE ──▶ caller
      copies them into memory of its own, and has the block back

Blocks are allocated and freed by the caller alone, so a child that dies leaves nothing half done: what
it was lent or granted is known here.

A result is copied out, rather than shown where it lies, because its block, whose pages are there, can then be
used again at once; to fill new pages takes longer than the copy. And an array in private memory is the
user's own: it can be written to, and a later fork copies it on write, which shared memory is not.

Where the system refuses the memory, the bytes travel through the ring, in pieces.
"""

from __future__ import annotations

import logging
import mmap
import pickle
import typing
from collections import deque
from collections.abc import Iterable
from typing import Protocol

from multiprocessing_kit.errors import IpcError
from multiprocessing_kit.ipc.parcel import THRESHOLD, Parcel
from multiprocessing_kit.ipc.place import Place

if typing.TYPE_CHECKING:
    from multiprocessing_kit.ipc.arena import Arena, Block
    from multiprocessing_kit.ipc.store import Store

__all__ = ["Freight", "Lender", "Shipper"]

_log = logging.getLogger("multiprocessing_kit.runner")

_MAPPED = 1024 * 1024
"""Bytes from which on memory is had from the system directly, with all its pages at once: cheaper than to
touch them one by one."""

_POPULATED = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_POPULATE", 0)


class Freight:
    """What one child has of the arena.

    Attributes:
        lent: Blocks that it may look at, by place, each as often as it was sent.
        granted: The block that it may write to, if any.
        told: How many of the dropped segments it has been told of.
    """

    def __init__(self) -> None:
        self.lent: dict[Place, list[Block]] = {}
        self.granted: Block | None = None
        self.told = 0


class Lender(Protocol):
    """Who large payloads are exchanged with: a child."""

    freight: Freight


class Shipper:
    """The large payloads of one crew."""

    def __init__(self) -> None:
        self._arena: Arena | None = None
        self._store: Store | None = None
        self._dropping: deque[int] = deque()
        self._dropped: list[int] = []
        self._refusal_logged = False

    # ── arguments ─────────────────────────────────────────────────────────────────────────────────

    def ship(self, parcel: Parcel, child: Lender) -> bytes:
        """Put an argument where `child` can see it; what to send it, for `Hold.unload`."""
        blocks: list[Block] = []
        parts: list[Place | bytes] = []
        try:
            for buffer in parcel.buffers:
                blocks.append(self._stored(buffer))
                parts.append(blocks[-1].place)
            stream: Place | bytes = b"".join(parcel.stream) if parcel.stream_size < THRESHOLD else b""
            if not stream:
                blocks.append(self._copied(parcel.stream, parcel.stream_size))
                stream = blocks[-1].place
        except IpcError as error:
            for block in blocks:
                block.release()
            self._log(error)
            parts = list(map(bytes, parcel.buffers))
            stream = b"".join(parcel.stream)
        else:
            for block in blocks:
                child.freight.lent.setdefault(block.place, []).append(block)
        self._dropped.extend(self._dropping.popleft() for _ in range(len(self._dropping)))
        news = self._dropped[child.freight.told :]
        child.freight.told = len(self._dropped)
        return pickle.dumps((stream, parts, news), pickle.HIGHEST_PROTOCOL)

    def returned(self, child: Lender, places: Iterable[Place]) -> None:
        """`child` does not look at these any more."""
        lent = child.freight.lent
        for place in places:
            blocks = lent[place]
            blocks.pop().release()
            if not blocks:
                del lent[place]

    def _stored(self, buffer: memoryview) -> Block:
        from multiprocessing_kit.ipc.store import Store  # noqa: PLC0415  # ctypes is slow to import

        if self._store is None:
            self._store = Store(self._opened())
        return self._store.place(buffer)

    def _copied(self, chunks: Iterable[bytes | memoryview], size: int) -> Block:
        block = self._opened().allocate(size)
        memory, at = block.memory, 0
        for chunk in chunks:
            memory[at : at + len(chunk)] = chunk
            at += len(chunk)
        return block

    # ── results ───────────────────────────────────────────────────────────────────────────────────

    def grant(self, child: Lender, size: int) -> Place | None:
        """A place for `child` to write `size` bytes to; None where there is no memory for it."""
        try:
            block = self._opened().allocate(size)
        except IpcError as error:
            self._log(error)
            return None
        child.freight.granted = block
        return block.place

    def land(self, child: Lender, data: memoryview) -> tuple[bytes | memoryview, list[memoryview]]:
        """What `Hold.load` made of a result: its pickle, and its buffers in memory of our own.

        The pickle is to be unpickled before `landed` is called.

        Raises:
            OSError, MemoryError: No memory for them.
        """
        stream, parts = pickle.loads(data)
        block = child.freight.granted
        if block is None:
            return stream, list(map(_own, parts))
        memory = block.memory
        if not isinstance(stream, bytes):
            start, size = stream
            stream = memory[start : start + size]
        return stream, [_own(memory[start : start + size]) for start, size in parts]

    def landed(self, child: Lender) -> None:
        """The block that was granted to `child` is needed no more."""
        block, child.freight.granted = child.freight.granted, None
        if block is not None:
            block.release()

    # ── ends ──────────────────────────────────────────────────────────────────────────────────────

    def lost(self, child: Lender) -> None:
        """`child` has ended."""
        self.landed(child)
        for blocks in child.freight.lent.values():
            for block in blocks:
                block.abandon()  # a process that one of its jobs has started may still look
        child.freight.lent = {}

    def close(self) -> None:
        """Give back what is free; all children have ended."""
        if self._arena is not None:
            self._arena.close()

    def _opened(self) -> Arena:
        from multiprocessing_kit.ipc.arena import Arena  # noqa: PLC0415  # ctypes is slow to import

        if self._arena is None:
            self._arena = Arena(on_drop=self._dropping.append)
        return self._arena

    def _log(self, error: IpcError) -> None:
        if not self._refusal_logged:
            self._refusal_logged = True
            _log.warning("large data travel in pieces: %s", error)


def _own(data: bytes | memoryview) -> memoryview:
    """A copy of `data` in writable memory of its own."""
    if len(data) < _MAPPED:
        return memoryview(bytearray(data))
    memory = memoryview(mmap.mmap(-1, len(data), flags=_POPULATED))
    memory[:] = data
    return memory
