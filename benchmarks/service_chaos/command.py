"""The command line: every fault on every broker, and a table of what came of the jobs."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import random
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks.servers import Server, rabbitmq_server, redis_server
from benchmarks.service_chaos import rows
from benchmarks.service_chaos.field import Field, a_field
from benchmarks.service_chaos.outcome import Outcome
from multiprocessing_kit.supervise.cpus import available_cpus

__all__ = ["main"]

BROKERS = ("sqlite", "redis", "rabbitmq")
ROWS = (
    "workers_killed",
    "consumer_killed",
    "master_killed",
    "service_killed",
    "terminated",
    "poison",
    "two_hosts",
    "host_paused",
    "long_job",
    "broker_killed",
    "broker_paused",
    "connections_reset",
    "storm",
)
_CONSUMER_TIMEOUT = 12.0
"""Of RabbitMQ here, in seconds; 1,800 by default."""

_HEAD = ("what is done", "broker", "times", "jobs", "lost", "run again", "back after", "seconds")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 if anything came out that must not."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    brokers = BROKERS if options.broker == "all" else [options.broker]
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    print(
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, "
        f"{available_cpus()} processors, load {load}, seed {options.seed}\n"
    )
    print(_line(_HEAD), _line(["---"] * len(_HEAD)), sep="\n", flush=True)
    problems = []
    for broker in brokers:
        with _opened(broker) as (url, server):
            for row in options.only or ROWS:
                call = _call(row, server, options.jobs, options.kills)
                if call is None:
                    continue
                with a_field(url, options.seed) as field:
                    outcome = call(field)
                print(_line(_cells(outcome, broker)), flush=True)
                problems += [f"{broker}: {outcome.fault}: {problem}" for problem in outcome.problems]
    print("", *problems, sep="\n")
    return 1 if problems else 0


@contextlib.contextmanager
def _opened(broker: str) -> Iterator[tuple[str, Server | None]]:
    with tempfile.TemporaryDirectory(prefix="mpkit-chaos-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if broker == "sqlite":
            yield f"sqlite:///{folder}/jobs.db", None
        elif broker == "redis":
            with redis_server(folder) as server:
                yield server.url, server
        else:
            # It looks for what is over the consumer timeout each second, and not once a minute.
            timeout, tick = f"{_CONSUMER_TIMEOUT * 1000:.0f}", "{channel_tick_interval, 1000}"
            with rabbitmq_server(folder, tick, consumer_timeout=timeout) as server:
                yield f"{server.url}?consumer_timeout={_CONSUMER_TIMEOUT:g}", server


def _call(row: str, server: Server | None, jobs: int, kills: int) -> Callable[[Field], Outcome] | None:
    """The row, in the size that was asked for; None for one that this broker cannot suffer."""
    few = max(1, kills // 50)
    calls: dict[str, Callable[[Field], Outcome]] = {
        "workers_killed": partial(rows.workers_killed, jobs=jobs, kills=kills),
        "consumer_killed": partial(rows.consumer_killed, jobs=jobs // 4, kills=min(5, few)),
        "master_killed": partial(rows.master_killed, jobs=jobs // 4, kills=few),
        "service_killed": partial(rows.service_killed, jobs=jobs // 4, kills=few),
        "terminated": partial(rows.terminated, jobs=jobs // 4, times=max(1, kills // 20)),
        "poison": partial(rows.poison, jobs=jobs // 10),
        "two_hosts": partial(rows.two_hosts, jobs=jobs // 10),
        "storm": partial(rows.storm, server=server, faults=max(10, kills // 10)),
        "long_job": partial(rows.long_job, seconds=30.0),
    }
    if server is not None:
        calls |= {
            "host_paused": partial(rows.host_paused, jobs=jobs // 10),
            "broker_killed": partial(rows.broker_killed, server=server, times=max(1, kills // 200)),
            "broker_paused": partial(rows.broker_paused, server=server, seconds=20.0),
            "connections_reset": partial(rows.connections_reset, every=5.0, times=max(3, kills // 100)),
        }
    return calls.get(row)


def _cells(outcome: Outcome, broker: str) -> list[str]:
    most = "" if outcome.most_again is None else f" (≤ {outcome.most_again:,})"
    back = ""
    if outcome.back:
        back = f"{statistics.median(outcome.back):.2f} s, at most {max(outcome.back):.2f} s"
    return [
        outcome.fault,
        broker,
        f"{outcome.faults:,}",
        f"{outcome.jobs:,}",
        f"{outcome.lost:,}",
        f"{outcome.again:,}{most}",
        back,
        f"{outcome.seconds:.0f}",
    ]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.service_chaos",
        description="Hurt services and their brokers while jobs are run, and count what becomes of the jobs. "
        "The exit status is 1 if a job was lost or run too often, or anything else came out that must not.",
    )
    parser.add_argument("--broker", choices=[*BROKERS, "all"], default="all", help="default: %(default)s")
    parser.add_argument("--jobs", type=int, default=20_000, help="default: %(default)s")
    parser.add_argument(
        "--kills",
        type=int,
        default=1000,
        help="of workers; of others fewer, accordingly (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of when to kill whom")
    parser.add_argument(
        "--only",
        action="append",
        choices=ROWS,
        metavar="ROW",
        help=f"only this; may be repeated: {', '.join(ROWS)}",
    )
    return parser
