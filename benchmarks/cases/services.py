"""Jobs over a broker: what one costs beside Celery, Dramatiq, RQ and Huey on the same Redis."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import AtMost, Case, Contender, Goal, LeftOut, Scale
from benchmarks.servers import redis_server
from benchmarks.services import (
    CELERY,
    COUNTER,
    DRAMATIQ,
    HUEY,
    OURS,
    OURS_SQLITE,
    RQ,
    Prepared,
    Service,
    prepared,
)

__all__ = ["CASES"]

_JOBS = 10_000
_FEW_JOBS = 2_000
_PUSHES = 2_000
_IDLE_SECONDS = 30.0
_LONGEST_SECONDS = 300.0


@contextlib.contextmanager
def _prepared(service: Service) -> Iterator[tuple[Prepared, Any]]:
    if shutil.which("redis-server") is None:
        raise LeftOut("there is no redis-server: scripts/install-servers installs it")
    with (
        tempfile.TemporaryDirectory() as folder,
        # As Redis keeps its log by default.
        redis_server(Path(folder, "redis"), appendfsync="everysec") as server,
    ):
        redis = import_module("redis").Redis.from_url(server.url)
        try:
            yield prepared(service, Path(folder), server.url), redis
        finally:
            redis.close()


def _jobs(service: Service, jobs: int) -> Callable[[Scale], float]:
    """Measures milliseconds a job, from the time when a tenth are done: their start is not counted."""

    def measure(scale: Scale) -> float:
        count = scale.jobs(jobs)
        with _prepared(service) as (made, redis):
            made.push(count)
            with made.running():
                began = _when(redis, count // 10)
                ended = _when(redis, count)
        return (ended - began) / (count - count // 10) * 1000

    return measure


def _when(redis: Any, count: int) -> float:
    deadline = time.monotonic() + _LONGEST_SECONDS
    while int(redis.get(COUNTER) or 0) < count:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{redis.get(COUNTER)} of {count} jobs are done after {_LONGEST_SECONDS:g} s")
        time.sleep(0.005)
    return time.monotonic()


def _push(service: Service) -> Callable[[Scale], float]:
    """Measures microseconds a push, one by one, with nobody that works."""

    def measure(scale: Scale) -> float:
        count = scale.jobs(_PUSHES)
        with _prepared(service) as (made, _):
            made.push(20)
            began = time.perf_counter()
            made.push(count)
            return (time.perf_counter() - began) / count * 1e6

    return measure


def _push_many(service: Service) -> Callable[[Scale], float]:
    def measure(scale: Scale) -> float:
        count = scale.jobs(_JOBS)
        with _prepared(service) as (made, _):
            made.push(1)
            began = time.perf_counter()
            made.module.client.push_many("work", range(count))
            return (time.perf_counter() - began) / count * 1e6

    return measure


def _set(scale: Scale) -> float:
    """Measures microseconds of a SET of a job's size: what a round trip costs."""
    count = scale.jobs(_PUSHES)
    with _prepared(OURS) as (_, redis):
        began = time.perf_counter()
        for number in range(count):
            redis.set(f"job:{number}", bytes(100))
        return (time.perf_counter() - began) / count * 1e6


def _idle_cpu(scale: Scale) -> float:
    """Measures percent of one processor that all processes of a service use that has nothing to do."""
    with _idle(scale) as (pids, _, seconds):
        before = _cpu_seconds(pids)
        time.sleep(seconds)
        return (_cpu_seconds(pids) - before) / seconds * 100


def _idle_commands(scale: Scale) -> float:
    """Measures commands a second that Redis gets from it; those that its scripts make are no traffic."""
    with _idle(scale) as (_, redis, seconds), redis.monitor() as monitor:
        count = 0
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if monitor.connection.can_read(left):
                count += monitor.next_command()["client_type"] != "lua"
        return count / seconds


@contextlib.contextmanager
def _idle(scale: Scale) -> Iterator[tuple[list[int], Any, float]]:
    with _prepared(OURS) as (made, redis), made.running() as pids:
        made.push(10)
        _when(redis, 10)
        time.sleep(0.0 if scale.quick else 5.0)  # until nothing of the start is left
        yield pids, redis, 1.0 if scale.quick else _IDLE_SECONDS


def _cpu_seconds(pids: list[int]) -> float:
    family = [psutil.Process(pid) for pid in pids]
    family += [child for one in list(family) for child in one.children(recursive=True)]
    return sum(sum(one.cpu_times()[:2]) for one in family)


def _contenders(
    measure: Callable[[Service], Callable[[Scale], float]], ours: Goal, sqlite: Goal | tuple[()]
) -> tuple[Contender, ...]:
    return (
        Contender("multiprocessing_kit", measure(OURS), ours),
        Contender("multiprocessing_kit, SQLite", measure(OURS_SQLITE), sqlite, ours=True),
        Contender("Huey, which loses jobs with a worker", measure(HUEY)),
        Contender("Celery, acks_late", measure(CELERY)),
        Contender("Dramatiq", measure(DRAMATIQ)),
        Contender("RQ", measure(RQ)),
    )


def _jobs_of(service: Service) -> Callable[[Scale], float]:
    return _jobs(service, _JOBS if service in (OURS, OURS_SQLITE, HUEY) else _FEW_JOBS)


CASES = (
    Case(
        name="service-jobs",
        title="a service of 2 worker processes on one Redis, jobs of one INCR, from a tenth done to all done",
        unit="ms/job",
        contenders=_contenders(_jobs_of, AtMost(0.3), AtMost(0.5)),
        rounds=3,
    ),
    Case(
        name="service-push",
        title=f"pushing {_PUSHES:,} jobs one by one, and many at once",
        unit="us/job",
        contenders=(
            *_contenders(_push, AtMost(120), ()),
            Contender("multiprocessing_kit, push_many", _push_many(OURS), AtMost(20)),
            Contender("multiprocessing_kit, push_many, SQLite", _push_many(OURS_SQLITE), ours=True),
            Contender("a plain SET by redis-py", _set),
        ),
        rounds=3,
    ),
    Case(
        name="service-idle-cpu",
        title=f"a service with nothing to do, 2 workers: time of all its processes in {_IDLE_SECONDS:g} s",
        unit="%",
        contenders=(Contender("multiprocessing_kit", _idle_cpu, AtMost(1)),),
        rounds=1,
    ),
    Case(
        name="service-idle-commands",
        title="the same: commands that Redis gets",
        unit="1/s",
        contenders=(Contender("multiprocessing_kit", _idle_commands, AtMost(5)),),
        rounds=1,
    ),
)
