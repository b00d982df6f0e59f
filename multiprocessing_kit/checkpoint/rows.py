"""Responses to rows of the file and back.

Of a plain successful `JobResponse` the body is kept, and a few numbers; everything else is kept whole. Bodies
that SQLite has a type for are stored as they are.
"""

from __future__ import annotations

import math
from typing import Any, Final, TypeAlias

from multiprocessing_kit.errors import SerializationError
from multiprocessing_kit.ipc.codec import decode, encode
from multiprocessing_kit.response import JobResponse, Response

__all__ = ["FAILED", "Row", "response_of", "row_of"]

Row: TypeAlias = "tuple[int, bytes, int, float | None, int | None, int | None, int, int, Any]"
"""position, digest, kind, seconds, attempts, pid, run, number of the job in that run, body"""

NATIVE: Final = 0
"""The body as it is."""
PICKLED: Final = 1
"""The pickled body."""
WHOLE: Final = 2
"""The pickled response, which is ok."""
FAILED: Final = 3
"""The pickled response, which is not."""

_LARGEST = 10**9 - 10**6
"""Bytes; SQLite takes no row of a gigabyte."""


def row_of(position: int, digest: bytes, response: Response, run: int, job: int) -> Row:
    """The row for an answer.

    Raises:
        SerializationError: It cannot be pickled (again), or is too large.
    """
    if type(response) is not JobResponse or response.exit_code or response.exception is not None:
        data = _fitting(encode(response, "the response"))
        return position, digest, WHOLE if _is_ok(response) else FAILED, None, None, None, run, job, data
    body, kind = response.body, NATIVE
    if type(body) is not int or not -(2**63) <= body < 2**63:
        if not _is_native(body):
            body, kind = encode(body, "the result"), PICKLED
        if type(body) in (bytes, str):
            _fitting(body)
    return position, digest, kind, response.duration, response.attempts, response.pid, run, job, body


def response_of(row: Row, runs: dict[int, str], path: str) -> Response:
    """The answer in a row of `path`; a failed one if it cannot be unpickled any more.

    Args:
        row: As it was stored.
        runs: Names of the runs.
        path: For the message.
    """
    position, _, kind, seconds, attempts, pid, run, job, body = row
    job_id = f"{runs.get(run, '')}-{job}"
    try:
        if kind == PICKLED:
            body = decode(body, "the result", job_id)
        elif kind != NATIVE:
            response: Response = decode(body, "the response", job_id)
            if isinstance(response, JobResponse):
                response.argument_index = position
            return response
    except SerializationError as error:
        told = SerializationError(
            f"{error}; it is kept in {path} as the answer of input {position}, and is there again when its "
            "class can be found as before",
            job_id=job_id,
        )
        told.__cause__ = error.__cause__
        return JobResponse(None, 0, told, job_id, attempts or 0, seconds or 0.0, pid or 0, position)
    response = JobResponse.succeeded(body, job_id, seconds or 0.0, pid or 0, position)
    response.attempts = attempts or 1
    return response


def _is_native(body: Any) -> bool:
    kind: type = type(body)
    if kind is str:
        return _encodes(body)
    return (
        kind is bytes or kind is type(None) or (kind is float and not math.isnan(body))
    )  # NaN would come back as None


def _encodes(text: str) -> bool:
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError:  # a lone surrogate, as in names of files
        return False
    return True


def _fitting(data: Any) -> Any:
    if len(data) > _LARGEST:
        raise SerializationError(f"an answer of {len(data) / 1e9:.1f} GB is larger than SQLite can store")
    return data


def _is_ok(response: Response) -> bool:
    try:
        return bool(response.ok)
    except Exception:  # a property of the user's
        return False
