"""The servers that the tests of one run share; each test uses a service name of its own."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from benchmarks.servers import RabbitServer, RedisServer, Server, rabbitmq_server, redis_server

ServerT = TypeVar("ServerT", bound=Server)

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def redis_of_the_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def rabbitmq_of_the_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    with rabbitmq_server(tmp_path_factory.mktemp("rabbitmq")) as server:
        yield server


@pytest.fixture
def redis(redis_of_the_run: RedisServer) -> Iterator[RedisServer]:
    """A Redis server that runs; a test may kill and pause it."""
    yield from _mended(redis_of_the_run)


@pytest.fixture
def rabbitmq(rabbitmq_of_the_run: RabbitServer) -> Iterator[RabbitServer]:
    """A RabbitMQ server that runs; a test may kill and pause it."""
    yield from _mended(rabbitmq_of_the_run)


@pytest.fixture
def service_name() -> str:
    """One that no other test uses."""
    return f"test-{os.getpid()}-{next(_numbers)}"


@pytest.fixture(scope="session")
def server_of_the_run(request: pytest.FixtureRequest) -> Server | None:
    """Of "redis" or "rabbitmq"; "sqlite" has none. Of the session: it starts before a test is watched."""
    if request.param == "sqlite":
        return None
    server: Server = request.getfixturevalue(f"{request.param}_of_the_run")
    return server


@pytest.fixture
def server(server_of_the_run: Server | None) -> Iterator[Server | None]:
    """As `server_of_the_run`; a test may kill and pause it."""
    if server_of_the_run is None:
        yield None
    else:
        yield from _mended(server_of_the_run)


@pytest.fixture
def broker_url(server: Server | None, tmp_path: Path) -> str:
    """Of a broker, for tests that are parametrised with `every_broker` of holding.py."""
    return f"sqlite:///{tmp_path / 'jobs.db'}" if server is None else server.url


def _mended(server: ServerT) -> Iterator[ServerT]:
    yield server
    if not server.alive:
        server.start()
    server.go_on()
