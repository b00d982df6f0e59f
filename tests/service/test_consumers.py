"""What one job, one record or a full broker must not do to all others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis as redis_py

from benchmarks.servers import RedisServer, redis_server
from multiprocessing_kit.errors import JobError
from tests.folders import until
from tests.service.services import WORK, Shop

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that takes no text above 1 MB."""
    with redis_server(tmp_path / "redis", proto_max_bulk_len="1mb") as server:
        yield server


@pytest.mark.parametrize(
    "what", ["return 'x' * size", "raise ValueError('x' * size)"], ids=["result", "error"]
)
def test_what_is_too_large_to_keep_is_one_jobs_trouble(
    tmp_path: Path, narrow: RedisServer, service_name: str, what: str
) -> None:
    jobs = f"""
        def large(size):
            note(size)
            if size < 1000:
                return size
            {what}
    """
    topic = WORK.replace("jobs:work", "jobs:large") + "retry = { max = 0 }\n"
    with Shop(tmp_path / "shop", topic, jobs, broker=narrow.url, name=service_name) as shop:
        with shop.client() as client:
            large = client.push("work", 2_000_000)
            others = [client.push("work", number) for number in range(20)]
            shop.run()
            assert [other.wait(60) for other in others] == list(range(20))
            with pytest.raises(JobError) as raised:
                large.wait(60)
            assert len(str(raised.value)) < 10_000
            until(lambda: client.backlog("work").dead == 1, "a dead letter")
            assert client.backlog("work").running == 0
        assert shop.runs["2000000"] == 1


def fill(operator: redis_py.Redis) -> list[str]:
    """Until there is no room; what is there now."""
    names: list[str] = []
    with contextlib.suppress(redis_py.exceptions.OutOfMemoryError):
        while True:
            operator.set(f"filled-{len(names)}", bytes(20_000))
            names.append(f"filled-{len(names)}")
    return names


def test_schedules_that_cannot_be_pushed_are_told_once_and_hold_nothing_up(
    tmp_path: Path, service_name: str
) -> None:
    topics = (
        WORK
        + """
        [[topics.schedules]]
        cron = "0 0 29 2 *"
    """
    )
    with redis_server(tmp_path / "redis", maxmemory="3mb", maxmemory_policy="noeviction") as server:
        shop = Shop(
            tmp_path / "shop", topics, broker=server.url, name=service_name, settings="scale_seconds = 0.05"
        )
        with shop, redis_py.Redis.from_url(server.url) as operator:
            with shop.client() as client:
                ids = client.push_many("work", range(10))
            filled = fill(operator)
            shop.run()
            shop.wait_for_lines(len(ids))
            shop.wait_for_log("jobs of schedules cannot be pushed: .* memory is full")
            operator.delete(*filled)
            with shop.client() as client:
                until(lambda: client.backlog("work").delayed == 1, "the job of the schedule")
        assert len(shop.wait_for_log("jobs of schedules cannot be pushed")) == 1
        assert "the broker is away" not in shop.log


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (r"FileNotFoundError('caf\udce9.txt')", r"FileNotFoundError: caf\udce9.txt"),
        ("Wordless()", "Wordless"),
    ],
    ids=["surrogates", "no words"],
)
def test_an_exception_whose_words_cannot_be_written(tmp_path: Path, error: str, told: str) -> None:
    jobs = f"""
        class Wordless(Exception):
            def __str__(self):
                raise TypeError("there are no words")

        def wrong(argument):
            note(argument)
            raise {error}
    """
    topic = WORK.replace("jobs:work", "jobs:wrong") + 'retry = { max = 1, wait = "none" }\n'
    with Shop(tmp_path / "shop", topic, jobs) as shop:
        with shop.client() as client:
            job = client.push("work", 1)
            shop.run()
            with pytest.raises(JobError) as raised:
                job.wait(60)
        assert told in str(raised.value)
        assert shop.runs["1"] == 2
        with shop.broker() as broker:
            (letter,) = broker.dead_letters("work", 10)
        assert [event.kind for event in letter.job.history] == ["failed", "failed"]
