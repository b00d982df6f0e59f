"""Who hears of what: listeners and plain blinker receivers, all in this process."""

from __future__ import annotations

import functools
import gc
import logging
from collections.abc import Callable
from typing import Any

import pytest

from multiprocessing_kit import JobEvent, JobStatus, Process, RetryStrategy, Worker, events
from multiprocessing_kit.events import PAYLOAD, SIGNALS

Seen = list[Any]


class Double(Worker):
    def process(self, argument: int) -> int:
        self.running(half=argument / 2)
        return argument * 2


class Failing(Worker):
    def process(self, argument: object) -> object:
        raise ValueError(argument)


def only_names(seen: Seen) -> Callable[..., object]:
    return lambda worker, job_id, argument: seen.append((worker, job_id, argument))


def keyword_only(seen: Seen) -> Callable[..., object]:
    return lambda worker, *, job_id, argument: seen.append((worker, job_id, argument))


def any_order(seen: Seen) -> Callable[..., object]:
    return lambda w, argument, unknown=1, *, job_id: seen.append((w, job_id, argument))


def everything(seen: Seen) -> Callable[..., object]:
    return lambda w, **payload: seen.append((w, payload["job_id"], payload["argument"]))


def star(seen: Seen) -> Callable[..., object]:
    return lambda *args, job_id, argument: seen.append((*args, job_id, argument))


def partial(seen: Seen) -> Callable[..., object]:
    def listener(target: Seen, worker: Worker, argument: object, job_id: str) -> None:
        target.append((worker, job_id, argument))

    return functools.partial(listener, seen)


class Instance:
    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    def __call__(self, worker: Worker, job_id: str, argument: object) -> None:
        self.seen.append((worker, job_id, argument))


@pytest.mark.parametrize("make", [only_names, keyword_only, any_order, everything, star, partial, Instance])
def test_a_listener_takes_the_names_it_declares(make: Callable[[Seen], Callable[..., object]]) -> None:
    seen: Seen = []
    worker = Double().on(JobEvent.JOB_SUCCESS, make(seen))
    worker.start(21)
    assert seen == [(worker, worker.job_id, 21)]


@pytest.mark.parametrize("event", [JobEvent.JOB_START, "job_start"])
def test_extra_arguments_come_after_the_worker(event: JobEvent | str) -> None:
    seen: Seen = []
    worker = Double().on(event, lambda w, a, b, argument: seen.append((w, a, b, argument)), "a", 2)
    worker.start(21)
    assert seen == [(worker, "a", 2, 21)]


def test_a_builtin_gets_the_worker_alone() -> None:
    seen: Seen = []
    worker = Double().on("job_start", seen.append)
    worker.start(1)
    assert seen == [worker]


def test_what_does_not_apply_is_none() -> None:
    seen: Seen = []
    worker = Double()
    worker.on("job_running", lambda w, **payload: seen.append(payload))
    worker.start(21)
    (payload,) = seen
    assert set(payload) == set(PAYLOAD)
    assert (payload["event"], payload["info"], payload["attempt"]) == ("job_running", {"half": 10.5}, 1)
    assert (payload["response"], payload["exception"], payload["delay"]) == (None, None, None)


@pytest.mark.parametrize(
    ("listener", "args", "message"),
    [
        (lambda: None, (), "must take the worker, process or child first"),
        (lambda worker: None, ("extra",), r"1 parameter\(s\) are missing"),
        (lambda **payload: None, (), "must take the worker, process or child first"),
        (lambda worker, **payload: None, ("extra",), r"1 parameter\(s\) are missing"),
        (lambda *, job_id: None, (), "must take the worker, process or child first"),
        (lambda worker, url: None, (), "asks for 'url'"),
        (lambda worker, *, url: None, (), "asks for 'url'"),
        (lambda worker, url, **payload: None, (), "asks for 'url'"),
        (eval("lambda worker, job_id, /: None"), (), "asks for 'job_id'"),
        (None, (), "must be callable, not NoneType"),
        ("print", (), "must be callable, not str"),
    ],
)
@pytest.mark.parametrize("make", [Double, lambda: Process(1)])
def test_a_listener_that_cannot_be_called_is_refused(
    make: Callable[[], Worker | Process], listener: Any, args: tuple[object, ...], message: str
) -> None:
    source = make()
    with pytest.raises(TypeError, match=message):
        source.on("job_start", listener, *args)


@pytest.mark.parametrize("event", ["start", "JOB_START", 0, None, JobStatus.RUNNING])
@pytest.mark.parametrize("method", ["on", "off"])
def test_an_unknown_event_is_refused(method: str, event: Any) -> None:
    with pytest.raises(ValueError, match=r"unknown event .*; the events are JOB_START, .*JOB_CANCELED"):
        getattr(Double(), method)(event, print)


def test_order_override_and_off() -> None:
    seen: Seen = []
    worker = Double()
    first, second, third = (
        functools.partial(lambda name, worker: seen.append(name), name)
        for name in ("first", "second", "third")
    )

    def heard() -> Seen:
        seen.clear()
        worker.start(1)
        return list(seen)

    worker.on("job_start", first).on("job_start", second).on("job_start", third)
    assert heard() == ["first", "second", "third"]
    assert worker.off("job_start", second).start(1).ok
    assert heard() == ["first", "third"]
    worker.on("job_start", second, override=True)
    assert heard() == ["second"]
    worker.on("job_start", first).on("job_success", third)
    assert heard() == ["second", "first", "third"]
    worker.off("job_start")
    assert heard() == ["third"]
    worker.off("job_start").off("job_success", first).off("job_success", third)
    assert heard() == []
    assert worker.on("job_start", first) is worker
    assert heard() == ["first"]


def test_listeners_hear_of_their_own_worker_unless_the_signal_is_muted() -> None:
    seen: Seen = []
    one, other = Double().on("job_start", seen.append), Double()
    other.start(1)
    with events.job_start.muted():
        one.start(1)
    assert seen == []
    one.start(1)
    assert seen == [one]


def test_listeners_die_with_their_worker() -> None:
    gc.collect()
    worker = Double().on("job_start", print)
    known = set(events.job_start.receivers)
    del worker
    gc.collect()
    assert len(known - set(events.job_start.receivers)) == 1


def test_a_listener_that_raises_is_logged_and_the_next_one_runs(caplog: pytest.LogCaptureFixture) -> None:
    def broken(worker: Worker) -> None:
        raise SystemExit("a listener's fault")

    seen: Seen = []
    worker = Double().on("job_start", broken).on("job_start", seen.append)
    with events.job_start.connected_to(broken):
        assert worker.start(21).body == 42
    assert seen == [worker]
    assert len(caplog.records) == 2
    for record in caplog.records:
        assert (record.levelno, record.name) == (logging.ERROR, "multiprocessing_kit.events")
        assert "broken failed at JOB_START of job " + worker.job_id in record.getMessage()
    assert "SystemExit: a listener's fault" in caplog.text
    assert "Traceback" in caplog.text


def test_ctrl_c_in_a_listener_passes_through() -> None:
    def interrupted(worker: Worker) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Double().on("job_start", interrupted).start(1)


@pytest.mark.parametrize("event", list(JobEvent))
def test_plain_blinker_receivers(event: JobEvent) -> None:
    seen: Seen = []

    def receiver(sender: Worker, **payload: Any) -> None:
        seen.append((sender, payload.pop("event"), sorted(payload)))

    assert SIGNALS[event] is getattr(events, event.value)
    workers = [Double(), Failing(retry=RetryStrategy(1)), Double().on("job_start", Worker.cancel)]
    with SIGNALS[event].connected_to(receiver):
        for worker in workers:
            worker.start(1)
    expected = {
        JobEvent.JOB_START: [0, 1, 1, 2],
        JobEvent.JOB_RUNNING: [0],
        JobEvent.JOB_RETRY: [1],
        JobEvent.JOB_SUCCESS: [0],
        JobEvent.JOB_FAILED: [1],
        JobEvent.JOB_CANCELED: [2],
    }[event]
    names = sorted(set(PAYLOAD) - {"event"})
    assert seen == [(workers[number], event, names) for number in expected]


def test_blinker_holds_receivers_weakly_and_by_sender() -> None:
    seen: Seen = []
    mine, other = Double(), Double()

    def make() -> Callable[..., None]:
        def receiver(sender: Worker, **payload: object) -> None:
            seen.append(sender)

        events.job_start.connect(receiver, sender=mine)
        return receiver

    kept = make()
    for worker in (other, mine):
        worker.start(1)
    assert seen == [mine]
    del kept
    mine.start(1)
    assert seen == [mine], "nobody keeps the receiver"
