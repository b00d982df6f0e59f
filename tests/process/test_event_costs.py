"""Events that nobody in the caller listens to are not sent there."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from multiprocessing_kit import JobEvent, Process, RetryStrategy, Worker
from multiprocessing_kit.runner import messages
from multiprocessing_kit.runner.caller_end import CallerEnd


class Story(Worker):
    """Fails as often as its argument says."""

    def process(self, argument: int) -> str:
        self.running(step=1)
        self.running(step=2)
        if self.attempt <= argument:
            raise ValueError(f"attempt {self.attempt}")
        return "done"


KINDS = {JobEvent.JOB_START: 5, JobEvent.JOB_RUNNING: 10, JobEvent.JOB_RETRY: 2}


@pytest.mark.parametrize(
    "listened",
    [list(subset) for size in range(4) for subset in itertools.combinations(KINDS, size)]
    + [[JobEvent.JOB_SUCCESS, JobEvent.JOB_FAILED, JobEvent.JOB_CANCELED]],
)
def test_only_what_is_listened_to_is_sent(listened: list[JobEvent], monkeypatch: pytest.MonkeyPatch) -> None:
    received: Counter[int] = Counter()
    heard: Counter[JobEvent] = Counter()
    receive = CallerEnd.receive

    def count(lane: CallerEnd) -> bytes | None:
        record = receive(lane)
        if record is not None:
            received[record[0]] += 1
        return record

    monkeypatch.setattr(CallerEnd, "receive", count)
    process = Process(2)
    for event in listened:
        process.on(event, lambda _, event: heard.update([event]))
    process.map(Story(retry=RetryStrategy(1)), [0, 1, 1])
    sent = {event: KINDS[event] for event in listened if event in KINDS}
    assert {event: heard[event] for event in sent} == sent
    assert received == Counter({messages.DONE: 3, messages.EVENT: sum(sent.values())})


@pytest.mark.parametrize("event", list(JobEvent))
def test_children_know_what_is_wanted(event: JobEvent) -> None:
    """In the child, an event that nobody anywhere listens to costs a look at a mask."""

    class Looking(Worker):
        def process(self, argument: object) -> int:
            assert self._host is not None
            return self._host.events

    process = Process(1)
    assert process.map(Looking(), [1])[0].body == 0
    process.on(event, print)
    assert process.map(Looking(), [1])[0].body == (event.bit if event in KINDS else 0)
    process.off(event)
    assert process.map(Looking(), [1])[0].body == 0
