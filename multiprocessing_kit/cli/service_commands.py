"""What the commands of `mpkit service` do; each is called with the options of its name in `service`."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from typing import Any, NoReturn

import click

from multiprocessing_kit.cli.running import of_service, own_service
from multiprocessing_kit.errors import (
    AlreadyRunningError,
    BrokerError,
    KitError,
    ManagerConfigError,
    NotRunningError,
    PayloadError,
    ServiceConfigError,
    ServiceError,
)
from multiprocessing_kit.manager.handover import is_handed_over, is_restarting
from multiprocessing_kit.manager.unit import EXIT_ALREADY_RUNNING, EXIT_CONFIG, systemd_unit
from multiprocessing_kit.service.brokers.base import Broker
from multiprocessing_kit.service.brokers.opening import open_broker
from multiprocessing_kit.service.checking import (
    checked,
    option_problem,
    wrong_around,
    wrong_imports,
    wrong_imports_in_a_child,
)
from multiprocessing_kit.service.config import ServiceConfig
from multiprocessing_kit.service.config_file import ConfigFile, load_config
from multiprocessing_kit.service.job import DeadJob
from multiprocessing_kit.service.paths import Paths, Start
from multiprocessing_kit.service.service import Service
from multiprocessing_kit.service.status import ServiceStatus, StatusReader

__all__ = [
    "check",
    "dead_list",
    "dead_purge",
    "dead_retry",
    "dead_show",
    "exit",
    "exit_codes",
    "pause",
    "purge",
    "push",
    "reload",
    "restart",
    "resume",
    "start",
    "status",
    "stop",
    "systemd",
]

EXIT_FAILED, EXIT_NOT_RUNNING = 1, 3

_WATCH_SECONDS = 2.0
_MOST_LETTERS = 100_000

_STATUSES: list[tuple[type[BaseException], int]] = [
    (AlreadyRunningError, EXIT_ALREADY_RUNNING),
    (NotRunningError, EXIT_NOT_RUNNING),
    (ManagerConfigError, EXIT_CONFIG),
    (ServiceConfigError, EXIT_CONFIG),
    (KitError, EXIT_FAILED),
    (TimeoutError, EXIT_FAILED),
]


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """An error is a message and an exit status."""
    try:
        yield
    except (KitError, TimeoutError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(next(status for kind, status in _STATUSES if isinstance(error, kind)))


# ── the service ───────────────────────────────────────────────────────────────────────────────────


def check(file: str) -> None:
    """Say "fine", or all that is wrong."""
    try:
        config = checked(file)
    except ServiceConfigError as error:
        click.echo(str(error))
        sys.exit(EXIT_CONFIG)
    click.echo(f"{file}: fine\n")
    rows = [("TOPIC", "WORKER", "PRIORITY", "WORKERS", "RETRIES", "TIMEOUT", "SCHEDULES")]
    for workers, topics in config.crews().values():
        for topic in topics:
            pool = f" (pool {topic.pool})" if topic.pool else ""
            row = (
                topic.name,
                topic.worker or "calls",
                str(topic.priority),
                f"{workers.min} to {workers.max}{pool}",
                str(topic.retry.max),
                "none" if topic.timeout is None else f"{topic.timeout:g} s",
                str(len(topic.schedules)),
            )
            rows.append(row)
    _print_table(rows)


def start(file: str, detach: bool) -> None:
    """Run it here, or in the background."""
    found = ConfigFile(file)
    problems = wrong_around(found.config)
    if not is_restarting():
        problems += wrong_imports_in_a_child(found.config)
        # It may want a database that comes up with the same boot: workers try it until it does.
        passing = [problem for problem in problems if problem.key == ("setup",)]
        problems = [problem for problem in problems if problem not in passing]
        if passing and not problems:
            click.echo(f"{found.error(passing)}; workers try on", err=True)
    elif not is_handed_over(found.config.name):
        # A trial for a restart: workers that cannot start must not replace those that work.
        problems += wrong_imports(found.config)
    if problems:
        raise found.error(problems)
    with of_service(found):
        noted = Start(os.path.abspath(file), Paths(found.config).log(background=detach))
        manager = Service(found.config, noted).manager
        if not detach:
            sys.exit(manager.run())
        text = manager.start().replace("workers are ready", "consumers are at work")
    click.echo(f"{text}; log: {noted.log}")
    _tell_if_away(found.config)


def _tell_if_away(config: ServiceConfig) -> None:
    if config.user is not None:
        return  # an SQLite file that is made here might belong to another user than the service's
    try:
        with open_broker(config.broker_url, config.name) as broker:
            broker.backlog(config.topics[0].name)
    except BrokerError as error:
        click.echo(f"the broker cannot be reached: {error}; the service tries on", err=True)


def stop(file: str) -> None:
    """Drain."""
    with own_service(file) as service:
        service.manager.stop()


def exit(file: str) -> None:
    """At once."""
    with own_service(file) as service:
        service.manager.exit()


def restart(file: str) -> None:
    """Smoothly."""
    with own_service(file) as service:
        service.manager.restart()


def reload(file: str) -> None:
    """Smoothly, with what the master has; workers that cannot start must not replace those that work."""
    with own_service(file) as service:
        service.manager.status()  # one that does not run is told first
        if problems := wrong_imports_in_a_child(service.config):
            raise ConfigFile(file).error(problems)
        service.manager.reload()


def pause(file: str, topics: Sequence[str]) -> None:
    """Note it."""
    _change_paused(file, topics, Service.pause)


def resume(file: str, topics: Sequence[str]) -> None:
    """Note it."""
    _change_paused(file, topics, Service.resume)


def _change_paused(
    file: str, topics: Sequence[str], change: Callable[[Service, list[str]], frozenset[str]]
) -> None:
    with own_service(file) as service:
        for topic in topics:
            _known(service.config, topic)
        paused = change(service, list(topics))
    click.echo(f"paused: {', '.join(sorted(paused)) or 'none'}")


def status(file: str, as_json: bool, watch: bool) -> None:
    """Once, or again and again."""
    with (
        own_service(file) as service,
        contextlib.closing(StatusReader(service.config, service.manager)) as reader,
    ):
        if watch:
            with contextlib.suppress(KeyboardInterrupt):
                _watch(reader, as_json)
            return
        found = reader.read()
    _print_status(found, as_json)
    sys.exit(0 if found.is_running else EXIT_NOT_RUNNING)


def _watch(reader: StatusReader, as_json: bool) -> NoReturn:
    while True:
        found, found_at = reader.read(), time.time()
        click.clear()  # on a terminal
        if not as_json:
            click.echo(f"── {_time(found_at)}")
        _print_status(found, as_json)
        sys.stdout.flush()
        time.sleep(_WATCH_SECONDS)


def _print_status(found: ServiceStatus, as_json: bool) -> None:
    click.echo(json.dumps(found.as_dict(), indent=2) if as_json else found.table())


def systemd(file: str) -> None:
    """For `systemctl`."""
    service = _service(file)
    # What comes before our own words: an interpreter's options, and the program or module.
    before = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]
    program = [os.path.abspath(word) if os.path.isfile(word) else word for word in before]
    command = [sys.executable, *program, "service", "start", "-c", os.path.abspath(file)]
    config = service.config
    values = [config.broker, config.secret, *(config.alerts.urls if config.alerts is not None else ())]
    unit = systemd_unit(
        service.manager.settings,
        command,
        config.directory,
        keeps_runtime=True,
        variables=list(dict.fromkeys(value[4:] for value in values if value.startswith("env:"))),
    )
    click.echo(unit, nl=False)


# ── jobs ──────────────────────────────────────────────────────────────────────────────────────────


def push(
    file: str,
    topic: str,
    argument: str,
    *,
    delay: float | None,
    at: str | None,
    priority: int,
    job_id: str | None,
    wait: float | None,
) -> None:
    """One job."""
    service = _service(file)
    _known(service.config, topic)
    if delay is not None and at is not None:
        raise click.UsageError("--delay and --at are two ways to say the same: give one")
    keeps = next(known.results for known in service.config.topics if known.name == topic)
    if wait is not None and not keeps:
        raise click.UsageError(f"topic {topic!r} keeps no results to wait for: give it results = SECONDS")
    value = _json(argument)
    due = None if at is None else _instant(at)
    with service.client() as client:
        pushed = client.push(topic, value, delay=delay or 0.0, at=due, priority=priority, id=job_id)
        click.echo(pushed)
        if wait is not None:
            click.echo(json.dumps(pushed.wait(wait), default=repr, ensure_ascii=False))


def purge(file: str, topic: str) -> None:
    """All that wait."""
    with _broker(file, topic) as (_, broker):
        click.echo(f"dropped {broker.purge(topic):,} jobs of {topic}")


def dead_list(file: str, topic: str, limit: int) -> None:
    """As a table."""
    with _broker(file, topic) as (_, broker):
        letters = broker.dead_letters(topic, limit)
        count = broker.backlog(topic).dead
    if not letters:
        click.echo(f"{topic} has no dead letters")
        return
    rows = [("ID", "DIED", "ATTEMPTS", "LAST ERROR")]
    for letter in letters:
        history = letter.job.history
        error = f"{history[-1].kind}: {history[-1].error}" if history else "-"
        rows.append((letter.job.id, _time(letter.died), str(_attempts(letter)), _one_line(error)))
    _print_table(rows)
    if count > len(letters):
        click.echo(f"… and {count - len(letters):,} more")


def dead_show(file: str, topic: str, ids: Sequence[str], everything: bool) -> None:
    """All that is known of some."""
    wanted = _wanted(ids, everything)
    with _broker(file, topic) as (config, broker):
        letters = broker.dead_letters(topic, _MOST_LETTERS)
    if config.directory not in sys.path:
        sys.path.insert(0, config.directory)  # pickles may need its modules
    found = [letter for letter in letters if wanted is None or letter.job.id in wanted]
    for letter in found:
        _show(letter, config)
    missing = set(wanted or ()) - {letter.job.id for letter in found}
    if missing:
        raise ServiceError(f"topic {topic!r} has no dead letter {', '.join(sorted(missing))}")


def dead_retry(file: str, topic: str, ids: Sequence[str], everything: bool) -> None:
    """Ready again."""
    _each_letter(file, topic, _wanted(ids, everything), "made ready again", "dead_retry")


def dead_purge(file: str, topic: str, ids: Sequence[str], everything: bool) -> None:
    """Gone."""
    _each_letter(file, topic, _wanted(ids, everything), "dropped", "dead_purge")


def _each_letter(file: str, topic: str, wanted: list[str] | None, done: str, method: str) -> None:
    with _broker(file, topic) as (_, broker):
        there = {letter.job.id for letter in broker.dead_letters(topic, _MOST_LETTERS)} if wanted else set()
        count = getattr(broker, method)(topic, wanted)
    click.echo(f"{done}: {count:,}")
    missing = set(wanted or ()) - there
    if missing and count < len(wanted or ()):
        raise ServiceError(f"topic {topic!r} has no dead letter {', '.join(sorted(missing))}")


def _show(letter: DeadJob, config: ServiceConfig) -> None:
    job = letter.job
    click.echo(f"{job.id}")
    click.echo(f"  topic     {job.topic}, priority {job.priority}")
    click.echo(f"  pushed    {_time(job.pushed)}")
    click.echo(f"  died      {_time(letter.died)}, after {_attempts(letter)} attempts")
    for event in job.history:
        error = event.error.replace("\n", "\n            ")
        click.echo(f"  {event.attempt:>3}. {_time(event.at)} {event.kind}: {error}")
    try:
        value = config.payloads().decode(job.payload)
        text = json.dumps(value, ensure_ascii=False, indent=2, default=repr)
    except (PayloadError, ServiceConfigError) as error:
        text = f"(cannot be read: {error})"
    click.echo("  argument  " + text.replace("\n", "\n            "))


# ── helpers ───────────────────────────────────────────────────────────────────────────────────────


def _service(file: str) -> Service:
    found = ConfigFile(file)
    try:
        return Service(found.config)
    except ManagerConfigError as error:
        raise found.error([option_problem(error)]) from error


@contextlib.contextmanager
def _broker(file: str, topic: str) -> Iterator[tuple[ServiceConfig, Broker]]:
    config = load_config(file)
    _known(config, topic)
    with open_broker(config.broker_url, config.name) as broker:
        yield config, broker


def _known(config: ServiceConfig, topic: str) -> None:
    if config.topic(topic) is None:
        known = ", ".join(known.name for known in config.topics)
        raise click.UsageError(f"there is no topic {topic!r}; there are {known}")


def _wanted(ids: Sequence[str], everything: bool) -> list[str] | None:
    if bool(ids) == everything:
        raise click.UsageError("give either ids or --all")
    return None if everything else list(dict.fromkeys(ids))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        hint = "; a text needs its own quotes, such as '\"text\"'" if text.isidentifier() else ""
        raise click.UsageError(f"{text!r:.200} is no JSON: {error}{hint}") from error


def _instant(text: str) -> float:
    # Before Python 3.11 a "Z" is not understood.
    plain = f"{text[:-1]}+00:00" if text.endswith("Z") else text
    try:
        return datetime.fromisoformat(plain).timestamp()
    except (ValueError, OverflowError) as error:
        what = f"--at: {text!r} is no time such as 2030-01-31T08:00, with or without +01:00"
        raise click.UsageError(what) from error


def _attempts(letter: DeadJob) -> int:
    return letter.job.history[-1].attempt if letter.job.history else letter.job.attempt


def _time(instant: float) -> str:
    return datetime.fromtimestamp(instant, timezone.utc).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 100 else f"{line[:99]}…"


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
