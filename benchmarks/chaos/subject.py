"""The process whose children are fired at: one map after the other, and every answer is checked."""

from __future__ import annotations

import logging
import random
import resource
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from benchmarks.chaos.plans import TIMEOUT, Plan, Planned, Scores, plan, tell
from multiprocessing_kit import JobTimeoutError, Process, Response, RetryType, WorkerLostError

__all__ = ["run"]

_CRASHES = 100_000
"""For jobs that are to be run again whatever happens."""


def run(seed: str, seconds: float, timed: bool, news: int) -> None:
    """Map until the time is over; tells what came of each map.

    Args:
        seed: Of everything that is chosen here.
        seconds: After them no further map is begun.
        timed: With a timeout; the children may then be stopped as well.
        news: Descriptor to tell it to.
    """
    logging.getLogger("multiprocessing_kit").setLevel(logging.CRITICAL)  # it warns of each death
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    chance = random.Random(seed)
    Planned.scores, Planned.news = Scores(), news
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        _maps(chance, timed, deadline)
    tell(news, "done")


def _maps(chance: random.Random, timed: bool, deadline: float) -> None:
    """Some maps with the same children, or with what takes their place."""
    again = chance.random() < 0.75
    processes = chance.choice([2, 3])
    options: dict[str, Any] = {
        "batch_size": chance.choice(["auto", "auto", 7]) if again else 1,
        "crash_retries": _CRASHES if again else 0,
    }
    if timed:
        options["timeout"] = TIMEOUT
    if chance.random() < 0.3:
        options["max_tasks_per_child"] = chance.randrange(500, 5_000)
    retry_type = chance.choice(list(RetryType))
    with Process(processes, **options) as process:
        for _ in range(chance.randrange(1, 4)):
            planned = Planned(plan(chance, again=again), retry_type)
            planned.scores.clear()
            tell(planned.news, "begins", processes=processes, jobs=planned.plan.jobs, options=str(options))
            counts = check(planned.plan, _responses(process, planned))
            runs = list(planned.scores.of(planned.plan.jobs))
            counts["runs again"] = sum(each - 1 for each in runs if each)
            if not again:
                counts["runs again though ruled out"] = counts["runs again"]
            tell(planned.news, "answered", counts=counts, error=_error(counts))
            if time.monotonic() > deadline:
                break
    tell(Planned.news, "closed")


def _responses(process: Process, planned: Planned) -> Iterator[Any]:
    inputs = range(planned.plan.jobs)
    if planned.plan.way == "map":
        return iter(process.map(planned, inputs))
    return process.imap(planned, inputs, ordered=planned.plan.way == "imap")


def check(plan: Plan, responses: Iterator[Any]) -> Counter[str]:
    """What came of the jobs of one map, counted."""
    counts: Counter[str] = Counter()
    seen = bytearray(plan.jobs)
    place = 0
    try:
        for response in responses:
            index = response.argument_index
            if not 0 <= index < plan.jobs or (plan.way != "unordered" and index < place):
                counts["wrong"] += 1
                continue
            place = index
            counts["doubled"] += seen[index]
            seen[index] = 1
            counts[_kind(plan, index, response)] += 1
    except Exception as error:
        counts[f"raised {error!r:.500}"] += 1
    counts["jobs"] = plan.jobs
    counts["lost"] = seen.count(0)
    return counts


def _kind(plan: Plan, index: int, response: Response) -> str:
    if response.ok:
        return "right" if response.body == plan.body(index) else "wrong"
    if not plan.again and isinstance(response.exception, WorkerLostError):
        return "not again: WorkerLostError"
    if not plan.again and isinstance(response.exception, JobTimeoutError):
        return "not again: JobTimeoutError"
    return "wrong"


def _error(counts: Counter[str]) -> str:
    return next((name for name in counts if name.startswith("raised ")), "")
