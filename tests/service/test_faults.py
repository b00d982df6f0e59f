"""The fault table of docs/guarantees.md in short; `tests/stress/test_service.py` has it in full.

Real services on real brokers, and real kills. A row does one fault again and again while jobs are run, which
note each of their runs in a file; see benchmarks/service_chaos/rows.py.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.servers import Server
from benchmarks.service_chaos import rows
from benchmarks.service_chaos.field import Field
from benchmarks.service_chaos.notes import BEGUN, ENDED, Notes
from benchmarks.service_chaos.outcome import Outcome
from benchmarks.service_chaos.shop import until

pytestmark = pytest.mark.timeout(180)

BROKERS = ["sqlite", "redis", "rabbitmq"]

Row = Callable[[Field], Outcome]


@pytest.fixture
def field(broker_url: str, tmp_path: Path, service_name: str) -> Field:
    """On the broker that the test is parametrised with."""
    return Field(broker_url, random.Random(7), Notes(tmp_path / "notes"), service_name)


def check(outcome: Outcome) -> None:
    """Print the figures, and fail if they must not be."""
    print(outcome)
    assert not outcome.problems


# ── kills ───────────────────────────────────────────────────────────────────────────────────────────

KILLS: dict[str, Row] = {
    "workers": lambda field: rows.workers_killed(field, 2000, 60),
    "service": lambda field: rows.service_killed(field, 200, 1),
    "TERM": lambda field: rows.terminated(field, 300, 5),
    "poison": lambda field: rows.poison(field, 100),
    "one of two hosts": lambda field: rows.two_hosts(field, 300),
    "consumer": lambda field: rows.consumer_killed(field, 300, 2),
    "paused host": lambda field: rows.host_paused(field, 500),
    "master": lambda field: rows.master_killed(field, 200, 1),
    "long job": lambda field: rows.long_job(field, 4.5),
}
# RabbitMQ knows no lease, and its consumer timeout is half an hour here.
SWIFT = [("workers", "sqlite"), ("TERM", "sqlite"), ("long job", "sqlite"), ("long job", "redis")]
SWIFT += [(row, broker) for row in ("service", "poison", "one of two hosts") for broker in BROKERS]
THOROUGH = [("workers", "redis"), ("workers", "rabbitmq"), ("TERM", "redis"), ("TERM", "rabbitmq")]
THOROUGH += [(row, broker) for row in ("consumer", "master") for broker in BROKERS]
# A host that is paused may hold the lock of an SQLite file.
THOROUGH += [("paused host", "redis"), ("paused host", "rabbitmq")]
CASES = [*SWIFT, *(pytest.param(*case, marks=pytest.mark.thorough) for case in THOROUGH)]


@pytest.mark.parametrize(("row", "server_of_the_run"), CASES, indirect=["server_of_the_run"])
def test_no_job_is_lost(field: Field, row: str) -> None:
    check(KILLS[row](field))


# ── the broker ──────────────────────────────────────────────────────────────────────────────────────

HURTS: dict[str, Callable[[Field, Server], Outcome]] = {
    "killed": lambda field, server: rows.broker_killed(field, server, 1),
    "reset": lambda field, server: rows.connections_reset(field, 1.0, 2),
    "paused": lambda field, server: rows.broker_paused(field, server, 6.0),
}


@pytest.mark.parametrize("hurt", ["killed", "reset", pytest.param("paused", marks=pytest.mark.thorough)])
@pytest.mark.parametrize("server_of_the_run", ["redis", "rabbitmq"], indirect=True)
def test_a_broker_that_is_hurt_loses_no_confirmed_push(field: Field, server: Server, hurt: str) -> None:
    check(HURTS[hurt](field, server))


# ── what is no fault of the service's ───────────────────────────────────────────────────────────────


sqlite = pytest.mark.parametrize("server_of_the_run", ["sqlite"], indirect=True)


@sqlite
def test_a_job_that_takes_too_long_is_ended(field: Field) -> None:
    retry = {"max": 1, "wait": "none"}
    with field.shop(topic={"workers": 2, "timeout": 0.5, "retry": retry}) as shop:
        with shop.client() as client:
            slow = client.push("work", {"number": 1000, "seconds": 600.0})
        numbers = field.push(shop, 100, 0.005)
        outcome = Outcome("it takes too long")
        field.finish(shop, outcome, numbers, dead=1)
        check(outcome)
        assert outcome.again <= 2 * rows.IN_FLIGHT
        assert len(field.notes.begun(1000)) == 2
        with shop.broker() as broker:
            (letter,) = broker.dead_letters("work", 10)
    assert letter.job.id == slow
    assert [event.kind for event in letter.job.history] == ["timeout", "timeout"]


@sqlite
@pytest.mark.parametrize(
    ("limits", "jobs", "fewest"),
    [({"max_jobs_per_worker": 20}, 300, 15), ({"max_seconds_per_worker": 0.5}, 500, 4)],
    ids=["jobs", "seconds"],
)
def test_workers_that_are_replaced_lose_nothing(
    field: Field, limits: dict[str, float], jobs: int, fewest: int
) -> None:
    with field.shop(topic={"workers": 2, **limits}) as shop:
        numbers = field.push(shop, jobs, 0.01)
        outcome = Outcome("workers are replaced")
        field.finish(shop, outcome, numbers)
    check(outcome)
    assert outcome.again == 0
    runs = Counter(note.pid for note in field.notes.all() if note.kind == ENDED)
    assert len(runs) >= fewest
    assert max(runs.values()) <= limits.get("max_jobs_per_worker", jobs)


@sqlite
def test_workers_grow_with_the_backlog_and_shrink_when_idle(field: Field) -> None:
    topic = {"workers": {"min": 1, "max": 4}, "backlog": {"per_worker": 20}}
    with field.shop(topic=topic, scale_seconds=0.1) as shop:
        until(lambda: len(shop.workers()) == 1, "one worker")
        numbers = field.push(shop, 300, 0.05)
        until(lambda: len(shop.workers()) == 4, "four workers")
        outcome = Outcome("a flood")
        field.finish(shop, outcome, numbers)
        until(lambda: len(shop.workers()) == 1, "one worker again")
    check(outcome)
    assert outcome.again == 0


@sqlite
def test_who_goes_when_there_is_less_to_do_is_idle(field: Field) -> None:
    topic = {"workers": {"min": 1, "max": 2}, "backlog": {"per_worker": 1}}
    with field.shop(topic=topic, scale_seconds=0.1, stop_timeout=0.2) as shop:
        with shop.client() as client:
            for number, seconds in enumerate((1.0, 4.0)):  # the first worker gets the first
                client.push("work", {"number": number, "seconds": seconds})
        until(lambda: len(shop.workers()) == 2 and field.notes.count == 2, "two jobs that have begun")
        until(lambda: len(shop.workers()) == 1, "one worker again")
        assert field.notes.ended() == {0}, "the other job was under way all the time"
        outcome = Outcome("less to do")
        field.finish(shop, outcome, range(2))
    check(outcome)
    assert outcome.again == 0


@sqlite
def test_a_flooded_topic_does_not_starve_another(field: Field) -> None:
    other = {"name": "other", "worker": "benchmarks.service_chaos.jobs:work"}
    with field.shop(topic={"workers": 2}, topics=[other]) as shop:
        field.push(shop, 4000, 0.1)
        field.wait_for_progress(10)
        with shop.client() as client:
            for number in range(5000, 5020):
                client.push("other", {"number": number, "seconds": 0.0})
        until(lambda: len([n for n in field.notes.ended() if n >= 5000]) == 20, "the other topic's jobs")
        assert len(field.notes.ended()) < 2000, "the flood was there all the time"


@sqlite
def test_a_stop_lets_jobs_end_that_have_begun(field: Field) -> None:
    with field.shop(topic={"workers": 2}) as shop:
        with shop.client() as client:
            for number in range(10):
                client.push("work", {"number": number, "seconds": 1.0})
        until(lambda: field.notes.count == 2, "two jobs that have begun")
        assert shop.end() == 0
        assert field.notes.ended() == {note.number for note in field.notes.all() if note.kind == BEGUN}
        with shop.broker() as broker:
            backlog = broker.backlog("work")
    assert (backlog.ready, backlog.running, backlog.dead) == (8, 0, 0)
