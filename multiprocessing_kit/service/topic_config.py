"""What `service.toml` may say of a topic and of those who work for it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from multiprocessing_kit.retry import RetryStrategy, RetryType
from multiprocessing_kit.service.config_fields import CALLS, Misfit, Model, Name, Reference, Seconds

__all__ = ["BacklogConfig", "PoolConfig", "RetryConfig", "ScheduleConfig", "TopicConfig", "WorkersConfig"]

_MOST_WORKERS = 1024


class WorkersConfig(Model):
    """How many workers a topic has.

    Attributes:
        min: At least, also with nothing to do.
        max: At most.
    """

    min: int = Field(default=1, ge=0, le=_MOST_WORKERS)
    max: int = Field(default=1, ge=1, le=_MOST_WORKERS)

    @model_validator(mode="before")
    @classmethod
    def _as_table(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            if not 1 <= value <= _MOST_WORKERS:
                raise ValueError(f"{value} is not 1 to {_MOST_WORKERS} workers")
            return {"min": value, "max": value}
        if isinstance(value, dict) and "max" not in value and isinstance(value.get("min"), int):
            return {**value, "max": max(1, value["min"])}
        if not isinstance(value, (dict, WorkersConfig)):
            raise ValueError(f"{value!r} is neither a number of workers nor {{ min = …, max = … }}")
        return value

    @model_validator(mode="after")
    def _ordered(self) -> WorkersConfig:
        if self.max < self.min:
            raise Misfit((("max",), f"{self.max} is less than min, {self.min}"))
        return self


class BacklogConfig(Model):
    """What is much.

    Attributes:
        per_worker: More ready jobs than this for each worker bring a further one.
        alert: More ready jobs than this raise an alert; 0 for none.
    """

    per_worker: int = Field(default=100, ge=1)
    alert: int = Field(default=0, ge=0)


class RetryConfig(Model):
    """What becomes of failed jobs.

    Attributes:
        max: Runs after the first.
        type: "requeue": back to the broker, for whichever worker is free; "immediate": in the same worker.
        wait: "none", "fixed", "exponential" (doubled each time), each from `first` seconds.
        first: Seconds before the first retry.
        max_wait: Seconds at most.
        crashes: Runs of a job that may end with their worker, before it is a dead letter.
    """

    max: int = Field(default=3, ge=0)
    type: Literal["requeue", "immediate"] = "requeue"
    wait: Literal["none", "fixed", "exponential"] = "exponential"
    first: Seconds = 1.0
    max_wait: Seconds = 600.0
    crashes: int = Field(default=3, ge=1)

    def strategy(self) -> RetryStrategy:
        """For a worker that has none of its own."""
        import tenacity  # noqa: PLC0415  # slow to import, and only workers need it

        # What failed together, as at an outage, need not come back together.
        jitter = min(1.0, self.first / 2, self.max_wait / 2)
        growing = tenacity.wait_exponential(multiplier=self.first, max=self.max_wait - jitter)
        waits = {
            "none": None,
            "fixed": tenacity.wait_fixed(min(self.first, self.max_wait)),
            "exponential": growing + tenacity.wait_random(0, jitter),
        }
        return RetryStrategy(self.max, RetryType(self.type), wait=waits[self.wait])


class ScheduleConfig(Model):
    """Jobs by the clock.

    Attributes:
        cron: Five fields: minute, hour, day, month, weekday; or @hourly and such.
        payload: The jobs' argument.
        timezone: In whose clock the fields are, such as "Europe/Berlin".
    """

    cron: str
    payload: Any = None
    timezone: str = "UTC"

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, value: str) -> str:
        try:
            import croniter  # noqa: PLC0415  # only those with schedules need it
        except ModuleNotFoundError as error:
            raise ValueError("schedules need croniter: pip install 'multiprocessing_kit[service]'") from error
        if len(value.split()) not in (1, 5) or not croniter.croniter.is_valid(value):
            raise ValueError(f"{value!r} is no cron line of five fields, such as '*/5 * * * *'")
        if re.search(r"\bR\b", value):
            raise ValueError(f"{value!r}: R is another time on each host; say which")
        try:
            croniter.croniter(value).get_next()
        except croniter.CroniterBadDateError as error:
            raise ValueError(f"{value!r} is never: there is no such day") from error
        return value

    @field_validator("timezone")
    @classmethod
    def _is_timezone(cls, value: str) -> str:
        import zoneinfo  # noqa: PLC0415

        try:
            zoneinfo.ZoneInfo(value)
        except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError) as error:
            raise ValueError(f"there is no time zone {value!r}") from error
        return value


class PoolConfig(Model):
    """Workers that several topics share.

    Attributes:
        name: Its name, that topics give as `pool`.
        workers: How many.
    """

    name: Name
    workers: WorkersConfig = WorkersConfig(min=1, max=1)


class TopicConfig(Model):
    """One kind of jobs.

    Attributes:
        name: Its name.
        worker: MODULE:NAME of a Worker subclass, an instance of one, or a function of the argument.
        calls: In place of `worker`: what jobs may name as {"class": …, "method": …, "params": …}.
        priority: Higher first where workers serve several topics.
        workers: Its own.
        pool: In place of `workers`: the pool that serves it.
        backlog: What is much.
        retry: What becomes of failed jobs.
        timeout: Seconds that a job may take; its worker is killed then. None for any time.
        max_jobs_per_worker: After so many jobs a worker is replaced; 0 for never.
        max_seconds_per_worker: After so many seconds, up to a tenth less by chance; 0 for never.
        max_memory_per_worker: Bytes a worker may have resident between jobs; None for any.
        results: Seconds that results are kept for who waits for them; 0 for not at all.
        schedules: Jobs by the clock.
    """

    name: Name
    worker: Reference | None = None
    calls: list[Annotated[str, Field(pattern=CALLS)]] = Field(default_factory=list)
    priority: int = 0
    workers: WorkersConfig | None = None
    pool: Name | None = None
    backlog: BacklogConfig = BacklogConfig()
    retry: RetryConfig = RetryConfig()
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    max_jobs_per_worker: int = Field(default=0, ge=0)
    max_seconds_per_worker: Seconds = 0.0
    max_memory_per_worker: int | None = Field(default=None, ge=1)
    results: Seconds = 0.0
    schedules: list[ScheduleConfig] = Field(default_factory=list)

    @model_validator(mode="after")
    def _one_of_two(self) -> TopicConfig:
        if (self.worker is None) == (not self.calls):
            both = "and not both" if self.calls else "and there is neither"
            raise ValueError(f"topic {self.name!r} needs worker or calls, {both}")
        if self.workers is not None and self.pool is not None:
            what = f"topic {self.name!r} has workers of its own and a pool; one of them must go"
            raise Misfit((("pool",), what))
        return self
