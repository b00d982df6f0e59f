"""Shared memory in blocks that are used again and again: the owner's side.

    owner: the caller                                            guests: its children
      Arena ──▶ segments, each marked for removal at once          attach by id (`guest.Guest`)
        └─ allocate ─▶ Block ── place ────────────────────────────▶ read, or write what they were granted
             hold / release ─▶ nobody holds it ─▶ free

Only the owner decides what is free, in memory of its own: whoever else dies at whatever instant, nothing
is left half changed. Nothing needs cleaning up either: the kernel frees a segment with its last process.

Free memory. A page that is touched for the first time, or again after it was given back, costs ten times a
copy into one that is there. So freed blocks are kept as they are (warm), and used again first, up to a
limit. Beyond it pages are given back, from the last segment's end on, and segments that are free and
hold no warm page are detached.

Blocks may be released at any instant: by a signal handler, or by a garbage collection that strikes while the
lock is held. So a release only goes into a deque; it is then dealt with if the lock can be had without
waiting, and otherwise by whoever holds it, who looks again afterwards. A signal handler may raise in the
midst of it: then the entry is still there, and whoever looks next does all of it again, which changes
nothing of what was done before.

Forks. System V memory is not copied on write, so the owner never hands out views of it that last. A guest's
child may still look at what the guest was lent; once the guest is dead nobody tells when that is over. Such a
block is never used again nor given back (`Block.abandon`): its segment takes no more blocks, and is
detached once the last block in it is dead; the kernel frees it with the last process that has it. The
copies of these objects in a child of the owner do nothing there.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from functools import partial

from multiprocessing_kit.errors import IpcError
from multiprocessing_kit.ipc import sysv
from multiprocessing_kit.ipc.arena_segment import ROUND, ArenaSegment
from multiprocessing_kit.ipc.pages import Pages
from multiprocessing_kit.ipc.place import Place

__all__ = ["KEEP_BYTES", "Arena", "Block"]

FIRST_SEGMENT_BYTES = 64 * 1024 * 1024

KEEP_BYTES = 128 * 1024 * 1024
"""Copying 16 MiB took 19 ms into pages touched for the first time, and 1.9 ms into warm ones. What is free
between two jobs of some children rarely is more than this, and less is no burden."""


class Arena:
    """Allocates blocks, for the process that made it.

    Args:
        keep: Bytes of free memory to keep for reuse.
        on_drop: Called with a segment's id when it has been detached here, so that guests can be told to
            forget it: at any instant, in any thread, so it must do no more than append to a `deque`.
    """

    def __init__(self, *, keep: int = KEEP_BYTES, on_drop: Callable[[int], object] | None = None) -> None:
        self._keep = keep
        self._on_drop = on_drop
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._try_lock = partial(self._lock.acquire, False)
        self._segments: list[ArenaSegment] = []
        self._ended: deque[tuple[Block, bool]] = deque()
        self._closed = False

    @property
    def available(self) -> bool:
        """False where blocks cannot be had: not Linux, no System V memory, or not the owner.

        Elsewhere than on Linux a segment that is marked for removal cannot be attached any more.
        """
        return sys.platform == "linux" and sysv.sysv_ipc is not None and os.getpid() == self._owner

    def allocate(self, size: int) -> Block:
        """A block of `size` bytes, held once. What it contains is undefined.

        Raises:
            IpcError: The system refused more memory, or `available` is False.
        """
        if not self.available:
            raise IpcError(errno.ENOSYS, "shared memory blocks are not available in this process")
        room = -(-max(size, 1) // ROUND) * ROUND
        try:
            with self._lock:
                self._settle()
                for segment in self._segments:
                    start = segment.find(room)
                    if start is not None:
                        break
                else:
                    segment, start = self._grow(room), 0
                block = Block(self, segment, start, size, room)
                segment.take(start, room)
                return block
        finally:
            self._look_again()

    def close(self) -> None:
        """Keep nothing that is free, now and from now on. Blocks in use stay valid while they are held."""
        with self._lock:
            self._keep = 0
            self._closed = True
            self._settle()
            self._trim()
        self._look_again()

    def _end_hold(self, block: Block, *, exposed: bool) -> None:
        """One hold of `block` has ended; somebody who cannot tell may still look at it if `exposed`."""
        if os.getpid() == self._owner:
            self._ended.append((block, exposed))
            self._look_again()

    def _hold(self, block: Block) -> bool:
        """Count one hold more of `block`, unless it is free already or this process a copy."""
        if os.getpid() != self._owner:
            return False
        try:
            with self._lock:
                self._settle()
                live = block._holds > 0
                if live:
                    block._holds += 1
                return live
        finally:
            self._look_again()

    def _look_again(self) -> None:
        if not self._ended:
            return
        # A signal handler may run, and raise, after any call, so also between one that takes the lock and a
        # `try`. Between a step of a `for` and a `try` none runs.
        for _ in iter(self._try_lock, False):
            try:
                self._settle()
            finally:
                self._lock.release()
            if not self._ended:
                return

    def _settle(self) -> None:
        """Deal with the holds that have ended; under the lock, and before anything else is done under it."""
        ended = self._ended
        while ended:
            block, exposed = ended[0]
            if exposed:
                block._exposed = True
            if block._holds == 1 and block._segment is not None:
                block._segment.free(block._start, block._room, exposed=block._exposed)
                self._trim()
                block._segment = None
            # No call has returned between these two, so they are both done or none of them.
            block._holds -= 1
            ended.popleft()

    def _trim(self) -> None:
        """Give back what is beyond the limit; under the lock."""
        excess = sum(segment.warm.total for segment in self._segments) - self._keep
        for segment in reversed(self._segments):
            if excess > 0:
                excess -= segment.give_back(excess)
            if not segment.live and (
                segment.closed
                or self._closed
                or (segment is not self._segments[0] and not segment.warm.total)
            ):
                if self._on_drop is not None:
                    self._on_drop(segment.pages.id)
                self._segments.remove(segment)

    def _grow(self, room: int) -> ArenaSegment:
        """A new segment: as large as all that there are, and at least `room`; under the lock."""
        open_bytes = sum(segment.pages.size for segment in self._segments if not segment.closed)
        wanted = max(room, FIRST_SEGMENT_BYTES, open_bytes)
        try:
            segment = ArenaSegment(wanted)
        except IpcError:
            if wanted == room:
                raise
            segment = ArenaSegment(room)
        self._segments.append(segment)
        return segment


class Block:
    """Some bytes of the arena. Who allocates it holds it once; when nobody holds it, it is free.

    Attributes:
        place: Where it is, for other processes.
    """

    __slots__ = ("__weakref__", "_arena", "_exposed", "_holds", "_room", "_segment", "_start", "place")

    def __init__(self, arena: Arena, segment: ArenaSegment, start: int, size: int, room: int) -> None:
        self._arena = arena
        self._segment: ArenaSegment | None = segment  # None once it is free: it does not keep the memory then
        self._start = start
        self._room = room
        self.place = Place(segment.pages.id, start, size)
        self._holds = 1
        self._exposed = False  # whether somebody may look at it even when nobody holds it

    @property
    def memory(self) -> memoryview:
        """Its bytes, to be filled; writable. Not for keeping: it does not hold the block."""
        self._pages.map_at_once(self._start, self.place.length)
        return self._pages.view(self._start, self.place.length)

    @property
    def address(self) -> int:
        """Where they are in this process."""
        return self._pages.address + self._start

    def hold(self) -> bool:
        """Hold it once more.

        Returns:
            False if it is free already, or this is a forked child: it cannot be held then.
        """
        return self._arena._hold(self)

    def release(self) -> None:
        """End one hold. Does nothing in a forked child."""
        self._arena._end_hold(self, exposed=False)

    def abandon(self) -> None:
        """End the hold of a process that died without saying that it is done with the block.

        A child of that process may live on and look at it, so it will not be used again.
        """
        self._arena._end_hold(self, exposed=True)

    @property
    def _pages(self) -> Pages:
        if self._segment is None:
            raise ValueError("the block is free")
        return self._segment.pages
