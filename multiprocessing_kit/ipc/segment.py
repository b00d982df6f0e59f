"""Shared memory that forked children inherit, freed by the kernel with the last process.

    parent   shmget ▸ shmat ▸ IPC_RMID          the id has gone from the key table at once,
      │                                         so there is nothing to clean up after a crash
      ├─ fork ─▶ child A (attachment inherited)
      └─ fork ─▶ child B (attachment inherited) the last of the three to end frees the memory

System V segments do not live in /dev/shm, so its size (64 MB in most containers) does not bound
them. Where the system refuses one, anonymous shared mmap takes its place.
"""

from __future__ import annotations

import errno
import logging
import mmap
from types import TracebackType
from typing import Any

from multiprocessing_kit.errors import IpcError
from multiprocessing_kit.ipc.sysv import create_segment

__all__ = ["Segment"]

log = logging.getLogger("multiprocessing_kit.ipc")
_fallback_logged = False


class Segment:
    """`size` bytes of zeroed memory, shared with every child forked while it is open.

    Args:
        size: Bytes, at least 1.

    Attributes:
        buf: The memory, as a writable view of exactly `size` bytes (format "B").
        size: Bytes.
        kind: "sysv", or "mmap" where System V memory was refused.

    Raises:
        IpcError: The system refused both kinds of memory.
        ValueError: `size` is less than 1.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"a segment needs at least 1 byte, not {size}")
        self.size = size
        self.kind, memory = _allocate(size)
        # Nothing but views refers to the memory: the last one to die detaches it.
        self.buf = memoryview(memory)[:size]

    def close(self) -> None:
        """Give up this process's access. Other processes keep theirs. May be called again.

        The memory is detached once nobody in this process holds a view of it: at once, or when the
        last slice or array made from `buf` dies.
        """
        try:
            self.buf.release()
        except BufferError:  # somebody still uses it: leave the view to them
            self.buf = memoryview(b"")
            self.buf.release()

    def __enter__(self) -> Segment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Segment {self.kind} {self.size} bytes>"


def _allocate(size: int) -> tuple[str, Any]:
    try:
        memory = create_segment(size)
    except IpcError as refusal:
        return "mmap", _allocate_mmap(size, refusal)
    try:
        view = memoryview(memory)
    finally:
        memory.remove()
    return "sysv", view


def _allocate_mmap(size: int, refusal: IpcError) -> mmap.mmap:
    global _fallback_logged  # noqa: PLW0603  # one line per process
    try:
        memory = mmap.mmap(-1, size)
    except (OSError, ValueError, OverflowError) as error:
        number = getattr(error, "errno", None) or errno.ENOMEM
        raise IpcError(
            number, f"no shared memory: mmap of {size} bytes failed ({error}), and {refusal.strerror}",
            limit=refusal.limit,
        ) from error  # fmt: skip
    if not _fallback_logged:
        _fallback_logged = True
        log.warning("%s. Using anonymous shared mmap instead.", refusal.strerror)
    return memory
