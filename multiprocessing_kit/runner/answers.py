"""Answers to records and back.

A plain successful `JobResponse` travels as its body alone: the header and the ledger know the rest, and
the caller makes the response when somebody looks at it. Everything else travels whole. A response that
cannot be pickled becomes a failed one that can.
"""

from __future__ import annotations

import gc
import itertools

from multiprocessing_kit.errors import SerializationError
from multiprocessing_kit.ipc.codec import decode
from multiprocessing_kit.ipc.parcel import Parcel, pack, unpack
from multiprocessing_kit.response import JobResponse, Response
from multiprocessing_kit.runner import messages
from multiprocessing_kit.runner.messages import HEADER

__all__ = ["Opened", "Payload", "Sealed", "open_answer", "seal_answer"]

Payload = tuple["bytes | memoryview", "list[memoryview]"]
"""A pickle, and the buffers that are out of it."""


def seal_answer(
    response: Response, index: int, attempt: int, job_id: str
) -> tuple[Response, bytes, bytes | Parcel]:
    """Header and payload for `response`, and the response that they are: another one if it cannot travel."""
    try:
        if type(response) is JobResponse and response.ok:
            header = HEADER.pack(messages.DONE, attempt, index, response.duration)
            return response, header, pack(response.body, "the result", job_id)
        return _whole(response, index, attempt, job_id)
    except SerializationError as error:
        failed = JobResponse(exception=error, job_id=job_id, attempts=attempt)
        if isinstance(response, JobResponse):
            failed.duration, failed.pid = response.duration, response.pid
        return _whole(failed, index, attempt, job_id)


def _whole(
    response: Response, index: int, attempt: int, job_id: str
) -> tuple[Response, bytes, bytes | Parcel]:
    duration = response.duration if isinstance(response, JobResponse) else 0.0
    header = HEADER.pack(messages.RESPONSE, attempt, index, duration)
    return response, header, pack(response, "the response", job_id)


def open_answer(record: bytes, payload: Payload, job_id: str, pid: int) -> Response:
    """The response in a record that is none of the bare ones; a failed one if it cannot be unpickled here.

    Args:
        record: Its header counts.
        payload: The pickle, and the buffers that are out of it.
        job_id: The job's.
        pid: Of the child that sent it.
    """
    kind, attempt, index, seconds = HEADER.unpack_from(record)
    bare = kind == messages.DONE_LARGE
    try:
        value = unpack(*payload, "the result" if bare else "the response", job_id)
    except SerializationError as error:
        return JobResponse(None, 0, error, job_id, attempt, seconds, pid, index)
    response: Response = JobResponse.succeeded(value, job_id, seconds, pid, index) if bare else value
    if isinstance(response, JobResponse):
        response.argument_index = index
        response.attempts = attempt
    return response


class Opened:
    """Answers in a row that are known already; see `responses.Part`.

    Attributes:
        first: Index of the first one's job.
        attempt: Which one of each job led to its answer.
    """

    __slots__ = ("attempt", "first", "responses")

    def __init__(self, first: int, responses: list[Response], attempt: int) -> None:
        self.attempt = attempt
        self.first = first
        self.responses = responses

    def __len__(self) -> int:
        return len(self.responses)

    def open(self) -> list[Response]:
        """The responses."""
        return self.responses


class Sealed:
    """Successful answers in a row, as they came; see `responses.Part`.

    Args:
        records: Of kind DONE; or one of kind MANY or MANY_APART.
        run_id: Prefix of the job ids.
        pid: Of the child that sent it.
        first: Index of the first one's job.
        count: How many.
    """

    __slots__ = ("_count", "_pid", "_records", "_run_id", "first")

    def __init__(self, records: list[bytes], run_id: str, pid: int, first: int, count: int) -> None:
        self._records = records
        self._run_id = run_id
        self._pid = pid
        self.first = first
        self._count = count

    def __len__(self) -> int:
        return self._count

    @property
    def attempt(self) -> int:
        """Which attempt of each job led to its answer."""
        kind, count, _, _ = HEADER.unpack_from(self._records[0])
        return count if kind == messages.DONE else 1

    def open(self) -> list[Response]:
        """The responses; a failed one in place of each that cannot be unpickled here."""
        if self._records[0][0] == messages.DONE:
            return list(map(self._open_done, self._records))
        payload = memoryview(self._records[0])[HEADER.size :]
        times, bodies = decode(payload, "the results")
        durations: list[float] = []
        for count, total in zip(times[::2], times[1::2], strict=True):
            durations += [total / count] * count
        if self._records[0][0] == messages.MANY_APART:
            return list(map(self._response, itertools.count(self.first), bodies, durations))
        make, run_id, pid = JobResponse.succeeded, self._run_id, self._pid
        collects = gc.isenabled()
        gc.disable()  # it would look through them again and again while they are made, and find nothing
        try:
            return [
                make(body, f"{run_id}-{index}", duration, pid, index)
                for index, (body, duration) in enumerate(zip(bodies, durations, strict=True), self.first)
            ]
        finally:
            if collects:
                gc.enable()

    def _open_done(self, record: bytes) -> Response:
        _, attempt, index, seconds = HEADER.unpack_from(record)
        response = self._response(index, memoryview(record)[HEADER.size :], seconds)
        response.attempts = attempt
        return response

    def _response(self, index: int, body: bytes | memoryview, duration: float) -> JobResponse:
        job_id = f"{self._run_id}-{index}"
        try:
            value = decode(body, "the result", job_id)
        except SerializationError as error:
            return JobResponse(None, 0, error, job_id, 1, duration, self._pid, index)
        return JobResponse.succeeded(value, job_id, duration, self._pid, index)
