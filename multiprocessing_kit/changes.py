"""What listeners of JOB_RETRY change on a worker: kept for that job's further attempts, and for no other.

    JOB_RETRY:  snapshot ▸ listeners run ▸ compare ──▶ changes ──(with the requeued job)──▶ another child
    the job leaves this child:  the attributes get their old values back

A change is a new value under a name, or a change inside an object (`worker.urls.pop(0)`): the latter is
found by pickling each attribute before and after. Objects whose pickle is larger than `LARGEST`, or
that do not pickle and unpickle, are only compared by identity: assign a new object to change those.
"""

from __future__ import annotations

import contextlib
import pickle
import typing
from collections.abc import Callable
from typing import Any

from multiprocessing_kit.errors import SerializationError
from multiprocessing_kit.ipc.codec import decode, encode

if typing.TYPE_CHECKING:
    from multiprocessing_kit.worker import Worker

__all__ = ["LARGEST", "Changes"]

LARGEST = 1 << 20
"""Bytes of pickle above which the inside of an attribute is not compared."""

_IMMUTABLE = frozenset({int, float, bool, str, bytes, type(None)})
_ABSENT = object()


class Changes:
    """The changes of one job so far.

    Args:
        arrived: What `pack` gave in the child that ran the job before.
    """

    def __init__(self, arrived: dict[str, bytes | None] | None = None) -> None:
        self._arrived = arrived or {}
        self._originals: dict[str, Any] = {}

    def apply(self, worker: Worker) -> None:
        """Make the changes that arrived with the job."""
        attributes = worker.__dict__
        for name, data in self._arrived.items():
            self._originals[name] = attributes.get(name, _ABSENT)
            if data is None:
                attributes.pop(name, None)
            else:
                attributes[name] = decode(data, f"worker.{name}, changed at JOB_RETRY,")

    def watch(self, worker: Worker, listeners: Callable[[], None]) -> None:
        """Run `listeners` and note what they change."""
        before = _snapshot(worker)
        listeners()
        attributes = worker.__dict__
        for name in (before.keys() | (attributes.keys() - worker.PER_JOB)) - self._originals.keys():
            value, data = before.get(name, (_ABSENT, None))
            if data is not None and _small_pickle(value) != data:
                with contextlib.suppress(SerializationError):  # it pickles, and never comes back
                    self._originals[name] = decode(data, f"worker.{name}")
                    continue
            if attributes.get(name, _ABSENT) is not value:
                self._originals[name] = value

    def pack(self, worker: Worker) -> dict[str, bytes | None]:
        """The changes as bytes by name (None: deleted), for another child.

        Raises:
            SerializationError: A new value cannot be pickled.
        """
        attributes = worker.__dict__
        packed: dict[str, bytes | None] = {}
        for name in self._originals:
            if name not in attributes:
                packed[name] = None
                continue
            what = f"worker.{name}, changed at JOB_RETRY, must follow the requeued job, and"
            packed[name] = encode(attributes[name], what, worker.job_id)
        return packed

    def undo(self, worker: Worker) -> None:
        """Give the worker its own values back."""
        for name, value in self._originals.items():
            if value is _ABSENT:
                worker.__dict__.pop(name, None)
            else:
                worker.__dict__[name] = value
        self._originals = {}


def _snapshot(worker: Worker) -> dict[str, tuple[Any, bytes | None]]:
    return {
        name: (value, None if type(value) in _IMMUTABLE else _small_pickle(value))
        for name, value in worker.__dict__.items()
        if name not in worker.PER_JOB
    }


class _TooLargeError(Exception):
    pass


class _Bounded:
    """A file that refuses more than LARGEST bytes, so that a large object costs no full pickle."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> int:
        self._size += len(data)
        if self._size > LARGEST:
            raise _TooLargeError
        self.parts.append(bytes(data))
        return len(data)


def _small_pickle(value: object) -> bytes | None:
    """The pickle of `value`, or None where it has none or a large one."""
    file = _Bounded()
    try:
        pickle.Pickler(file, pickle.HIGHEST_PROTOCOL).dump(value)
    except KeyboardInterrupt:
        raise
    except BaseException:  # whatever the reason: it is compared by identity then, as documented
        return None
    return b"".join(file.parts)
