"""The fault table of docs/guarantees.md in full, on each broker: see benchmarks/service_chaos/rows.py."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from benchmarks.servers import Server, rabbitmq_server, redis_server
from benchmarks.service_chaos import rows
from benchmarks.service_chaos.field import Field
from benchmarks.service_chaos.notes import Notes
from benchmarks.service_chaos.outcome import Outcome

pytestmark = [pytest.mark.stress, pytest.mark.timeout(1800)]

BROKERS = ["sqlite", "redis", "rabbitmq"]
SERVERS = BROKERS[1:]

Row = Callable[[Field], Outcome]
Hurt = Callable[[Field, Server], Outcome]

names = count(1)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With a consumer timeout of a few seconds, which it looks at each second, and not once a minute."""
    folder = tmp_path_factory.mktemp("rabbitmq")
    (folder / "advanced.config").write_text("[{rabbit, [{channel_tick_interval, 1000}]}].\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RABBITMQ_ADVANCED_CONFIG_FILE", str(folder / "advanced.config"))
        with rabbitmq_server(folder, consumer_timeout="12000") as server:
            server.url += "?consumer_timeout=12"
            yield server


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Server | None:
    """Of the broker that the test is parametrised with; SQLite has none."""
    return None if request.param == "sqlite" else request.getfixturevalue(request.param)


@pytest.fixture
def field(server: Server | None, tmp_path: Path, request: pytest.FixtureRequest) -> Field:
    url = f"sqlite:///{tmp_path / 'jobs.db'}" if server is None else server.url
    seed = request.node.callspec.params.get("seed", 0)
    return Field(url, random.Random(seed), Notes(tmp_path / "notes"), f"stress-{os.getpid()}-{next(names)}")


def check(outcome: Outcome) -> None:
    print(outcome)
    assert not outcome.problems


KILLS: dict[str, Row] = {
    "workers": partial(rows.workers_killed, jobs=20_000, kills=1000),
    "consumer": partial(rows.consumer_killed, jobs=5000, kills=5),
    "master": partial(rows.master_killed, jobs=5000, kills=20),
    "service": partial(rows.service_killed, jobs=5000, kills=20),
    "TERM": partial(rows.terminated, jobs=5000, times=50),
    "poison": partial(rows.poison, jobs=2000),
    "one of two hosts": partial(rows.two_hosts, jobs=2000),
    "long job": partial(rows.long_job, seconds=30.0),
}


@pytest.mark.parametrize("row", KILLS.values(), ids=KILLS)
@pytest.mark.parametrize("server", BROKERS, indirect=True)
def test_no_job_is_lost(field: Field, row: Row) -> None:
    check(row(field))


@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("server", BROKERS, indirect=True)
def test_ends_at_any_instant(field: Field, signum: int, seed: int) -> None:
    check(rows.ended_anywhere(field, 500, 10, signum))


HURTS: dict[str, Hurt] = {
    "killed": lambda field, server: rows.broker_killed(field, server, 5),
    "not, but a host is paused": lambda field, _: rows.host_paused(field, 2000),
    "paused": lambda field, server: rows.broker_paused(field, server, 20.0),
    "reset": lambda field, server: rows.connections_reset(field, 5.0, 10),
    "paused beyond the lease": lambda field, server: rows.broker_paused(field, server, 8.0, 3, lease=3.0),
    "reset without a rest": lambda field, server: rows.connections_reset(field, 0.3, 60),
}


@pytest.mark.parametrize("hurt", HURTS.values(), ids=HURTS)
@pytest.mark.parametrize("server", SERVERS, indirect=True)
def test_a_broker_that_is_hurt_loses_no_confirmed_push(field: Field, server: Server, hurt: Hurt) -> None:
    check(hurt(field, server))


@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("server", BROKERS, indirect=True)
def test_a_storm(field: Field, server: Server | None, seed: int) -> None:
    check(rows.storm(field, server, 60))
