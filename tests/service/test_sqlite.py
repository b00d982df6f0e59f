"""What the SQLite broker must do beside the contract: forks, clocks, and files that others touch."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from multiprocessing_kit.errors import BrokerError, BrokerUnavailableError, PayloadError
from multiprocessing_kit.service.brokers.base import Broker
from multiprocessing_kit.service.brokers.opening import open_broker
from multiprocessing_kit.service.job import Outcome, Settlement
from tests.forks import exit_of, fork, in_child
from tests.gates import Gate
from tests.service.holding import TOPIC, away, eventually, ids, job, none_comes, take

pytestmark = pytest.mark.timeout(180)

LEASE = 2.0


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'jobs.db'}"


@pytest.fixture
def consumers(url: str, service_name: str) -> Iterator[list[Broker]]:
    """Two that have joined."""
    with ExitStack() as stack:
        found = [stack.enter_context(open_broker(url, service_name)) for _ in range(2)]
        for number, consumer in enumerate(found):
            consumer.join(f"number {number}", [TOPIC], LEASE)
        yield found


# ── forks ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", ["close", "drop"])
def test_no_push_is_lost_where_a_process_forks_with_an_open_file(
    url: str, service_name: str, how: str
) -> None:
    """Of both sides, whatever the parent and other processes do to the file meanwhile."""
    broker = open_broker(url, service_name)
    broker.push([job(id="parent")])

    def push_elsewhere() -> None:
        with open_broker(url, service_name) as other:
            other.push([job()])

    with Gate() as first, Gate() as second, Gate() as third, Gate() as fourth:

        def push() -> None:
            broker.push([job(id="child 1")])
            first.open()
            second.wait()
            broker.push([job(id="child 2")])
            third.open()
            fourth.wait()
            broker.push([job(id="child 3")])

        child = fork(push)
        first.wait()
        if how == "close":
            broker.close()
        else:
            del broker
        assert in_child(push_elsewhere) == 0
        second.open()
        third.wait()
        assert in_child(push_elsewhere) == 0
        fourth.open()
        assert exit_of(child) == 0
    assert in_child(push_elsewhere) == 0
    with open_broker(url, service_name) as broker:
        assert broker.backlog(TOPIC).ready == 1 + 3 + 3


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_process_forks_while_its_threads_push(url: str, service_name: str) -> None:
    brokers = [open_broker(url, service_name) for _ in range(2)]
    over = threading.Event()
    pushed: list[int] = []

    def push_on(broker: Broker) -> None:
        count = 0
        while not over.is_set():
            count += broker.push([job()])[0]
        pushed.append(count)

    threads = [threading.Thread(target=push_on, args=(broker,)) for broker in brokers]
    for thread in threads:
        thread.start()
    try:
        children = [in_child(lambda: [broker.push([job()]) for broker in brokers]) for _ in range(10)]
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert children == [0] * 10
    assert brokers[0].backlog(TOPIC).ready == sum(pushed) + 10 * len(brokers)
    for broker in brokers:
        broker.close()


def test_several_make_the_file(tmp_path: Path) -> None:
    """In the same moment, each by its first push."""
    for number in range(100):
        url = f"sqlite:///{tmp_path}/{number}.db"
        with Gate() as gate:
            children = [fork(partial(_push_first, url, gate)) for _ in range(4)]
            gate.open()
            assert [exit_of(child) for child in children] == [0] * 4
        with open_broker(url, "shop") as broker:
            assert broker.backlog(TOPIC).ready == 4


def _push_first(url: str, gate: Gate) -> None:
    gate.wait()
    with open_broker(url, "shop") as broker:
        broker.push([job()])


# ── clocks ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_clock_that_is_set_ends_no_lease(consumers: list[Broker], monkeypatch: pytest.MonkeyPatch) -> None:
    holding, other = consumers
    holding.push([job()])
    (delivery,) = take(holding, 1)
    until = time.monotonic() + LEASE
    while time.monotonic() < until:  # from then on it looks for those who are silent
        holding.extend()
        other.extend()
        time.sleep(LEASE / 20)
    _set_clock(monkeypatch, 3600.0)

    other.extend()
    assert other.reserve(1) == []
    holding.extend()
    other.extend()
    assert holding.ack(delivery)


def test_a_clock_that_is_set_back_lets_the_dead_keep_nothing(
    consumers: list[Broker], monkeypatch: pytest.MonkeyPatch
) -> None:
    silent, living = consumers
    silent.push([job(id="held")])
    take(silent, 1)
    _set_clock(monkeypatch, -3600.0)

    assert ids(take(living, 1, extends=True)) == ["held"]


def _set_clock(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + seconds)


# ── many at once ──────────────────────────────────────────────────────────────────────────────────────


def test_what_is_due_at_once_is_made_ready_in_parts(url: str, consumers: list[Broker]) -> None:
    """Nobody else can write meanwhile."""
    consumer = consumers[0]
    later = time.time() + 3600
    consumer.push([job(due=later) for _ in range(25_000)])
    _change(url, "UPDATE jobs SET due = ?", time.time())

    made, seen = [], 0
    while not seen or consumer.idle() == 0.0:
        seen += len(consumer.reserve(1))
        made.append(_count(url, "SELECT count(*) FROM jobs WHERE state = 0") + seen)
    assert made == [10_000, 20_000, 25_000]
    backlog = consumer.backlog(TOPIC)
    assert (backlog.ready, backlog.delayed, backlog.running) == (25_000 - seen, 0, seen)


def test_a_job_that_moves_is_counted_once(url: str, service_name: str, consumers: list[Broker]) -> None:
    """Whatever becomes of it between two of the numbers."""
    consumer = consumers[0]
    consumer.push([job()])

    def move() -> None:
        with open_broker(url, service_name) as moving:
            moving.join("moving", [TOPIC], 3600.0)
            while True:
                for delivery in moving.reserve(1):
                    moving.retry(delivery, 0.001)

    child = fork(move)
    running = 0
    try:
        while running < 2_000:
            backlog = consumer.backlog(TOPIC)
            assert backlog.ready + backlog.delayed + (backlog.running or 0) + backlog.dead == 1
            running += backlog.running or 0
    finally:
        os.kill(child, signal.SIGKILL)
        exit_of(child)


# ── what others write ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "record",
    [b'{"v":2}\nx', b"nonsense", b'{"id":7,"topic":"mail","pushed":0.0}\n', "a text", 7, b""],
    ids=["no job", "no head", "wrong types", "text", "number", "empty"],
)
def test_what_is_no_job_is_put_aside(
    url: str, consumers: list[Broker], record: object, caplog: pytest.LogCaptureFixture
) -> None:
    consumer = consumers[0]
    consumer.push([job(id="hurt"), job(id="whole")])
    _change(url, "UPDATE jobs SET record = ? WHERE id LIKE '%/hurt'", record)

    with caplog.at_level(logging.ERROR):
        assert consumer.reserve(1) == []
        assert consumer.idle() == 0.0, "there was more than this one"
        assert ids(consumer.reserve(1)) == ["whole"]
    none_comes(consumer)
    assert [each.message.partition(": ")[0] for each in caplog.records] == [
        f"{url.removeprefix('sqlite:///')} holds what is no job of topic {TOPIC}"
    ]
    raw = record if isinstance(record, bytes) else str(record).encode()
    (letter,) = consumer.dead_letters(TOPIC, 10)
    assert (letter.job.id, letter.job.topic, letter.job.payload) == ("hurt", TOPIC, raw)
    assert [event.kind for event in letter.job.history] == ["unreadable"]
    assert consumer.dead_retry(TOPIC, None) == 0
    assert consumer.dead_purge(TOPIC, ["hurt"]) == 1
    assert consumer.backlog(TOPIC).dead == 0


# ── what is too large ─────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def small_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite takes a megabyte, and not a thousand of them."""
    if sys.version_info < (3, 11):
        pytest.skip("this Python cannot set the limit")
    real = sqlite3.connect

    def connect(*args: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = real(*args, **options)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1_000_000)
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect)


@pytest.mark.usefixtures("small_rows")
def test_a_job_that_is_too_large_is_refused(url: str, service_name: str) -> None:
    with open_broker(url, service_name) as broker:
        with pytest.raises(PayloadError, match=r"jobs\.db takes 990,000 bytes.* job large .* has 2,000,0"):
            broker.push([job(), job(b"x" * 2_000_000, id="large")])
        assert broker.backlog(TOPIC).ready == 0
        assert broker.push([job(b"x" * 980_000)]) == [True]


@pytest.mark.usefixtures("small_rows")
@pytest.mark.parametrize("outcome", [Outcome.ACK, Outcome.DEAD, Outcome.RETRY])
def test_what_is_too_large_of_a_job_settles_none(consumers: list[Broker], outcome: str) -> None:
    consumer = consumers[0]
    consumer.push([job(), job()])
    small, large = take(consumer, 2)
    settled = Settlement(small, Outcome.ACK)
    if outcome == Outcome.ACK:
        said = Settlement(large, outcome, b"x" * 2_000_000, 60.0)
    else:
        large.job.failed("failed", "x" * 2_000_000)
        said = Settlement(large, outcome)

    with pytest.raises(BrokerError, match=r"takes 990,000 bytes.* has 2,000,") as raised:
        consumer.settle([settled, said])
    assert not isinstance(raised.value, BrokerUnavailableError)
    assert consumer.backlog(TOPIC).running == 2
    large.job.history.clear()
    assert consumer.settle([settled, Settlement(large, Outcome.DEAD)]) == []


# ── files that others have ────────────────────────────────────────────────────────────────────────────


def test_who_leaves_does_not_wait_for_long(url: str, consumers: list[Broker]) -> None:
    began = time.monotonic()
    with away(None, url, "locked"):
        consumers[0].close()
    assert time.monotonic() - began < 3.0


# ── files that go ─────────────────────────────────────────────────────────────────────────────────────


def test_the_file_is_removed_under_those_who_use_it(
    url: str, service_name: str, consumers: list[Broker], caplog: pytest.LogCaptureFixture
) -> None:
    """They find the new one, and do it no harm."""
    consumer, other = consumers
    consumer.push([job(id="gone")])
    (gone,) = take(consumer, 1)
    for file in Path(url.removeprefix("sqlite:///")).parent.glob("jobs.db*"):
        file.unlink()
    with open_broker(url, service_name) as broker:
        broker.push([job(id="first")])
        with caplog.at_level(logging.ERROR):
            assert ids(take(consumer, 1)) == ["first"]
            eventually(lambda: other.backlog(TOPIC).running == 1)
        assert [each.message.partition(",")[0] for each in caplog.records] == [
            f"{url.removeprefix('sqlite:///')} was removed or replaced"
        ] * 2
        assert not consumer.ack(gone)
        assert other.push([job(id="second")]) == [True]
        assert broker.push([job(id="third")]) == [True]
    assert ids(take(consumer, 2)) == ["second", "third"]


def _change(url: str, statement: str, *values: object) -> None:
    """As an operator does by hand."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute(statement, values)


def _count(url: str, query: str) -> int:
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as other:
        found: int = other.execute(query).fetchone()[0]
        return found
