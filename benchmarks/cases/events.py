"""What events cost: the records that children send home, and the time per job."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

from benchmarks.clock import per_job
from benchmarks.harness import AtMost, Case, Contender, Scale
from benchmarks.peers import CHILDREN
from multiprocessing_kit import JobEvent, Process, Worker
from multiprocessing_kit.runner.caller_end import CallerEnd
from multiprocessing_kit.runner.messages import HEADER, SKIPPED

__all__ = ["BYTES", "RECORDS", "TIME"]

_JOBS = 20_000
Listen = Callable[[Process], object]


class _Increment(Worker):
    def process(self, number: int) -> int:
        super().process(number)  # fires JOB_RUNNING
        return number + 1


def _nobody(_process: Process) -> None:
    pass


def _success(process: Process) -> None:
    process.on(JobEvent.JOB_SUCCESS, _ignore)


def _all(process: Process) -> None:
    for event in JobEvent:
        process.on(event, _ignore)


def _ignore(_process: object) -> None:
    pass


# ── traffic ───────────────────────────────────────────────────────────────────────────────────────


def _traffic(listen: Listen, number: Callable[[list[bytes]], float]) -> Callable[[Scale], float]:
    """A number of the records that the caller takes out of its lanes, per job."""

    def measure(scale: Scale) -> float:
        jobs = scale.jobs(_JOBS) // 10
        records: list[bytes] = []
        receive = CallerEnd.receive

        def noted(lane: CallerEnd) -> bytes | None:
            record = receive(lane)
            # A job that was given to another child costs a record, too, events or not.
            if record is not None and HEADER.unpack_from(record)[0] != SKIPPED:
                records.append(record)
            return record

        process = Process(CHILDREN)
        listen(process)
        with mock.patch.object(CallerEnd, "receive", noted):
            process.map(_Increment(), range(jobs))
        return number(records) / jobs

    return measure


def _size(records: list[bytes]) -> float:
    return sum(map(len, records))


RECORDS = Case(
    name="records",
    title="answers and events that the caller gets for one job that also fires JOB_RUNNING",
    unit="per job",
    contenders=(
        Contender("nobody listens", _traffic(_nobody, len), AtMost(1)),
        Contender("caller listens for JOB_SUCCESS", _traffic(_success, len), AtMost(1)),
        Contender("caller listens for every event", _traffic(_all, len), AtMost(3)),
    ),
)

BYTES = Case(
    name="bytes",
    title="the size of these records",
    unit="per job",
    contenders=(
        Contender("nobody listens", _traffic(_nobody, _size), ours=True),
        Contender("caller listens for JOB_SUCCESS", _traffic(_success, _size), ours=True),
        Contender("caller listens for every event", _traffic(_all, _size), ours=True),
    ),
)

# ── time ──────────────────────────────────────────────────────────────────────────────────────────


def _time(listen: Listen, in_child: bool = False) -> Callable[[Scale], float]:
    def measure(scale: Scale) -> float:
        worker = _Increment()
        if in_child:
            for event in JobEvent:
                worker.on(event, _ignore)
        with Process(CHILDREN) as process:
            listen(process)
            return per_job(lambda inputs: process.map(worker, inputs), scale.jobs(_JOBS))

    return measure


TIME = Case(
    name="events",
    title=f"{_JOBS:,} jobs that also fire JOB_RUNNING, {CHILDREN} children; their start is not included",
    unit="us/job",
    contenders=(
        Contender("nobody listens", _time(_nobody), ours=True),
        Contender("worker listens for every event", _time(_nobody, in_child=True), ours=True),
        Contender("caller listens for JOB_SUCCESS", _time(_success), ours=True),
        Contender("caller listens for every event", _time(_all), ours=True),
    ),
)
