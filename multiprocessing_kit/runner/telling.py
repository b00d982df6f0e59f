"""What the caller's listeners hear of a run, and in which words."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from multiprocessing_kit.errors import JobCanceledError, SerializationError
from multiprocessing_kit.events import JobEvent
from multiprocessing_kit.ipc.codec import decode
from multiprocessing_kit.response import JobResponse, Response
from multiprocessing_kit.runner.answers import Opened
from multiprocessing_kit.runner.messages import HEADER
from multiprocessing_kit.supervise.interrupts import Interrupts

__all__ = ["Audience", "Tell", "Teller"]

_log = logging.getLogger("multiprocessing_kit.runner")

_EVENTS = list(JobEvent)
_SUCCESS = JobEvent.JOB_SUCCESS

_SENT_BY_CHILDREN = JobEvent.JOB_START.bit | JobEvent.JOB_RUNNING.bit | JobEvent.JOB_RETRY.bit
"""The events that only a child knows of; the final ones follow from the answer."""


Tell = Callable[["dict[str, Any]"], None]
"""Calls the listeners of one event, which may change meanwhile, with a payload."""


class Audience:
    """The listeners of the caller.

    Args:
        listened: Tells which events anybody listens to, as a mask of `JobEvent.bit`.
        teller: Gives the function that tells of an event; None while nobody has listened to it.
    """

    def __init__(self, listened: Callable[[], int], teller: Callable[[JobEvent], Tell | None]) -> None:
        self.listened = listened
        self.teller = teller

    def tell(self, event: JobEvent, payload: dict[str, Any]) -> None:
        """Call the listeners of `event`."""
        tell = self.teller(event)
        if tell is not None:
            tell(payload)


class Teller:
    """Tells the audience of one run's events.

    Args:
        audience: The listeners.
        run_id: Prefix of the job ids.
        interrupts: Listeners are user code.
    """

    def __init__(self, audience: Audience, run_id: str, interrupts: Interrupts) -> None:
        self._audience = audience
        self._run_id = run_id
        self._interrupts = interrupts
        self._mask = 0

    def look(self) -> int:
        """See who listens now; the mask of events that the children are to send."""
        self._mask = self._audience.listened()
        return self._mask & _SENT_BY_CHILDREN

    @property
    def listens(self) -> bool:
        """Whether anybody does."""
        return bool(self._mask)

    def answered(self, answers: Opened, arguments: Sequence[object], pid: int) -> None:
        """Tell of the last event of jobs in a row."""
        interrupts = self._interrupts
        interrupts_before = interrupts.count
        interrupts.in_user_code = True
        mask, run_id, attempt = self._mask, self._run_id, answers.attempt
        success = self._audience.teller(_SUCCESS) if mask & _SUCCESS.bit else None
        index = answers.first - 1
        try:
            for response, argument in zip(answers.responses, arguments, strict=True):
                index += 1
                if not response.ok:
                    event = _unhappy_event(response)
                    if mask & event.bit:
                        self._audience.tell(
                            event, self._payload(event, index, argument, response, attempt, pid)
                        )
                elif success is not None:
                    success(  # as `_payload`, without its call for each job
                        {
                            "event": _SUCCESS,
                            "job_id": f"{run_id}-{index}",
                            "argument": argument,
                            "attempt": attempt,
                            "response": response,
                            "exception": response.exception,
                            "delay": None,
                            "info": {},
                            "pid": pid,
                        }
                    )
        finally:
            interrupts.in_user_code = False
        interrupts.check_user_code(interrupts_before)

    def retried(self, response: JobResponse, argument: object, delay: float) -> None:
        """Tell of an attempt that failed with its child, so that no child tells of it."""
        event = JobEvent.JOB_RETRY
        if self._mask & event.bit:
            index, attempt, pid = response.argument_index, response.attempts, response.pid
            payload = self._payload(event, index, argument, response, attempt, pid)
            payload["delay"] = delay
            interrupts_before = self._interrupts.count
            self._interrupts.in_user_code = True
            try:
                self._audience.tell(event, payload)
            finally:
                self._interrupts.in_user_code = False
            self._interrupts.check_user_code(interrupts_before)

    def relayed(self, record: bytes, argument: object, pid: int) -> None:
        """Tell of an event that a child sent."""
        _, attempt, index, place = HEADER.unpack_from(record)
        event = _EVENTS[int(place)]
        if not self._mask & event.bit:
            return
        interrupts = self._interrupts
        interrupts_before = interrupts.count
        interrupts.in_user_code = True
        try:
            fields = self._fields(record, event, index)
            payload = self._payload(event, index, argument, fields.get("response"), attempt, pid)
            payload["delay"] = fields.get("delay")
            payload["info"] = fields.get("info") or {}
            self._audience.tell(event, payload)
        finally:
            interrupts.in_user_code = False
        interrupts.check_user_code(interrupts_before)

    def _fields(self, record: bytes, event: JobEvent, index: int) -> dict[str, Any]:
        try:
            fields: dict[str, Any] = decode(memoryview(record)[HEADER.size :], f"the payload of {event.name}")
        except SerializationError as error:  # an object in `info`: the event is still one
            _log.error("job %s-%d: %s", self._run_id, index, error)
            return {}
        return fields

    def _payload(  # noqa: PLR0917
        self,
        event: JobEvent,
        index: int,
        argument: object,
        response: Response | None,
        attempt: int,
        pid: int,
    ) -> dict[str, Any]:
        return {
            "event": event,
            "job_id": f"{self._run_id}-{index}",
            "argument": argument,
            "attempt": attempt,
            "response": response,
            "exception": None if response is None else response.exception,
            "delay": None,
            "info": {},
            "pid": pid,
        }


def _unhappy_event(response: Response) -> JobEvent:
    canceled = isinstance(response.exception, JobCanceledError)
    return JobEvent.JOB_CANCELED if canceled else JobEvent.JOB_FAILED
