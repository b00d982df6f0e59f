"""Observers in this process, and what becomes of listeners when their worker is copied."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from multiprocessing_kit import JobEvent, Observer, Process, Response, RetryStrategy, Worker
from multiprocessing_kit.events import SIGNALS

Seen = list[Any]


class Double(Worker):
    def process(self, argument: int) -> int:
        return argument * 2


class Failing(Worker):
    def process(self, argument: object) -> object:
        raise ValueError(argument)


class Counter(Observer):
    def __init__(self) -> None:
        self.seen: Seen = []

    def retry(self, worker: Worker, attempt: int) -> None:
        self.seen.append(("retry", attempt))

    def failed(self, worker: Worker, exception: BaseException) -> None:
        self.seen.append(("failed", str(exception)))


def test_only_overridden_methods_are_connected() -> None:
    observer = Counter()
    worker = Failing(retry=RetryStrategy(1)).attach(observer)
    connected = [event for event in JobEvent if SIGNALS[event].has_receivers_for(worker)]
    assert connected == [JobEvent.JOB_RETRY, JobEvent.JOB_FAILED]
    worker.start("x")
    assert observer.seen == [("retry", 1), ("failed", "x")]
    worker.detach(observer).start("y")
    assert len(observer.seen) == 2
    assert not any(list(SIGNALS[event].receivers_for(worker)) for event in JobEvent)


def test_a_method_set_on_the_observer_itself() -> None:
    observer, seen = Observer(), list[object]()
    observer.success = seen.append  # type: ignore[method-assign]
    worker = Double().attach(observer)
    worker.start(1)
    assert seen == [worker]


@pytest.mark.parametrize("observer", [Observer, None, "x"])
@pytest.mark.parametrize("method", ["attach", "detach"])
@pytest.mark.parametrize("make", [Double, lambda: Process(1)])
def test_not_an_observer(make: Callable[[], Worker | Process], method: str, observer: Any) -> None:
    with pytest.raises(TypeError, match="must be an Observer"):
        getattr(make(), method)(observer)


def test_an_observer_hears_of_every_moment() -> None:
    class Everything(Observer):
        def __getattribute__(self, name: str) -> Any:
            return object.__getattribute__(self, name)

    names = [event.value.removeprefix("job_") for event in JobEvent]
    observer, seen = Everything(), list[str]()
    for name in names:
        setattr(observer, name, lambda worker, name=name: seen.append(name))
    worker = Failing(retry=RetryStrategy(1)).attach(observer)
    worker.start(1)
    Worker().attach(observer).start(1)
    Worker().attach(observer).on("job_start", Worker.cancel).start(1)
    assert seen == ["start", "retry", "start", "failed", "start", "running", "success", "start", "canceled"]


heard: Seen = []


def hear(worker: Worker, extra: str, response: Response) -> None:
    heard.append((worker, extra, response.body))


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda w: pickle.loads(pickle.dumps(w))])
def test_a_copied_worker_keeps_its_listeners_and_shares_none(clone: Callable[[Double], Double]) -> None:
    heard.clear()
    worker = Double().on("job_success", hear, "x")
    twin = clone(worker)
    twin.on("job_success", hear, "y")
    worker.start(1)
    assert heard == [(worker, "x", 2)]
    twin.start(2)
    assert heard[1:] == [(twin, "x", 4), (twin, "y", 4)]
    twin.off("job_success")
    worker.start(3)
    assert heard[3:] == [(worker, "x", 6)]
