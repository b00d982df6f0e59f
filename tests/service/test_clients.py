"""Clients that threads share, and that wait while their broker is away."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks.servers import RedisServer, Server
from multiprocessing_kit.errors import BrokerUnavailableError
from multiprocessing_kit.service.brokers.base import Broker
from multiprocessing_kit.service.brokers.opening import open_broker
from multiprocessing_kit.service.client import Client
from multiprocessing_kit.service.job import Outcome, Settlement
from multiprocessing_kit.service.payloads import Payloads
from tests.service.holding import TOPIC, every_broker, take

pytestmark = pytest.mark.timeout(120)

THREADS = 4
JOBS = 60


def answer(broker: Broker, count: int) -> None:
    """Take so many jobs, and keep as the result of each what it was given."""
    payloads = Payloads()
    done = []
    for delivery in take(broker, count):
        result = payloads.encode({"ok": True, "body": payloads.decode(delivery.job.payload)})
        done.append(Settlement(delivery, Outcome.ACK, result, 60.0))
    assert broker.settle(done) == []


@contextlib.contextmanager
def consumer(url: str, service: str) -> Iterator[Broker]:
    with contextlib.closing(open_broker(url, service)) as broker:
        broker.join("first", [TOPIC], 30.0)
        yield broker


@pytest.fixture
def switches_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@every_broker
@pytest.mark.usefixtures("switches_often")
def test_threads_that_share_a_client_get_their_own(broker_url: str, service_name: str) -> None:
    with consumer(broker_url, service_name) as broker, Client(broker_url, service_name) as client:
        client.push(TOPIC, "first")  # it connects
        with ThreadPoolExecutor(THREADS) as threads:
            ids = list(threads.map(lambda number: client.push(TOPIC, number, id=f"n-{number}"), range(JOBS)))
            answer(broker, JOBS + 1)
            found = list(threads.map(lambda job: job.wait(60), ids))
    assert ids == [f"n-{number}" for number in range(JOBS)]
    assert found == list(range(JOBS))


def test_who_waits_goes_on_when_the_broker_is_back(redis: RedisServer, service_name: str) -> None:
    with Client(redis.url, service_name) as client:
        job = client.push(TOPIC, "over the restart")
        redis.kill()
        with pytest.raises(BrokerUnavailableError):
            job.wait(0.0)
        back = threading.Thread(target=restart_and_answer, args=(redis, service_name))
        back.start()
        assert job.wait(60) == "over the restart"
        back.join()


def restart_and_answer(server: Server, service: str) -> None:
    server.start()
    with consumer(server.url, service) as broker:
        answer(broker, 1)
