"""Responses to records and back.

A plain successful `JobResponse` travels as its body alone: the header and the ledger know the rest.
Everything else travels whole. A response that cannot be pickled becomes a failed one that can.
"""

from __future__ import annotations

from multiprocessing_kit.errors import SerializationError
from multiprocessing_kit.ipc.codec import decode, encode
from multiprocessing_kit.response import JobResponse, Response
from multiprocessing_kit.runner import messages
from multiprocessing_kit.runner.messages import HEADER

__all__ = ["open_answer", "seal_answer"]


def seal_answer(response: Response, index: int, attempt: int, job_id: str) -> tuple[Response, bytes]:
    """The record for `response`, and the response that it holds: another one if `response` cannot travel."""
    try:
        if type(response) is JobResponse and response.ok:
            body = encode(response.body, "the result", job_id)
            return response, HEADER.pack(messages.DONE, attempt, index, response.duration) + body
        return response, _record(response, index, attempt, job_id)
    except SerializationError as error:
        failed = JobResponse(exception=error, job_id=job_id, attempts=attempt)
        if isinstance(response, JobResponse):
            failed.duration, failed.pid = response.duration, response.pid
        return failed, _record(failed, index, attempt, job_id)


def _record(response: Response, index: int, attempt: int, job_id: str) -> bytes:
    duration = response.duration if isinstance(response, JobResponse) else 0.0
    return HEADER.pack(messages.RESPONSE, attempt, index, duration) + encode(response, "the response", job_id)


def open_answer(record: bytes, header: tuple[int, int, int, float], job_id: str, pid: int) -> Response:
    """The response in an answer's record; a failed one if it cannot be unpickled here."""
    kind, attempt, index, duration = header
    payload = memoryview(record)[HEADER.size :]
    try:
        if kind == messages.DONE:
            return JobResponse(
                decode(payload, "the result", job_id), 0, None, job_id, attempt, duration, pid, index
            )
        response: Response = decode(payload, "the response", job_id)
    except SerializationError as error:
        return JobResponse(None, 0, error, job_id, attempt, duration, pid, index)
    if isinstance(response, JobResponse):
        response.argument_index = index
    return response
