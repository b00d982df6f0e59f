"""What a job answers."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from multiprocessing_kit.errors import JobError
from multiprocessing_kit.ipc.codec import pack_exception, unpack_exception

__all__ = ["JobResponse", "Response", "is_plain", "is_response"]


@runtime_checkable
class Response(Protocol):
    """What `process()` may return to say more than a value; any class with these four is one."""

    @property
    def ok(self) -> bool:
        """Whether the job succeeded; a response that is not ok counts as a failure and may be retried."""

    @property
    def body(self) -> Any:
        """The result."""

    @property
    def exception(self) -> BaseException | None:
        """What went wrong, if an exception tells."""

    @property
    def exit_code(self) -> int:
        """0, or another number for a failure."""


@dataclass
class JobResponse:
    """The package's own `Response`.

    Args:
        body: The result.
        exit_code: 0 for success. With an exception and no code given: the exception's own
            integer `code` where it has one that is not 0 (as `SystemExit` has), else 1.
        exception: What went wrong.

    Attributes:
        job_id: The job that it answers; `""` before it does.
        attempts: How often the job was run.
        duration: Seconds that the last attempt spent in `process()`.
        pid: Process id of the child that answered; 0 if none ever ran it.
        argument_index: The argument's place among the inputs, from 0.
    """

    body: Any = None
    exit_code: int = 0
    exception: BaseException | None = None
    job_id: str = ""
    attempts: int = 0
    duration: float = 0.0
    pid: int = 0
    argument_index: int = -1

    def __post_init__(self) -> None:
        if self.exception is not None and self.exit_code == 0:
            try:
                code = getattr(self.exception, "code", None)
            except Exception:  # a property of the user's
                code = None
            is_code = isinstance(code, int) and not isinstance(code, bool)
            self.exit_code = code if is_code and code else 1

    @property
    def ok(self) -> bool:
        """Whether the job succeeded."""
        return self.exit_code == 0 and self.exception is None

    def result(self) -> Any:
        """The body.

        Raises:
            BaseException: The job's own exception, with a `RemoteError` as its cause that holds the
                child's traceback.
            JobError: It failed without one.
        """
        if self.exception is not None:
            raise self.exception
        if self.exit_code:
            raise JobError(f"job {self.job_id} failed with exit code {self.exit_code}", job_id=self.job_id)
        return self.body

    @classmethod
    def succeeded(cls, body: Any, job_id: str, duration: float, pid: int, index: int) -> JobResponse:
        """The answer of a job that succeeded at once; half the price of a call of the class."""
        made = cls.__new__(cls)
        made.__dict__ = {
            "body": body,
            "exit_code": 0,
            "exception": None,
            "job_id": job_id,
            "attempts": 1,
            "duration": duration,
            "pid": pid,
            "argument_index": index,
        }
        return made

    def __getstate__(self) -> dict[str, Any]:
        # An exception may not pickle, or not unpickle, and would lose its traceback: pack it.
        state = self.__dict__.copy()
        if self.exception is not None:
            state["exception"] = pack_exception(self.exception)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.exception is not None:
            self.exception = unpack_exception(state["exception"], self.job_id)


_ABSENT = object()
_PLAIN = frozenset({int, str, float, bool, bytes, bytearray, type(None), list, dict, tuple, set, frozenset})


def is_plain(value: object) -> bool:
    """Whether `value` is of a common built-in type, none of which is a `Response`."""
    return type(value) in _PLAIN


def is_response(value: object) -> bool:
    """`isinstance(value, Response)`, without its cost for what most jobs return."""
    return type(value) is JobResponse or (not is_plain(value) and _has_its_attributes(value))


def _has_its_attributes(value: object) -> bool:
    try:
        return isinstance(value, Response)
    except Exception:  # before Python 3.12 this calls properties and __getattr__, which may raise anything
        names = ("ok", "body", "exception", "exit_code")
        return all(inspect.getattr_static(value, name, _ABSENT) is not _ABSENT for name in names)
