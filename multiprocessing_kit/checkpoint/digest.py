"""A job's argument in 16 bytes, which are the same in the next run of the program.

A digest is made of a pickle, and a pickle says more than the value: the order in which a set happens to
iterate (another one in each run, as strings hash differently), and which equal parts are one and the same
object. So sets are pickled as the sorted digests of their members, and nothing is noted as "the same object
as before". Only what refers to itself needs such notes; it is pickled as usual.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["SIZE", "Digester"]

SIZE = 16
_PROTOCOL = 5
"""Not the highest: it must be the same whoever reads the file."""

_NUMBERS = frozenset({int, float, bool, type(None)})
"""Their pickles have no references, nor have those of tuples and lists of them."""

_ATOMS = _NUMBERS | {str, bytes}
_FRAME = 1 << 17
"""Bytes; the pickler writes more at once only of one long string or buffer."""

_LONGEST = 1 << 24
"""Bytes without references. Parts that refer to one part each twice, and so on, would have no end."""


class _TooLongError(Exception):
    """The pickle without references is longer than it should be."""


class Digester:
    """Called with an argument, gives its digest; None if it cannot be pickled. For one thread."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._pickler = pickle.Pickler(self._buffer, _PROTOCOL)
        self._pickler.fast = True

    def __call__(self, value: object) -> bytes | None:
        try:
            if type(value) in _ATOMS:  # here, too: a call less for the most frequent
                return blake2b(pickle.dumps(value, _PROTOCOL), digest_size=SIZE).digest()
            return self._digest(value)
        except KeyboardInterrupt:
            raise
        except BaseException:  # pickling runs user code
            return None

    def _digest(self, value: Any) -> bytes:
        kind = type(value)
        if kind in _ATOMS:
            return blake2b(pickle.dumps(value, _PROTOCOL), digest_size=SIZE).digest()
        if kind is tuple or kind is list:
            kinds = set(map(type, value))
            if kinds <= _ATOMS and (kinds <= _NUMBERS or len(value) < _FRAME):
                return blake2b(self._flat(value), digest_size=SIZE).digest()
        try:
            return _hash(value, self._digest, fast=True)
        except (ValueError, RecursionError, _TooLongError):  # it refers to itself, as far as one can tell
            return _hash(value, self._digest, fast=False)

    def _flat(self, value: object) -> bytes:
        buffer = self._buffer
        buffer.seek(0)
        buffer.truncate()
        self._pickler.dump(value)
        return buffer.getvalue()


def _hash(value: object, digest: Callable[[object], bytes], *, fast: bool) -> bytes:
    sink = _Sink(_LONGEST if fast else None)
    pickler = _Pickler(sink, digest)
    pickler.fast = fast
    pickler.dump(value)
    return sink.hash.digest()


class _Sink:
    """A file that only keeps the hash of what is written: a large array is not copied."""

    def __init__(self, most: int | None) -> None:
        self.hash = blake2b(digest_size=SIZE)
        self._left = most

    def write(self, data: Buffer) -> int:
        size = memoryview(data).nbytes  # a `PickleBuffer` has no length
        if self._left is not None and size < _FRAME:
            self._left -= size
            if self._left < 0:
                raise _TooLongError
        self.hash.update(data)
        return size


class _Pickler(pickle.Pickler):
    """Gives sets as the digests of their members.

    By `persistent_id`, although nothing is persistent here: `reducer_override` is not asked about sets.
    """

    def __init__(self, sink: _Sink, digest: Callable[[object], bytes]) -> None:
        super().__init__(sink, _PROTOCOL)
        self._digest = digest

    def persistent_id(self, value: Any) -> Any:
        kind = type(value)
        if kind is not set and kind is not frozenset and not issubclass(kind, (set, frozenset)):
            return None
        return kind, sorted(map(self._digest, value)), getattr(value, "__dict__", None)
