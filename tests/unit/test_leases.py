"""How many jobs go out at once, how far inputs are taken ahead, and in which order answers are given out."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiprocessing_kit import JobResponse, Response
from multiprocessing_kit.runner.answers import Opened
from multiprocessing_kit.runner.block import Pace
from multiprocessing_kit.runner.feeding import Window
from multiprocessing_kit.runner.leases import Leases
from multiprocessing_kit.runner.ready import Ready

ENDLESS = None


def measured(seconds: float, *, children: int = 2, fixed: int | None = None, size: int = 10) -> Leases:
    """After many leases of jobs that took so long each, with arguments of so many bytes."""
    leases = Leases(children, fixed)
    for _ in range(200):
        count = size_of(leases, ENDLESS)
        leases.sent(count, size * count)
        answered(leases, count, seconds * count)
    return leases


def size_of(leases: Leases, left: int | None, room: int = 0) -> int:
    return leases.size(left, room)


def answered(leases: Leases, count: int, seconds: float) -> None:
    leases.answered(count, seconds)
    leases.adapt()


# ── leases ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("seconds", "size"),
    [(0.0, 6553), (1e-6, 6553), (1e-5, 2000), (1e-4, 200), (1e-3, 20), (0.009, 2), (0.02, 1), (60, 1)],
)
def test_a_lease_is_worth_twenty_milliseconds(seconds: float, size: int) -> None:
    assert size_of(measured(seconds), ENDLESS) == pytest.approx(size, rel=0.02)


def test_the_first_leases_are_one_job_each() -> None:
    leases = Leases(4, None)
    assert [size_of(leases, left) for left in (ENDLESS, 10**6, 1, 0)] == [1, 1, 1, 1]
    assert leases.hold == 1, "nobody knows yet how long they take"


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0.01, 1)), max_size=50))
def test_a_lease_is_at_most_four_times_as_large_as_one_that_was_answered(
    answers: list[tuple[float, float]],
) -> None:
    """Whatever the jobs took, and however many of a lease were in one answer."""
    leases = Leases(2, None)
    largest = 0
    for seconds, share in answers:
        count = max(1, int(size_of(leases, ENDLESS) * share))
        largest = max(largest, count)
        answered(leases, count, seconds)
        assert 1 <= size_of(leases, ENDLESS) <= 4 * largest
        assert leases.hold >= 1


def test_leases_of_quick_jobs_grow_fourfold() -> None:
    leases = Leases(2, None)
    sizes = []
    for _ in range(8):
        sizes.append(size_of(leases, ENDLESS))
        answered(leases, sizes[-1], 0.0)
    assert sizes == [1, 4, 16, 64, 256, 1024, 4096, 8192]


def test_a_lease_shrinks_when_jobs_become_slow() -> None:
    leases = measured(1e-6)
    for _ in range(10):
        answered(leases, size_of(leases, ENDLESS), 1.0 * size_of(leases, ENDLESS))
    assert (size_of(leases, ENDLESS), leases.hold) == (1, 1)


def test_one_slow_job_among_many_does_not_undo_the_leases() -> None:
    leases = measured(1e-4)
    answered(leases, 1, 0.01)
    assert size_of(leases, ENDLESS) >= 5


@pytest.mark.parametrize(("size", "most"), [(1, 8192), (1 << 10, 64), (1 << 14, 4), (1 << 20, 1)])
def test_large_arguments_make_small_leases(size: int, most: int) -> None:
    assert size_of(measured(1e-7, size=size), ENDLESS) == pytest.approx(most, abs=1)


@pytest.mark.parametrize("children", [1, 2, 16])
def test_leases_shrink_towards_a_known_end(children: int) -> None:
    """Each takes at most its share of half of what is left, unless that is too little to be worth it."""
    leases = measured(1e-5, children=children)
    left, sizes = 20_000, []
    while left > 0:
        sizes.append(size_of(leases, left))
        left -= sizes[-1]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == pytest.approx(min(2000, 20_000 // (2 * children)), rel=0.01)
    assert min(sizes) >= 49, "half a millisecond"
    assert size_of(leases, 1) >= 1
    assert size_of(leases, ENDLESS) == pytest.approx(2000, rel=0.01)


@pytest.mark.parametrize(("left", "expected"), [(100, 20), (40, 10), (20, 5), (4, 1), (3, 1), (1, 1), (0, 1)])
def test_the_end_of_longer_jobs(left: int, expected: int) -> None:
    """A job of a millisecond is worth a lease of its own."""
    assert size_of(measured(0.00099), left) == expected


@pytest.mark.parametrize("fixed", [1, 7, 1000])
@pytest.mark.parametrize("seconds", [0.0, 1e-4, 1.0])
@pytest.mark.parametrize("left", [ENDLESS, 10**6, 3])
def test_a_fixed_size(fixed: int, seconds: float, left: int | None) -> None:
    assert size_of(Leases(2, fixed), left) == fixed
    assert size_of(measured(seconds, fixed=fixed), left) == fixed


@pytest.mark.parametrize(
    ("seconds", "fixed", "hold"),
    [
        (1.0, None, 1),  # nothing waits behind a long job
        (0.02, None, 1),
        (0.006, None, 2),
        (1e-4, None, 100),
        (0.0, None, 3276),
        (1.0, 10, 5),
        (1.0, 1, 1),
        (1e-4, 1, 54),
        (0.0, 1, 594),
    ],
)
def test_what_a_child_may_hold_when_it_gets_another_lease(
    seconds: float, fixed: int | None, hold: int
) -> None:
    assert measured(seconds, fixed=fixed).hold == pytest.approx(hold, rel=0.05)


@pytest.mark.parametrize(("room", "expected"), [(0, 7), (6, 7), (7, 7), (13, 7), (14, 14), (100, 98)])
def test_a_fixed_size_fills_the_room_with_whole_leases(room: int, expected: int) -> None:
    assert size_of(Leases(2, 7), ENDLESS, room) == expected


def test_what_is_answered_counts_once_the_leases_are_adapted() -> None:
    leases = Leases(2, None)
    for _ in range(3):
        leases.answered(1, 0.0)
    assert size_of(leases, ENDLESS) == 1
    leases.adapt()
    leases.adapt()
    assert size_of(leases, ENDLESS) == 4


# ── pace ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seconds", [1.0, 1e-4, 2.1e-5, 1e-5, 2e-6, 1e-6])
def test_jobs_between_two_looks_at_the_clock(seconds: float) -> None:
    """Less than a millisecond of work, whose answers are sent together; a longer job is timed alone."""
    pace = Pace()
    assert pace.jobs == 1
    for _ in range(100):
        pace.note(pace.jobs, seconds * pace.jobs)
    if seconds > 2e-5:
        assert pace.jobs == 1
    else:
        assert 1e-4 < pace.jobs * seconds < 1e-3


def test_the_pace_doubles_at_most_and_stops_at_once() -> None:
    pace = Pace()
    paces = []
    for _ in range(5):
        pace.note(pace.jobs, 1e-6 * pace.jobs)
        paces.append(pace.jobs)
    assert paces == [2, 4, 8, 16, 32]
    pace.note(1, 0.01)
    assert pace.jobs == 1


# ── window ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("window", "out", "lease", "room"),
    [
        (Window(None), 10**9, 7, 7),
        (Window(5), 0, 100, 5),
        (Window(5), 3, 100, 2),
        (Window(5), 5, 100, 0),
        (Window(128, grows=True), 0, 1, 128),
        (Window(128, grows=True), 100, 16, 28),
        (Window(128, grows=True), 100, 1000, 7900),
        (Window(128, grows=True), 7000, 1, -6872),  # leases have shrunk since
    ],
)
def test_the_room_in_a_window(window: Window, out: int, lease: int, room: int) -> None:
    assert window.room(out, lease, children=2) == room


# ── ready ─────────────────────────────────────────────────────────────────────────────────────────


def part(first: int, count: int) -> Opened:
    return Opened(first, [JobResponse(index) for index in range(first, first + count)], 1)


def bodies(responses: Iterable[Response]) -> list[int]:
    return [response.body for response in responses]


def popped(ready: Ready) -> list[int]:
    found = []
    while ready:
        found.append(ready.pop().body)
    return found


def test_answers_in_the_order_of_the_inputs() -> None:
    ready = Ready(ordered=True)
    given: list[list[int]] = []
    for first, count in ((3, 2), (1, 1), (0, 1), (7, 1), (5, 2), (2, 1)):
        ready.add(part(first, count))
        given.append(popped(ready))
    assert given == [[], [], [0, 1], [], [], [2, 3, 4, 5, 6, 7]]
    assert ready.given == 8


def test_answers_as_they_come() -> None:
    ready = Ready(ordered=False)
    for first, count in ((3, 2), (1, 1), (0, 1)):
        ready.add(part(first, count))
    assert ready
    assert popped(ready) == [3, 4, 1, 0]
    assert not ready


def test_answers_in_parts() -> None:
    ready = Ready(ordered=True)
    for first, count in ((2, 3), (0, 2)):
        ready.add(part(first, count))
    assert [bodies(ready.pop_part().open()) for _ in range(2)] == [[0, 1], [2, 3, 4]]
    assert (bool(ready), ready.given) == (False, 5)


def test_answers_that_come_while_a_part_is_given_out() -> None:
    ready = Ready(ordered=True)
    ready.add(part(0, 3))
    assert ready.pop().body == 0
    ready.add(part(3, 1))
    assert (popped(ready), ready.given) == ([1, 2, 3], 4)


@given(sizes=st.lists(st.integers(1, 5), max_size=20), data=st.data())
def test_any_order_of_answers(sizes: list[int], data: st.DataObject) -> None:
    firsts = [sum(sizes[:place]) for place in range(len(sizes))]
    parts = data.draw(st.permutations(list(zip(firsts, sizes, strict=True))))
    ordered, unordered = Ready(ordered=True), Ready(ordered=False)
    found = []
    for first, count in parts:
        ordered.add(part(first, count))
        unordered.add(part(first, count))
        if data.draw(st.booleans()):
            found += popped(ordered)
    assert found + popped(ordered) == list(range(sum(sizes)))
    assert popped(unordered) == [index for first, count in parts for index in range(first, first + count)]


@pytest.mark.parametrize(("size", "hold"), [(1 << 20, 8), (4 << 20, 2), (8 << 20, 1), (300 << 20, 1)])
def test_few_large_arguments_wait(size: int, hold: int) -> None:
    assert measured(1e-5, fixed=1, size=size).hold == hold
