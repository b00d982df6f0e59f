"""Retry strategies, decided in this process; waits are noted instead of slept."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
import tenacity as t

from multiprocessing_kit import JobResponse, RetriesExhaustedError, RetryStrategy, RetryType, Worker

Outcome = object
"""What one attempt does: an exception is raised, anything else returned."""


class Scripted(Worker):
    """Attempt n comes out as the n-th entry says, the last one from there on."""

    def __init__(self, script: Sequence[Outcome], retry: RetryStrategy | None) -> None:
        super().__init__(retry=retry)
        self.script = script

    def process(self, argument: object) -> object:
        outcome = self.script[min(self.attempt, len(self.script)) - 1]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between attempts."""
    waits: list[float] = []
    monkeypatch.setattr("multiprocessing_kit.lifecycle.time.sleep", waits.append)
    return waits


def run(*script: Outcome, **strategy: Any) -> JobResponse:
    return cast(JobResponse, Scripted(script, RetryStrategy(**strategy)).start(None))


A, B, OK = ConnectionError("a: reset by peer"), ValueError("b: bad"), "fine"


@pytest.mark.parametrize(
    ("script", "max_retries", "attempts", "ok"),
    [
        ([OK], 3, 1, True),
        ([A, OK], 3, 2, True),
        ([A, B, OK], 3, 3, True),
        ([A, A, A, OK], 3, 4, True),
        ([A, A, A, A, OK], 3, 4, False),
        ([A, OK], 1, 2, True),
        ([A, OK], 0, 1, False),
        ([SystemExit(2), OK], 3, 1, False),
        ([GeneratorExit(), OK], 3, 1, False),
        ([JobResponse(exit_code=7), OK], 3, 2, True),
        ([JobResponse(exception=A), OK], 3, 2, True),
        ([JobResponse(exit_code=7)], 2, 3, False),
        ([None], 3, 1, True),
        ([False], 3, 1, True),
    ],
)
@pytest.mark.parametrize("retry_type", RetryType)
def test_attempts(
    script: list[Outcome], max_retries: int, attempts: int, ok: bool, retry_type: RetryType
) -> None:
    response = run(*script, max_retries=max_retries, retry_type=retry_type)
    assert (response.attempts, response.ok) == (attempts, ok)


NOT_FOUND = "status 404"
CAUSED = ValueError("caused")
CAUSED.__cause__ = KeyError("missing")


@pytest.mark.parametrize(
    ("retry", "script", "attempts"),
    [
        (t.retry_always, [OK], 4),
        (t.retry_never, [A, OK], 1),
        (t.retry_if_exception_type(), [A, B, OK], 3),
        (t.retry_if_exception_type(ConnectionError), [A, B, OK], 2),
        (t.retry_if_exception_type((ConnectionError, ValueError)), [A, B, OK], 3),
        (t.retry_if_exception_type(SystemExit), [SystemExit(2), OK], 2),
        (t.retry_if_exception_type(OSError), [JobResponse(exception=A), OK], 2),
        (t.retry_if_exception_type(OSError), [JobResponse(exit_code=1), OK], 1),
        (t.retry_if_not_exception_type(ConnectionError), [B, A, OK], 2),
        (t.retry_if_not_exception_type(ConnectionError), [B, B, OK], 3),
        (t.retry_unless_exception_type(ConnectionError), [OK, B, A, OK], 3),
        (t.retry_if_exception(lambda error: "bad" in str(error)), [B, A, OK], 2),
        (t.retry_if_exception_message(message="b: bad"), [B, A, OK], 2),
        (t.retry_if_exception_message(match=r"a: \w+ by"), [A, B, OK], 2),
        (t.retry_if_not_exception_message(match=r"a: .*"), [B, A, OK], 2),
        (t.retry_if_exception_cause_type(KeyError), [CAUSED, A, OK], 2),
        (t.retry_if_result(lambda body: body == NOT_FOUND), [NOT_FOUND, OK], 2),
        (t.retry_if_result(lambda body: body == NOT_FOUND), [A, OK], 1),
        (t.retry_if_result(lambda r: isinstance(r, JobResponse)), [JobResponse(1), OK], 2),
        (t.retry_if_result(lambda r: r.exit_code == 7), [JobResponse(exit_code=7), JobResponse(1)], 2),
        (t.retry_if_not_result(lambda body: body == OK), [NOT_FOUND, OK], 2),
        (t.retry_if_exception_type(OSError) | t.retry_if_result(lambda b: b is None), [A, None, OK], 3),
        (t.retry_any(t.retry_if_exception_type(OSError), t.retry_never), [A, B, OK], 2),
        (
            t.retry_if_exception_type(OSError) & t.retry_if_exception_message(match="a: reset.*"),
            [A, ConnectionError("refused"), OK],
            2,
        ),
        (t.retry_all(t.retry_if_exception_type(OSError), t.retry_never), [A, OK], 1),
        (lambda state: state.outcome.failed, [A, B, OK], 3),
    ],
)
def test_which_outcomes_are_retried(
    retry: Callable[[t.RetryCallState], bool], script: list[Outcome], attempts: int
) -> None:
    assert run(*script, retry=retry).attempts == attempts


@pytest.mark.parametrize(
    ("wait", "expected"),
    [
        (t.wait_none(), [0, 0, 0, 0]),
        (t.wait_fixed(2.5), [2.5, 2.5, 2.5, 2.5]),
        (t.wait_incrementing(start=1, increment=10), [1, 11, 21, 31]),
        (t.wait_incrementing(start=1, increment=10, max=15), [1, 11, 15, 15]),
        (t.wait_exponential(), [1, 2, 4, 8]),
        (t.wait_exponential(multiplier=0.5, max=3), [0.5, 1, 2, 3]),
        (t.wait_exponential(min=3), [3, 3, 4, 8]),
        (t.wait_exponential_jitter(max=6, jitter=0), [1, 2, 4, 6]),
        (t.wait_chain(t.wait_fixed(1), t.wait_fixed(5), t.wait_fixed(9)), [1, 5, 9, 9]),
        (t.wait_combine(t.wait_fixed(1), t.wait_incrementing(0, 1)), [1, 2, 3, 4]),
        (t.wait_fixed(3) + t.wait_incrementing(0, 1), [3, 4, 5, 6]),
        (lambda state: state.attempt_number * 7, [7, 14, 21, 28]),
        (lambda state: state.idle_for + 1, [1, 2, 4, 8]),
        (lambda state: -1, [0, 0, 0, 0]),
        (None, [0, 0, 0, 0]),
    ],
)
def test_waits(slept: list[float], wait: Any, expected: list[float]) -> None:
    assert run(A, max_retries=4, wait=wait).attempts == 5
    assert slept == expected


@pytest.mark.parametrize(
    ("wait", "bounds"),
    [
        (t.wait_random(1, 2), [(1, 2)] * 4),
        (t.wait_random_exponential(max=4), [(0, 1), (0, 2), (0, 4), (0, 4)]),
        (t.wait_exponential_jitter(max=6, jitter=0.5), [(1, 1.5), (2, 2.5), (4, 4.5), (6, 6)]),
    ],
)
def test_random_waits(slept: list[float], wait: Any, bounds: list[tuple[float, float]]) -> None:
    run(A, max_retries=4, wait=wait)
    assert all(low <= seconds <= high for seconds, (low, high) in zip(slept, bounds, strict=True))


@pytest.mark.parametrize(
    ("stop", "attempts"),
    [
        (t.stop_never, 4),
        (t.stop_after_attempt(2), 2),
        (t.stop_after_attempt(9), 4),
        (t.stop_after_delay(0), 1),
        (t.stop_after_delay(3600), 4),
        (t.stop_before_delay(1), 1),
        (t.stop_before_delay(3600), 4),
        (t.stop_any(t.stop_after_attempt(3), t.stop_after_delay(3600)), 3),
        (t.stop_after_attempt(3) | t.stop_after_delay(0), 1),
        (t.stop_all(t.stop_after_attempt(3), t.stop_after_delay(0)), 3),
        (t.stop_after_attempt(1) & t.stop_after_delay(3600), 4),
        (lambda state: state.idle_for >= 4, 3),
        (lambda state: isinstance(state.outcome.exception(), ConnectionError), 1),
    ],
)
def test_stops(slept: list[float], stop: Any, attempts: int) -> None:
    response = run(A, wait=t.wait_fixed(2), stop=stop)
    assert (response.attempts, response.exception) == (attempts, A)
    assert slept == [2] * (attempts - 1), "nothing is waited for after the last attempt"


def test_what_the_strategy_is_shown() -> None:
    states: list[tuple[Any, ...]] = []

    def wait(state: t.RetryCallState) -> float:
        assert state.outcome is not None
        states.append((state.fn, state.args, state.attempt_number, state.outcome.exception()))
        return 0

    worker = Scripted([A, B, OK], RetryStrategy(wait=wait))
    worker.start("argument")
    assert states == [(worker.process, ("argument",), 1, A), (worker.process, ("argument",), 2, B)]


@pytest.mark.parametrize("body", [NOT_FOUND, JobResponse(NOT_FOUND)])
@pytest.mark.parametrize("limit", [{"max_retries": 1}, {"stop": t.stop_after_attempt(2)}])
def test_a_result_that_is_never_accepted(body: object, limit: dict[str, Any]) -> None:
    response = run(body, retry=t.retry_always, **limit)
    assert isinstance(response.exception, RetriesExhaustedError)
    assert response.exception.job_id == response.job_id
    assert NOT_FOUND in str(response.exception)
    assert (response.ok, response.attempts, response.body) == (False, 2, NOT_FOUND)


def test_a_failure_that_runs_out_of_retries_stays_as_it_is() -> None:
    failed = JobResponse("half", exit_code=7)
    assert run(failed, max_retries=1) is failed


@pytest.mark.parametrize("broken", ["wait", "retry", "stop"])
def test_a_strategy_that_raises_fails_the_job(broken: str) -> None:
    def strategy(state: t.RetryCallState) -> float:
        raise ZeroDivisionError("in the strategy")

    response = run(A, OK, **{broken: strategy})
    assert isinstance(response.exception, ZeroDivisionError)
    assert response.attempts == 1


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"max_retries": -1}, ValueError),
        ({"max_retries": 1.0}, TypeError),
        ({"max_retries": True}, TypeError),
        ({"max_retries": "3"}, TypeError),
        ({"retry_type": "immediate"}, TypeError),
        ({"wait": 5}, TypeError),
        ({"retry": ValueError("x")}, TypeError),
        ({"stop": 3}, TypeError),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(arguments))):
        RetryStrategy(**arguments)


def test_it_is_immutable_and_travels() -> None:
    strategy = RetryStrategy(2, RetryType.REQUEUE, wait=t.wait_fixed(1))
    with pytest.raises(dataclasses.FrozenInstanceError):
        strategy.max_retries = 5  # type: ignore[misc]
    copied = pickle.loads(pickle.dumps(strategy))
    assert (copied.max_retries, copied.retry_type, copied.wait(None)) == (2, RetryType.REQUEUE, 1)


def test_one_strategy_serves_many_jobs_alike(slept: list[float]) -> None:
    worker = Scripted([A, A, OK], RetryStrategy(2, wait=t.wait_incrementing(1, 1)))
    assert [cast(JobResponse, worker.start(None)).attempts for _ in range(3)] == [3, 3, 3]
    assert slept == [1, 2] * 3
