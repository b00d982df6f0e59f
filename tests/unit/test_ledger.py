"""Where each job is: in exactly one place, whatever happens to the leases that it travels in."""

from __future__ import annotations

import itertools
import time
from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from multiprocessing_kit.runner.ledger import Lease, Ledger

MANY = 1000


class Child:
    def __init__(self) -> None:
        self.leases: deque[Lease] = deque()
        self.held = 0
        self.sent = 0

    def send(self, ledger: Ledger, lease: Lease) -> Lease:
        """As a lane does: jobs are numbered from 1."""
        lease.number = self.sent + 1
        self.sent += len(lease)
        ledger.lease(lease, self)
        return lease

    def holds(self) -> list[object]:
        return [argument for lease in self.leases for argument in left(lease)]


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


def with_leases(*leases: str, queue_length: int = 1) -> tuple[Ledger, Child]:
    """A child that was sent a lease for each text, a job for each letter of it."""
    ledger, child = Ledger(queue_length), Child()
    for letters in leases:
        child.send(ledger, ledger.add(list(letters)))
    return ledger, child


def known(ledger: Ledger, limit: int = MANY, *, inputs_left: bool = False) -> list[str]:
    """The jobs that are next, a text for each lease, all of them."""
    found = []
    while (lease := ledger.next_known(limit, inputs_left=inputs_left)) is not None:
        assert 0 < len(lease) <= limit
        found.append(text(lease))
    return found


def left(lease: Lease) -> list[object]:
    """The arguments of the jobs that are left in it."""
    return list(lease.arguments[lease.done :])


def text(lease: Lease) -> str:
    return "".join(map(str, left(lease)))


# ── a lease ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("done", range(4))
@pytest.mark.parametrize("count", range(4))
def test_cut(done: int, count: int) -> None:
    if done + count > 6:
        return
    lease = Lease(10, list("abcdef"), number=100, done=done)
    assert (lease.index, len(lease), text(lease)) == (10 + done, 6 - done, "abcdef"[done:])
    rest = lease.cut(count)
    assert (lease.index, len(lease), text(lease)) == (10 + done, count, "abcdef"[done : done + count])
    assert (rest.index, rest.done, text(rest)) == (10 + done + count, 0, "abcdef"[done + count :])
    assert rest.number == 100 + done + count
    assert len(lease) + len(rest) == 6 - done


def test_what_is_cut_off_remembers() -> None:
    lease = Lease(0, ["a", "b"], attempt=3, history=b"history")
    rest = lease.cut(1)
    assert (rest.attempt, rest.history) == (3, b"history")


# ── on its way ────────────────────────────────────────────────────────────────────────────────────


def test_jobs_go_their_way() -> None:
    ledger, child = with_leases("abc", "de")
    first, second = child.leases
    assert [(lease.index, lease.attempt) for lease in (first, second)] == [(0, 1), (3, 1)]
    assert (ledger.taken, ledger.unanswered, child.held) == (5, 5, 5)
    assert ledger.answered(child, 2) is first
    assert (ledger.unanswered, child.held, child.holds()) == (3, 3, ["c", "d", "e"])
    assert ledger.answered(child, 1) is first
    assert ledger.answered(child, 1) is second
    assert ledger.answered(child, 1) is second
    assert (ledger.taken, ledger.unanswered, child.held, list(child.leases)) == (5, 0, 0, [])
    assert known(ledger) == []


def test_jobs_that_nobody_held() -> None:
    ledger = Ledger(1)
    ledger.add(["a", "b"])
    ledger.drop(2)
    assert (ledger.taken, ledger.unanswered) == (2, 0)
    assert known(ledger) == []


def test_what_a_dead_child_had_goes_back_to_the_front_in_order() -> None:
    ledger, one = with_leases("abc", "d")
    other = Child()
    for letters in ("ef", "g"):
        other.send(ledger, ledger.add(list(letters)))
    ledger.answered(one, 1)
    ledger.answered(other, 2)
    ledger.requeue(other, 0, 2, b"history")
    ledger.give_back(other)
    ledger.give_back(one)
    assert (one.holds(), one.held, other.holds(), other.held) == ([], 0, [], 0)
    assert ledger.unanswered == 4
    assert known(ledger) == ["bc", "d", "g"]


def test_a_lease_that_could_not_be_sent_is_next_again() -> None:
    ledger, child = with_leases("ab", "c")
    ledger.give_back(child)
    lease = ledger.next_known(MANY, inputs_left=True)
    assert lease is not None
    ledger.put_back(lease)
    assert known(ledger, inputs_left=True) == ["ab", "c"]


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(1, ["b", "c", "d", "e", "f"]), (2, ["bc", "d", "ef"]), (3, ["bcd", "ef"]), (9, ["bcd", "ef"])],
)
def test_what_comes_back_goes_out_in_leases_that_are_not_too_large(limit: int, expected: list[str]) -> None:
    ledger, child = with_leases("abcd", "ef")
    ledger.answered(child, 1)
    ledger.give_back(child)
    lease = ledger.next_known(limit, inputs_left=True)
    assert lease is not None
    assert lease.index == 1
    assert [text(lease), *known(ledger, limit)] == expected


@pytest.mark.parametrize(
    ("done", "number", "kept", "back"),
    [
        (0, 1, "", ["abc", "def", "g"]),
        (0, 2, "a", ["bc", "def", "g"]),
        (0, 4, "abc", ["def", "g"]),
        (0, 6, "abcde", ["f", "g"]),
        (0, 7, "abcdef", ["g"]),
        (0, 8, "abcdefg", []),
        (0, 99, "abcdefg", []),
        (1, 2, "", ["bc", "def", "g"]),
        (1, 3, "b", ["c", "def", "g"]),
        (2, 2, "", ["c", "def", "g"]),  # a number that was answered: what is left
        (4, 5, "", ["ef", "g"]),
        (4, 6, "e", ["f", "g"]),
        (7, 8, "", []),
    ],
)
def test_jobs_taken_back_from_a_number_on(done: int, number: int, kept: str, back: list[str]) -> None:
    ledger, child = with_leases("abc", "def", "g")
    for _ in range(done):
        ledger.answered(child, 1)
    ledger.reclaim(child, number)
    assert child.holds() == list(kept)
    assert (child.held, ledger.unanswered) == (len(kept), 7 - done)
    assert known(ledger) == back


def test_jobs_taken_back_twice() -> None:
    ledger, child = with_leases("abcdef")
    ledger.reclaim(child, 5)
    ledger.reclaim(child, 3)
    assert (child.holds(), child.held) == (["a", "b"], 2)
    assert known(ledger) == ["cd", "ef"]


@pytest.mark.parametrize(
    ("done", "number", "count", "kept", "back"),
    [
        (0, 1, 1, "bcdefg", ["a"]),
        (0, 1, 3, "defg", ["abc"]),
        (0, 1, 5, "fg", ["abc", "de"]),
        (0, 1, 7, "", ["abc", "def", "g"]),
        (1, 2, 1, "cdefg", ["b"]),
        (1, 2, 3, "efg", ["bc", "d"]),
        (3, 4, 4, "", ["def", "g"]),
        (0, 2, 2, "abcdefg", []),  # it has begun the first one: these were taken from elsewhere
        (0, 1, 0, "abcdefg", []),
        (0, 1, 99, "", ["abc", "def", "g"]),  # the others were reclaimed
    ],
)
def test_jobs_that_the_child_skipped(done: int, number: int, count: int, kept: str, back: list[str]) -> None:
    ledger, child = with_leases("abc", "def", "g")
    for _ in range(done):
        ledger.answered(child, 1)
    ledger.skipped(child, number, count)
    assert (child.holds(), child.held, ledger.unanswered) == (list(kept), len(kept), 7 - done)
    assert known(ledger) == back


def test_jobs_that_were_reclaimed_in_part_before_the_child_tells() -> None:
    """It skipped `c` to `f`; the caller was sure of `e` and `f` only."""
    ledger, child = with_leases("abcdef")
    ledger.answered(child, 1)
    ledger.reclaim(child, 5)
    assert child.holds() == ["b", "c", "d"]
    ledger.answered(child, 1)
    ledger.skipped(child, 3, 4)
    assert (child.holds(), child.held) == ([], 0)
    assert known(ledger) == ["cd", "ef"]


def test_a_lease_that_was_sent_behind_skipped_ones_stays() -> None:
    ledger, child = with_leases("abc")
    ledger.reclaim(child, 2)
    child.send(ledger, ledger.add(["d"]))
    ledger.answered(child, 1)
    ledger.skipped(child, 2, 2)
    assert (child.holds(), child.held) == (["d"], 1)


@pytest.mark.parametrize(
    ("done", "number", "job", "back"),
    [
        (0, 1, "a", ["bc", "def", "g"]),
        (0, 2, "b", ["a", "c", "def", "g"]),
        (0, 3, "c", ["ab", "def", "g"]),
        (0, 5, "e", ["abc", "d", "f", "g"]),
        (0, 7, "g", ["abc", "def"]),
        (1, 2, "b", ["c", "def", "g"]),
        (1, 3, "c", ["b", "def", "g"]),
        (4, 6, "f", ["e", "g"]),
        (1, 1, None, ["bc", "def", "g"]),  # it was answered
        (3, 2, None, ["def", "g"]),
        (0, 8, None, ["abc", "def", "g"]),
        (0, 0, None, ["abc", "def", "g"]),
    ],
)
def test_the_job_that_a_child_died_of(done: int, number: int, job: str | None, back: list[str]) -> None:
    ledger, child = with_leases("abc", "def", "g")
    for _ in range(done):
        ledger.answered(child, 1)
    lost = ledger.lost(child, number)
    ledger.give_back(child)
    if job is None:
        assert lost is None
    else:
        assert lost is not None
        assert (text(lost), lost.index, lost.attempt) == (job, "abcdefg".index(job), 1)
    assert ledger.unanswered == 7 - done
    assert known(ledger) == back


# ── once more ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("before", range(3))
def test_a_requeued_job_remembers(before: int) -> None:
    ledger, child = with_leases("abc")
    for _ in range(before):
        ledger.answered(child, 1)
    ledger.requeue(child, 0, 3, b"history")
    assert child.holds() == list("abc"[before + 1 :])
    lease = ledger.next_known(MANY, inputs_left=False)
    assert lease is not None
    assert (lease.index, lease.arguments, lease.attempt) == (before, ["abc"[before]], 3)
    assert (lease.history, lease.done, ledger.unanswered) == (b"history", 0, 3 - before)


@pytest.mark.parametrize("places", [(0,), (1,), (0, 1), (1, 2), (2, 3)])
def test_its_neighbours_are_answered_as_before(places: tuple[int, ...]) -> None:
    ledger, child = with_leases("abcd")
    lease = child.leases[0]
    for place in range(4):
        if place in places:
            ledger.requeue(child, 0, 2, b"")
        else:
            assert ledger.answered(child, 1) is lease
            assert (lease.attempt, lease.history) == (1, None)
    assert known(ledger) == ["abcd"[place] for place in places]


@pytest.mark.parametrize(("queue_length", "before"), [(1, 1), (3, 3), (100, 5)])
def test_the_end_of_the_queue(queue_length: int, before: int) -> None:
    """A requeued job lets as many inputs go first as a queue would hold, or all that are left."""
    ledger, child = with_leases("a", queue_length=queue_length)
    inputs = iter(["b", "c", "d", "e", "f"])
    ledger.requeue(child, 0, 2, b"history")
    order: list[object] = []
    for _ in range(6):
        lease = ledger.next_known(MANY, inputs_left=True)
        if lease is None:
            fresh: list[object] = list(itertools.islice(inputs, 1))
            lease = ledger.add(fresh) if fresh else ledger.next_known(MANY, inputs_left=False)
        assert lease is not None
        order += left(lease)
    assert order.index("a") == before


def test_requeued_jobs_keep_their_order() -> None:
    ledger, child = with_leases("a", "b", "c")
    others = [Child(), Child()]
    ledger.give_back(child)
    for holder in (child, *others):
        lease = ledger.next_known(1, inputs_left=False)
        assert lease is not None
        holder.send(ledger, lease)
    for holder in (others[1], child, others[0]):
        ledger.requeue(holder, 0, 2, b"")
    assert known(ledger) == ["c", "a", "b"]


def test_a_requeued_job_is_sent_alone_and_comes_back() -> None:
    ledger, child = with_leases("ab")
    ledger.requeue(child, 0, 2, b"history")
    lease = ledger.next_known(MANY, inputs_left=False)
    assert lease is not None
    child.send(ledger, lease)
    ledger.reclaim(child, lease.number)
    assert child.holds() == ["b"]
    assert ledger.next_known(MANY, inputs_left=True) is lease
    assert (lease.attempt, lease.history, text(lease)) == (2, b"history", "a")


def test_a_job_waits_for_its_time(clock: Clock) -> None:
    ledger, child = with_leases("abc")
    assert ledger.next_due() is None
    for delay in (30, 10, 30):
        ledger.requeue(child, delay, 2, b"")
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
    ledger, child = with_leases("ab", queue_length=2)
    ledger.requeue(child, 10, 2, b"")
    ledger.requeue(child, 0, 2, b"")
    clock.now += 10
    assert known(ledger, inputs_left=True) == []
    child.send(ledger, ledger.add(["c"]))
    assert known(ledger, inputs_left=True) == []
    child.send(ledger, ledger.add(["d"]))
    assert known(ledger, inputs_left=True) == ["b", "a"]


# ── all of it ─────────────────────────────────────────────────────────────────────────────────────


class EachJobIsInOnePlace(RuleBasedStateMachine):
    """Three children that run, answer, skip and die as theirs do, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(4)
        self.children = [Child() for _ in range(3)]
        self.answered: list[object] = []
        self.next = 0

    def busy(self, which: int) -> Child | None:
        child = self.children[which]
        return child if child.held else None

    @rule(which=st.integers(0, 2), size=st.integers(1, 5), as_range=st.booleans())
    def take_fresh(self, which: int, size: int, as_range: bool) -> None:
        arguments = range(self.next, self.next + size)
        self.next += size
        lease = self.ledger.add(arguments if as_range else list(arguments))
        assert lease.index == arguments[0]
        self.children[which].send(self.ledger, lease)

    @rule(which=st.integers(0, 2), limit=st.integers(1, 5), inputs_left=st.booleans(), fits=st.booleans())
    def take_known(self, which: int, limit: int, inputs_left: bool, fits: bool) -> None:
        lease = self.ledger.next_known(limit, inputs_left=inputs_left)
        if lease is None:
            return
        assert left(lease) == list(range(lease.index, lease.index + len(lease)))
        if not fits:
            self.ledger.put_back(lease)
            return
        lease = lease.cut(0) if lease.done else lease
        self.children[which].send(self.ledger, lease)

    @rule(which=st.integers(0, 2), count=st.integers(1, 5))
    def answer(self, which: int, count: int) -> None:
        if (child := self.busy(which)) is not None:
            count = min(count, len(child.leases[0]))
            expected = child.holds()[:count]
            lease = self.ledger.answered(child, count)
            assert list(lease.arguments[lease.done - count : lease.done]) == expected
            self.answered += expected

    @rule(which=st.integers(0, 2), delay=st.sampled_from([0.0, 1e9]))
    def requeue(self, which: int, delay: float) -> None:
        if (child := self.busy(which)) is not None:
            self.ledger.requeue(child, delay, 2, b"history")

    @rule(which=st.integers(0, 2), back=st.integers(0, 8))
    def reclaim(self, which: int, back: int) -> None:
        child = self.children[which]
        self.ledger.reclaim(child, max(1, child.sent + 1 - back))

    @rule(which=st.integers(0, 2), count=st.integers(0, 8))
    def skip(self, which: int, count: int) -> None:
        if (child := self.busy(which)) is not None:
            lease = child.leases[0]
            self.ledger.skipped(child, lease.number + lease.done, count)

    @rule(which=st.integers(0, 2), behind=st.integers(-1, 6))
    def die(self, which: int, behind: int) -> None:
        child = self.children[which]
        if child.leases and behind >= 0:
            before = child.leases[0].number + child.leases[0].done
            job = self.ledger.lost(child, before + behind)
            if job is not None:
                assert len(job) == 1
                self.ledger.drop(1)
                self.answered += left(job)
        self.ledger.give_back(child)
        self.children[which] = Child()

    @precondition(lambda self: self.next)
    @invariant()
    def nothing_is_lost_or_twice(self) -> None:
        ledger = self.ledger
        held = [argument for child in self.children for argument in child.holds()]
        elsewhere = [
            argument
            for lease in (
                *ledger._returned,
                *(lease for _, lease in ledger._again),
                *(lease for _, _, lease in ledger._waiting),
            )
            for argument in left(lease)
        ]
        assert sorted([*held, *elsewhere, *self.answered], key=str) == sorted(range(self.next), key=str)
        assert ledger.unanswered == len(held) + len(elsewhere)
        assert ledger.taken == self.next

    @invariant()
    def children_are_counted_and_keep_their_order(self) -> None:
        for child in self.children:
            assert child.held == sum(map(len, child.leases))
            assert all(map(len, child.leases))
            numbers = [lease.number + lease.done for lease in child.leases]
            assert numbers == sorted(numbers)


TestEachJobIsInOnePlace = EachJobIsInOnePlace.TestCase
TestEachJobIsInOnePlace.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
