"""Objects to bytes and back: pickle protocol 5, and every refusal turned into one error.

Pickling runs user code (`__reduce__`, `__setstate__`), which may raise anything, `SystemExit`
included. `encode` and `decode` therefore catch every exception but `KeyboardInterrupt`, which is
the user's own Ctrl-C, and raise `SerializationError` from it.

Exceptions need more care: some pickle and then fail to unpickle (a constructor with required
arguments of its own), which would come out at the reader, too late. `pack_exception` tries both.
"""

from __future__ import annotations

import pickle
import traceback
from typing import Any

from multiprocessing_kit.errors import RemoteError, SerializationError

__all__ = ["decode", "encode", "pack_exception", "refused", "unpack_exception"]

_PROTOCOL = pickle.HIGHEST_PROTOCOL

PackedException = tuple["bytes | None", str, str, str]
"""(the pickled exception or None, its type's name, its message, the traceback as text)"""


def encode(value: object, what: str, job_id: str = "") -> bytes:
    """Pickle `value`.

    Args:
        value: Any object.
        what: How an error names it, such as "the result".
        job_id: The job an error belongs to.

    Raises:
        SerializationError: It cannot be pickled; the reason is its cause.
    """
    try:
        return pickle.dumps(value, _PROTOCOL)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise refused("pickled", type(value).__qualname__, what, job_id, error) from error


def decode(data: bytes | memoryview, what: str, job_id: str = "") -> Any:
    """Unpickle `data`; arguments and errors as for `encode`."""
    try:
        return pickle.loads(data)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise refused("unpickled", "", what, job_id, error) from error


def refused(verb: str, type_name: str, what: str, job_id: str, error: BaseException) -> SerializationError:
    """The error for what cannot be pickled or unpickled; `verb` says which."""
    subject = f"job {job_id}: {what}" if job_id else what
    kind = f" (a {type_name})" if type_name else ""
    reason = "".join(traceback.format_exception_only(type(error), error)).strip()
    return SerializationError(f"{subject}{kind} cannot be {verb}: {reason}", job_id=job_id)


def pack_exception(error: BaseException) -> PackedException:
    """Make `error` and its traceback fit to travel; never fails."""
    type_name = _type_name(type(error))
    message = "".join(traceback.format_exception_only(type(error), error)).strip()
    return _pickled_twice(error), type_name, message, _traceback_text(error)


def unpack_exception(packed: PackedException, job_id: str = "") -> BaseException:
    """The exception of `pack_exception`, with a `RemoteError` that holds its traceback as cause.

    Where the exception itself could not travel, a `RemoteError` stands for it.
    """
    data, type_name, message, text = packed
    if data is None:
        return RemoteError(message, job_id=job_id, type_name=type_name, traceback_text=text)
    try:
        error = decode(data, "the exception", job_id)
    except SerializationError:  # it unpickled in the child; whatever differs here, the text is left
        return RemoteError(message, job_id=job_id, type_name=type_name, traceback_text=text)
    assert isinstance(error, BaseException)
    if text:
        error.__cause__ = RemoteError("in the child", job_id=job_id, type_name=type_name, traceback_text=text)
    return error


def _pickled_twice(error: BaseException) -> bytes | None:
    try:
        data = encode(error, "the exception")
        copy = decode(data, "the exception")
    except SerializationError:
        return None
    return data if type(copy) is type(error) else None


def _traceback_text(error: BaseException) -> str:
    cause = error.__cause__
    if error.__traceback__ is None and isinstance(cause, RemoteError):
        return cause.traceback_text  # it has travelled before: keep where it really came from
    if error.__traceback__ is None and cause is None and error.__context__ is None:
        return ""  # made, not raised: there is nothing to tell
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))


def _type_name(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
