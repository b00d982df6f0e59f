"""What listeners of JOB_RETRY change on the worker: there for that job, gone for the next."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest

from multiprocessing_kit import JobEvent, RetryStrategy, SerializationError, Worker
from multiprocessing_kit.changes import LARGEST, Changes


class Crawler(Worker):
    """Notes what its attributes are at each attempt."""

    urls: Any
    timeout: Any
    lock: Any

    def __init__(self, **attributes: Any) -> None:
        super().__init__(retry=RetryStrategy(2))
        self.__dict__.update(attributes)

    def process(self, failures: int) -> None:
        mine = own(self)
        seen.append(mine if "lock" in mine else copy.deepcopy(mine))
        if self.attempt <= failures:
            raise ValueError


seen: list[dict[str, Any]] = []


def own(worker: Crawler) -> dict[str, Any]:
    """The worker's attributes but for those that any worker has."""
    common = {"name", "retry", *Worker.PER_JOB}
    return {name: value for name, value in vars(worker).items() if name not in common}


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    seen.clear()


def reads_only(worker: Crawler) -> None:
    assert worker.urls


def assigns(worker: Crawler) -> None:
    worker.urls = ["c"]


def changes_in_place(worker: Crawler) -> None:
    worker.urls.pop(0)


def changes_deep(worker: Crawler) -> None:
    worker.urls[-1] = worker.urls[-1] + "!"


def changes_and_assigns(worker: Crawler) -> None:
    worker.urls.clear()
    worker.urls = ["c"]


def deletes(worker: Crawler) -> None:
    worker.__dict__.pop("urls", None)


def adds(worker: Crawler) -> None:
    worker.timeout = 30


def adds_and_takes_back(worker: Crawler) -> None:
    worker.timeout = 30
    del worker.timeout


URLS = {"urls": ["a", "b"]}


@pytest.mark.parametrize(
    ("listener", "second", "third"),
    [
        (reads_only, URLS, URLS),
        (assigns, {"urls": ["c"]}, {"urls": ["c"]}),
        (changes_in_place, {"urls": ["b"]}, {"urls": []}),
        (changes_deep, {"urls": ["a", "b!"]}, {"urls": ["a", "b!!"]}),
        (changes_and_assigns, {"urls": ["c"]}, {"urls": ["c"]}),
        (deletes, {}, {}),
        (adds, {**URLS, "timeout": 30}, {**URLS, "timeout": 30}),
        (adds_and_takes_back, URLS, URLS),
    ],
)
def test_a_change_holds_for_its_job_only(
    listener: Callable[[Crawler], None], second: dict[str, Any], third: dict[str, Any]
) -> None:
    worker = Crawler(urls=["a", "b"]).on(JobEvent.JOB_RETRY, listener)
    for _ in range(2):
        worker.start(2)
        assert own(worker) == URLS, "undone"
        worker.start(0)
    assert seen == [URLS, second, third, URLS] * 2


@pytest.mark.parametrize("failures", [1, 3])
def test_a_change_is_undone_however_the_job_ends(failures: int) -> None:
    worker = Crawler(urls=["a", "b"]).on(JobEvent.JOB_RETRY, assigns)
    assert worker.start(failures).ok is (failures < 3)
    assert own(worker) == URLS


def test_a_change_before_a_cancel_is_undone() -> None:
    worker = Crawler(urls=["a", "b"]).on(JobEvent.JOB_RETRY, assigns).on(JobEvent.JOB_RETRY, Worker.cancel)
    worker.start(1)
    assert own(worker) == URLS


def test_what_a_listener_did_before_it_raised_counts() -> None:
    def broken(worker: Crawler) -> None:
        assigns(worker)
        raise ValueError("after the change")

    worker = Crawler(urls=["a", "b"]).on(JobEvent.JOB_RETRY, broken)
    worker.start(1)
    assert seen[1] == {"urls": ["c"]}
    assert own(worker) == URLS


def test_what_was_not_changed_stays_the_same_object() -> None:
    urls = ["a", "b"]
    worker = Crawler(urls=urls, timeout=10).on(JobEvent.JOB_RETRY, adds)
    worker.start(1)
    assert worker.urls is urls


def test_what_was_replaced_comes_back_as_the_same_object() -> None:
    urls = ["a", "b"]
    worker = Crawler(urls=urls).on(JobEvent.JOB_RETRY, assigns)
    worker.start(1)
    assert worker.urls is urls


class UnpicklesNot:
    """Pickles, but never comes back."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return _refuse, ("unpickled",)


def _refuse(why: str) -> object:
    raise SystemExit(why)


class PicklesNot:
    def __reduce__(self) -> str:
        raise SystemExit("pickled")


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(threading.Lock(), id="no pickle"),
        pytest.param(lambda: None, id="no pickle either"),
        pytest.param(PicklesNot(), id="raises SystemExit"),
        pytest.param(bytes(2 * LARGEST), id="large and immutable"),
        pytest.param([bytes(2 * LARGEST)], id="large"),
        pytest.param([0] * LARGEST, id="large with many parts"),
        pytest.param(UnpicklesNot(), id="pickles but does not unpickle"),
    ],
)
def test_other_objects_are_compared_by_identity(value: Any) -> None:
    worker = Crawler(lock=value).on(JobEvent.JOB_RETRY, lambda w: setattr(w, "lock", "another"))
    response = worker.start(1)
    assert response.exception is None
    assert seen[1] == {"lock": "another"}
    assert own(worker)["lock"] is value


@pytest.mark.parametrize("first", [bytes(LARGEST), UnpicklesNot(), PicklesNot()])
def test_the_inside_of_such_an_object_is_not_watched(first: object) -> None:
    large = [first]
    worker = Crawler(lock=large).on(JobEvent.JOB_RETRY, lambda w: w.lock.append(b"more"))
    worker.start(1)
    assert worker.lock is large
    assert len(large) == 2, "as documented: assign a new object to change it"


def test_what_belongs_to_the_job_is_not_watched() -> None:
    worker = Crawler(urls=["a", "b"]).on(JobEvent.JOB_RETRY, lambda w: w.on(JobEvent.JOB_START, reads_only))
    worker.start(1)
    changes = Changes()
    changes.watch(worker, lambda: None)
    assert changes.pack(worker) == {}


CHANGES: list[tuple[Callable[[Crawler], None], dict[str, Any]]] = [
    (reads_only, URLS),
    (assigns, {"urls": ["c"]}),
    (changes_in_place, {"urls": ["b"]}),
    (deletes, {}),
    (adds, {**URLS, "timeout": 30}),
]


@pytest.mark.parametrize(("listener", "expected"), CHANGES)
def test_changes_follow_the_job_to_another_worker(
    listener: Callable[[Crawler], None], expected: dict[str, Any]
) -> None:
    here, there, yonder = (Crawler(urls=["a", "b"]) for _ in range(3))
    changes = Changes()
    changes.watch(here, lambda: listener(here))
    packed = changes.pack(here)
    changes.undo(here)
    for worker in (there, yonder):
        arrived = Changes(packed)
        arrived.apply(worker)
        assert own(worker) == expected
        packed = arrived.pack(worker)
        arrived.undo(worker)
        assert own(worker) == URLS
    assert own(here) == URLS


@pytest.mark.parametrize("value", [threading.Lock(), PicklesNot()])
def test_a_change_that_cannot_travel(value: object) -> None:
    worker = Crawler(urls=["a", "b"])
    changes = Changes()
    changes.watch(worker, lambda: setattr(worker, "urls", value))
    with pytest.raises(SerializationError, match=r"worker\.urls, changed at JOB_RETRY"):
        changes.pack(worker)
    changes.undo(worker)
    assert own(worker) == URLS


def test_a_change_that_does_not_arrive() -> None:
    here, there = Crawler(), Crawler()
    changes = Changes()
    changes.watch(here, lambda: setattr(here, "bad", UnpicklesNot()))
    arrived = Changes(changes.pack(here))
    with pytest.raises(SerializationError, match=r"worker\.bad, changed at JOB_RETRY, .*unpickled"):
        arrived.apply(there)
    arrived.undo(there)
    assert own(there) == {}
