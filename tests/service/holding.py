"""Jobs and consumers for tests of brokers."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, TypeVar

import pytest

from benchmarks.servers import Server
from multiprocessing_kit.errors import BrokerUnavailableError
from multiprocessing_kit.service.brokers.base import Broker
from multiprocessing_kit.service.job import Delivery, Job

__all__ = [
    "BROKERS",
    "TOPIC",
    "again",
    "away",
    "eventually",
    "every_broker",
    "ids",
    "job",
    "none_comes",
    "rings",
    "take",
]

BROKERS = ["sqlite", "redis", "rabbitmq"]

every_broker = pytest.mark.parametrize("server_of_the_run", BROKERS, indirect=True)
"""Run a test with each of them, as fixture `broker_url`."""

TOPIC = "mail"
PATIENCE = 45.0  # only ever used up by a failing test
QUIET = 0.3

T = TypeVar("T")

_numbers = itertools.count(1)


def job(payload: bytes = b"{}", **fields: Any) -> Job:
    """One with an id of its own, if none is given."""
    fields = {"id": f"job-{os.getpid()}-{next(_numbers)}", "topic": TOPIC, **fields}
    return Job(payload=payload, **fields)


def ids(jobs: Collection[Job | Delivery]) -> list[str]:
    return [each.job.id if isinstance(each, Delivery) else each.id for each in jobs]


def take(
    broker: Broker, count: int, *, topics: Sequence[str] | None = None, extends: bool = False
) -> list[Delivery]:
    """So many jobs, as a consumer takes them: it asks, and waits as the broker tells it to."""
    found: list[Delivery] = []
    deadline = time.monotonic() + PATIENCE
    while True:
        if extends:
            broker.extend()
        found += broker.reserve(count - len(found), topics)
        if len(found) >= count:
            assert len(found) == count, "more than it asked for"
            return found
        assert time.monotonic() < deadline, f"{len(found)} of {count} jobs came: {ids(found)}"
        _wait(broker, 0.2 if extends else PATIENCE)


def none_comes(broker: Broker, *, topics: Sequence[str] | None = None) -> None:
    """Nothing is ready, and nothing is for a while."""
    until = time.monotonic() + QUIET
    while time.monotonic() < until:
        found = broker.reserve(10, topics)
        assert not found, f"these came: {ids(found)}"
        _wait(broker, QUIET / 3)


def eventually(condition: Callable[[], bool]) -> None:
    """For what becomes true by itself: counts of a server, a lease that runs out."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never became true"
        time.sleep(0.02)


def again(call: Callable[[], T]) -> T:
    """What a call returns once the broker is there (again)."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return call()
        except BrokerUnavailableError:
            assert time.monotonic() < deadline, "the broker stays away"
            time.sleep(0.1)


def rings(broker: Broker, within: float) -> bool | None:
    """Whether its descriptor is readable in so many seconds; None where it has none."""
    bell = broker.fileno()
    return None if bell is None else bool(select.select([bell], [], [], within)[0])


@contextlib.contextmanager
def away(server: Server | None, url: str, how: str) -> Iterator[None]:
    """The broker does not answer in this block.

    Args:
        server: Its server; None for SQLite, where somebody else has the file.
        url: Of the broker.
        how: The server is "killed" (and started at the end), or "paused".
    """
    if server is None:
        with contextlib.closing(
            sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        ) as other:
            other.execute("BEGIN EXCLUSIVE")
            yield
        return
    server.stop() if how == "paused" else server.kill()
    try:
        yield
    finally:
        server.go_on() if how == "paused" else server.start()


def _wait(broker: Broker, longest: float) -> None:
    bell = broker.fileno()
    select.select([] if bell is None else [bell], [], [], min(longest, broker.idle()))
