"""What a worker notes of its jobs, and how jobs are called back."""

from __future__ import annotations

from multiprocessing_kit.service.marks import Mark, Marks


def _mark() -> tuple[Marks, Mark]:
    marks = Marks(3)
    mark = marks.of(1)
    mark.clear()
    return marks, mark


def test_the_job_that_has_begun_and_is_not_done_is_running() -> None:
    marks, mark = _mark()
    assert (mark.is_ready, mark.begun, mark.running, mark.since) == (False, 0, None, 0.0)
    mark.ready()
    for number in range(3):
        assert mark.begin(number)
        assert (mark.running, mark.since > 0) == (number, True)
        mark.end(number)
        assert (mark.begun, mark.since) == (number + 1, 0.0)
        assert mark.running is None
    assert mark.is_ready
    marks.close()


def test_each_attempt_has_its_time_and_the_pause_before_it_none() -> None:
    marks, mark = _mark()
    mark.begin(0)
    assert mark.trying == mark.since
    mark.pause()
    assert mark.trying == 0.0
    mark.attempt()
    assert mark.trying >= mark.since
    assert mark.since
    marks.close()


def test_what_was_called_back_does_not_begin_until_it_is_allowed() -> None:
    marks, mark = _mark()
    assert mark.begin(0)
    mark.call_back(mark.begun)
    mark.end(0)
    assert not mark.begin(1)
    assert not mark.begin(2)
    assert mark.running is None
    mark.allow()
    assert mark.begin(3)
    marks.close()


def test_workers_do_not_see_each_other() -> None:
    marks, mark = _mark()
    other = marks.of(2)
    other.clear()
    mark.ready()
    mark.begin(0)
    assert (other.is_ready, other.running) == (False, None)
    mark.clear()
    assert (mark.is_ready, mark.running) == (False, None)
    marks.close()
