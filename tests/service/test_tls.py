"""Brokers behind TLS: the same as without, and a server that is not who it should be is not trusted."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlencode

import pytest

from benchmarks.servers import Server, free_port, rabbitmq_server, redis_server
from multiprocessing_kit.errors import BrokerError, BrokerUnavailableError
from multiprocessing_kit.service.brokers.base import Broker
from multiprocessing_kit.service.brokers.opening import open_broker
from tests.service.holding import TOPIC, again, ids, job, none_comes, rings, take

pytestmark = pytest.mark.timeout(180)

LEASE = 30.0
LARGE = bytes(range(256)) * 4096

Secured = tuple[Server, str, str]
"""A server, its URL, and one whose user does not know who vouches for it."""


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the `key.pem` and `cert.pem` of 127.0.0.1."""
    folder = tmp_path_factory.mktemp("certificate")
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(["openssl", "req", "-x509", *subject, *made], cwd=folder, check=True, capture_output=True)
    return folder


@contextmanager
def redis(folder: Path, certificate: Path) -> Iterator[Secured]:
    port = free_port()
    settings = {
        "tls_port": str(port),
        "tls_cert_file": f"{certificate}/cert.pem",
        "tls_key_file": f"{certificate}/key.pem",
        "tls_ca_cert_file": f"{certificate}/cert.pem",
        "tls_auth_clients": "no",
    }
    with redis_server(folder, **settings) as server:
        url = f"rediss://127.0.0.1:{port}/0"
        yield server, f"{url}?ssl_ca_certs={certificate}/cert.pem", url


@contextmanager
def rabbitmq(folder: Path, certificate: Path) -> Iterator[Secured]:
    port = free_port()
    settings = {
        "listeners.ssl.default": f"127.0.0.1:{port}",
        "ssl_options.cacertfile": f"{certificate}/cert.pem",
        "ssl_options.certfile": f"{certificate}/cert.pem",
        "ssl_options.keyfile": f"{certificate}/key.pem",
    }
    with rabbitmq_server(folder, **settings) as server:
        url = f"amqps://guest:guest@127.0.0.1:{port}/"
        options = urlencode({"ssl_options": repr({"ca_certs": f"{certificate}/cert.pem"})})
        yield server, f"{url}?{options}", url


@pytest.fixture(scope="session", params=[redis, rabbitmq])
def secured(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificate: Path
) -> Iterator[Secured]:
    with request.param(tmp_path_factory.mktemp("secured"), certificate) as secured:
        yield secured


@pytest.fixture
def opened(service_name: str) -> Iterator[Callable[[str], Broker]]:
    with ExitStack() as brokers:
        yield lambda url: brokers.enter_context(open_broker(url, service_name))


def test_jobs(secured: Secured, opened: Callable[[str], Broker]) -> None:
    """Pushed while their consumer waits, large, and many; also after the server was killed."""
    server, url, _ = secured
    broker, consumer = opened(url), opened(url)
    consumer.join("first", [TOPIC], LEASE)
    for payload, count in ((b"small", 1), (LARGE, 3), (b"many", 1200)):
        none_comes(consumer)
        pushed = [job(payload) for _ in range(count)]
        assert all(broker.push(pushed))
        assert rings(consumer, 60)
        taken = take(consumer, count)
        assert sorted(ids(taken)) == sorted(ids(pushed))
        assert {delivery.job.payload for delivery in taken} == {payload}
        assert all(consumer.ack(delivery) for delivery in taken)

    server.kill()
    with pytest.raises(BrokerUnavailableError):
        broker.push([job()])
    server.start()
    assert again(lambda: broker.push([job()])) == [True]
    assert len(again(lambda: take(consumer, 1))) == 1


def test_a_server_that_nobody_vouches_for(secured: Secured, opened: Callable[[str], Broker]) -> None:
    _, _, url = secured
    with pytest.raises(BrokerError, match=r"(?i)certificate.verify.failed") as raised:
        opened(url).push([job()])
    assert not isinstance(raised.value, BrokerUnavailableError)  # to try again does not help
