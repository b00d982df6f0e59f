"""What a client may ask for: jobs, as JSON."""

from __future__ import annotations

import json
import secrets
import time
from datetime import datetime
from typing import Annotated, Any, NoReturn

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from multiprocessing_kit.errors import ServiceError
from multiprocessing_kit.service.job import HIGHEST_PRIORITY, LATEST, LONGEST_DELAY, Job
from multiprocessing_kit.service.payloads import Payloads

__all__ = ["MOST_JOBS", "JobRequest", "WrongRequestError", "jobs_of"]

MOST_JOBS = 10_000
"""In one request."""

_NO_INSTANT = "it is neither seconds since 1970 nor such as 2030-01-31T08:00:00Z"


class WrongRequestError(ServiceError, ValueError):
    """A request makes no sense.

    Attributes:
        problems: Each with "at", the place in the body, and "problem".
    """

    def __init__(self, message: str, problems: list[dict[str, str]]) -> None:
        super().__init__(message)
        self.problems = problems


class JobRequest(BaseModel):
    """A job to push."""

    model_config = ConfigDict(extra="forbid", strict=True)

    argument: Any = Field(None, description="What the worker gets.")
    delay: float = Field(
        0.0, ge=0, le=LONGEST_DELAY, allow_inf_nan=False, description="Seconds before which it does not run."
    )
    at: Annotated[float, Field(ge=0, le=LATEST, allow_inf_nan=False)] | AwareDatetime | None = Field(
        None,
        description="In place of delay: the instant before which it does not run, as seconds since 1970, "
        "or as text with a time zone, such as 2030-01-31T08:00:00+01:00.",
    )
    priority: int = Field(0, ge=-HIGHEST_PRIORITY, le=HIGHEST_PRIORITY, description="Higher ones run first.")
    id: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="A name of the client's own, refused while a job has it that is not done.",
    )

    @field_validator("at", mode="before")
    @classmethod
    def _instant(cls, value: Any) -> Any:
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value.replace("Z", "+00:00"))
            except ValueError as error:
                raise ValueError(_NO_INSTANT) from error
        is_time = isinstance(value, datetime) and value.tzinfo is not None
        is_seconds = type(value) in (int, float) and 0 <= value <= LATEST
        if not (is_time or is_seconds or value is None):  # a union would complain for each of its parts
            raise ValueError(_NO_INSTANT)
        return value

    @field_validator("id")
    @classmethod
    def _is_printable(cls, value: str | None) -> str | None:
        if value is not None and not value.isprintable():
            raise ValueError("it has characters that cannot be printed")
        return value

    @model_validator(mode="after")
    def _one_time(self) -> JobRequest:
        if self.delay and self.at is not None:
            raise ValueError("delay and at are two ways of saying the same: one of them must go")
        return self

    def job(self, topic: str, payloads: Payloads) -> Job:
        """The job.

        Raises:
            PayloadError: The argument cannot be written in the service's encoding.
        """
        at = self.at.timestamp() if isinstance(self.at, datetime) else self.at
        due = at if at is not None else time.time() + self.delay if self.delay else 0.0
        name = secrets.token_hex(12) if self.id is None else self.id
        payload = payloads.encode(self.argument)
        return Job(name, topic, payload, self.priority, due, is_unique=self.id is not None)


_one = TypeAdapter(JobRequest)
_many = TypeAdapter(Annotated[list[JobRequest], Field(min_length=1, max_length=MOST_JOBS)])


def jobs_of(body: bytes, topic: str, payloads: Payloads) -> tuple[list[Job], bool]:
    """The jobs that a body asks for.

    Args:
        body: JSON: an object, or an array of them.
        topic: Whose.
        payloads: Of the service.

    Returns:
        The jobs, and whether it was an array.

    Raises:
        WrongRequestError: It is no such JSON.
        PayloadError: As for `JobRequest.job`.
    """
    try:
        found = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        what = "too deep" if isinstance(error, RecursionError) else str(error)
        raise WrongRequestError(f"the body is no JSON: {what}", []) from error
    try:
        if isinstance(found, list):
            return [request.job(topic, payloads) for request in _many.validate_python(found)], True
        return [_one.validate_python(found).job(topic, payloads)], False
    except ValidationError as error:
        raise _wrong(error) from error


def _wrong(error: ValidationError) -> WrongRequestError:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    problems = [{"at": ".".join(map(str, one["loc"])), "problem": _told(one)} for one in found]
    first = problems[0]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    text = f"{first['at']}: {first['problem']}" if first["at"] else first["problem"]
    return WrongRequestError(f"the body is wrong: {text}{more}", problems[:20])


def _told(error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        known = ", ".join(JobRequest.model_fields)
        return f"there is no such field; there are {known}; what the worker gets is the argument"
    if error["type"] == "model_type":
        return "it is neither an object nor an array of objects"
    if error["type"] == "too_short":
        return "there is no job in the array"
    return error["msg"].removeprefix("Value error, ")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
