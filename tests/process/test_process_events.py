"""What the caller hears of its jobs."""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from multiprocessing_kit import (
    JobCanceledError,
    JobEvent,
    JobResponse,
    Observer,
    Process,
    RetryStrategy,
    RetryType,
    Worker,
)

Payload = dict[str, Any]


class Story(Worker):
    """Fails as often as its argument says; "cancel" is canceled before it starts."""

    def process(self, argument: int | str) -> str:
        self.running(step=1, attempt=self.attempt)
        self.running(step=2)
        if isinstance(argument, int) and self.attempt <= argument:
            raise ValueError(f"attempt {self.attempt}")
        return "done"


def cancels(worker: Worker, argument: object) -> None:
    if argument == "cancel":
        worker.cancel()


ATTEMPT = ["JOB_START", "JOB_RUNNING", "JOB_RUNNING"]
STORIES: dict[object, list[str]] = {
    "plain": [*ATTEMPT, "JOB_SUCCESS"],
    1: [*ATTEMPT, "JOB_RETRY", *ATTEMPT, "JOB_SUCCESS"],
    9: [*ATTEMPT, "JOB_RETRY", *ATTEMPT, "JOB_RETRY", *ATTEMPT, "JOB_FAILED"],
    "cancel": ["JOB_START", "JOB_CANCELED"],
}
FINAL = {"JOB_SUCCESS", "JOB_FAILED", "JOB_CANCELED"}


def describe(payload: Payload) -> Payload:
    """A payload as JSON can hold it, so that both sides can be compared."""
    response = payload["response"]
    described = {**payload, "event": payload["event"].name, "exception": repr(payload["exception"])}
    described["response"] = response and [response.body, response.exit_code, response.attempts, response.pid]
    return described


def write(worker: Worker, path: Path, **payload: Any) -> None:
    line = json.dumps(describe(payload)) + "\n"
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, line.encode())
    os.close(fd)


def on_all(source: Worker | Process, listener: Callable[..., object], *args: object) -> None:
    for event in JobEvent:
        source.on(event, listener, *args)


@pytest.mark.parametrize("retry_type", RetryType)
@pytest.mark.parametrize("processes", [1, 3])
def test_both_sides_hear_the_same(retry_type: RetryType, processes: int, tmp_path: Path) -> None:
    path = tmp_path / "heard"
    heard: list[Payload] = []
    worker = Story(retry=RetryStrategy(2, retry_type)).on("job_start", cancels)
    process = Process(processes)
    on_all(worker, write, path)
    on_all(process, lambda _, **payload: heard.append(describe(payload)))
    inputs = list(STORIES) * 5
    responses = process.map(worker, inputs)

    in_children = [json.loads(line) for line in path.read_text().splitlines()]
    for heard_there in (in_children, heard):
        jobs: dict[str, list[Payload]] = defaultdict(list)
        for payload in heard_there:
            jobs[payload["job_id"]].append(payload)
        for response, argument in zip(responses, inputs, strict=True):
            payloads = jobs.pop(cast(JobResponse, response).job_id)
            assert [payload["event"] for payload in payloads] == STORIES[argument]
            assert {payload["argument"] for payload in payloads} == {argument}
            assert payloads[-1]["exception"] == repr(response.exception)
        assert not jobs
    assert sorted(map(json.dumps, heard)) == sorted(map(json.dumps, in_children))


def test_a_payload_in_the_caller() -> None:
    heard: list[Payload] = []
    worker = Story(retry=RetryStrategy(1))
    process = Process(1)
    for event in (JobEvent.JOB_RUNNING, JobEvent.JOB_RETRY, JobEvent.JOB_SUCCESS):
        process.on(
            event, lambda source, extra, **payload: heard.append({**payload, "on": (source, extra)}), 7
        )
    (response,) = cast("list[JobResponse]", process.map(worker, [1]))
    running, _, retry, *_, success = heard
    common = {"on": (process, 7), "job_id": response.job_id, "argument": 1, "pid": response.pid}
    for payload in heard:
        assert {name: payload.pop(name) for name in common} == common
    nothing: Payload = {"response": None, "exception": None, "delay": None, "info": {}}
    assert running == {**nothing, "event": "job_running", "attempt": 1, "info": {"step": 1, "attempt": 1}}
    failed = retry.pop("response")
    assert (str(failed.exception), failed.attempts, failed.ok) == ("attempt 1", 1, False)
    assert retry.pop("exception") is failed.exception
    assert retry == {"event": "job_retry", "attempt": 1, "delay": 0.0, "info": {}}
    assert success == {**nothing, "event": "job_success", "attempt": 2, "response": response}


def test_what_was_canceled_before_it_started() -> None:
    heard: list[str] = []
    process = Process(1)
    on_all(process, lambda _, event, exception: heard.append(f"{event.name} {type(exception).__name__}"))
    (response,) = process.map(Story().on("job_start", cancels), ["cancel"])
    assert isinstance(response.exception, JobCanceledError)
    assert heard == ["JOB_START NoneType", "JOB_CANCELED JobCanceledError"]


@pytest.mark.parametrize("change", ["another", "off and on", "override", "off"])
def test_listeners_that_change_each_other(change: str) -> None:
    """From the next event on, though the events of many jobs are told in a row."""
    heard: list[str] = []
    process = Process(1)

    def second(_: Process) -> None:
        heard.append("second")

    def first(source: Process) -> None:
        heard.append("first")
        if len(heard) == 1:
            if change.startswith("off"):
                source.off(JobEvent.JOB_SUCCESS)
            if change != "off":
                source.on(JobEvent.JOB_SUCCESS, second, override=change == "override")

    process.on(JobEvent.JOB_SUCCESS, first)
    process.map(abs, range(3))
    later = {"another": ["first", "second"] * 2, "off": []}
    assert heard == ["first", *later.get(change, ["second"] * 2)]


@pytest.mark.parametrize("argument", [lambda: None, threading.Lock()])
def test_a_job_that_no_child_ever_saw(argument: object) -> None:
    heard: list[tuple[str, object, int]] = []
    process = Process(1)
    on_all(process, lambda _, event, argument, pid: heard.append((event.name, argument, pid)))
    process.map(Story(), [argument])
    assert heard == [("JOB_FAILED", argument, 0)]


def test_listeners_that_come_and_go_during_an_imap() -> None:
    heard: list[object] = []
    process = Process(1, window=1)
    stream = process.imap(Story(), map(str, itertools.count()))

    def listen(_: object, event: JobEvent, argument: object) -> None:
        heard.append((event.name, argument))

    next(stream)
    for event in ("job_start", "job_success"):
        process.on(event, listen)
    next(stream)
    process.off("job_start", listen)
    next(stream)
    process.off("job_success")
    next(stream)
    cast(Any, stream).close()
    assert heard == [("JOB_START", "1"), ("JOB_SUCCESS", "1"), ("JOB_SUCCESS", "2")]


def test_a_listener_that_raises_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def broken(process: Process, event: JobEvent) -> None:
        raise SystemExit(f"no database at {event.name}")

    heard: list[str] = []
    process = Process(2)
    on_all(process, broken)
    on_all(process, lambda _, event: heard.append(event.name))
    responses = process.map(Story(retry=RetryStrategy(1)), [0, 1, 9])
    assert [response.ok for response in responses] == [True, True, False]
    logged = [record for record in caplog.records if record.name == "multiprocessing_kit.events"]
    assert len(logged) == len(heard) == 4 + 8 + 8
    assert "no database at JOB_RETRY" in caplog.text


class Report(Observer):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def retry(self, process: Process, argument: int, attempt: int) -> None:
        self.lines.append(f"{argument} again after attempt {attempt}")

    def success(self, process: Process, argument: int, **payload: Any) -> None:
        self.lines.append(f"{argument} done")


def test_an_observer_in_the_caller() -> None:
    report, process = Report(), Process(1)
    assert process.attach(report) is process
    process.map(Story(retry=RetryStrategy(2)), [0, 2])
    assert report.lines == ["0 done", "2 again after attempt 1", "2 again after attempt 2", "2 done"]
    process.detach(report).map(Story(), [0])
    assert len(report.lines) == 4


def test_a_failed_attempt_that_cannot_travel_is_described() -> None:
    class ReturnsLock(Worker):
        def process(self, argument: object) -> object:
            return JobResponse(threading.Lock(), 1, ValueError("x")) if self.attempt == 1 else 7

    heard: list[BaseException] = []
    process = Process(1).on("job_retry", lambda _, exception: heard.append(exception))
    assert process.map(ReturnsLock(retry=RetryStrategy(1)), [1])[0].body == 7
    assert [repr(error) for error in heard] == ["ValueError('x')"]
