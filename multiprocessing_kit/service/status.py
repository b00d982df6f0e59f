"""How a service is: what the broker counts, what the consumers of this host tell, and its manager's state."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from multiprocessing_kit.errors import BrokerError, ManagerConfigError, ManagerError, NotRunningError
from multiprocessing_kit.manager import Manager, Status
from multiprocessing_kit.service.brokers.base import Broker
from multiprocessing_kit.service.brokers.opening import open_broker
from multiprocessing_kit.service.config import ServiceConfig
from multiprocessing_kit.service.crew import WorkerState
from multiprocessing_kit.service.job import Backlog, Outcome
from multiprocessing_kit.service.paths import Paths
from multiprocessing_kit.service.stats import read_stats
from multiprocessing_kit.service.topic_config import TopicConfig, WorkersConfig

__all__ = ["CrewStatus", "ServiceStatus", "StatusReader", "TopicStatus", "shown_url"]

_TOPIC_HEAD = ("TOPIC", "READY", "RUNNING", "DELAYED", "DEAD", "DONE", "RATE/S", "OLDEST", "WORKERS", "OF")
_WORKER_HEAD = ("WORKER", "PID", "STATE", "JOB", "FOR", "JOBS", "RESTARTS", "LAST EXIT")

_DOWN, _SILENT = "not running", "not answering"


@dataclass(frozen=True)
class TopicStatus:
    """One topic.

    Attributes:
        name: Its name.
        crew: Whose workers serve it: a pool's, or its own, of its name.
        paused: Whether no jobs of it are taken on this host.
        ready, running, delayed, dead: Jobs in the broker, those of all hosts; None where it cannot be asked.
            Where it cannot tell which run, those that this host has.
        oldest: Seconds that the longest waiting ready job waits; None where the broker cannot tell.
        done, retried, failed: Jobs since the start of this host's consumer.
        rate: Jobs done a second, in the last minute, on this host.
    """

    name: str
    crew: str
    paused: bool
    ready: int | None = None
    running: int | None = None
    delayed: int | None = None
    dead: int | None = None
    oldest: float | None = None
    done: int = 0
    retried: int = 0
    failed: int = 0
    rate: float = 0.0


@dataclass(frozen=True)
class CrewStatus:
    """The workers of one pool or topic on this host.

    Attributes:
        name: The pool's or the topic's.
        alive: Workers that are there.
        wanted: How many there are to be, by the backlog.
        max: At most.
        broker_away: Whether its consumer cannot reach the broker.
        workers: Each of them.
    """

    name: str
    alive: int
    wanted: int
    max: int
    broker_away: bool = False
    workers: tuple[WorkerState, ...] = ()


@dataclass(frozen=True)
class ServiceStatus:
    """A service, as seen from this host.

    Attributes:
        name: Its name.
        state: "starting", "running", "restarting", "stopping", "not running" or "not answering".
        pid: Of the master; 0 if there is none.
        uptime: Seconds since the first start.
        problem: Why the last restart was not made, or the master not asked; "" if all is well.
        log: Where it goes, as the last start has noted; "" if it is not known.
        broker: URL, without a password.
        broker_error: Why it could not be asked; "" if it could.
        topics: As in the configuration.
        crews: Those who serve them.
    """

    name: str
    state: str
    pid: int
    uptime: float
    problem: str
    log: str
    broker: str
    broker_error: str
    topics: tuple[TopicStatus, ...]
    crews: tuple[CrewStatus, ...]

    @property
    def is_running(self) -> bool:
        """Whether there is a master on this host."""
        return self.state != _DOWN

    def topic(self, name: str) -> TopicStatus:
        """The topic of this name."""
        return next(topic for topic in self.topics if topic.name == name)

    def crew(self, name: str) -> CrewStatus:
        """The crew of this name."""
        return next(crew for crew in self.crews if crew.name == name)

    def as_dict(self) -> dict[str, Any]:
        """Fit for JSON."""
        return dataclasses.asdict(self)

    def table(self) -> str:
        """For people."""
        running = f", pid {self.pid}, up {_span(self.uptime)}" if self.is_running else ""
        broker = f"cannot be asked: {self.broker_error}" if self.broker_error else "reachable"
        lines = [f"{self.name}: {self.state}{running}", f"broker {self.broker}: {broker}"]
        if self.log:
            lines.append(f"log: {self.log}")
        if self.problem:
            lines.append(f"problem: {self.problem}")
        for crew in self.crews:
            found = [worker.problem for worker in crew.workers if worker.problem]
            lines += [f"problem: {crew.name}: {problem}; see the log" for problem in found[:1]]
        away = [crew.name for crew in self.crews if crew.broker_away]
        if away:
            lines.append(f"consumers that cannot reach the broker: {', '.join(away)}")
        lines += ["", *_aligned(self._topic_rows())]
        if any(crew.workers for crew in self.crews):
            lines += ["", *_aligned(self._worker_rows())]
        return "\n".join(lines)

    def _topic_rows(self) -> Iterator[list[str]]:
        yield [*_TOPIC_HEAD, ""]
        for topic in self.topics:
            crew = self.crew(topic.crew)
            yield [
                topic.name,
                *map(_count, (topic.ready, topic.running, topic.delayed, topic.dead)),
                _count(topic.done if self.is_running else None),
                f"{topic.rate:.1f}" if self.is_running else "-",
                "-" if topic.oldest is None or not topic.ready else _span(topic.oldest),
                f"{crew.alive}/{crew.wanted}/{crew.max}" if self.is_running else "-",
                "-" if topic.crew == topic.name else f"pool {topic.crew}",
                "paused" if topic.paused else "",
            ]

    def _worker_rows(self) -> Iterator[list[str]]:
        yield [*_WORKER_HEAD]
        for crew in self.crews:
            for worker in crew.workers:
                yield [
                    f"{crew.name} #{worker.pin}",
                    str(worker.pid or "-"),
                    worker.state,
                    worker.job or "-",
                    _span(worker.seconds) if worker.job else "-",
                    str(worker.jobs),
                    str(worker.restarts),
                    worker.last_exit or "-",
                ]


class StatusReader:
    """Finds out how a service is, again and again; keeps a connection to the broker until it is closed.

    Args:
        config: Of the service.
        manager: Of the service.

    Raises:
        ServiceConfigError: The broker's URL makes no sense.
    """

    def __init__(self, config: ServiceConfig, manager: Manager) -> None:
        self._config = config
        self._manager = manager
        self._paths = Paths(config)
        self._broker: Broker = open_broker(config.broker_url, config.name)

    def read(self) -> ServiceStatus:
        """How it is now.

        Raises:
            ManagerConfigError: There can be no service in this runtime directory.
        """
        master, state, problem = self._master()
        backlogs, broker_error = self._backlogs()
        stats = self._stats(master)
        paused = self._paths.paused()
        crews = self._config.crews()
        topics = {
            topic.name: _topic(topic, name, backlogs.get(topic.name), stats[name], topic.name in paused)
            for name, (_, served) in crews.items()
            for topic in served
        }
        return ServiceStatus(
            name=self._config.name,
            state=state,
            pid=0 if master is None else master.pid,
            uptime=0.0 if master is None else master.uptime,
            problem=problem,
            log=self._paths.started().log,
            broker=shown_url(self._config.broker_url),
            broker_error=broker_error,
            topics=tuple(topics[topic.name] for topic in self._config.topics),
            crews=tuple(_crew(name, workers, stats[name]) for name, (workers, _) in crews.items()),
        )

    def close(self) -> None:
        """Close the connection."""
        self._broker.close()

    def _master(self) -> tuple[Status | None, str, str]:
        try:
            status = self._manager.status()
        except NotRunningError:
            return None, _DOWN, ""
        except ManagerConfigError:
            raise
        except ManagerError as error:
            return None, _SILENT, str(error)
        return status, status.state, status.problem

    def _backlogs(self) -> tuple[dict[str, Backlog], str]:
        try:
            return {topic.name: self._broker.backlog(topic.name) for topic in self._config.topics}, ""
        except BrokerError as error:
            return {}, str(error)

    def _stats(self, master: Status | None) -> dict[str, dict[str, Any]]:
        """What the consumers tell; the file of one that was killed is there still, and tells nothing."""
        living = set() if master is None else {worker.pid for worker in master.workers}
        found = {}
        for name in self._config.crews():
            stats = read_stats(self._paths.stats(name))
            found[name] = stats if stats is not None and stats["pid"] in living else {}
        return found


def _topic(
    topic: TopicConfig, crew: str, backlog: Backlog | None, stats: dict[str, Any], paused: bool
) -> TopicStatus:
    counts = stats.get("topics", {}).get(topic.name, {})
    if backlog is not None and backlog.running is None:
        backlog = dataclasses.replace(backlog, running=counts.get("held"))
    return TopicStatus(
        topic.name,
        crew,
        paused,
        **({} if backlog is None else dataclasses.asdict(backlog)),
        done=counts.get(Outcome.ACK, 0),
        retried=counts.get(Outcome.RETRY, 0),
        failed=counts.get(Outcome.DEAD, 0),
        rate=counts.get("rate", 0.0),
    )


def _crew(name: str, config: WorkersConfig, stats: dict[str, Any]) -> CrewStatus:
    since = time.time() - stats.get("written", 0.0)
    workers = [WorkerState(**worker) for worker in stats.get("workers", ())]
    return CrewStatus(
        name,
        alive=sum(worker.pid != 0 for worker in workers),
        wanted=stats.get("wanted", 0),
        max=config.max,
        broker_away=stats.get("broker_away", False),
        workers=tuple(
            dataclasses.replace(worker, seconds=worker.seconds + since) if worker.job else worker
            for worker in workers
        ),
    )


def shown_url(url: str) -> str:
    """Without a password, which may be in the query as well."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    name, _, password = user.partition(":")
    shown = f"{name}:***" if password else name
    return f"{parts.scheme}://{shown}{at}{host}{parts.path}"


def _aligned(rows: Iterable[list[str]]) -> list[str]:
    table = list(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in table)
    return [line.rstrip() for line in lines]


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _span(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 86400 else f"{seconds / 86400:.1f} d"
