"""Large payloads: the child's side; the drawing is in `freight`."""

from __future__ import annotations

import pickle
import typing
from collections import deque
from typing import Any

from multiprocessing_kit.ipc.parcel import THRESHOLD, Parcel, unpack
from multiprocessing_kit.ipc.place import Place

if typing.TYPE_CHECKING:
    from multiprocessing_kit.ipc.guest import Guest

__all__ = ["Cargo", "Hold", "size_of"]

_ALIGN = 64
"""Buffers begin at multiples of it, as numpy's own do at least."""


class Cargo:
    """A large argument that has arrived.

    What it lies in is reported as dead once: when its views have died, or by `settle` if it was not opened.

    Args:
        hold: Where it is.
        data: From `Shipper.ship`.
    """

    def __init__(self, hold: Hold, data: memoryview) -> None:
        self._hold = hold
        self._stream, self._parts, dropped = pickle.loads(data)
        hold.forget(dropped)
        self._closed = [part for part in (*self._parts, self._stream) if isinstance(part, Place)]

    def open(self, job_id: str) -> Any:
        """The argument; its arrays are read-only.

        Raises:
            SerializationError: It cannot be unpickled.
            IpcError: A segment cannot be attached.
        """
        buffers = [memoryview(self._view(part)) for part in self._parts]
        return unpack(self._view(self._stream), buffers, "the argument", job_id)

    def settle(self) -> None:
        """Report what was not opened."""
        self._hold.dead.extend(self._closed)
        self._closed.clear()

    def _view(self, part: Place | bytes) -> bytes | memoryview:
        if isinstance(part, bytes):
            return part
        view = self._hold.view(part)
        self._closed.remove(part)
        return view


class Hold:
    """What this child sees of the caller's arena.

    Attributes:
        dead: Places whose last view here has died, to be reported.
    """

    def __init__(self) -> None:
        self.dead: deque[Place] = deque()
        self._guest: Guest | None = None

    def view(self, place: Place) -> memoryview:
        """The bytes there, read-only."""
        return self._opened().view(place, self.dead.append)

    def forget(self, segments: list[int]) -> None:
        """The caller has dropped these."""
        if segments:
            self._opened().forget(segments)

    def load(self, parcel: Parcel, place: Place | None) -> bytes:
        """Copy a result to `place`; what to send, for `Shipper.land`. Without a place, all of it."""
        if place is None:
            parts = list(map(bytes, parcel.buffers))
            return pickle.dumps((b"".join(parcel.stream), parts), pickle.HIGHEST_PROTOCOL)
        memory = self._opened().memory(place)
        starts, end = _laid_out(parcel)
        spans = [(start, len(buffer)) for start, buffer in zip(starts, parcel.buffers, strict=True)]
        for (start, size), buffer in zip(spans, parcel.buffers, strict=True):
            memory[start : start + size] = buffer
        stream: bytes | tuple[int, int]
        if parcel.stream_size < THRESHOLD:
            stream = b"".join(parcel.stream)
        else:
            stream = (end, parcel.stream_size)
            for chunk in parcel.stream:
                memory[end : end + len(chunk)] = chunk
                end += len(chunk)
        return pickle.dumps((stream, spans), pickle.HIGHEST_PROTOCOL)

    def _opened(self) -> Guest:
        from multiprocessing_kit.ipc.guest import Guest  # noqa: PLC0415  # ctypes is slow to import

        if self._guest is None:
            self._guest = Guest()
        return self._guest


def size_of(parcel: Parcel) -> int:
    """Bytes of a block for it."""
    _, end = _laid_out(parcel)
    return end + (parcel.stream_size if parcel.stream_size >= THRESHOLD else 0)


def _laid_out(parcel: Parcel) -> tuple[list[int], int]:
    """Where its buffers begin, and where the last one ends."""
    starts, end = [], 0
    for buffer in parcel.buffers:
        starts.append(-(-end // _ALIGN) * _ALIGN)
        end = starts[-1] + len(buffer)
    return starts, end
