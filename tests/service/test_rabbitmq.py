"""What is special to RabbitMQ, on real servers; what all brokers have in common is in test_brokers.py."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator

import pika
import psutil
import pytest

from benchmarks.servers import RabbitServer, rabbitmq_server
from multiprocessing_kit.errors import BrokerError, BrokerUnavailableError, PayloadError, ServiceConfigError
from multiprocessing_kit.service.brokers.base import Broker
from multiprocessing_kit.service.brokers.rabbitmq.broker import RabbitBroker
from multiprocessing_kit.service.brokers.rabbitmq.names import Names, rung_of
from multiprocessing_kit.service.brokers.rabbitmq.publisher import Letter, Publisher
from multiprocessing_kit.service.brokers.rabbitmq.wire import Wire
from multiprocessing_kit.service.job import Delivery, Outcome, Settlement
from tests.forks import exit_of, fork
from tests.gates import Gate
from tests.service.holding import TOPIC, again, eventually, ids, job, none_comes, take

pytestmark = pytest.mark.timeout(180)

LEASE = 30.0
IMPATIENT = 3.0
NARROW = 2_000_000

Open = Callable[..., RabbitBroker]


@pytest.fixture(scope="module")
def impatient_of_the_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """It looks twice a second whether a consumer takes too long."""
    directory = tmp_path_factory.mktemp("impatient")
    with rabbitmq_server(
        directory, "{channel_tick_interval, 500}", consumer_timeout=f"{IMPATIENT * 1000:.0f}"
    ) as server:
        yield server


@pytest.fixture(scope="module")
def narrow_of_the_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """It takes messages of 2 MB at most."""
    with rabbitmq_server(tmp_path_factory.mktemp("narrow"), max_message_size=str(NARROW)) as server:
        yield server


@pytest.fixture
def opened(service_name: str) -> Iterator[Open]:
    brokers: list[RabbitBroker] = []

    def new(server: RabbitServer, options: str = "") -> RabbitBroker:
        brokers.append(RabbitBroker(server.url + options, service_name))
        return brokers[-1]

    yield new
    for broker in brokers:
        broker.close()


@pytest.fixture
def broker(rabbitmq: RabbitServer, opened: Open) -> RabbitBroker:
    return opened(rabbitmq)


@pytest.fixture
def consumer(rabbitmq: RabbitServer, opened: Open) -> RabbitBroker:
    consumer = opened(rabbitmq)
    consumer.join("first", [TOPIC], LEASE)
    return consumer


# ── a consumer that takes long, or is cut off ─────────────────────────────────────────────────────────


@pytest.mark.parametrize("options", [f"?consumer_timeout={IMPATIENT:g}", ""], ids=["known", "unknown"])
def test_a_job_longer_than_the_consumer_timeout_runs_once(
    impatient_of_the_module: RabbitServer, opened: Open, options: str
) -> None:
    """By moving it before the server loses its patience; or by adopting it when it comes again after that."""
    server = impatient_of_the_module
    slow = opened(server, options)
    slow.join("slow", [TOPIC], LEASE)
    slow.push([job(), job(priority=1)])
    deliveries = take(slow, 2)
    others = opened(server) if options else None
    if others is not None:
        others.join("other", [TOPIC], LEASE)

    until = time.monotonic() + 3 * IMPATIENT
    while time.monotonic() < until:
        again(slow.extend)
        assert again(lambda: slow.reserve(5)) == []
        if others is not None:
            assert others.reserve(5) == []
            others.extend()
        time.sleep(0.1)
    assert again(lambda: slow.settle([Settlement(each, Outcome.ACK) for each in deliveries])) == []
    if others is not None:
        others.close()
    slow.close()
    _has(opened(server), ready=0)


def test_moving_a_job_does_not_end_its_lease(rabbitmq: RabbitServer, opened: Open) -> None:
    """Though it was taken longer ago than a lease."""
    slow = opened(rabbitmq, "?consumer_timeout=8")
    slow.join("slow", [TOPIC], 3.0)
    slow.push([job()])
    (delivery,) = take(slow, 1)

    until = time.monotonic() + 5.0
    while time.monotonic() < until:
        time.sleep(0.1)
        slow.extend()
    assert slow.reserve(5) == []
    assert slow.ack(delivery)
    none_comes(slow)
    slow.extend()
    slow.close()
    _has(opened(rabbitmq), ready=0)


def test_moved_jobs_of_a_dead_consumer_come_back(impatient_of_the_module: RabbitServer, opened: Open) -> None:
    server = impatient_of_the_module
    pushed = [job(), job(priority=5)]
    with Gate() as gate:

        def die() -> None:
            dying = opened(server, f"?consumer_timeout={IMPATIENT:g}")
            dying.join("dying", [TOPIC], 3.0)
            dying.push(pushed)
            take(dying, 2)
            until = time.monotonic() + IMPATIENT
            while time.monotonic() < until:
                dying.extend()
                dying.reserve(1)
                time.sleep(0.1)
            gate.open()
            os.kill(os.getpid(), signal.SIGKILL)

        child = fork(die)
        gate.wait()
        assert exit_of(child) == -signal.SIGKILL
    living = opened(server)
    living.join("living", [TOPIC], LEASE)
    assert sorted(ids(take(living, 2))) == sorted(ids(pushed))


@pytest.mark.parametrize("settled", ["before it comes again", "after it has"])
@pytest.mark.parametrize("outcome", [Outcome.ACK, Outcome.RETRY, Outcome.DEAD, Outcome.RELEASE])
def test_a_cut_connection_makes_no_job_run_twice(
    rabbitmq: RabbitServer, opened: Open, consumer: RabbitBroker, settled: str, outcome: str
) -> None:
    consumer.push([job(), job()])
    first, second = take(consumer, 2)
    _cut(rabbitmq)
    if settled == "after it has":
        again(consumer.extend)
        for _ in range(20):
            assert again(lambda: consumer.reserve(5)) == [], "they are here, and run"

    for delivery in (first, second):
        delivery.job.failed("failed", "no luck")
        assert again(lambda each=delivery: consumer.settle([Settlement(each, outcome)])) == []  # type: ignore[misc]
    if outcome in (Outcome.RETRY, Outcome.RELEASE):
        deliveries = take(consumer, 2, extends=True)
        assert sorted(ids(deliveries)) == sorted(ids([first, second]))
        assert {each.job.attempt for each in deliveries} == ({2} if outcome == Outcome.RETRY else {1})
        assert consumer.settle([Settlement(each, Outcome.ACK) for each in deliveries]) == []
    none_comes(consumer)
    consumer.extend()
    consumer.close()
    _has(opened(rabbitmq), ready=0, dead=2 if outcome == Outcome.DEAD else 0)


def test_cut_again_and_again(rabbitmq: RabbitServer, broker: RabbitBroker, consumer: RabbitBroker) -> None:
    jobs = [job() for _ in range(300)]
    again(lambda: broker.push(jobs))
    seen: list[str] = []
    for round_ in range(1000):
        deliveries: list[Delivery] = again(lambda: consumer.reserve(7))
        seen += ids(deliveries)
        if round_ % 9 == 0:
            _cut(rabbitmq)
        settlements = [Settlement(each, Outcome.ACK) for each in deliveries]
        assert again(lambda each=settlements: consumer.settle(each)) == []  # type: ignore[misc]
        if len(seen) >= len(jobs):
            break
        if not deliveries:
            time.sleep(0.02)
    assert sorted(seen) == sorted(ids(jobs)), "each once"
    again(consumer.extend)
    none_comes(consumer)
    _has(broker, ready=0)


# ── the server ends ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.timeout(400)
def test_no_confirmed_push_is_lost_with_the_server(
    rabbitmq: RabbitServer, broker: RabbitBroker, consumer: RabbitBroker
) -> None:
    held, dead = job(), job()
    broker.push([held, dead])
    _, dying = take(consumer, 2)
    assert consumer.dead(dying)
    reading, writing = os.pipe()

    def push() -> None:
        os.close(reading)
        while True:
            jobs = [job(id=f"{time.time_ns()}-{i}", due=time.time() + 0.3 * (i % 3)) for i in range(20)]
            again(lambda each=jobs: broker.push(each))  # type: ignore[misc]
            os.write(writing, "".join(f"{each}\n" for each in ids(jobs)).encode())

    child = fork(push)
    os.close(writing)
    with open(reading) as lines:
        confirmed = [next(lines).rstrip() for _ in range(200)]
        rabbitmq.kill()
        os.kill(child, signal.SIGKILL)
        exit_of(child)
        confirmed += [line.rstrip() for line in lines]
    rabbitmq.start()

    missing = set(confirmed)
    deadline = time.monotonic() + 60
    while missing:
        again(consumer.extend)
        deliveries = again(lambda: consumer.reserve(50))
        missing -= set(ids(deliveries))
        what = f"{len(missing)} of {len(confirmed)} are lost"
        assert time.monotonic() < deadline, f"{what}; there are {broker.backlog(TOPIC)}"
        again(lambda each=deliveries: consumer.settle([Settlement(one, Outcome.ACK) for one in each]))  # type: ignore[misc]
    assert [letter.job.id for letter in again(lambda: broker.dead_letters(TOPIC, 5))] == [dead.id]


# ── delays ────────────────────────────────────────────────────────────────────────────────────────────


def test_delays_are_exact(broker: RabbitBroker, consumer: RabbitBroker) -> None:
    take_soon = [0.15, 0.7, 1.3, 2.6, 4.2]
    now = time.time()
    jobs = [job(due=now + delay) for delay in take_soon]
    broker.push(jobs[::-1])

    for expected in jobs:
        (delivery,) = take(consumer, 1)
        assert delivery.job.id == expected.id
        assert 0 <= time.time() - expected.due < 1.0
        assert consumer.ack(delivery)
    _has(broker, ready=0)


@pytest.mark.parametrize(
    ("seconds", "milliseconds"),
    [(0.001, 100), (0.1, 100), (0.29, 100), (0.3, 300), (2.9, 1000), (60, 30_000), (1e9, 30_000_000)],
)
def test_the_delay_queue_for_a_rest(seconds: float, milliseconds: int) -> None:
    assert rung_of(seconds) == milliseconds


def test_delayed_jobs_pass_a_long_backlog(broker: RabbitBroker, consumer: RabbitBroker) -> None:
    broker.push([job() for _ in range(500)])
    urgent = job(due=time.time() + 0.5)
    broker.push([urgent])

    time.sleep(0.5)
    seen: list[str] = []
    while urgent.id not in seen:
        deliveries = take(consumer, 5)
        seen += ids(deliveries)
        assert consumer.settle([Settlement(each, Outcome.ACK) for each in deliveries]) == []
    assert len(seen) < 400


# ── unique ids ────────────────────────────────────────────────────────────────────────────────────────


def test_one_of_many_pushes_of_an_id(rabbitmq: RabbitServer, opened: Open, broker: RabbitBroker) -> None:
    broker.push([job(topic="other")])  # so that all start at once
    results, names = os.pipe(), [f"key-{i}" for i in range(5)]

    def push() -> None:
        mine = opened(rabbitmq)
        for name in names:
            (added,) = again(lambda each=name: mine.push([job(id=each, is_unique=True)]))  # type: ignore[misc]
            os.write(results[1], b"+" if added else b"-")

    children = [fork(push) for _ in range(4)]
    assert [exit_of(child) for child in children] == [0] * 4
    os.close(results[1])
    with open(results[0], "rb") as answers:
        said = answers.read()
    assert (said.count(b"+"), said.count(b"-")) == (5, 15)
    _has(broker, ready=5)


def test_who_dies_while_pushing_takes_no_id_with_him(
    rabbitmq: RabbitServer, opened: Open, broker: RabbitBroker, service_name: str
) -> None:
    """He has the lock, and no job is there: as if killed just before it was published."""
    with Gate() as gate:

        def die() -> None:
            connection = pika.BlockingConnection(pika.URLParameters(rabbitmq.url))
            connection.channel().queue_declare(Names(service_name).lock("key"), exclusive=True)
            gate.open()
            signal.pause()

        child = fork(die)
        gate.wait()
        with pytest.raises(BrokerUnavailableError, match="somebody else"):
            broker.push([job(id="key", is_unique=True)])
        os.kill(child, signal.SIGKILL)
        exit_of(child)
    assert again(lambda: broker.push([job(id="key", is_unique=True)])) == [True]
    assert broker.push([job(id="key", is_unique=True)]) == [False]


# ── results ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", ["pushed", "retried"])
def test_an_earlier_result_of_an_id_is_nobodys(
    rabbitmq: RabbitServer, opened: Open, broker: RabbitBroker, consumer: RabbitBroker, how: str
) -> None:
    """Neither of who has it used again, nor of who has read it, nor of who comes then."""
    reader = opened(rabbitmq)
    for i in range(3):
        if i == 0 or how == "pushed":
            assert broker.push([job(id="x", is_unique=True)]) == [True]
        else:
            assert broker.dead_retry(TOPIC, ["x"]) == 1
        assert [each.result("x") for each in (broker, reader, opened(rabbitmq))] == [None] * 3
        (delivery,) = take(consumer, 1)
        outcome = Outcome.ACK if how == "pushed" else Outcome.DEAD
        result = f"result {i}".encode()
        assert consumer.settle([Settlement(delivery, outcome, result, 60.0)]) == []
        for each in (broker, reader, opened(rabbitmq)):
            eventually(lambda who=each, what=result: who.result("x") == what)  # type: ignore[misc]


def test_a_refused_push_drops_no_result(broker: RabbitBroker, consumer: RabbitBroker) -> None:
    broker.push([job(id="x", is_unique=True, hold=60.0)])
    assert consumer.ack(take(consumer, 1)[0], b"result", keep=60.0)
    assert broker.push([job(id="x", is_unique=True)]) == [False]
    assert broker.result("x") == b"result"


def test_results_take_little_memory_and_are_found_again(
    rabbitmq: RabbitServer, opened: Open, broker: RabbitBroker, consumer: RabbitBroker
) -> None:
    """Of others those that nobody has asked for take none."""
    results = {_done(broker, consumer, size): size for size in range(2_000_000, 2_000_040)}
    other = opened(rabbitmq)
    first = next(iter(results))
    with _memory() as taken:
        eventually(lambda: other.result(first) is not None)
        assert taken() < 10e6
        for reader in (broker, other):
            for _ in range(2):
                for job_id, size in results.items():
                    found = reader.result(job_id)
                    assert found is not None
                    assert len(found) == size
        del found
        assert taken() < 2 * 70e6


def test_results_past_their_time_take_no_memory(broker: RabbitBroker, consumer: RabbitBroker) -> None:
    with _memory() as taken:
        for _ in range(5):
            job_id = _done(broker, consumer, 3_000_000, keep=2.0)
            eventually(lambda each=job_id: broker.result(each) is not None)  # type: ignore[misc]
        assert taken() > 3e6
        waiting = job()
        broker.push([waiting])
        eventually(lambda: broker.result(waiting.id) is None and taken() < 3e6)


# ── what is too large ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("is_unique", [True, False], ids=["unique", "any"])
@pytest.mark.parametrize("others", [0, 50])
def test_a_push_of_more_than_the_server_takes(
    narrow_of_the_module: RabbitServer, opened: Open, others: int, is_unique: bool
) -> None:
    """Nothing of it is added."""
    broker = opened(narrow_of_the_module)
    large = job(b"x" * NARROW, id="large", is_unique=is_unique)
    size = len(large.encode())
    for _ in range(2):
        with pytest.raises(PayloadError, match=rf"takes 2,000,000 bytes .* job large .* has {size:,}"):
            broker.push([*(job() for _ in range(others)), large])
        assert broker.backlog(TOPIC).ready == 0
    large.payload = large.payload[size - NARROW :]
    assert broker.push([*(job() for _ in range(others)), large]) == [True] * (others + 1)


@pytest.mark.parametrize("outcome", [Outcome.ACK, Outcome.RETRY, Outcome.DEAD])
def test_a_settlement_of_more_than_the_server_takes(
    narrow_of_the_module: RabbitServer, opened: Open, outcome: str
) -> None:
    """Nothing of it takes effect, and what can be settled can be settled then."""
    consumer = opened(narrow_of_the_module)
    consumer.join("first", [TOPIC], LEASE)
    consumer.push([job() for _ in range(3)])
    taken = take(consumer, 3)
    large = Settlement(taken[1], outcome, b"x" * NARROW if outcome == Outcome.ACK else None, 60.0)
    if outcome != Outcome.ACK:
        taken[1].job.payload = b"x" * NARROW
    others = [Settlement(taken[0], Outcome.DEAD, b"result", 60.0), Settlement(taken[2], Outcome.RELEASE)]
    for settlements in ([others[0], large, others[1]], [large]):
        with pytest.raises(BrokerError, match=r"takes messages of 2,000,000 bytes") as raised:
            consumer.settle(settlements)
        assert not isinstance(raised.value, BrokerUnavailableError)
        backlog = consumer.backlog(TOPIC)
        assert (backlog.running, backlog.ready, backlog.dead) == (3, 0, 0)
        assert consumer.result(taken[0].job.id) is None
    taken[1].job.payload = b""
    assert consumer.settle([*others, Settlement(taken[1], Outcome.DEAD)]) == []
    eventually(lambda: consumer.backlog(TOPIC).dead == 2)
    assert ids(take(consumer, 1)) == [taken[2].job.id]


def test_a_channel_that_is_closed_leaves_nobody_waiting(rabbitmq: RabbitServer, broker: RabbitBroker) -> None:
    """Whose message was on its way beside the one that is refused."""
    broker.push([job()])
    queue = Names(broker.service).low(TOPIC)
    wire = Wire(pika.URLParameters(rabbitmq.url))
    publisher = Publisher(wire)
    told: list[Letter] = []
    for i in range(1000):
        publisher.post(Letter("", queue, b"", f"mark {i}", then=told.append))
    publisher.line.channel.queue_declare("there is none", passive=True)
    eventually(lambda: wire.pump(0.1) or publisher.line.reason is not None)  # type: ignore[func-returns-value]
    wire.drop()
    assert [letter.mark for letter in told] == [f"mark {i}" for i in range(1000)]


# ── what else is on the server ────────────────────────────────────────────────────────────────────────


def test_a_job_pushed_again_while_it_waits_runs_once(broker: RabbitBroker, consumer: RabbitBroker) -> None:
    """As when no answer came to the first push."""
    pushed = job()
    broker.push([pushed])
    broker.push([pushed])

    (delivery,) = take(consumer, 1)
    none_comes(consumer)
    assert consumer.ack(delivery)
    none_comes(consumer)
    _has(broker, ready=0)


NO_JOBS = [
    b"hello",
    b'{"id":7,"topic":"mail","pushed":0.0}\nx',
    b'{"id":"a","topic":"mail","pushed":0.0,"due":"soon"}\nx',
    b'{"id":"a","topic":"mail","pushed":1e308}\nx',
    b'{"id":"a","topic":"\\ud800","pushed":0.0}\nx',
]


def test_what_is_no_job_is_a_dead_letter(
    rabbitmq: RabbitServer,
    opened: Open,
    broker: RabbitBroker,
    service_name: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    consumer = opened(rabbitmq)
    consumer.join("first", ["other", TOPIC], LEASE)
    with pika.BlockingConnection(pika.URLParameters(rabbitmq.url)) as connection:
        for record in NO_JOBS:
            connection.channel().basic_publish("", Names(service_name).low(TOPIC), record)
    good = job()
    broker.push([good])

    assert ids(take(consumer, 1)) == [good.id]
    _has(broker, ready=0, dead=len(NO_JOBS))
    assert caplog.text.count("what is no job came from the broker") == len(NO_JOBS)
    letters = broker.dead_letters(TOPIC, 10)
    assert [letter.job.payload for letter in letters] == NO_JOBS
    assert all(letter.job.topic == TOPIC and time.time() - 60 < letter.died for letter in letters)
    assert {event.kind for letter in letters for event in letter.job.history} == {"unreadable"}
    assert broker.dead_retry(TOPIC, None) == 0
    assert broker.dead_purge(TOPIC, [letters[0].job.id]) == 1
    assert broker.dead_purge(TOPIC, None) == len(NO_JOBS) - 1


def test_a_job_that_somebody_else_has_published(
    rabbitmq: RabbitServer, consumer: RabbitBroker, service_name: str
) -> None:
    """Without a mark of ours."""
    jobs = [job(), job()]
    with pika.BlockingConnection(pika.URLParameters(rabbitmq.url)) as connection:
        for each in jobs:
            connection.channel().basic_publish("", Names(service_name).low(TOPIC), each.encode())
    deliveries = take(consumer, 2)
    assert ids(deliveries) == ids(jobs)
    assert consumer.settle([Settlement(each, Outcome.ACK) for each in deliveries]) == []
    none_comes(consumer)


def test_queues_that_are_there_are_used_as_they_are(
    rabbitmq: RabbitServer, opened: Open, service_name: str
) -> None:
    """Made by another version, of this program or of the server."""
    name = Names(service_name).low(TOPIC)
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": 1000}
    with pika.BlockingConnection(pika.URLParameters(rabbitmq.url)) as connection:
        connection.channel().queue_declare(name, durable=True, arguments=arguments)
    consumer = opened(rabbitmq)
    consumer.join("first", [TOPIC], LEASE)
    consumer.push([job()])

    assert consumer.ack(take(consumer, 1)[0])


def test_queues_that_were_removed_are_made_again(
    rabbitmq: RabbitServer, broker: RabbitBroker, consumer: RabbitBroker, service_name: str
) -> None:
    broker.push([job()])
    assert consumer.ack(take(consumer, 1)[0])
    with pika.BlockingConnection(pika.URLParameters(rabbitmq.url)) as connection:
        channel = connection.channel()
        names = Names(service_name)
        for queue in [*names.taken_from(TOPIC), *(name for name, _ in names.delays(TOPIC))]:
            channel.queue_delete(queue)

    jobs = [job(), job(due=time.time() + 0.5)]
    broker.push(jobs)
    deliveries: list[Delivery] = []
    while len(deliveries) < 2:
        deliveries += again(lambda: take(consumer, 1, extends=True))
    assert ids(deliveries) == ids(jobs)


def test_the_bell_is_silent_while_all_is_paused(broker: RabbitBroker, consumer: RabbitBroker) -> None:
    broker.push([job(), job()])
    assert consumer.ack(take(consumer, 1)[0])
    none_comes(consumer, topics=[])
    bell = consumer.fileno()
    assert bell is not None
    rung, _, _ = select.select([bell], [], [], 0.2)
    assert not rung

    assert consumer.ack(take(consumer, 1)[0])


# ── a slow line ───────────────────────────────────────────────────────────────────────────────────────


def test_a_large_job_on_a_slow_line(rabbitmq: RabbitServer, opened: Open, broker: RabbitBroker) -> None:
    """There and back it takes longer than any answer may; what is asked meanwhile is answered after it."""
    large = job(os.urandom(3_000_000), priority=1)
    with _slow_line(rabbitmq, 500_000) as port:
        slow = RabbitBroker(rabbitmq.url.replace(str(rabbitmq.port), str(port)), broker.service)
        slow.join("slow", [TOPIC], LEASE)
        assert slow.push([large]) == [True]
        deliveries: list[Delivery] = []
        while not deliveries:
            deliveries = slow.reserve(1)
        assert [each.job.payload for each in deliveries] == [large.payload]
        assert slow.ack(deliveries[0])
        slow.close()
    _has(broker, ready=0)


@pytest.mark.parametrize("size", [10, 20_000_000])
def test_a_server_that_takes_nothing_more(rabbitmq: RabbitServer, broker: RabbitBroker, size: int) -> None:
    broker.push([job()])
    rabbitmq.stop()
    began = time.monotonic()
    with pytest.raises(BrokerUnavailableError, match="does not answer"):
        broker.push([job(b"x" * size)])
    assert time.monotonic() - began < 8.0


# ── words ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("account", "kind"), [("guest:secret-word", BrokerError), ("nobody:secret-word", BrokerError)]
)
def test_who_is_refused_is_told_without_the_password(
    rabbitmq: RabbitServer, account: str, kind: type[BrokerError]
) -> None:
    url = rabbitmq.url.replace("guest:guest", account)
    with RabbitBroker(url, "any") as broker, pytest.raises(kind) as caught:
        broker.push([job()])
    assert not isinstance(caught.value, BrokerUnavailableError)
    assert "secret-word" not in str(caught.value) + caught.value.broker
    assert f"{account.partition(':')[0]}:***@" in str(caught.value)
    assert "does not let us in: ACCESS_REFUSED" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("amqp://me:secret-word@localhost:port/", "Port could not be cast"),
        ("amqp://me:secret-word@localhost/?consumer_timeout=soon", "could not convert string to float"),
        ("amqp://me:secret-word@localhost/?consumer_timeout=-1", "is not a number of seconds"),
        ("amqp://me:secret-word@localhost/?consumer_timeout=nan", "is not a number of seconds"),
        ("amqp://me:secret-word@localhost/?no_such_option=1", "'no_such_option'"),
        ("amqp://me@localhost/?no_such_option=1", "a user needs a password"),
    ],
)
def test_wrong_urls(url: str, told: str) -> None:
    with pytest.raises(ServiceConfigError, match=rf"amqp://me(:\*\*\*)?@.*{told}") as caught:
        RabbitBroker(url, "any")
    assert "secret-word" not in str(caught.value)


def test_pika_logs_only_where_somebody_wants_it() -> None:
    code = (
        "import logging\n"
        "from multiprocessing_kit.service.brokers.rabbitmq.broker import RabbitBroker\n"
        "RabbitBroker('amqp://host/', 'any')\n"
        "print(logging.getLogger('pika.adapters').getEffectiveLevel())\n"
        "logging.getLogger('pika').setLevel(logging.INFO)\n"
        "RabbitBroker('amqp://host/', 'any')\n"
        "print(logging.getLogger('pika.adapters').getEffectiveLevel())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["50", "20"]


def test_nobody_there() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        broker = RabbitBroker(f"amqp://me:secret-word@127.0.0.1:{bound.getsockname()[1]}/", "any")
        with pytest.raises(BrokerUnavailableError, match="cannot push on amqp://me:") as caught:
            broker.push([job()])
    assert "secret-word" not in str(caught.value)
    broker.close()


def test_who_has_not_joined_takes_nothing(broker: RabbitBroker) -> None:
    with pytest.raises(BrokerError, match="has not joined"):
        broker.reserve(1)


def _cut(server: RabbitServer) -> None:
    """End this process's connections to a server, as a router does."""
    for connection in psutil.Process().net_connections("tcp"):
        if connection.raddr and connection.raddr.port == server.port:
            with socket.socket(fileno=os.dup(connection.fd)) as cut:
                cut.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def _slow_line(server: RabbitServer, rate: float) -> Iterator[int]:
    """The port of what passes one connection on, with so many bytes a second each way."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def serve() -> None:
            near, _ = listener.accept()
            far = socket.create_connection(("127.0.0.1", server.port))
            threading.Thread(target=_pass_on, args=(far, near, rate), daemon=True).start()
            _pass_on(near, far, rate)

        child = fork(serve)
        try:
            yield listener.getsockname()[1]
        finally:
            os.kill(child, signal.SIGKILL)
            exit_of(child)


def _pass_on(source: socket.socket, target: socket.socket, rate: float) -> None:
    while data := source.recv(1 << 14):
        target.sendall(data)
        time.sleep(len(data) / rate if len(data) > 1000 else 0.0)


def _done(broker: Broker, consumer: Broker, size: int, keep: float = 600.0) -> str:
    """The id of a job that has a result of so many bytes."""
    broker.push([job()])
    (delivery,) = take(consumer, 1)
    assert consumer.ack(delivery, b"x" * size, keep=keep)
    return delivery.job.id


@contextlib.contextmanager
def _memory() -> Iterator[Callable[[], int]]:
    """What tells the bytes that were taken since, and are not free again."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def _has(broker: Broker, ready: int, dead: int = 0) -> None:
    eventually(lambda: (broker.backlog(TOPIC).ready, broker.backlog(TOPIC).dead) == (ready, dead))
    assert broker.backlog(TOPIC).delayed == 0
