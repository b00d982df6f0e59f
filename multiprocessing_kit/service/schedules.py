"""Jobs by the clock: the next one of each schedule lies in the broker, as a job that is due then.

Its id names the schedule and the instant, and is refused for a second one, so that of several hosts one
pushes it, and a service that was down finds it when it comes back.
"""

from __future__ import annotations

import hashlib
import json
import time
import zoneinfo
from datetime import datetime

from multiprocessing_kit.service.brokers.base import Broker
from multiprocessing_kit.service.config import ServiceConfig
from multiprocessing_kit.service.job import Job
from multiprocessing_kit.service.payloads import Payloads
from multiprocessing_kit.service.topic_config import ScheduleConfig, TopicConfig

__all__ = ["Schedules"]

_HOLD_SECONDS = 3600.0
"""For which an instant's id is refused after it: longer than clocks of hosts differ."""


class Schedules:
    """Those of a consumer's topics.

    Args:
        config: Of the service.
        topics: Whose schedules.
    """

    def __init__(self, config: ServiceConfig, topics: list[TopicConfig]) -> None:
        self._payloads: Payloads = config.payloads()
        self._all = [(topic.name, schedule) for topic in topics for schedule in topic.schedules]
        self._pushed: dict[int, float] = {}
        self._looked = 0.0

    def push(self, broker: Broker) -> None:
        """See that the next job of each is in the broker."""
        now = time.time()
        if now < self._looked:  # the clock was set back: what was next by it may be far away
            self._pushed.clear()
        self._looked = now
        for number, (topic, schedule) in enumerate(self._all):
            if self._pushed.get(number, 0.0) > now:
                continue
            due = _next(schedule, now)
            payload = self._payloads.encode(schedule.payload)
            key = json.dumps([topic, schedule.cron, schedule.timezone]).encode() + payload
            job = Job(
                f"cron-{topic}-{hashlib.sha256(key).hexdigest()[:8]}-{due:.0f}",
                topic,
                payload,
                due=due,
                is_unique=True,
                hold=due - now + _HOLD_SECONDS,
            )
            broker.push([job])
            self._pushed[number] = due


def _next(schedule: ScheduleConfig, now: float) -> float:
    """The instant of the next job.

    Where clocks are put forward over it, it is the end of the gap. Where they are put back, what has its
    hours comes once, and what comes each hour does so in both.
    """
    import croniter  # noqa: PLC0415  # only those with schedules need it

    zone = zoneinfo.ZoneInfo(schedule.timezone)
    found = now
    while True:
        found = croniter.croniter(schedule.cron, datetime.fromtimestamp(found, zone)).get_next(float)
        if _is_hourly(schedule.cron) or not _is_again(datetime.fromtimestamp(found, zone)):
            return found


def _is_hourly(cron: str) -> bool:
    fields = cron.split()
    return fields[1].startswith("*") if len(fields) > 1 else cron == "@hourly"


def _is_again(at: datetime) -> bool:
    """Whether clocks have shown this time before, on this day."""
    return at.fold == 1 and at.replace(fold=0).utcoffset() != at.utcoffset()
