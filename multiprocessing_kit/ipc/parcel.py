"""Objects to a pickle with the large parts kept out of it, and back: nothing large is copied here.

    value ──▶ pack ──▶ stream: chunks which together are the pickle        ──▶ a ring, or a block if large
                 └───▶ buffers: the memory of arrays, not copied           ──▶ blocks
    value ◀── unpack ◀─ stream, and views of the same buffers in the same order

Buffers are those of pickle protocol 5: numpy arrays, pandas and pyarrow objects offer them by themselves.
Large `bytes` and `str` do not, they lie in the stream; but the pickler hands a large one to its file as
it is, so the chunks refer to it and do not copy it.

A `memoryview` cannot be pickled, so one in a value is sent as its buffer, format and shape, and comes back as
a memoryview (an empty one with one dimension).
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from typing import Any, Final

from multiprocessing_kit.ipc.codec import refused

__all__ = ["THRESHOLD", "Parcel", "pack", "unpack"]

THRESHOLD: Final = 96 * 1024
"""Bytes from which on a buffer is kept out of the stream.

To send an array in the stream took 28 us at 64 KiB, 44 at 120 and 110 at 128 KiB, where the C library begins
to get fresh pages for each copy; by a block it took 70 to 80 us whatever its size. Below this one also fits
into a single piece of a lane's ring."""

_REUSABLE = 1024
"""A pickler is kept for reuse after a pickle of this size or less. Its memo never shrinks, and is cleared by
filling it with zeros, which after a value of many objects would cost more than a new pickler."""


class Parcel:
    """A pickle that is large, or has large parts.

    Attributes:
        stream: Chunks which together are the pickle.
        buffers: The large buffers, contiguous and of format "B". They show the value's own memory, so they
            are to be copied before it changes. The stream knows which were read-only, and `unpack` makes
            them so again.
    """

    __slots__ = ("buffers", "stream")

    def __init__(self, stream: list[bytes | memoryview], buffers: list[memoryview]) -> None:
        self.stream = stream
        self.buffers = buffers

    @property
    def size(self) -> int:
        """Bytes of it all."""
        return self.stream_size + sum(map(len, self.buffers))

    @property
    def stream_size(self) -> int:
        """Bytes of the pickle."""
        return sum(map(len, self.stream))


class _Chunks(list[Any]):
    """A file to write to, which keeps what is written."""

    write = list.append


class _Packer(pickle.Pickler):
    def __init__(self) -> None:
        self.chunks = _Chunks()
        self.buffers: list[memoryview] = []
        super().__init__(self.chunks, pickle.HIGHEST_PROTOCOL, buffer_callback=_keep_out(self.buffers))

    def reducer_override(self, value: Any) -> Any:
        return _reduce_view(value) if type(value) is memoryview else NotImplemented


# Not a method: that would make a circle, and leave each packer and its memo to the garbage collector.
def _keep_out(buffers: list[memoryview]) -> Callable[[pickle.PickleBuffer], bool]:
    def callback(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < THRESHOLD:
            return True
        buffers.append(raw)
        return False

    return callback


def _reduce_view(view: memoryview) -> tuple[Callable[..., memoryview], tuple[object, ...]]:
    memoryview(b"").cast(view.format)  # type: ignore[call-overload]  # refuses what cannot be made again
    data = view if view.c_contiguous else (bytes if view.readonly else bytearray)(view)
    return _make_view, (pickle.PickleBuffer(data), view.format, view.shape)


def _make_view(buffer: Any, format: str, shape: tuple[int, ...]) -> memoryview:
    view = memoryview(buffer).cast("B")
    if len(shape) == 1 or 0 in shape:  # nothing can be cast to a shape with a zero in it
        return view.cast(format)  # type: ignore[call-overload,no-any-return]
    return view.cast(format, shape)  # type: ignore[call-overload,no-any-return]


_spare: list[_Packer] = []
"""Taken from here while in use, because a value's own `__reduce__` may pickle something, too."""


def pack(value: object, what: str, job_id: str = "") -> bytes | Parcel:
    """Pickle `value`.

    Args:
        value: Any object.
        what: How an error names it, such as "the result".
        job_id: The job an error belongs to.

    Returns:
        The pickle itself where it has no large parts and is not large (less than about 64 KiB).

    Raises:
        SerializationError: It cannot be pickled; the reason is its cause.
    """
    try:
        packer = _spare.pop() if _spare else _Packer()
        packer.dump(value)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise refused("pickled", type(value).__qualname__, what, job_id, error) from error
    chunks = packer.chunks
    if packer.buffers or len(chunks) > 1:
        # A large bytearray or array is written as it is: the view keeps it from being resized.
        stream = [chunk if type(chunk) is bytes else pickle.PickleBuffer(chunk).raw() for chunk in chunks]
        return Parcel(stream, packer.buffers)
    data: bytes = chunks.pop()
    if len(data) <= _REUSABLE:
        packer.clear_memo()
        _spare.append(packer)
    return data


def unpack(stream: bytes | memoryview, buffers: Iterable[memoryview], what: str, job_id: str = "") -> Any:
    """What `pack` pickled.

    Args:
        stream: The pickle: all chunks of a parcel, joined.
        buffers: The bytes of its buffers, in their order; for a pickle without, nothing. The value's arrays
            refer to them: read-only where these are, or where the original was.
        what: How an error names it.
        job_id: The job an error belongs to.

    Raises:
        SerializationError: It cannot be unpickled; the reason is its cause.
    """
    try:
        return pickle.loads(stream, buffers=buffers)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise refused("unpickled", "", what, job_id, error) from error
