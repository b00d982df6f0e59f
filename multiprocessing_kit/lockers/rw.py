"""Many readers or one writer, who come in the order in which they asked.

    G  1 while a writer is in, or waits      reader   in: G is 0, R +1 undo      out: R -1 undo
       for readers to leave                  writer   in: G is 0, G +1 undo
    R  readers that are in                            then: R is 0               out: G -1 undo

Each line is one operation, so nobody dies in between, and the kernel takes back what the dead had added. A
writer closes the gate G before it waits for the readers that are in: no reader that comes later gets past
it, so it is not starved. Whoever waits at the gate is let in by the kernel in the order of arrival, all
readers up to the next writer at once: so readers are not starved by writers either.

A word of memory has the writer's token. Left by one that died, it tells every reader and the next writer.
"""

from __future__ import annotations

from typing import Final

from multiprocessing_kit.ipc.named import NamedSegment
from multiprocessing_kit.ipc.semaphore import SemaphoreRemovedError
from multiprocessing_kit.ipc.semset import NOW, UNDO
from multiprocessing_kit.ipc.stamped import StampedSegment
from multiprocessing_kit.lockers.base import (
    Locker,
    LockOwner,
    Removed,
    deadline_of,
    destroyed,
    held,
    not_ours,
    open_segment,
)
from multiprocessing_kit.lockers.holder import ME, owner_of

__all__ = ["RWLocker", "ReaderLocker", "WriterLocker"]

_GATE: Final = 0
_READERS: Final = 1

_CLOSE: Final = ((_GATE, 0, 0), (_GATE, 1, UNDO))
_NO_READERS: Final = (_READERS, 0, 0)


class RWLocker:
    """A lock that many readers may have at a time, or one writer. Neither are starved by the others.

        with locker.reader: ...
        with locker.writer: ...

    A process (any of its threads) may have several read locks. Who has one and asks for the write lock
    waits for itself; and so does who asks for a second read lock while a writer waits.

    Args:
        name: Unrelated processes of one user that give the same name share it. "": only children inherit it.

    Attributes:
        reader, writer: Lockers.
        name: As given.

    Raises:
        IpcError: The system refused the memory or a semaphore; names the limit that was hit.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name
        segment, words = open_segment("rw", name, [0], sets=[(0, 0)])
        self._segment: StampedSegment | NamedSegment | Removed = segment
        self._set = segment.sets[0]
        self.reader = ReaderLocker(self, words)
        self.writer = WriterLocker(self, words)

    @property
    def readers(self) -> int:
        """How many read locks there are now, in all processes."""
        try:
            return self._set.value(_READERS)
        except SemaphoreRemovedError:
            raise destroyed(self) from None

    @property
    def owner(self) -> LockOwner | None:
        """The writer that is in, or that keeps others out while it waits for readers to leave; else None."""
        try:
            # As long as the gate is closed, whoever closed it was the last to do anything with it.
            return owner_of(self._set.last_pid(_GATE)) if self._set.value(_GATE) else None
        except SemaphoreRemovedError:
            return None

    def destroy(self) -> None:
        """As `Locker.destroy`. Those who wait for it get LockerError."""
        segment = self._segment
        if isinstance(segment, Removed):
            return
        opened = self._set.operation((_GATE, -1, UNDO))
        try:
            for _ in self._set.operation(*_CLOSE, _NO_READERS).done(NOW):
                try:
                    segment.remove()
                except BaseException:
                    opened.do()
                    raise
                break
            else:
                raise held(self.writer)
        except SemaphoreRemovedError:
            pass
        self._segment = Removed(segment.key, 1)
        self.reader._words = self.writer._words = self._segment.words

    def __repr__(self) -> str:
        try:
            writing, readers = self._set.value(_GATE), self._set.value(_READERS)
            state = "unlocked" if not readers + writing else f"locked, {readers} readers, {writing} writers,"
        except SemaphoreRemovedError:
            state = "destroyed"
        name = f" {self.name!r}" if self.name else ""
        return f"<{state} RWLocker object{name} at {self._segment.key:#x}>"


class _Side(Locker):
    """What both lockers have in common."""

    def __init__(self, both: RWLocker, words: memoryview) -> None:
        self.name = both.name
        self._both = both
        self._words = words
        self._owner_died = False

    @property
    def owner(self) -> LockOwner | None:
        """As `RWLocker.owner`."""
        return self._both.owner

    @property
    def owner_died(self) -> bool:
        """Whether the last writer died with the write lock. Readers are told until a writer has been in."""
        return self._owner_died

    def destroy(self) -> None:
        """Destroy the whole `RWLocker`."""
        self._both.destroy()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._both!r}>"


class ReaderLocker(_Side):
    """The read lock of a `RWLocker`."""

    def __init__(self, both: RWLocker, words: memoryview) -> None:
        super().__init__(both, words)
        self._enter = both._set.operation((_GATE, 0, 0), (_READERS, 1, UNDO))
        self._leave = both._set.operation((_READERS, -1, UNDO))
        self._token = ME.token
        self._inside = 0  # read locks of the process with that token

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """As `Locker.acquire`; waits while a writer is in, or waits."""
        deadline = deadline_of(blocking, timeout)
        self._forget_parents()
        words = self._words
        try:
            # Nothing in here is a call, so no signal handler raises between taking and counting.
            for _ in self._enter.done(deadline):
                self._inside += 1
                self._owner_died = words[0] != 0
                return True
        except SemaphoreRemovedError:
            raise destroyed(self) from None
        return False

    def release(self) -> None:
        """As `Locker.release`."""
        self._forget_parents()
        leave = self._leave.now
        if not self._inside:
            raise not_ours(self)
        self._inside -= 1
        if leave():
            raise destroyed(self)

    def locked(self) -> bool:
        """Whether anybody reads."""
        return self._both.readers > 0

    def _forget_parents(self) -> None:
        """In a forked child: the read locks of its parent are not its own."""
        if self._token != ME.token:
            self._token = ME.token
            self._inside = 0


class WriterLocker(_Side):
    """The write lock of a `RWLocker`."""

    def __init__(self, both: RWLocker, words: memoryview) -> None:
        super().__init__(both, words)
        self._close = both._set.operation(*_CLOSE)
        self._empty = both._set.operation(_NO_READERS)
        self._at_once = both._set.operation(*_CLOSE, _NO_READERS)
        self._open = both._set.operation((_GATE, -1, UNDO))

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """As `Locker.acquire`; waits until no other writer is in and no reader."""
        deadline = deadline_of(blocking, timeout)
        words = self._words
        try:
            # Nothing behind a step is a call, so no signal handler raises between taking and taking note.
            for _ in self._at_once.done(NOW):
                self._owner_died = words[0] != 0
                words[0] = ME.token
                return True
            if deadline == NOW:
                return False
            for _ in self._close.done(deadline):
                try:
                    for _ in self._empty.done(deadline):
                        self._owner_died = words[0] != 0
                        words[0] = ME.token
                        return True
                except BaseException:
                    self._open.do()
                    raise
                self._open.do()
        except SemaphoreRemovedError:
            raise destroyed(self) from None
        return False

    def release(self) -> None:
        """As `Locker.release`."""
        opens = self._open.now
        if self._words[0] != ME.token:
            raise not_ours(self)
        self._words[0] = 0
        if opens():
            raise destroyed(self)

    def locked(self) -> bool:
        """Whether a writer is in, or keeps others out while it waits for readers to leave."""
        return self._both.owner is not None
