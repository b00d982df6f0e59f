"""The services that the cases measure, ours and the peers', each with two worker processes on one Redis.

Each is a folder with a module of its own, a command that serves it, and a function that pushes. A job is one
INCR of a counter in Redis, so that everybody can see how far they are.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = [
    "CELERY",
    "COUNTER",
    "DRAMATIQ",
    "HUEY",
    "OURS",
    "OURS_SQLITE",
    "RQ",
    "Prepared",
    "Service",
    "prepared",
]

COUNTER = "done"
WORKERS = 2

_START_SECONDS = 60.0
_STOP_SECONDS = 20.0

_JOB = """
import redis

_redis = None

def work(argument):
    global _redis
    if _redis is None:
        _redis = redis.Redis.from_url({url!r})
    _redis.incr({counter!r})
"""

_TOML = """
name = "benchmark"
broker = "{broker}"
runtime_dir = "{folder}"

[[topics]]
name = "work"
worker = "job:work"
workers = {{ min = 2, max = 2 }}
"""


@dataclass(frozen=True)
class Service:
    """One of them.

    Attributes:
        module: Source of `tasks.py`; {url} is the Redis.
        commands: That serve it, to be run by this Python with `-m`; they end at SIGTERM.
        pushed: How to push, given the module: a function of the number of jobs.
        needs: What must be installed.
        broker: Its URL, if it is not the Redis.
    """

    module: str
    commands: tuple[tuple[str, ...], ...]
    pushed: Callable[[Any], Callable[[int], object]]
    needs: tuple[str, ...]
    broker: str = "{url}"
    environment: dict[str, str] = field(default_factory=dict)


def _client(module: Any) -> Any:
    return module.client


OURS = Service(
    "from multiprocessing_kit.service import Client\nclient = Client({broker!r}, 'benchmark')\n",
    (("multiprocessing_kit.cli", "service", "start", "-c", "service.toml"),),
    lambda module: lambda count: [_client(module).push("work", number) for number in range(count)],
    ("pydantic",),
)
OURS_SQLITE = Service(
    OURS.module,
    OURS.commands,
    OURS.pushed,
    ("pydantic",),
    broker="sqlite:///{folder}/benchmark.db?synchronous=normal",
)
CELERY = Service(
    """
import celery, job
app = celery.Celery("tasks", broker={url!r})
app.conf.task_acks_late = True
app.conf.task_ignore_result = True

@app.task
def work(number):
    job.work(number)
""",
    (("celery", "-A", "tasks", "worker", "-c", str(WORKERS), "-l", "ERROR"),),
    lambda module: lambda count: [module.work.delay(number) for number in range(count)],
    ("celery",),
)
DRAMATIQ = Service(
    """
import dramatiq, job
from dramatiq.brokers.redis import RedisBroker
dramatiq.set_broker(RedisBroker(url={url!r}))

@dramatiq.actor
def work(number):
    job.work(number)
""",
    (("dramatiq", "tasks", "-p", str(WORKERS), "-t", "1"),),
    lambda module: lambda count: [module.work.send(number) for number in range(count)],
    ("dramatiq",),
)
RQ = Service(
    """
import job, redis, rq
queue = rq.Queue(connection=redis.Redis.from_url({url!r}))
""",
    (("rq.cli", "worker", "--quiet", "--url", "{url}"),) * WORKERS,
    lambda module: lambda count: [module.queue.enqueue("job.work", number) for number in range(count)],
    ("rq",),
)
HUEY = Service(
    """
import huey, job
app = huey.RedisHuey("benchmark", url={url!r}, results=False)

@app.task()
def work(number):
    job.work(number)
""",
    (("huey.bin.huey_consumer", "tasks.app", "-w", str(WORKERS), "-k", "process", "-q"),),
    lambda module: lambda count: [module.work(number) for number in range(count)],
    ("huey",),
)


@dataclass
class Prepared:
    """A service in its folder.

    Attributes:
        push: Pushes so many jobs, one by one.
        module: Its `tasks`.
    """

    push: Callable[[int], object]
    module: Any
    folder: Path
    url: str
    commands: tuple[tuple[str, ...], ...]

    @contextlib.contextmanager
    def running(self) -> Iterator[list[int]]:
        """It serves; gives the pids of what was started."""
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(self.folder), os.getcwd(), *sys.path]),
        }
        environment["PYTHONWARNINGS"] = ""
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", *(word.format(url=self.url) for word in command)],
                cwd=self.folder,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            for command in self.commands
        ]
        try:
            yield [process.pid for process in processes]
        finally:
            for process in processes:
                process.send_signal(signal.SIGTERM)
            for process in processes:
                with contextlib.suppress(subprocess.TimeoutExpired):  # it may wait for its children for ever
                    process.wait(_STOP_SECONDS)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def prepared(service: Service, folder: Path, url: str) -> Prepared:
    """Write its files, and import its module.

    Raises:
        ImportError: What it needs is not installed.
    """
    for package in (*service.needs, "redis"):
        importlib.import_module(package)
    broker = service.broker.format(url=url, folder=folder)
    (folder / "job.py").write_text(_JOB.format(url=url, counter=COUNTER))
    (folder / "tasks.py").write_text(service.module.format(url=url, broker=broker))
    (folder / "service.toml").write_text(_TOML.format(broker=broker, folder=folder))
    sys.path.insert(0, str(folder))
    module = importlib.import_module("tasks")
    return Prepared(service.pushed(module), module, folder, url, service.commands)
