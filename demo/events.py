"""Every event of a job, as heard in the child and in the caller, under both ways to retry.

python demo/events.py [--processes N]

Four jobs: `flaky` fails twice, `steady` succeeds, `doomed` fails until its retries are used up, and
`unwanted` is canceled before it runs. With one child, one sees what the child does while a job waits for
its next attempt: under IMMEDIATE nothing, under REQUEUE the other jobs.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

from tenacity import wait_exponential

from multiprocessing_kit import JobEvent, Observer, Process, RetryStrategy, RetryType, Worker, events

JOBS = ["flaky", "steady", "doomed", "unwanted"]
BEGAN = time.monotonic()  # children inherit it, and share the clock


class Errand(Worker):
    """Fails as its argument says."""

    def process(self, argument: str) -> str:
        super().process(argument)  # fires JOB_RUNNING
        if argument == "doomed" or (argument == "flaky" and self.attempt < 3):
            raise ConnectionError(f"{argument} failed")
        return argument.upper()


def show(
    who: str, how: str, event: JobEvent, argument: str, *, attempt: int, delay: float | None = None
) -> None:
    """Print one line of the timeline."""
    what = f"{event.name.removeprefix('JOB_'):<9}{argument:<9} attempt {attempt}"
    wait = "" if delay is None else f", again in {delay:.2f} s"
    who = f"{who} {os.getpid()}"
    line = f"{time.monotonic() - BEGAN:7.3f}  {who:<15} {how:<12} {what}{wait}\n"
    print(line, end="", flush=True)  # in one write: others print, too


# ── in the child ────────────────────────────────────────────────────────────────────────────────────


def in_child(worker: Errand, event: JobEvent, argument: str, attempt: int, delay: float | None) -> None:
    """For `worker.on()`: takes the names it needs."""
    show("child", "worker.on", event, argument, attempt=attempt, delay=delay)


def cancel_unwanted(worker: Errand, argument: str) -> None:
    """Canceled at its start, a job is not run."""
    if argument == "unwanted":
        worker.cancel()


@events.job_success.connect
@events.job_failed.connect
@events.job_canceled.connect
def ended(worker: Worker, **payload: Any) -> None:
    """For blinker: hears of every worker, and takes the whole payload."""
    show("child", "blinker", payload["event"], payload["argument"], attempt=payload["attempt"])


# ── in the caller ───────────────────────────────────────────────────────────────────────────────────


def in_caller(process: Process, event: JobEvent, argument: str, attempt: int, delay: float | None) -> None:
    """For `process.on()`."""
    show("caller", "process.on", event, argument, attempt=attempt, delay=delay)


class Ends(Observer):
    """For `process.attach()`: a method for each event, those not overridden cost nothing."""

    def success(self, process: Process, argument: str, attempt: int) -> None:
        show("caller", "Observer", JobEvent.JOB_SUCCESS, argument, attempt=attempt)

    def failed(self, process: Process, argument: str, attempt: int) -> None:
        show("caller", "Observer", JobEvent.JOB_FAILED, argument, attempt=attempt)

    def canceled(self, process: Process, argument: str, attempt: int) -> None:
        show("caller", "Observer", JobEvent.JOB_CANCELED, argument, attempt=attempt)


class Meanwhile(Observer):
    """Notes which other jobs start while `flaky` waits."""

    def __init__(self) -> None:
        self.waiting = False
        self.jobs: dict[str, None] = {}

    def retry(self, process: Process, argument: str) -> None:
        self.waiting = self.waiting or argument == "flaky"

    def start(self, process: Process, argument: str) -> None:
        if argument == "flaky":
            self.waiting = False
        elif self.waiting:
            self.jobs[argument] = None


def run(retry_type: RetryType, processes: int) -> None:
    """All jobs, retried that way."""
    print(f"\n{retry_type.name}\n")
    meanwhile = Meanwhile()
    worker = Errand(retry=RetryStrategy(2, retry_type, wait=wait_exponential(0.05, max=0.4)))
    process = Process(processes).attach(Ends()).attach(meanwhile)
    for event in (JobEvent.JOB_START, JobEvent.JOB_RUNNING, JobEvent.JOB_RETRY):
        worker.on(event, in_child)
        process.on(event, in_caller)
    worker.on(JobEvent.JOB_START, cancel_unwanted)

    responses = process.map(worker, JOBS)

    answers = (response.body if response.ok else type(response.exception).__name__ for response in responses)
    print(f"\nAnswers: {', '.join(answers)}.")
    print(f"Started while flaky waited: {', '.join(meanwhile.jobs) or 'nothing'}.")


def main() -> None:
    parser = argparse.ArgumentParser(description="Show every event of a job.")
    parser.add_argument("--processes", type=int, default=1, help="children (default: %(default)s)")
    options = parser.parse_args()
    for retry_type in RetryType:
        run(retry_type, options.processes)


if __name__ == "__main__":
    main()
