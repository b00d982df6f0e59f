"""What every broker must do, on real servers: the contract in brokers/base.py."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from benchmarks.servers import Server
from multiprocessing_kit.errors import BrokerUnavailableError
from multiprocessing_kit.service.brokers.base import Broker
from multiprocessing_kit.service.brokers.opening import open_broker
from multiprocessing_kit.service.job import HIGHEST_PRIORITY, Delivery, Event, Job, Outcome, Settlement
from multiprocessing_kit.service.topic_config import TopicConfig
from multiprocessing_kit.service.topic_order import TopicOrder
from tests.forks import exit_of, fork, in_child
from tests.gates import Gate
from tests.service.holding import (
    TOPIC,
    again,
    away,
    eventually,
    every_broker,
    ids,
    job,
    none_comes,
    rings,
    take,
)

pytestmark = [every_broker, pytest.mark.timeout(180)]

LEASE = 30.0
SHORT_LEASE = 2.0
PRIORITIES = {"urgent": 5, "full": 0, "quiet": 0}

Open = Callable[[], Broker]


@pytest.fixture
def opened(broker_url: str, service_name: str) -> Iterator[Open]:
    """Opens brokers of one service, each like one of another process."""
    brokers: list[Broker] = []

    def new() -> Broker:
        brokers.append(open_broker(broker_url, service_name))
        return brokers[-1]

    yield new
    for broker in brokers:
        broker.close()


@pytest.fixture
def broker(opened: Open) -> Broker:
    """Of who pushes, or looks."""
    return opened()


@pytest.fixture
def consumer(opened: Open) -> Broker:
    consumer = opened()
    consumer.join("first", [TOPIC], LEASE)
    return consumer


# ── order ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("priorities", "expected"),
    [
        ([0, 0, 0, 0], [0, 1, 2, 3]),
        ([0, 5, -5, 1], [1, 3, 0, 2]),
        ([5, 0, 5, 0], [0, 2, 1, 3]),
        ([-HIGHEST_PRIORITY, HIGHEST_PRIORITY, 0], [1, 2, 0]),
    ],
)
@pytest.mark.parametrize("together", [True, False], ids=["push_many", "one by one"])
def test_by_priority_and_then_by_age(
    broker: Broker, opened: Open, priorities: list[int], expected: list[int], together: bool
) -> None:
    jobs = [job(priority=priority) for priority in priorities]
    for part in [jobs] if together else [[each] for each in jobs]:
        assert broker.push(part) == [True] * len(part)
    consumer = opened()
    consumer.join("first", [TOPIC], LEASE)

    assert ids(take(consumer, len(jobs))) == [jobs[i].id for i in expected]


def test_topics_in_the_order_of_the_join(broker: Broker, opened: Open) -> None:
    jobs = [job(topic=topic) for topic in ("late", "early", "late", "early")]
    broker.push(jobs)
    consumer = opened()
    consumer.join("first", ["early", "late"], LEASE)

    assert ids(take(consumer, 4)) == [jobs[i].id for i in (1, 3, 0, 2)]


def test_topics_in_the_order_of_the_call(broker: Broker, opened: Open) -> None:
    jobs = [job(topic=topic) for topic in ("late", "early", "late", "early")]
    broker.push(jobs)
    consumer = opened()
    consumer.join("first", ["late", "early"], LEASE)

    assert ids(take(consumer, 4, topics=["early", "late"])) == [jobs[i].id for i in (1, 3, 0, 2)]


@pytest.mark.parametrize("seconds", [0.01, 0.3], ids=["short jobs", "long jobs"])
def test_the_first_topic_stays_the_first(broker: Broker, opened: Open, seconds: float) -> None:
    """Also where the next of its jobs is on its way when one of another topic is here already."""
    count = int(4 + 0.2 / seconds)
    broker.push([job(topic=topic) for topic in ("early", "late") for _ in range(count)])
    consumer = opened()
    consumer.join("first", ["early", "late"], LEASE)
    taken: list[str] = []
    while taken.count("early") < count:
        (delivery,) = take(consumer, 1)
        time.sleep(seconds)  # as a job
        consumer.ack(delivery)
        taken.append(delivery.job.topic)

    assert taken.count("late") <= 2, taken  # a loaded server may be slow to answer


@pytest.mark.parametrize("limit", [1, 5])
def test_a_flooded_topic_does_not_starve_another(broker: Broker, opened: Open, limit: int) -> None:
    """Of the same priority; one of a higher priority still goes first."""
    topics = [TopicConfig(name=name, worker="jobs:work", priority=p) for name, p in PRIORITIES.items()]
    order = TopicOrder(topics)
    consumer = opened()
    consumer.join("first", order.names(()), LEASE)
    broker.push([job(topic="full") for _ in range(50 * limit)])
    quiet, urgent = job(topic="quiet"), job(topic="urgent")

    def taken() -> list[Delivery]:
        found = take(consumer, limit, topics=order.names(()))
        order.served(found)
        assert consumer.settle([Settlement(each, Outcome.ACK) for each in found]) == []
        return found

    assert {delivery.job.topic for delivery in taken() + taken()} == {"full"}
    broker.push([quiet])
    assert any(quiet.id in ids(taken()) for _ in range(10)), "it is behind a topic that does not get empty"
    broker.push([urgent])
    assert any(urgent.id in ids(taken()) for _ in range(10))
    assert order.names(())[0] == "urgent"
    assert order.names({"urgent", "quiet"}) == ["full"]


def test_no_more_than_the_limit(broker: Broker, consumer: Broker) -> None:
    jobs = [job() for _ in range(7)]
    broker.push(jobs)

    assert consumer.reserve(0) == []
    assert ids(take(consumer, 3)) == ids(jobs[:3])
    assert ids(take(consumer, 4)) == ids(jobs[3:])
    none_comes(consumer)


def test_topics_and_services_are_apart(broker: Broker, consumer: Broker, broker_url: str) -> None:
    broker.push([job(topic="other")])
    with open_broker(broker_url, f"{broker.service}-other") as other:
        other.push([job(id="same")])
        none_comes(consumer)
        assert broker.push([job(id="same")]) == [True]
        assert ids(take(consumer, 1)) == ["same"]
        eventually(lambda: other.backlog(TOPIC).ready == 1)
        assert other.purge(TOPIC) == 1


def test_nothing_comes_of_a_paused_topic(broker: Broker, opened: Open) -> None:
    consumer = opened()
    consumer.join("first", ["a", "b"], LEASE)
    first, second = job(topic="a"), job(topic="b")
    broker.push([first, second])

    assert ids(take(consumer, 1, topics=["b"])) == [second.id]
    none_comes(consumer, topics=["b"])
    none_comes(consumer, topics=[])
    assert ids(take(consumer, 1)) == [first.id]


# ── records ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [0, 1, 1000, 5_000_000])
def test_payloads_come_as_they_were_pushed(broker: Broker, consumer: Broker, size: int) -> None:
    pushed = job(bytes(range(256)) * (size // 256) + os.urandom(size % 256))
    broker.push([pushed])

    (delivery,) = take(consumer, 1)
    assert delivery.job == pushed
    assert consumer.ack(delivery)


def test_a_job_keeps_all_its_fields(broker: Broker, consumer: Broker) -> None:
    pushed = Job(
        id="a key: ünique/50%\n",
        topic=TOPIC,
        payload=b"\x00\n\xff\r\n",
        priority=-7,
        pushed=1e9 + 0.125,
        attempt=3,
        crashes=1,
        idle_for=4.5,
        first_run=1e9 + 1,
        history=[Event(1e9, 1, "failed", "no ☂"), Event(1e9 + 2, 2, "crashed", "killed")],
        changes="sig.abc",
        is_unique=True,
        hold=3600.0,
    )
    assert broker.push([pushed]) == [True]
    assert take(consumer, 1)[0].job == pushed


def test_ten_thousand_at_once(broker: Broker, consumer: Broker) -> None:
    jobs = [job(b'{"to": "someone"}') for _ in range(10_000)]
    assert broker.push(jobs) == [True] * len(jobs)
    eventually(lambda: broker.backlog(TOPIC).ready == len(jobs))

    taken: list[str] = []
    while len(taken) < len(jobs):
        deliveries = take(consumer, 500, extends=True)
        taken += ids(deliveries)
        assert consumer.settle([Settlement(each, Outcome.ACK) for each in deliveries]) == []
    assert taken == ids(jobs)
    none_comes(consumer)


def test_nothing_to_push(broker: Broker) -> None:
    assert broker.push([]) == []


# ── later ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_delayed_job_comes_when_it_is_due(broker: Broker, consumer: Broker) -> None:
    later, now = job(due=time.time() + 1.5), job()
    broker.push([later, now])

    assert ids(take(consumer, 1)) == [now.id]
    assert 0 <= consumer.idle() <= 5.0
    (delivery,) = take(consumer, 1)
    assert delivery.job.id == later.id
    # Two clocks may be compared, of processes of one host.
    assert time.time() >= later.due - 0.05


def test_who_sleeps_learns_of_a_delayed_job(broker: Broker, consumer: Broker) -> None:
    none_comes(consumer)
    broker.push([job(due=time.time() + 1.0)])
    began = time.monotonic()

    take(consumer, 1)
    assert time.monotonic() - began < 30.0


def test_delayed_jobs_count_apart(broker: Broker, consumer: Broker) -> None:
    broker.push([job(due=time.time() + 3600), job(due=time.time() + 1800), job()])
    eventually(lambda: (broker.backlog(TOPIC).ready, broker.backlog(TOPIC).delayed) == (1, 2))

    take(consumer, 1)
    none_comes(consumer)


# ── what becomes of it ────────────────────────────────────────────────────────────────────────────────


def test_what_is_done_is_gone(broker: Broker, consumer: Broker) -> None:
    broker.push([job()])
    (delivery,) = take(consumer, 1)

    assert consumer.ack(delivery)
    eventually(lambda: _counts(broker) == (0, 0, 0))
    none_comes(consumer)


def test_a_retried_job_goes_to_the_back_with_its_history(broker: Broker, consumer: Broker) -> None:
    first, second = job(), job()
    broker.push([first, second])
    (delivery,) = take(consumer, 1)
    delivery.job.failed("failed", "no luck")
    delivery.job.idle_for, delivery.job.changes = 2.5, "signed"
    kept = delivery.job

    assert consumer.retry(delivery)
    deliveries = take(consumer, 2)
    assert ids(deliveries) == [second.id, first.id]
    assert deliveries[1].job == kept
    assert deliveries[1].job.attempt == 2
    assert [event.error for event in deliveries[1].job.history] == ["no luck"]


def test_a_retry_may_wait(broker: Broker, consumer: Broker) -> None:
    broker.push([job()])
    (delivery,) = take(consumer, 1)
    assert consumer.retry(delivery, delay=1.5)
    due = delivery.job.due

    eventually(lambda: broker.backlog(TOPIC).delayed == 1)
    assert ids(take(consumer, 1)) == [delivery.job.id]
    assert time.time() >= due - 0.05


def test_a_released_job_goes_to_the_front(broker: Broker, consumer: Broker) -> None:
    jobs = [job(priority=1), job(), job(priority=-1)]
    broker.push(jobs)
    deliveries = take(consumer, 2)

    for delivery in reversed(deliveries):
        assert consumer.release(delivery)
    again = take(consumer, 3)
    assert ids(again) == ids(jobs)
    assert [delivery.job.attempt for delivery in again] == [1, 1, 1]


def test_many_are_settled_in_one_go(broker: Broker, consumer: Broker) -> None:
    broker.push([job() for _ in range(8)])
    taken = take(consumer, 8)
    outcomes = [Outcome.ACK, Outcome.RETRY, Outcome.RELEASE, Outcome.DEAD] * 2

    settlements = [
        Settlement(delivery, outcome, b"result" if outcome in (Outcome.ACK, Outcome.DEAD) else None, 60.0)
        for delivery, outcome in zip(taken, outcomes, strict=True)
    ]
    assert consumer.settle(settlements) == []
    assert consumer.settle([]) == []
    eventually(lambda: _counts(broker) == (4, 0, 2))
    assert [broker.result(each.job.id) for each in taken] == [b"result", None, None, b"result"] * 2


def test_a_second_settlement_has_no_effect(broker: Broker, consumer: Broker) -> None:
    broker.push([job() for _ in range(3)])
    done, given_back, dead = take(consumer, 3)
    assert (
        consumer.settle(
            [
                Settlement(done, Outcome.ACK),
                Settlement(given_back, Outcome.RELEASE),
                Settlement(dead, Outcome.DEAD),
            ]
        )
        == []
    )

    both = [Settlement(each, outcome) for each in (done, given_back, dead) for outcome in ("ack", "release")]
    assert consumer.settle(both) == [each.delivery for each in both]
    eventually(lambda: _counts(broker) == (1, 0, 1))


def test_jobs_in_hand_are_running(broker: Broker, consumer: Broker) -> None:
    broker.push([job() for _ in range(3)])
    deliveries = take(consumer, 2)

    eventually(lambda: _counts(broker) == (1, 0, 0))
    eventually(lambda: broker.backlog(TOPIC).running in (2, None))
    for delivery in deliveries:
        assert consumer.ack(delivery)
    eventually(lambda: broker.backlog(TOPIC).running in (0, None))


def test_the_age_of_the_oldest_that_waits(broker: Broker, consumer: Broker) -> None:
    assert broker.backlog(TOPIC).oldest in (0.0, None)
    broker.push([job(pushed=time.time() - 900), job(priority=9)])

    if broker.backlog(TOPIC).oldest is not None:
        eventually(lambda: 0.1 < (broker.backlog(TOPIC).oldest or 0.0) < 60.0)
    take(consumer, 2)
    eventually(lambda: broker.backlog(TOPIC).oldest in (0.0, None))


def test_nothing_of_a_topic_that_nobody_used(broker: Broker) -> None:
    assert _counts(broker) == (0, 0, 0)
    assert broker.purge(TOPIC) == 0
    assert broker.dead_letters(TOPIC, 10) == []
    assert broker.dead_retry(TOPIC, None) == 0
    assert broker.dead_purge(TOPIC, ["none"]) == 0
    assert broker.result("none") is None


# ── dead letters ──────────────────────────────────────────────────────────────────────────────────────


def _killed(broker: Broker, consumer: Broker, count: int) -> list[str]:
    """Ids of jobs that died, one after the other."""
    broker.push([job(b"payload") for _ in range(count)])
    deliveries = take(consumer, count)
    for delivery in deliveries:
        delivery.job.failed("crashed", "killed by SIGSEGV")
        assert consumer.dead(delivery)
    eventually(lambda: broker.backlog(TOPIC).dead == count)
    return ids(deliveries)


def test_dead_letters_are_kept_with_their_history(broker: Broker, consumer: Broker) -> None:
    began = time.time()
    dead = _killed(broker, consumer, 3)

    letters = broker.dead_letters(TOPIC, 10)
    assert [letter.job.id for letter in letters] == dead
    assert [letter.job.id for letter in broker.dead_letters(TOPIC, 2)] == dead[:2]
    assert broker.dead_letters(TOPIC, 0) == []
    for letter in letters:
        assert letter.job.payload == b"payload"
        assert [event.kind for event in letter.job.history] == ["crashed"]
        assert letter.job.crashes == 1
        assert began - 1 <= letter.died <= time.time() + 1
    assert [letter.job.id for letter in broker.dead_letters(TOPIC, 10)] == dead, "they are still there"
    none_comes(consumer)


@pytest.mark.parametrize("by_id", [True, False], ids=["some", "all"])
def test_dead_letters_run_again(broker: Broker, consumer: Broker, by_id: bool) -> None:
    dead = _killed(broker, consumer, 3)
    wanted = dead[1:] if by_id else dead

    assert broker.dead_retry(TOPIC, [*wanted, "none"] if by_id else None) == len(wanted)
    for delivery in (taken := take(consumer, len(wanted))):
        assert (delivery.job.attempt, delivery.job.crashes, delivery.job.due) == (1, 0, 0.0)
        assert [event.kind for event in delivery.job.history] == ["crashed"]
        assert consumer.ack(delivery)
    assert sorted(ids(taken)) == sorted(wanted)
    eventually(lambda: broker.backlog(TOPIC).dead == len(dead) - len(wanted))
    assert broker.dead_retry(TOPIC, wanted) == 0


def test_of_its_runs_a_retried_dead_letter_has_only_the_history(broker: Broker, consumer: Broker) -> None:
    """What a strategy counts from the first run, and what listeners changed, would end it at once again."""
    pushed = job(priority=3, is_unique=True, hold=60.0)
    broker.push([pushed])
    (delivery,) = take(consumer, 1)
    delivery.job.failed("crashed", "killed by SIGSEGV")
    delivery.job.idle_for, delivery.job.first_run, delivery.job.changes = 2.5, 1e9, "signed"
    history = list(delivery.job.history)
    assert consumer.dead(delivery)
    eventually(lambda: broker.backlog(TOPIC).dead == 1)

    assert broker.dead_retry(TOPIC, None) == 1
    assert take(consumer, 1)[0].job == replace(pushed, history=history)


@pytest.mark.parametrize("by_id", [True, False], ids=["some", "all"])
def test_dead_letters_are_dropped(broker: Broker, consumer: Broker, by_id: bool) -> None:
    dead = _killed(broker, consumer, 3)
    wanted = dead[:2] if by_id else dead

    assert broker.dead_purge(TOPIC, [*wanted, "none"] if by_id else None) == len(wanted)
    assert [letter.job.id for letter in broker.dead_letters(TOPIC, 10)] == dead[len(wanted) :]
    eventually(lambda: broker.backlog(TOPIC).dead == len(dead) - len(wanted))


def test_purged_are_those_that_wait(broker: Broker, consumer: Broker) -> None:
    _killed(broker, consumer, 1)
    running = job()
    broker.push([running, job(topic="other")])
    (delivery,) = take(consumer, 1)
    waiting = [job(), job(priority=3), job(due=time.time() + 3600)]
    broker.push(waiting)
    eventually(lambda: (broker.backlog(TOPIC).ready, broker.backlog(TOPIC).delayed) == (2, 1))

    assert broker.purge(TOPIC) == 3
    eventually(lambda: _counts(broker) == (0, 0, 1))
    assert broker.backlog("other").ready == 1
    assert consumer.ack(delivery)
    none_comes(consumer)
    assert broker.push([job(id=waiting[0].id, is_unique=True)]) == [True], "its id is free again"


# ── unique ids ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("others", [0, 1], ids=["alone", "with another"])
def test_a_unique_id_is_refused_as_long_as_its_job_is_there(
    broker: Broker, consumer: Broker, others: int
) -> None:
    def push(**fields: Any) -> bool:
        key = job(id="key", is_unique=True, **fields)
        return broker.push([key, *(job(topic="other") for _ in range(others))])[0]

    assert push(due=time.time() + 0.5)
    assert not push(), "delayed"
    (delivery,) = take(consumer, 1)
    assert not push(), "running"
    assert consumer.retry(delivery)
    assert not push(), "ready"
    (delivery,) = take(consumer, 1)
    assert consumer.dead(delivery)
    assert not push(), "dead"
    assert broker.dead_retry(TOPIC, ["key"]) == 1
    assert not push(), "ready again"
    assert consumer.ack(take(consumer, 1)[0])
    eventually(push)
    assert ids(take(consumer, 1)) == ["key"]


def test_unique_ids_within_one_push(broker: Broker, consumer: Broker) -> None:
    jobs = [job(id=name, is_unique=True) for name in ("a", "b", "a", "c", "b")]

    assert broker.push(jobs) == [True, True, False, True, False]
    assert ids(take(consumer, 3)) == ["a", "b", "c"]
    none_comes(consumer)


@pytest.mark.parametrize("others", [0, 1], ids=["alone", "with another"])
def test_a_unique_id_may_be_held_longer_than_its_job(broker: Broker, consumer: Broker, others: int) -> None:
    def push(hold: float = 0.0) -> bool:
        key = job(id="key", is_unique=True, hold=hold)
        return broker.push([key, *(job(topic="other") for _ in range(others))])[0]

    began = time.time()
    assert push(hold=3.0)
    assert consumer.ack(take(consumer, 1)[0])
    assert not push() or time.time() - began > 2.9, "it is done, and held"
    eventually(push)
    assert time.time() - began > 2.9


# ── results ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("outcome", [Outcome.ACK, Outcome.DEAD])
@pytest.mark.parametrize("result", [b"", b"\x00\xff" * 10, b"x" * 300_000], ids=["empty", "bytes", "long"])
def test_results_are_kept(broker: Broker, consumer: Broker, outcome: str, result: bytes) -> None:
    broker.push([job()])
    (delivery,) = take(consumer, 1)
    assert broker.result(delivery.job.id) is None

    assert consumer.settle([Settlement(delivery, outcome, result, 60.0)]) == []
    assert broker.result(delivery.job.id) == result
    assert broker.result(delivery.job.id) == result


def test_results_are_kept_so_long(broker: Broker, consumer: Broker) -> None:
    broker.push([job(), job()])
    short, none = take(consumer, 2)

    assert consumer.ack(short, b"result", keep=2.0)
    assert consumer.ack(none, b"result", keep=0.0)
    assert broker.result(none.job.id) is None
    eventually(lambda: broker.result(short.job.id) is None)


def test_a_result_goes_when_its_job_runs_anew(broker: Broker, consumer: Broker) -> None:
    """Who waits for the second run is not to get what came of the first."""

    def push() -> bool:
        return broker.push([job(id="key", is_unique=True)])[0]

    assert push()
    assert consumer.ack(take(consumer, 1)[0], b"first", keep=600.0)
    assert broker.result("key") == b"first"
    eventually(push)
    assert broker.result("key") is None
    assert not push()
    assert consumer.settle([Settlement(take(consumer, 1)[0], Outcome.DEAD, b"second", 600.0)]) == []
    assert not push()
    assert broker.result("key") == b"second", "a push that is refused changes nothing"
    eventually(lambda: broker.backlog(TOPIC).dead == 1)

    assert broker.dead_retry(TOPIC, ["key"]) == 1
    assert broker.result("key") is None
    assert consumer.ack(take(consumer, 1)[0], b"third", keep=600.0)
    assert broker.result("key") == b"third"


# ── leases ────────────────────────────────────────────────────────────────────────────────────────────


def test_what_a_silent_consumer_holds_goes_to_others(broker: Broker, opened: Open) -> None:
    silent, living = opened(), opened()
    jobs = [job(), job()]
    broker.push(jobs)
    silent.join("silent", [TOPIC], SHORT_LEASE)
    lost = take(silent, 2)
    living.join("living", [TOPIC], SHORT_LEASE)

    taken = take(living, 2, extends=True)
    assert ids(taken) == ids(jobs)
    assert (
        silent.settle([Settlement(lost[0], Outcome.ACK, b"late", 60.0), Settlement(lost[1], Outcome.DEAD)])
        == lost
    )
    assert broker.result(lost[0].job.id) is None
    for delivery in taken:
        assert living.ack(delivery)
    eventually(lambda: _counts(broker) == (0, 0, 0))


def test_who_was_silent_may_go_on(broker: Broker, opened: Open) -> None:
    silent, living = opened(), opened()
    broker.push([job()])
    silent.join("silent", [TOPIC], SHORT_LEASE)
    (old,) = take(silent, 1)
    living.join("living", [TOPIC], SHORT_LEASE)
    (new,) = take(living, 1, extends=True)
    assert living.release(new)
    living.close()

    again(silent.extend)
    (delivery,) = again(lambda: take(silent, 1))
    assert delivery.job.id == old.job.id
    assert not silent.ack(old), "of the lease that is over"
    assert silent.ack(delivery)
    eventually(lambda: _counts(broker) == (0, 0, 0))


def test_who_was_silent_has_a_lease_again(broker: Broker, opened: Open) -> None:
    silent, living = opened(), opened()
    broker.push([job()])
    silent.join("silent", [TOPIC], SHORT_LEASE)
    take(silent, 1)
    living.join("living", [TOPIC], SHORT_LEASE)
    assert living.release(take(living, 1, extends=True)[0])

    (delivery,) = again(lambda: take(silent, 1))
    assert ids(take(living, 1, extends=True)) == [delivery.job.id]


def test_a_lease_that_is_extended_holds(broker: Broker, opened: Open) -> None:
    slow, other = opened(), opened()
    broker.push([job()])
    slow.join("slow", [TOPIC], SHORT_LEASE)
    (delivery,) = take(slow, 1)
    other.join("other", [TOPIC], SHORT_LEASE)

    until = time.monotonic() + 2 * SHORT_LEASE
    while time.monotonic() < until:
        slow.extend()
        other.extend()
        assert other.reserve(1) == []
        time.sleep(SHORT_LEASE / 20)
    assert slow.ack(delivery)


def test_the_next_of_a_name_takes_back_what_was_held(broker: Broker, opened: Open) -> None:
    broker.push([job(priority=priority) for priority in (2, 1, 0)])

    def die_with_jobs() -> None:
        dying = opened()
        dying.join("first", [TOPIC], 3600.0)
        take(dying, 2)
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(die_with_jobs) == -signal.SIGKILL
    consumer = opened()
    consumer.join("first", [TOPIC], 3600.0)
    assert [delivery.job.priority for delivery in take(consumer, 3)] == [2, 1, 0]


def test_who_closes_gives_back(broker: Broker, opened: Open) -> None:
    broker.push([job()])
    leaving = opened()
    leaving.join("leaving", [TOPIC], 3600.0)
    (delivery,) = take(leaving, 1)
    leaving.close()
    leaving.close()

    consumer = opened()
    consumer.join("first", [TOPIC], 3600.0)
    assert ids(take(consumer, 1)) == [delivery.job.id]


def test_each_job_goes_to_one_of_many_consumers(broker: Broker, opened: Open) -> None:
    jobs = [job() for _ in range(600)]
    reading, writing = os.pipe()

    def work(name: str) -> None:
        consumer = opened()
        consumer.join(name, [TOPIC], LEASE)
        while deliveries := take(consumer, 1) + consumer.reserve(4):
            assert consumer.settle([Settlement(each, Outcome.ACK) for each in deliveries]) == []
            os.write(writing, "".join(f"{each}\n" for each in ids(deliveries)).encode())

    children = [fork(partial(work, name)) for name in ("a", "b", "c")]
    os.close(writing)
    try:
        broker.push(jobs)
        with open(reading) as lines:
            seen = [next(lines).rstrip() for _ in jobs]
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            exit_of(child)
    assert sorted(seen) == sorted(ids(jobs))


# ── processes ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("call", ["push", "retry", "release", "dead_retry", "close"])
def test_who_waits_hears_of_a_job(opened: Open, call: str) -> None:
    """From another process, whichever way the job becomes ready."""
    waiting = opened()
    with Gate() as taken, Gate() as gate:

        def give() -> None:
            giving = opened()
            if call != "push":
                giving.join("giving", [TOPIC], LEASE)
                giving.push([job()])
                (delivery,) = take(giving, 1)
            if call == "dead_retry":
                giving.dead(delivery)
            taken.open()
            gate.wait()
            if call == "push":
                giving.push([job()])
            elif call == "dead_retry":
                assert giving.dead_retry(TOPIC, None) == 1
            elif call == "close":
                giving.close()
            else:
                getattr(giving, call)(delivery)

        child = fork(give)
        taken.wait()
        waiting.join("waiting", [TOPIC], LEASE)
        none_comes(waiting)
        gate.open()
        assert rings(waiting, 60) is not False, "it never rang"
        take(waiting, 1)
        assert exit_of(child) == 0


def test_a_bell_that_was_answered_is_silent(broker: Broker, consumer: Broker) -> None:
    broker.push([job()])
    assert consumer.ack(take(consumer, 1)[0])
    none_comes(consumer)
    assert not rings(consumer, 0.2)


def test_a_forked_child_may_push_with_what_it_inherited(broker: Broker, consumer: Broker) -> None:
    broker.push([job(id="before")])
    (delivery,) = take(consumer, 1)
    broker.detach()
    consumer.detach()

    def push() -> None:
        assert broker.push([job(id="of the child")]) == [True]
        broker.close()
        consumer.close()

    assert in_child(push) == 0
    assert broker.push([job(id="after")]) == [True]
    assert ids(take(consumer, 2)) == ["of the child", "after"]
    assert consumer.ack(delivery), "the child's close is none of the consumer"


def test_a_consumer_goes_on_after_a_fork(broker: Broker, consumer: Broker) -> None:
    broker.push([job(), job()])
    (first,) = take(consumer, 1)
    consumer.detach()
    assert in_child(lambda: None) == 0
    consumer.detach()

    assert consumer.ack(first)
    assert consumer.ack(take(consumer, 1)[0])


# ── a broker that is away ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", ["killed", "paused"])
def test_it_says_that_it_is_away_and_goes_on_when_it_is_back(
    broker: Broker, consumer: Broker, server: Server | None, broker_url: str, how: str
) -> None:
    broker.push([job(id="running"), job(id="waiting")])
    (running,) = take(consumer, 1)

    with away(server, broker_url, how):
        began = time.monotonic()
        with pytest.raises(BrokerUnavailableError, match="push") as raised:
            broker.push([job(id="lost")])
        assert time.monotonic() - began < 10.0
        assert "127.0.0.1" in raised.value.broker or "jobs.db" in raised.value.broker
        began = time.monotonic()
        with pytest.raises(BrokerUnavailableError):
            consumer.extend()
        assert time.monotonic() - began < 10.0

    again(lambda: broker.push([job(id="late", is_unique=True)]))
    again(consumer.extend)
    left = {"running", "waiting", "late"}
    if again(
        lambda: consumer.ack(running)
    ):  # otherwise its lease went with the connection, and it comes again
        left.remove("running")
    while left:
        (delivery,) = again(lambda: take(consumer, 1))
        if again(partial(consumer.ack, delivery)):
            left.discard(delivery.job.id)


def _counts(broker: Broker) -> tuple[int, int, int]:
    backlog = broker.backlog(TOPIC)
    return backlog.ready, backlog.delayed, backlog.dead
