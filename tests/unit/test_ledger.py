from __future__ import annotations

import itertools
import time

import pytest

from multiprocessing_kit.runner.ledger import Job, Ledger


class Child:
    def __init__(self) -> None:
        self.jobs: dict[int, Job] = {}


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def lease_new(ledger: Ledger, child: Child, *arguments: object) -> list[Job]:
    jobs = [ledger.add(argument) for argument in arguments]
    for job in jobs:
        ledger.lease(job, child)
    return jobs


def requeue(ledger: Ledger, child: Child, index: int, delay: float = 0) -> None:
    ledger.requeue(child, index, delay, 2, b"history")


def known(ledger: Ledger, *, inputs_left: bool = False) -> list[object]:
    """The arguments of the jobs that are next, all of them."""
    found: list[object] = []
    while (job := ledger.next_known(inputs_left=inputs_left)) is not None:
        found.append(job.argument)
    return found


def test_a_job_goes_its_way() -> None:
    ledger, child = Ledger(1), Child()
    a, b = lease_new(ledger, child, "a", "b")
    assert [(job.index, job.argument, job.attempt) for job in (a, b)] == [(0, "a", 1), (1, "b", 1)]
    assert (ledger.taken, ledger.unanswered, child.jobs) == (2, 2, {0: a, 1: b})
    assert ledger.answer(child, 1) is b
    assert (ledger.taken, ledger.unanswered, child.jobs) == (2, 1, {0: a})
    assert ledger.answer(child, 0) is a
    assert (ledger.unanswered, child.jobs) == (0, {})


def test_a_job_that_nobody_held() -> None:
    ledger = Ledger(1)
    ledger.add("a")
    ledger.drop()
    assert (ledger.taken, ledger.unanswered) == (1, 0)
    assert known(ledger) == []


def test_what_a_dead_child_had_goes_back_to_the_front_in_order() -> None:
    ledger, one, other = Ledger(1), Child(), Child()
    lease_new(ledger, one, "a", "b", "c")
    lease_new(ledger, other, "d", "e")
    requeue(ledger, other, 4)
    ledger.answer(one, 1)
    ledger.give_back(other)
    ledger.give_back(one)
    assert (one.jobs, other.jobs, ledger.unanswered) == ({}, {}, 4)
    assert known(ledger) == ["a", "c", "d", "e"]


def test_a_job_that_could_not_be_sent_is_next_again() -> None:
    ledger, child = Ledger(1), Child()
    lease_new(ledger, child, "a", "b")
    ledger.give_back(child)
    job = ledger.next_known(inputs_left=True)
    assert job is not None
    ledger.put_back(job)
    assert known(ledger) == ["a", "b"]


def test_a_requeued_job_remembers() -> None:
    ledger, child = Ledger(1), Child()
    (job,) = lease_new(ledger, child, "a")
    ledger.requeue(child, 0, 0, 3, b"history")
    assert child.jobs == {}
    assert ledger.next_known(inputs_left=False) is job
    assert (job.attempt, job.history, ledger.unanswered) == (3, b"history", 1)


@pytest.mark.parametrize(("queue_length", "before"), [(1, 1), (3, 3), (100, 5)])
def test_the_end_of_the_queue(queue_length: int, before: int) -> None:
    """A requeued job lets as many inputs go first as a queue would hold, or all that are left."""
    ledger, child = Ledger(queue_length), Child()
    inputs = iter(["b", "c", "d", "e", "f"])
    lease_new(ledger, child, "a")
    requeue(ledger, child, 0)
    order: list[object] = []
    for _ in range(6):
        job = ledger.next_known(inputs_left=True)
        if job is None:
            fresh = list(itertools.islice(inputs, 1))
            job = ledger.add(fresh[0]) if fresh else ledger.next_known(inputs_left=False)
        assert job is not None
        order.append(job.argument)
    assert order.index("a") == before


def test_requeued_jobs_keep_their_order() -> None:
    ledger, child = Ledger(1), Child()
    lease_new(ledger, child, "a", "b", "c")
    for index in (2, 0, 1):
        requeue(ledger, child, index)
    assert known(ledger) == ["c", "a", "b"]


def test_a_job_waits_for_its_time(clock: Clock) -> None:
    ledger, child = Ledger(1), Child()
    lease_new(ledger, child, "a", "b", "c")
    assert ledger.next_due() is None
    for index, delay in ((0, 30), (1, 10), (2, 30)):
        requeue(ledger, child, index, delay)
    assert ledger.next_due() == clock.now + 10
    assert known(ledger) == []
    clock.now += 9.999
    assert known(ledger) == []
    clock.now += 0.001
    assert known(ledger) == ["b"]
    assert ledger.next_due() == clock.now + 20
    clock.now += 1000
    assert known(ledger) == ["a", "c"], "of those due at the same time the first to be requeued"
    assert ledger.next_due() is None
    assert ledger.unanswered == 3


def test_a_waiting_job_whose_time_has_come_joins_the_end_of_the_queue(clock: Clock) -> None:
    ledger, child = Ledger(2), Child()
    lease_new(ledger, child, "a", "b")
    requeue(ledger, child, 0, 10)
    requeue(ledger, child, 1)
    clock.now += 10
    assert known(ledger, inputs_left=True) == []
    lease_new(ledger, child, "c")
    assert known(ledger, inputs_left=True) == []
    lease_new(ledger, child, "d")
    assert known(ledger, inputs_left=True) == ["b", "a"]
