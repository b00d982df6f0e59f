from __future__ import annotations

import copy
import pickle
import traceback
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from multiprocessing_kit import JobError, JobResponse, RemoteError, Response


class CodedError(Exception):
    def __init__(self, code: object) -> None:
        super().__init__(code)
        self.code = code


class HasOk:
    ok = True


class HasAll(HasOk):
    body = exception = None
    exit_code = 0


@dataclass
class Page:
    body: str
    ok: bool = True
    exception: BaseException | None = None
    exit_code: int = 0


@pytest.mark.parametrize(
    ("value", "is_one"),
    [
        (JobResponse(), True),
        (Page("text"), True),
        (HasAll(), True),
        (SimpleNamespace(ok=True, body=1, exception=None, exit_code=0), True),
        (HasOk(), False),
        ({"ok": True, "body": 1, "exception": None, "exit_code": 0}, False),
        (None, False),
        (7, False),
    ],
)
def test_what_is_a_response(value: object, is_one: bool) -> None:
    assert isinstance(value, Response) is is_one


@pytest.mark.parametrize(
    ("exit_code", "exception", "expected"),
    [
        (0, None, 0),
        (5, None, 5),
        (-9, None, -9),
        (0, ValueError("no"), 1),
        (5, ValueError("no"), 5),
        (0, CodedError(17), 17),
        (0, CodedError(-3), -3),
        (5, CodedError(17), 5),
        (0, CodedError(0), 1),
        (0, CodedError("E42"), 1),
        (0, CodedError(True), 1),
        (0, CodedError(None), 1),
        (0, SystemExit(3), 3),
        (0, SystemExit(0), 1),
        (0, SystemExit("bye"), 1),
        (0, SystemExit(), 1),
    ],
)
def test_exit_code(exit_code: int, exception: BaseException | None, expected: int) -> None:
    response = JobResponse(None, exit_code, exception)
    assert (response.exit_code, type(response.exit_code)) == (expected, int)
    assert response.ok is (expected == 0)


def test_defaults() -> None:
    response = JobResponse("body")
    assert (response.ok, response.body, response.exception, response.exit_code) == (True, "body", None, 0)
    assert (response.job_id, response.attempts, response.duration) == ("", 0, 0.0)
    assert (response.pid, response.argument_index) == (0, -1)


def test_result_of_a_success() -> None:
    body = object()
    assert JobResponse(body).result() is body


def test_result_raises_the_exception_itself() -> None:
    error = ValueError("no")
    with pytest.raises(ValueError, match="no") as caught:
        JobResponse("half", exception=error).result()
    assert caught.value is error


def test_result_of_a_failure_without_an_exception() -> None:
    with pytest.raises(JobError, match=r"job run-7 .*exit code 3") as caught:
        JobResponse(exit_code=3, job_id="run-7").result()
    assert caught.value.job_id == "run-7"


def raise_deep(error: BaseException) -> BaseException:
    def innermost() -> None:
        raise error

    try:
        innermost()
    except BaseException as raised:
        return raised
    raise AssertionError


def travelled(response: JobResponse) -> JobResponse:
    copied = pickle.loads(pickle.dumps(response))
    assert isinstance(copied, JobResponse)
    return copied


@pytest.mark.parametrize(
    "response",
    [
        JobResponse({"a": [1]}),
        JobResponse(exit_code=4),
        JobResponse("b", 0, None, "run-3", 2, 0.5, 4711, 3),
    ],
)
def test_a_response_travels(response: JobResponse) -> None:
    assert travelled(response) == response


def test_the_traceback_travels_as_the_cause() -> None:
    response = JobResponse(exception=raise_deep(KeyError("missing")), job_id="run-1")
    copied = travelled(response)
    error = copied.exception
    assert type(error) is KeyError
    assert error.args == ("missing",)
    cause = error.__cause__
    assert isinstance(cause, RemoteError)
    assert (cause.job_id, cause.type_name) == ("run-1", "KeyError")
    assert "in innermost" in cause.traceback_text
    assert copied.exit_code == 1
    with pytest.raises(KeyError) as caught:
        copied.result()
    assert "in innermost" in "".join(traceback.format_exception(caught.value))


def test_travelling_leaves_the_original_alone() -> None:
    error = raise_deep(KeyError("missing"))
    response = JobResponse(exception=error)
    travelled(response)
    assert response.exception is error
    assert error.__cause__ is None


def test_the_first_traceback_is_kept_on_a_second_journey() -> None:
    once = travelled(JobResponse(exception=raise_deep(KeyError("missing"))))
    twice = travelled(travelled(once))
    assert twice.exception is not None
    cause = twice.exception.__cause__
    assert isinstance(cause, RemoteError)
    assert "in innermost" in cause.traceback_text


def test_the_chain_of_the_original_is_in_the_text() -> None:
    def chained() -> None:
        try:
            raise_and_name("first")
        except LookupError as error:
            raise ValueError("second") from error

    def raise_and_name(name: str) -> None:
        raise LookupError(name)

    response = JobResponse(exception=_caught(chained))
    error = travelled(response).exception
    assert error is not None
    assert isinstance(error.__cause__, RemoteError)
    for part in ("LookupError: first", "in raise_and_name", "ValueError: second", "direct cause"):
        assert part in error.__cause__.traceback_text


def _caught(function: Any) -> BaseException:
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError


def test_an_exception_that_was_never_raised_has_no_cause() -> None:
    error = travelled(JobResponse(exception=ValueError("made"))).exception
    assert isinstance(error, ValueError)
    assert error.__cause__ is None


def test_a_shallow_copy() -> None:
    response = JobResponse([1], exception=ValueError("no"), job_id="run-1")
    copied = copy.copy(response)
    assert (copied.body, copied.job_id, repr(copied.exception)) == ([1], "run-1", "ValueError('no')")
