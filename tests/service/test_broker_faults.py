"""What the brokers alone survive: servers that are killed, paused or full, and files that are hurt."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import socket
import sqlite3
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import pytest
import redis as redis_py

from benchmarks.servers import RedisServer, redis_server
from multiprocessing_kit.errors import BrokerError, BrokerUnavailableError, PayloadError, ServiceConfigError
from multiprocessing_kit.service.brokers.base import Broker
from multiprocessing_kit.service.brokers.opening import open_broker
from multiprocessing_kit.service.brokers.redis import scripts
from multiprocessing_kit.service.brokers.redis.link import RedisLink, RedisServerAt
from multiprocessing_kit.service.job import Delivery, Job, Outcome, Settlement
from tests.forks import exit_of, fork, in_child
from tests.service.holding import TOPIC, again, eventually, ids, job, none_comes, rings, take

pytestmark = pytest.mark.timeout(180)

LEASE = 30.0
MIB = 1 << 20
SHORT_LEASE = 2.0

Open = Callable[..., Broker]


@pytest.fixture
def opened(service_name: str) -> Iterator[Open]:
    """Opens brokers of one service: on Redis, or at a URL."""
    with ExitStack() as brokers:
        yield lambda url: brokers.enter_context(open_broker(url, service_name))


@pytest.fixture
def operator(redis: RedisServer) -> Iterator[redis_py.Redis]:
    """Of the Redis server."""
    with redis_py.Redis(port=redis.port) as client:
        yield client


# ── Redis: killed ─────────────────────────────────────────────────────────────────────────────────────


class Story:
    """One thing after the other that is done with a broker; a kill may come before each."""

    def __init__(self, broker: Broker, consumer: Broker) -> None:
        self.broker = broker
        self.consumer = consumer
        self.taken: list[Delivery] = []
        self.done: list[str] = []

    def steps(self) -> list[Callable[[], object]]:
        return [
            lambda: self.broker.push([job(id="one", is_unique=True, hold=60.0)]),
            lambda: self.broker.push([job(id=f"many {i}") for i in range(6)]),
            lambda: self.broker.push([job(id="later", due=time.time() + 0.1)]),
            lambda: self.consumer.join("first", [TOPIC], LEASE),
            lambda: self.taken.extend(self.consumer.reserve(6)),
            self.consumer.extend,
            lambda: self._settled(Outcome.RETRY),
            lambda: self._settled(Outcome.RELEASE),
            lambda: self._settled(Outcome.DEAD),
            lambda: self._settled(Outcome.ACK),
            lambda: self.broker.backlog(TOPIC),
            lambda: self.broker.dead_letters(TOPIC, 10),
            lambda: self.broker.dead_retry(TOPIC, None),
            self.consumer.extend,
            lambda: self.broker.push([job(id="one", is_unique=True)]),
        ]

    def _settled(self, outcome: str) -> None:
        delivery = self.taken[0]
        fenced = self.consumer.settle([Settlement(delivery, outcome, b"result", 60.0)])
        assert fenced == []
        del self.taken[0]
        if outcome == Outcome.ACK:
            self.done.append(delivery.job.id)

    def finish(self) -> list[str]:
        """What was done, in all."""
        while len(self.done) < 8:
            self.taken += again(lambda: take(self.consumer, 1)) if not self.taken else []
            again(lambda: self._settled(Outcome.ACK))
        assert again(lambda: self.consumer.reserve(5)) == []
        return sorted(self.done)


EVERYTHING = sorted(["one", "later", *(f"many {i}" for i in range(6))])
STEPS = 15


@pytest.mark.parametrize("before", range(STEPS))
def test_redis_is_killed_and_started_between_two_calls(redis: RedisServer, opened: Open, before: int) -> None:
    story = Story(opened(redis.url), opened(redis.url))
    steps = story.steps()
    assert len(steps) == STEPS
    for number, step in enumerate(steps):
        if number == before:
            redis.kill()
            redis.start()
        again(step)

    assert story.finish() == EVERYTHING
    assert story.broker.backlog(TOPIC).dead == 0


@pytest.mark.parametrize("before", range(STEPS))
def test_redis_is_away_at_a_call(redis: RedisServer, opened: Open, before: int) -> None:
    """Each call is tried while it is away: it has its effect once, or is safe to make again."""
    story = Story(opened(redis.url), opened(redis.url))
    for number, step in enumerate(story.steps()):
        if number == before:
            redis.kill()
            time.sleep(0.02)  # the time after which it looks whether its connection is open
            with pytest.raises(BrokerUnavailableError, match=rf"cannot (?!connect).*127.0.0.1:{redis.port}"):
                step()
            redis.start()
        again(step)

    assert story.finish() == EVERYTHING


def test_redis_was_away_between_two_calls(redis: RedisServer, operator: redis_py.Redis, opened: Open) -> None:
    """Nobody is told of what is over."""
    broker, consumer = opened(redis.url), opened(redis.url)
    consumer.join("first", [TOPIC], LEASE)
    broker.push([job()])
    steps: list[Callable[[], bool]] = [
        lambda: broker.push([job()]) == [True],
        lambda: broker.push([job(), job()]) == [True, True],
        lambda: broker.backlog(TOPIC).ready == 4,
        lambda: len(consumer.reserve(10)) == 4,
        lambda: consumer.extend() is None,
        lambda: consumer.reserve(1) == [],
    ]
    for step in steps:
        bell = consumer.fileno()
        redis.kill()
        redis.start()
        assert step()
    assert consumer.fileno() != bell
    assert broker.backlog(TOPIC).running == 4
    before = operator.info("stats")["total_connections_received"]
    time.sleep(0.05)  # the time after which it looks
    broker.push([job()])
    assert operator.info("stats")["total_connections_received"] == before, "an open one stays"
    assert rings(consumer, 60)


def test_one_reply_after_the_other_is_lost(
    redis: RedisServer, operator: redis_py.Redis, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call had its effect, and nobody heard of it: it is made again."""
    exchange = RedisLink._exchange
    seen = 0

    def deaf(link: RedisLink, commands: Iterable[Sequence[bytes]], **options: bool) -> list[object]:
        nonlocal seen
        replies = exchange(link, commands, **options)
        seen += 1
        if seen == wanted:
            raise redis_py.ConnectionError("the reply is lost")
        return replies

    monkeypatch.setattr(RedisLink, "_exchange", deaf)
    for wanted in itertools.count(1):
        operator.flushdb()
        seen = 0
        story = Story(opened(redis.url), opened(redis.url))
        for step in story.steps():
            again(step)
        assert story.finish() == EVERYTHING, f"reply {wanted} was lost"
        if seen < wanted:
            assert wanted > STEPS
            return


def test_an_old_connection_takes_no_more_jobs(
    redis: RedisServer, operator: redis_py.Redis, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it asked for may arrive when the consumer has a new one, and waits for no reply of the old."""
    exchange = RedisLink._exchange
    sent: list[Sequence[bytes]] = []

    def overheard(link: RedisLink, commands: Iterable[Sequence[bytes]], **options: bool) -> list[object]:
        sent[:] = commands
        return exchange(link, sent, **options)

    consumer = opened(redis.url)
    consumer.join("first", [TOPIC], LEASE)
    with monkeypatch.context() as patch:
        patch.setattr(RedisLink, "_exchange", overheard)
        assert consumer.reserve(1) == []
    operator.client_kill_filter(_type="normal", skipme=True)
    again(consumer.extend)
    consumer.push([job()])

    late = operator.execute_command(*sent[-1])  # type: ignore[no-untyped-call]
    assert late is None
    assert len(consumer.reserve(1)) == 1


@pytest.mark.parametrize("before", [0, 1, 4, 6, 9, 12])
def test_redis_is_paused_at_a_call(redis: RedisServer, opened: Open, before: int) -> None:
    """It does what it was asked when it goes on, though nobody waits for it any more."""
    story = Story(opened(redis.url), opened(redis.url))
    for number, step in enumerate(story.steps()):
        if number == before:
            redis.stop()
            with pytest.raises(BrokerUnavailableError):
                step()
            redis.go_on()
        again(step)

    assert story.finish() == EVERYTHING


def test_redis_is_killed_again_and_again_under_load(redis: RedisServer, opened: Open, tmp_path: Path) -> None:
    """No acknowledged push is lost; what is done is done."""
    pushed, done = tmp_path / "pushed", tmp_path / "done"

    def push() -> None:
        broker = opened(redis.url)
        with pushed.open("w", buffering=1) as out:
            for number in itertools.count():
                jobs = [job(id=f"{number}-{i}") for i in range(3)]
                again(partial(broker.push, jobs))
                out.write("".join(f"{each.id}\n" for each in jobs))

    def work() -> None:
        consumer = opened(redis.url)
        again(lambda: consumer.join("first", [TOPIC], LEASE))
        with done.open("w", buffering=1) as out:
            while True:
                deliveries = again(lambda: consumer.reserve(10))
                acks = [Settlement(each, Outcome.ACK) for each in deliveries]
                assert again(partial(consumer.settle, acks)) == []
                out.write("".join(f"{each}\n" for each in ids(deliveries)))

    children = [fork(push), fork(work)]
    try:
        for kills in range(1, 11):
            eventually(partial(_has_grown, done, 100 * kills))
            redis.kill()
            redis.start()
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
    assert [exit_of(child) for child in children] == [-signal.SIGKILL] * 2

    rest = opened(redis.url)
    rest.join("first", [TOPIC], LEASE)
    left = {delivery.job.id for delivery in _all_of(rest)}
    # The last ones that were done may not have been written down.
    missing = set(_lines(pushed)) - left - set(_lines(done))
    assert len(missing) <= 10, f"{len(missing)} jobs are lost"
    assert not left & set(_lines(done)), "what was done comes again"


def _all_of(consumer: Broker) -> Iterator[Delivery]:
    while found := consumer.reserve(1000):
        yield from found


def _has_grown(path: Path, lines: int) -> bool:
    return len(_lines(path)) > lines


def _lines(path: Path) -> list[str]:
    return path.read_text().split("\n")[:-1] if path.exists() else []


# ── Redis: connections ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["normal", "pubsub"])
def test_connections_are_reset(redis: RedisServer, operator: redis_py.Redis, opened: Open, kind: str) -> None:
    broker, consumer = opened(redis.url), opened(redis.url)
    consumer.join("first", [TOPIC], LEASE)
    none_comes(consumer)

    for _ in range(5):
        operator.client_kill_filter(_type=kind, skipme=True)
        again(lambda: broker.push([job()]))
        (delivery,) = again(lambda: take(consumer, 1))
        assert again(partial(consumer.ack, delivery))
    none_comes(consumer)
    broker.push([job()])
    assert rings(consumer, 60), "it still hears"


def test_a_bell_that_broke_comes_back_as_another_descriptor(
    redis: RedisServer, operator: redis_py.Redis, opened: Open
) -> None:
    """A selector that has the old one would take no notice of an equal number."""
    consumer = opened(redis.url)
    consumer.join("first", [TOPIC], LEASE)
    none_comes(consumer)
    for _ in range(3):
        old = consumer.fileno()
        operator.client_kill_filter(_type="pubsub")
        assert rings(consumer, 60), "a broken one rings"
        assert consumer.reserve(1) == []
        assert consumer.fileno() != old


def test_after_an_outage_nobody_is_late(redis: RedisServer, opened: Open) -> None:
    """All leases ran out while the server was away: those who come first do not take the others' jobs."""
    broker, *consumers = (opened(redis.url) for _ in range(4))
    broker.push([job() for _ in consumers])
    held = []
    for number, consumer in enumerate(consumers):
        consumer.join(f"number {number}", [TOPIC], SHORT_LEASE)
        held += take(consumer, 1)
        consumer.extend()
    redis.stop()
    with pytest.raises(BrokerUnavailableError):
        broker.push([job()])
    redis.go_on()

    for consumer in consumers:
        again(consumer.extend)
    for consumer, delivery in zip(consumers, held, strict=True):
        assert consumer.ack(delivery)


def test_the_server_forgets_the_scripts(redis: RedisServer, operator: redis_py.Redis, opened: Open) -> None:
    story = Story(opened(redis.url), opened(redis.url))
    for step in story.steps():
        operator.script_flush()
        step()
    assert story.finish() == EVERYTHING


def test_a_server_that_is_busy_is_away(redis: RedisServer, operator: redis_py.Redis, opened: Open) -> None:
    broker = opened(redis.url)
    broker.push([job()])
    operator.config_set("lua-time-limit", 50)
    child = fork(lambda: _run_forever(redis.port))
    try:
        eventually(lambda: _is_busy(operator))
        with pytest.raises(BrokerUnavailableError, match="busy"):
            broker.push([job()])
    finally:
        operator.script_kill()
        exit_of(child)  # the server is busy until the script has noticed
        operator.config_set("lua-time-limit", 5000)
    broker.push([job()])


def _run_forever(port: int) -> None:
    with redis_py.Redis(port=port) as client, pytest.raises(redis_py.ResponseError):
        client.eval("while true do end", 0)


def _is_busy(operator: redis_py.Redis) -> bool:
    try:
        operator.ping()
    except redis_py.ResponseError:
        return True
    return False


def test_an_idle_consumer_asks_for_little(redis: RedisServer, operator: redis_py.Redis, opened: Open) -> None:
    consumer = opened(redis.url)
    consumer.join("first", [TOPIC], LEASE)
    consumer.reserve(1)
    before = operator.info("commandstats")["cmdstat_evalsha"]["calls"]
    consumer.reserve(1)
    after = operator.info("commandstats")["cmdstat_evalsha"]["calls"]

    assert after - before == 1
    assert consumer.idle() == 5.0


def test_what_is_due_while_nothing_is_wanted_is_not_waited_for(redis: RedisServer, opened: Open) -> None:
    """As while all topics are paused: it would be asked again and again."""
    consumer = opened(redis.url)
    consumer.join("first", [TOPIC], LEASE)
    consumer.push([job(due=time.time() + 0.5)])
    assert consumer.reserve(1) == []
    assert consumer.idle() < 1.0
    assert consumer.reserve(1, []) == []
    assert consumer.idle() == 5.0
    assert len(take(consumer, 1)) == 1


# ── Redis: what it refuses ────────────────────────────────────────────────────────────────────────────


def test_memory_is_full(redis: RedisServer, operator: redis_py.Redis, opened: Open) -> None:
    """Nothing more can be pushed, all of a push or nothing; consumers go on, and so it gets better."""
    broker, consumer = opened(redis.url), opened(redis.url)
    jobs = [job(), *(job(due=time.time() + 1.0) for _ in range(3)), *(job() for _ in range(6))]
    broker.push(jobs)
    consumer.join("first", [TOPIC], LEASE)
    deliveries = take(consumer, 5)
    operator.config_set("maxmemory", 1)
    try:
        with pytest.raises(BrokerError, match=r"memory is full.*maxmemory") as raised:
            broker.push([job(), job()])
        assert not isinstance(raised.value, BrokerUnavailableError)
        outcomes = [Outcome.ACK, Outcome.RETRY, Outcome.RELEASE, Outcome.DEAD, Outcome.ACK]
        settlements = [
            Settlement(delivery, outcome, b"result", 60.0)
            for delivery, outcome in zip(deliveries, outcomes, strict=True)
        ]
        assert consumer.settle(settlements) == []
        consumer.extend()
        assert broker.dead_retry(TOPIC, None) == 1
        rest = take(consumer, 8)
        assert consumer.reserve(1) == []
        consumer.settle([Settlement(delivery, Outcome.ACK) for delivery in rest])
    finally:
        operator.config_set("maxmemory", 0)
    backlog = broker.backlog(TOPIC)
    assert (backlog.ready, backlog.delayed, backlog.running, backlog.dead) == (0, 0, 0, 0)
    assert broker.push([job()]) == [True]


def test_a_server_that_drops_keys_is_refused(
    redis: RedisServer, operator: redis_py.Redis, opened: Open
) -> None:
    operator.config_set("maxmemory", "1gb")
    operator.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(BrokerError, match="maxmemory-policy to noeviction, not allkeys-lru"):
            opened(redis.url).push([job()])
    finally:
        operator.config_set("maxmemory", 0)
        operator.config_set("maxmemory-policy", "noeviction")


@pytest.mark.parametrize("url", ["redis://:{}@127.0.0.1:{}/0", "redis://127.0.0.1:{1}/0?password={0}"])
def test_passwords_are_not_told(redis: RedisServer, operator: redis_py.Redis, opened: Open, url: str) -> None:
    operator.config_set("requirepass", "right-secret")
    try:
        assert opened(url.format("right-secret", redis.port)).push([job()]) == [True]
        wrong = opened(url.format("wrong-secret", redis.port))
        with pytest.raises(BrokerError, match="does not let us in") as raised:
            wrong.push([job()])
        assert not isinstance(raised.value, BrokerUnavailableError)
        assert "secret" not in f"{raised.value} {raised.value.broker}"
        with pytest.raises(BrokerError, match="does not let us in") as raised:
            opened(redis.url).push([job()])  # with none
        assert not isinstance(raised.value, BrokerUnavailableError)
    finally:
        operator.auth("right-secret")
        operator.config_set("requirepass", "")


@pytest.mark.parametrize(
    "url", ["redis://:sec/ret@host", "redis://:secret@host:port", "redis://[:secret@host"]
)
def test_urls_that_are_none(opened: Open, url: str) -> None:
    with pytest.raises(ServiceConfigError, match="no URL of a Redis server") as raised:
        opened(url)
    assert "secret" not in str(raised.value)
    assert "ret@" not in str(raised.value)


@pytest.mark.parametrize("keeps", ["yes", "no"])
def test_a_server_that_forgets_is_told_of(
    tmp_path: Path, service_name: str, caplog: pytest.LogCaptureFixture, keeps: str
) -> None:
    with (
        redis_server(tmp_path / "redis", appendonly=keeps) as server,
        open_broker(server.url, service_name) as consumer,
    ):
        consumer.join("first", [TOPIC], LEASE)
    assert ("set its appendonly to yes" in caplog.text) == (keeps == "no")


def test_at_a_socket(tmp_path: Path, opened: Open) -> None:
    with redis_server(tmp_path / "redis", unixsocket=str(tmp_path / "socket")) as server:
        broker, consumer = opened(f"unix://{tmp_path}/socket"), opened(server.url)
        consumer.join("first", [TOPIC], LEASE)
        none_comes(consumer)
        assert broker.push([job()]) == [True]
        assert rings(consumer, 60)
        assert consumer.ack(take(consumer, 1)[0])
        server.kill()
        with pytest.raises(BrokerUnavailableError, match=r"unix://.*/socket"):
            broker.push([job()])
        server.start()
        assert broker.push([job()]) == [True]


@pytest.mark.parametrize("size", [2 * MIB, 12 * MIB])
def test_a_slow_line(redis: RedisServer, opened: Open, size: int) -> None:
    """What is pushed is in the system's buffers at once, or not: it takes longer than the timeout."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        child = fork(partial(_forward_slowly, listener, redis.port, size / 1.5))
        try:
            port = listener.getsockname()[1]
            broker = opened(f"redis://127.0.0.1:{port}/0?socket_timeout=0.7")
            assert broker.push([job(os.urandom(size))]) == [True]
            assert broker.push([job(os.urandom(size // 4)) for _ in range(4)]) == [True] * 4
        finally:
            os.kill(child, signal.SIGKILL)
            exit_of(child)


def _forward_slowly(listener: socket.socket, port: int, rate: float) -> None:
    near, _ = listener.accept()
    with near, socket.create_connection(("127.0.0.1", port)) as far:
        threading.Thread(target=_forward, args=(far, near, float("inf")), daemon=True).start()
        _forward(near, far, rate)


def _forward(source: socket.socket, target: socket.socket, rate: float) -> None:
    while data := source.recv(1 << 14):
        target.sendall(data)
        time.sleep(len(data) / rate)


def test_a_server_that_takes_nothing_more(redis: RedisServer, opened: Open) -> None:
    broker = opened(f"{redis.url}?socket_timeout=0.5")
    for size in (10, 100_000, 20 * MIB):
        again(lambda: broker.push([job()]))
        redis.stop()
        began = time.monotonic()
        with pytest.raises(BrokerUnavailableError, match="timed out"):
            broker.push([job(b"x" * size)])
        assert time.monotonic() - began < 10.0
        redis.go_on()


def test_a_server_that_resets_whom_it_has_greeted(opened: Open) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        child = fork(partial(_greet_and_reset, server))
        try:
            broker = opened(f"redis://127.0.0.1:{server.getsockname()[1]}")
            for _ in range(20):
                with pytest.raises(BrokerUnavailableError, match=r"cannot .* at redis://"):
                    broker.push([job()])
        finally:
            os.kill(child, signal.SIGKILL)
            exit_of(child)


def _greet_and_reset(server: socket.socket) -> None:
    while True:
        connection, _ = server.accept()
        with connection:
            said = b""
            while b"LIB-VER" not in said:  # the last that redis-py says of itself; it waits for each answer
                said = connection.recv(4096)
                connection.sendall(b"+OK\r\n")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.fixture
def narrow(operator: redis_py.Redis) -> Iterator[None]:
    """The server takes no more than 1 MiB at once."""
    operator.config_set("proto-max-bulk-len", MIB)
    yield
    operator.config_set("proto-max-bulk-len", 512 * MIB)


def _of_size(size: int, **fields: Any) -> Job:
    made = job(**fields)
    made.payload = b"x" * (size - len(made.encode()) + len(made.payload))
    return made


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("others", [0, 700])
def test_a_push_of_more_than_the_server_takes(redis: RedisServer, opened: Open, others: int) -> None:
    """Nothing of it is added."""
    broker, jobs = opened(redis.url), [job() for _ in range(others)]
    with pytest.raises(PayloadError, match=r"takes 1,048,576 bytes at once .* has 1,048,577"):
        broker.push(iter([*jobs, _of_size(MIB + 1)]))
    assert broker.backlog(TOPIC).ready == 0
    assert broker.push(iter([*jobs, _of_size(MIB)])) == [True] * (others + 1)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("outcome", [Outcome.ACK, Outcome.RETRY, Outcome.DEAD])
def test_a_settlement_of_more_than_the_server_takes(redis: RedisServer, opened: Open, outcome: str) -> None:
    """It is told before anything of the call took effect."""
    consumer = opened(redis.url)
    consumer.join("first", [TOPIC], LEASE)
    consumer.push([job() for _ in range(3)])
    taken = take(consumer, 3)
    result = b"x" * (MIB + 1) if outcome == Outcome.ACK else None
    if outcome != Outcome.ACK:
        taken[1].job.payload = b"x" * MIB
    settlements = [
        Settlement(taken[0], Outcome.ACK, b"result", 60.0),
        Settlement(taken[1], outcome, result, 60.0),
        Settlement(taken[2], Outcome.ACK),
    ]
    for _ in range(2):
        with pytest.raises(BrokerError, match=r"takes 1,048,576 bytes at once .* has 1,048,") as raised:
            consumer.settle(settlements)
        assert not isinstance(raised.value, BrokerUnavailableError)
        assert consumer.backlog(TOPIC).running == 3
    assert consumer.settle([settlements[0], settlements[2]]) == []
    taken[1].job.payload = b""
    assert consumer.dead(taken[1])


def test_many_large_results_are_settled_in_parts(
    redis: RedisServer, operator: redis_py.Redis, opened: Open
) -> None:
    """A server is not to have all of them in memory at once, beside what it keeps."""
    consumer = opened(redis.url)
    consumer.join("first", [TOPIC], LEASE)
    consumer.push([job() for _ in range(10)])
    taken = take(consumer, 10)
    results = [bytes([i]) * (5 * MIB) for i in range(10)]
    operator.config_resetstat()
    settlements = [
        Settlement(delivery, Outcome.ACK, result, 60.0)
        for delivery, result in zip(taken, results, strict=True)
    ]
    assert consumer.settle(settlements) == []
    assert operator.info("commandstats")["cmdstat_evalsha"]["calls"] == 4
    assert [consumer.result(delivery.job.id) for delivery in taken] == results
    assert consumer.settle(settlements) == taken


def test_who_may_not_ask_for_limits_pushes(
    redis: RedisServer, operator: redis_py.Redis, opened: Open
) -> None:
    operator.acl_setuser("plain", enabled=True, nopass=True, keys="*", channels="*", categories=["+@all"])
    operator.execute_command("ACL", "SETUSER", "plain", "-config")  # type: ignore[no-untyped-call]
    try:
        assert opened(redis.url.replace("//", "//plain:any@")).push([job()]) == [True]
    finally:
        operator.acl_deluser("plain")


class Seconds(float):
    """As numpy's: a number whose repr is none."""

    def __repr__(self) -> str:
        return f"Seconds({float(self)})"


def test_times_are_numbers_of_any_kind(redis: RedisServer, opened: Open) -> None:
    broker, consumer = opened(redis.url), opened(redis.url)
    later = Seconds(time.time() + 3600.0)
    assert broker.push([job(due=later, is_unique=True)]) == [True]
    assert broker.push([job(due=later), job(due=later)]) == [True, True]
    broker.push([job()])
    consumer.join("first", [TOPIC], LEASE)
    assert consumer.retry(take(consumer, 1)[0], Seconds(3600.0))
    assert broker.backlog(TOPIC).delayed == 4


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (scripts.PUSH_ONE, "new record mail 0 soon -1"),
        (scripts.PUSH_ONE, "new record mail 0 0.0 long"),
        (scripts.PUSH, "2 mail 0 0.0 -1 1 new record mail 0 soon -1 1 other record"),
        (scripts.PUSH, "1 mail 0 0.0 long 1 new record"),
        (scripts.SETTLE, "first ack held mail {token} keep held long result"),
        (scripts.SETTLE, "first dead held mail {token} record retry held mail {token} record 0 soon"),
        (scripts.SETTLE, "first ack held mail {token} gone held mail {token}"),
    ],
    ids=["one, due", "one, hold", "many, due", "many, hold", "keep", "retry", "what"],
)
def test_a_script_that_fails_has_done_nothing(
    redis: RedisServer, operator: redis_py.Redis, opened: Open, script: scripts.Script, words: str
) -> None:
    broker, consumer = opened(redis.url), opened(redis.url)
    consumer.join("first", [TOPIC], LEASE)
    broker.push([job(id="held")])
    (held,) = take(consumer, 1)
    with closing(RedisServerAt(redis.url).connect("try")) as link:
        key = f"mpkit:{{{broker.service}}}:".encode()
        with pytest.raises(BrokerError, match="cannot try"):
            link.run("try", script, key, *words.format(token=held.token.decode()).encode().split())
    assert operator.hkeys(key + b"jobs") == [b"held"]
    assert broker.result("held") is None
    assert consumer.ack(held)


@pytest.mark.parametrize("others", [0, 1])
def test_a_result_is_not_that_of_an_earlier_job_of_this_id(
    redis: RedisServer, opened: Open, others: int
) -> None:
    broker, consumer = opened(redis.url), opened(redis.url)
    consumer.join("first", [TOPIC], LEASE)
    for result, outcome in [(b"first", Outcome.ACK), (b"second", Outcome.DEAD), (b"third", Outcome.ACK)]:
        if result == b"third":
            assert broker.dead_retry(TOPIC, None) == 1 + others
        else:
            jobs = [job(id="mine", is_unique=True), *(job() for _ in range(others))]
            assert broker.push(jobs) == [True] * (1 + others)
        assert broker.result("mine") is None
        taken = take(consumer, 1 + others)
        assert consumer.settle([Settlement(delivery, outcome, result, 60.0) for delivery in taken]) == []
        assert broker.result("mine") == result

    broker.push([job(id="held", is_unique=True)])
    consumer.settle([Settlement(take(consumer, 1)[0], Outcome.DEAD, b"it failed", 60.0)])
    assert broker.push([job(id="held", is_unique=True)]) == [False]
    assert broker.result("held") == b"it failed", "a push that is refused changes nothing"


NO_JOBS = [b"nonsense", b'{"v":2}\nx', b'{"id":7,"topic":"mail","pushed":0.0}\nx', b"\xff\xfe"]


@pytest.mark.parametrize("limit", [1, 20])
def test_what_is_no_job_is_a_dead_letter(
    redis: RedisServer,
    operator: redis_py.Redis,
    opened: Open,
    limit: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker, consumer = opened(redis.url), opened(redis.url)
    records = f"mpkit:{{{broker.service}}}:jobs"
    broker.push([job(id=f"hurt {i}") for i in range(len(NO_JOBS))] + [job(id="gone"), job(id="whole")])
    broker.push([job(id="other", topic="other"), job(id="hurt too", topic="other")])
    for i, record in enumerate(NO_JOBS):
        operator.hset(records, f"hurt {i}", record)
    operator.hset(records, "hurt too", NO_JOBS[0])
    operator.hdel(records, "gone")
    consumer.join("first", [TOPIC, "other"], LEASE)

    taken = consumer.reserve(limit)
    while len(taken) < 2:
        taken += consumer.reserve(limit)
    assert ids(taken) == ["whole", "other"]
    assert consumer.reserve(limit) == []
    assert consumer.settle([Settlement(delivery, Outcome.ACK) for delivery in taken]) == []
    assert "job gone of topic mail: its record is gone" in caplog.text
    assert caplog.text.count("its record is none") == len(NO_JOBS) + 1

    assert broker.dead_retry(TOPIC, None) == 0
    found = broker.dead_letters(TOPIC, 10)
    assert [(dead.job.id, dead.job.topic) for dead in found] == [(f"hurt {i}", TOPIC) for i in range(4)]
    assert [dead.job.payload for dead in found] == NO_JOBS
    assert {event.kind for dead in found for event in dead.job.history} == {"unreadable"}
    for topic, count in [(TOPIC, 4), ("other", 1)]:
        assert broker.backlog(topic).dead == count
        assert broker.dead_purge(topic, None) == count
        left = broker.backlog(topic)
        assert (left.ready, left.running, left.dead) == (0, 0, 0)
    assert operator.hlen(records) == 0


# ── SQLite ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


_FULL = r"jobs\.db: (database or disk is full|disk I/O error)"


@pytest.mark.parametrize("size", [100, 20_000])
def test_the_disk_is_full(file: Path, opened: Open, size: int) -> None:
    """A push that does not fit is told; what fitted is kept, and taken, and there is room again."""
    acknowledged = file.with_name("acknowledged")

    def push_until_full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
        broker = opened(f"sqlite:///{file}")
        with acknowledged.open("w", buffering=1) as out, pytest.raises(BrokerError, match=_FULL):
            _push_on(broker, size, out)
        with pytest.raises(BrokerError, match=_FULL):
            broker.push([job(os.urandom(2_000_000))])
        assert broker.backlog(TOPIC).ready >= 10

    assert in_child(push_until_full) == 0
    consumer = opened(f"sqlite:///{file}")
    consumer.join("first", [TOPIC], LEASE)
    taken = list(_all_of(consumer))
    assert set(_lines(acknowledged)) <= set(ids(taken))
    assert len(taken) - len(_lines(acknowledged)) <= 1
    assert consumer.settle([Settlement(delivery, Outcome.ACK) for delivery in taken]) == []
    assert consumer.push([job(os.urandom(size))]) == [True]


def _push_on(broker: Broker, size: int, out: TextIO) -> None:
    while True:
        pushed = job(os.urandom(size))
        broker.push([pushed])
        out.write(f"{pushed.id}\n")


def test_who_pushes_is_killed_at_any_time(file: Path, opened: Open) -> None:
    acknowledged = file.with_name("acknowledged")

    def push(number: int) -> None:
        broker = opened(f"sqlite:///{file}")
        with acknowledged.open("a", buffering=1) as out:
            for i in itertools.count():
                broker.push([job(id=f"{number}-{i}")])
                out.write(f"{number}-{i}\n")

    for number in range(5):
        before = len(_lines(acknowledged))
        child = fork(partial(push, number))
        eventually(partial(_has_grown, acknowledged, before + 50))
        os.kill(child, signal.SIGKILL)
        assert exit_of(child) == -signal.SIGKILL
    consumer = opened(f"sqlite:///{file}")
    consumer.join("first", [TOPIC], LEASE)
    taken = ids(list(_all_of(consumer)))
    assert set(_lines(acknowledged)) <= set(taken)
    assert len(taken) == len(set(taken))


def test_another_process_has_the_file(file: Path, opened: Open) -> None:
    url = f"sqlite:///{file}"
    broker, consumer = opened(url), opened(url)
    broker.push([job(id="before"), job(id="held")])
    consumer.join("first", [TOPIC], LEASE)
    (held,) = take(consumer, 1)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for call in (lambda: broker.push([job()]), lambda: consumer.ack(held)):
            with pytest.raises(BrokerUnavailableError, match=r"jobs\.db: database is locked"):
                call()
        assert broker.backlog(TOPIC).ready == 1, "looking goes on"
        other.execute("ROLLBACK")
    assert consumer.ack(held)
    assert broker.push([job()]) == [True]


def _overwritten(start: int, length: int) -> Callable[[Path], None]:
    def hurt(file: Path) -> None:
        with file.open("r+b") as out:
            out.seek(start)
            out.write(b"\xaa" * length)

    return hurt


@pytest.mark.parametrize(
    ("hurt", "told"),
    [
        (_overwritten(0, 100), "is it a file of a service, and whole"),
        (_overwritten(100, 4000), "is it a file of a service, and whole"),
        (_overwritten(4096, 200_000), "is it a file of a service, and whole"),
        (lambda file: os.truncate(file, 5000), "is it a file of a service, and whole"),
        (lambda file: file.write_text("[topics]\n" * 200), "is it a file of a service, and whole"),
    ],
    ids=["header", "first page", "all others", "cut off", "a text"],
)
def test_the_file_is_hurt(file: Path, opened: Open, hurt: Callable[[Path], None], told: str) -> None:
    with open_broker(f"sqlite:///{file}", "shop") as broker:
        broker.push([job(os.urandom(500), id=f"{i}") for i in range(300)])
    assert not file.with_name("jobs.db-wal").exists()
    hurt(file)

    consumer = opened(f"sqlite:///{file}")
    with pytest.raises(BrokerError, match=rf"jobs\.db: .*{told}") as raised:
        _use(consumer)
    assert not isinstance(raised.value, BrokerUnavailableError)


def _use(consumer: Broker) -> None:
    consumer.join("first", [TOPIC], LEASE)
    consumer.reserve(1000)


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("CREATE TABLE orders (id)", "another program's database"),
        ("PRAGMA user_version = 99", "is of version 99, and this program knows"),
    ],
)
def test_the_file_is_anothers(file: Path, opened: Open, script: str, told: str) -> None:
    with closing(sqlite3.connect(file)) as other:
        other.execute(script)
    with pytest.raises(BrokerError, match=told):
        opened(f"sqlite:///{file}").push([job()])


def test_there_is_no_directory(tmp_path: Path, opened: Open) -> None:
    broker = opened(f"sqlite:///{tmp_path}/missing/jobs.db")
    with pytest.raises(BrokerUnavailableError, match=r"there is no directory .*missing"):
        broker.push([job()])
    (tmp_path / "missing").mkdir()
    assert broker.push([job()]) == [True]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
@pytest.mark.parametrize("is_there", [True, False])
def test_who_may_not_write_the_file_is_told_what_to_do(opened: Open, is_there: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:  # others may not look into pytest's
        os.chmod(folder, 0o755)
        url = f"sqlite:///{folder}/jobs.db"
        if is_there:
            with open_broker(url, "shop") as broker:
                broker.push([job()])

        def push() -> None:
            os.setuid(65534)
            with pytest.raises(BrokerUnavailableError, match=r"cannot push in .*; run this as its owner, or"):
                opened(url).push([job()])

        assert in_child(push) == 0
