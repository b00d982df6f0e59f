"""What travels: by cloudpickle, with large arrays beside the pickle, and mapped files by their name."""

from __future__ import annotations

import io
import mmap
import pickle
import sys
from collections.abc import Callable
from typing import Any

import cloudpickle

__all__ = ["Carried"]


class Carried:
    """Is unpickled as the value that it holds.

    Args:
        value: Whatever cloudpickle takes.
        least: Bytes from which on an array is pickled beside the rest, to be seen in shared memory; smaller
            ones are copied, and the other side's own.
    """

    __slots__ = ("_least", "_value")

    def __init__(self, value: object, least: int = 0) -> None:
        self._value = value
        self._least = least

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        buffers: list[pickle.PickleBuffer] = []
        least = self._least

        def keep_in(buffer: pickle.PickleBuffer) -> bool:
            if buffer.raw().nbytes < least:
                return True
            buffers.append(buffer)
            return False

        file = io.BytesIO()
        _Pickler(file, pickle.HIGHEST_PROTOCOL, buffer_callback=keep_in).dump(self._value)
        return _opened, (file.getvalue(), *buffers)


def _opened(data: bytes, *buffers: object) -> Any:
    return pickle.loads(data, buffers=buffers)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    def reducer_override(self, value: Any) -> Any:
        numpy = sys.modules.get("numpy")
        if numpy is not None and isinstance(value, numpy.memmap):
            reduced = _reduce_mapped(value)
            if reduced is not None:
                return reduced
        return super().reducer_override(value)


def _reduce_mapped(array: Any) -> tuple[Callable[..., Any], tuple[object, ...]] | None:
    """How to map the same part of the file again; None where that would not show the same."""
    root = array if isinstance(array.base, mmap.mmap) else array.base
    if array.filename is None or not isinstance(getattr(root, "base", None), mmap.mmap):
        return None  # in memory: an array that was computed from one
    flags = array.flags
    if array.mode == "c" or not (flags.c_contiguous or flags.f_contiguous):
        return None
    start, first = (each.__array_interface__["data"][0] for each in (array, root))
    mode = "r" if not flags.writeable else "r+"
    order = "C" if flags.c_contiguous else "F"
    return _mapped, (array.filename, array.dtype, mode, array.offset + start - first, array.shape, order)


def _mapped(*arguments: Any) -> Any:
    import numpy  # noqa: PLC0415  # only who maps a file has it

    return numpy.memmap(*arguments)
