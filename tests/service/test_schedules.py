"""Jobs by the clock: at the right instant, once for each, also of several hosts and over stops."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from multiprocessing_kit.service import schedules
from multiprocessing_kit.service.brokers.sqlite.broker import SqliteBroker
from multiprocessing_kit.service.config import ServiceConfig
from multiprocessing_kit.service.payloads import Payloads
from multiprocessing_kit.service.schedules import Schedules
from multiprocessing_kit.service.topic_config import ScheduleConfig
from tests.folders import until
from tests.service.services import Shop

# In Berlin clocks went from 2:00 to 3:00 on 29 March 2026, and from 3:00 to 2:00 on 25 October 2026.
NEXT = [
    ("30 2 * * *", "Europe/Berlin", "2026-03-28 02:30+01:00", ["03-29 03:00+0200", "03-30 02:30+0200"]),
    ("0 3 * * *", "Europe/Berlin", "2026-03-28 03:00+01:00", ["03-29 03:00+0200", "03-30 03:00+0200"]),
    ("0 * * * *", "Europe/Berlin", "2026-03-29 01:00+01:00", ["03-29 03:00+0200", "03-29 04:00+0200"]),
    ("30 2 * * *", "Europe/Berlin", "2026-10-24 02:30+02:00", ["10-25 02:30+0200", "10-26 02:30+0100"]),
    ("30 2 * * *", "Europe/Berlin", "2026-10-25 02:45+02:00", ["10-26 02:30+0100"]),
    ("30 2 * * *", "Europe/Berlin", "2026-10-25 02:10+01:00", ["10-26 02:30+0100"]),
    ("15 3 * * *", "Europe/Berlin", "2026-10-25 02:30+01:00", ["10-25 03:15+0100", "10-26 03:15+0100"]),
    (
        "0 * * * *",
        "Europe/Berlin",
        "2026-10-25 01:00+02:00",
        ["10-25 02:00+0200", "10-25 02:00+0100", "10-25 03:00+0100"],
    ),
    ("@hourly", "Europe/Berlin", "2026-10-25 02:00+02:00", ["10-25 02:00+0100", "10-25 03:00+0100"]),
    ("*/30 * * * *", "Europe/Berlin", "2026-10-25 02:30+02:00", ["10-25 02:00+0100", "10-25 02:30+0100"]),
    # Midnight itself comes twice in Havana.
    ("@daily", "America/Havana", "2026-10-31 12:00-04:00", ["11-01 00:00-0400", "11-02 00:00-0500"]),
    ("0 9 * * *", "Asia/Kolkata", "2026-06-01 03:30+00:00", ["06-02 09:00+0530"]),
    ("0 9 * * MON-FRI", "UTC", "2026-06-05 09:00+00:00", ["06-08 09:00+0000"]),
    ("0 0 29 2 *", "UTC", "2026-06-05 09:00+00:00", ["02-29 00:00+0000"]),
]


@pytest.mark.parametrize(("cron", "zone", "now", "expected"), NEXT)
def test_the_next_instant(cron: str, zone: str, now: str, expected: list[str]) -> None:
    schedule = ScheduleConfig(cron=cron, timezone=zone)
    at = datetime.fromisoformat(now).timestamp()
    found = []
    for _ in expected:
        at = schedules._next(schedule, at)
        found.append(datetime.fromtimestamp(at, ZoneInfo(zone)).strftime("%m-%d %H:%M%z"))
    assert found == expected


@pytest.mark.parametrize("cron", ["* * * * * *", "61 * * * *", "0 0 30 2 *", "", "often", "@reboot"])
def test_what_is_no_schedule(cron: str) -> None:
    with pytest.raises(ValidationError, match="cron"):
        ScheduleConfig(cron=cron)


# ── pushing ───────────────────────────────────────────────────────────────────────────────────────


class Clock:
    """Of this process: of schedules and broker."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.set("12:00:30")
        monkeypatch.setattr(time, "time", lambda: self.now)

    def set(self, text: str) -> None:
        self.now = datetime.fromisoformat(f"2040-06-01 {text}+00:00").timestamp()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def made(folder: Path, *crons: str) -> ServiceConfig:
    lines = [{"cron": cron, "payload": cron} for cron in crons]
    topic = {"name": "report", "worker": "os.path:basename", "schedules": lines}
    config = {"name": "shop", "broker": f"sqlite:///{folder}/shop.db", "topics": [topic]}
    return ServiceConfig.model_validate(config)


def connected(config: ServiceConfig) -> SqliteBroker:
    return SqliteBroker(config.broker_url, config.name)


def due_now(broker: SqliteBroker) -> list[str]:
    """The jobs that may run now are run; when each was to be, and of which line."""
    broker.join("test", ["report"], 1e9)
    deliveries = broker.reserve(100)
    for delivery in deliveries:
        broker.ack(delivery)
    jobs = [delivery.job for delivery in deliveries]
    return sorted(
        f"{datetime.fromtimestamp(job.due, timezone.utc):%H:%M} {Payloads().decode(job.payload)}"
        for job in jobs
    )


EVERY, SECOND = "* * * * *", "*/2 * * * *"


def test_several_hosts_push_one_job_for_each_instant(tmp_path: Path, clock: Clock) -> None:
    config = made(tmp_path, EVERY, SECOND)
    with connected(config) as one, connected(config) as another:
        hosts = [(one, Schedules(config, config.topics)), (another, Schedules(config, config.topics))]
        ran = []
        for minute in range(5):
            clock.set(f"12:{minute:02d}:30")
            ran += due_now(one)
            for _ in range(3):
                for broker, schedule in hosts:
                    schedule.push(broker)
        assert ran == [
            f"12:01 {EVERY}",
            f"12:02 {EVERY}",
            f"12:02 {SECOND}",
            f"12:03 {EVERY}",
            f"12:04 {EVERY}",
            f"12:04 {SECOND}",
        ]


def test_a_host_whose_clock_is_behind_pushes_no_second_one(tmp_path: Path, clock: Clock) -> None:
    config = made(tmp_path, EVERY)
    with connected(config) as broker:
        Schedules(config, config.topics).push(broker)
        clock.set("12:01:10")
        assert due_now(broker) == [f"12:01 {EVERY}"]
        clock.set("12:00:50")
        Schedules(config, config.topics).push(broker)
        clock.set("12:01:20")
        assert due_now(broker) == []


def test_a_clock_that_is_set_back_does_not_stop_it(tmp_path: Path, clock: Clock) -> None:
    config = made(tmp_path, EVERY)
    with connected(config) as broker:
        schedule = Schedules(config, config.topics)
        clock.set("18:00:30")
        schedule.push(broker)
        clock.set("12:00:30")
        schedule.push(broker)
        clock.set("12:01:10")
        assert due_now(broker) == [f"12:01 {EVERY}"]


def test_after_a_stop_over_instants_it_runs_once(tmp_path: Path, clock: Clock) -> None:
    config = made(tmp_path, EVERY)
    with connected(config) as broker:
        Schedules(config, config.topics).push(broker)
        clock.set("14:30:10")
        schedule = Schedules(config, config.topics)
        schedule.push(broker)
        assert due_now(broker) == [f"12:01 {EVERY}"]
        clock.set("14:31:10")
        schedule.push(broker)
        assert due_now(broker) == [f"14:31 {EVERY}"]


def test_a_line_that_is_changed_is_another_schedule(tmp_path: Path, clock: Clock) -> None:
    with connected(made(tmp_path)) as broker:
        for crons in ((EVERY,), (EVERY, SECOND), (SECOND,)):
            config = made(tmp_path, *crons)
            Schedules(config, config.topics).push(broker)
        clock.set("12:02:30")
        assert due_now(broker) == [f"12:01 {EVERY}", f"12:02 {SECOND}"]


# ── in a service ──────────────────────────────────────────────────────────────────────────────────

TOPIC = """
    [[topics]]
    name = "work"
    worker = "jobs:work"

    [[topics.schedules]]
    cron = "* * * * *"
    payload = {report = "sales"}
"""


@pytest.mark.timeout(240)
def test_two_services_run_one_job_a_minute(tmp_path: Path) -> None:
    """Two runtime directories on one broker, as two hosts; one of them is stopped over an instant as well."""
    broker = f"sqlite:///{tmp_path}/shop.db"
    with (
        Shop(tmp_path / "a", TOPIC, broker=broker) as one,
        Shop(tmp_path / "b", TOPIC, broker=broker) as another,
    ):
        one.run()
        another.run()

        def runs() -> int:
            return sum(one.runs.values()) + sum(another.runs.values())

        until(lambda: one.backlog().delayed == 1, "the next job to be there")
        until(lambda: runs() == 1, "the first job", 90.0)
        assert set(one.runs | another.runs) == {"{'report': 'sales'}"}
        until(lambda: one.backlog().delayed == 1, "the next job to be there")
        one.stop()
        another.kill_all()
        assert runs() == 1
        another.run()
        assert until(lambda: another.backlog().delayed == 1 or runs() > 1)
