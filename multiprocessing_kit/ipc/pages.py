"""The pages of an attached segment: views that tell when they die, and memory given back to the system.

    Attached segment ◀── whole (a ctypes array) ◀── an array of the same type for each view ──▶ token
                                                                 ▲
                                          memoryview, its slices and casts, arrays over them …

Everything made from a view refers to the ctypes array that exports the memory, and that refers to the token:
when the last of it dies, so does the token. (A weak reference to the first memoryview would not do: a
slice does not refer to it.) Each array covers the whole segment, because ctypes makes a type for each length,
and types are only freed by the garbage collector.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import pickle
from typing import Any

from multiprocessing_kit.errors import IpcError
from multiprocessing_kit.ipc.ranges import Ranges
from multiprocessing_kit.ipc.sysv import require_sysv

__all__ = ["Pages", "address_of", "attach", "equal"]

_library = ctypes.CDLL(None)
_library.memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_library.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

_POPULATE_WRITE = 23
"""`MADV_POPULATE_WRITE` of <linux/mman.h>, which `mmap` does not name."""


class Pages:
    """The memory of an attached segment, which stays attached while a view of it is alive.

    Args:
        attached: A `sysv_ipc.SharedMemory`.
        token: Dies with the last view.

    Attributes:
        id: The segment's System V id.
        size: Bytes.
        address: Where they begin in this process.
    """

    def __init__(self, attached: Any, token: object = None) -> None:
        memory = memoryview(attached)
        self.id: int = attached.id
        self.size = len(memory)
        self._type = ctypes.c_ubyte * self.size
        self._whole = self._type.from_buffer(memory)
        self._whole.token = token  # type: ignore[attr-defined]
        self.address = ctypes.addressof(self._whole)
        self._mapped = Ranges()

    def view(self, start: int, size: int, token: object = None) -> memoryview:
        """A writable view (format "B") of `size` bytes from `start` on; `token` dies with the last of it."""
        array = self._type.from_buffer(self._whole)
        array.token = token  # type: ignore[attr-defined]
        # A view of the array itself has the format "<B", which no other view can be copied to or cast from.
        return pickle.PickleBuffer(array).raw()[start : start + size]

    def give_back(self, start: int, end: int) -> bool:
        """Free these pages in every process that has them; they read as zeros from then on.

        Returns:
            False where the system cannot do that; nothing has changed then.
        """
        self._mapped.remove(start, end)
        return bool(_library.madvise(self.address + start, end - start, mmap.MADV_REMOVE) == 0)

    def map_at_once(self, start: int, size: int) -> None:
        """Have these pages in this process, before they are touched: in half the time it takes one by one.

        Does nothing where the system cannot do it (Linux before 5.14).
        """
        end = start + size
        if not self._mapped.covers(start, end):
            start -= start % mmap.PAGESIZE
            _library.madvise(self.address + start, end - start, _POPULATE_WRITE)
            self._mapped.add(start, end)


def attach(segment_id: int) -> Pages:
    """Attach an existing segment. On Linux that works even if it is marked for removal.

    Raises:
        IpcError: There is no such segment (any more), or the system refuses.
    """
    sysv = require_sysv()
    try:
        attached = sysv.attach(segment_id)
    except (sysv.Error, OSError, MemoryError, ValueError) as error:
        number = errno.ENOMEM if isinstance(error, MemoryError) else getattr(error, "errno", None)
        message = f"shared memory segment {segment_id} cannot be attached: {error}"
        raise IpcError(number or errno.EINVAL, message) from error
    return Pages(attached, _Detach(attached))


class _Detach:
    """`sysv_ipc` never detaches when an object dies, and `sysv_ipc.attach` makes no `Attachment`."""

    def __init__(self, attached: Any) -> None:
        self._attached = attached

    def __del__(self) -> None:
        self._attached.detach()


class _Buffer(ctypes.Structure):
    """`Py_buffer`."""

    _fields_ = [
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_void_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    ]


_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = (ctypes.py_object, ctypes.c_void_p, ctypes.c_int)
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = (ctypes.c_void_p,)
_release_buffer.restype = None


def address_of(view: memoryview) -> int:
    """Where the bytes of a contiguous view are, for as long as it lives; it may be read-only."""
    buffer = _Buffer()
    _get_buffer(view, ctypes.byref(buffer), 0)
    address: int = buffer.buf or 0
    _release_buffer(ctypes.byref(buffer))
    return address


def equal(address: int, other: int, size: int) -> bool:
    """Whether `size` bytes at two addresses are the same."""
    return bool(_library.memcmp(address, other, size) == 0)
