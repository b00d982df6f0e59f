"""What `service.toml` may say, checked before anything starts; see docs/service.md."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from multiprocessing_kit.errors import ServiceConfigError
from multiprocessing_kit.retry import RetryStrategy, RetryType
from multiprocessing_kit.service.payloads import Payloads

__all__ = [
    "AlertsConfig",
    "BacklogConfig",
    "HttpConfig",
    "PoolConfig",
    "RetryConfig",
    "ScheduleConfig",
    "ServiceConfig",
    "TopicConfig",
    "WorkersConfig",
    "from_environment",
]

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_REFERENCE = r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$"
_CALLS = r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*(\.\*)?$"

Name = Annotated[str, Field(pattern=_NAME)]
Reference = Annotated[str, Field(pattern=_REFERENCE)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class WorkersConfig(_Model):
    """How many workers a topic has.

    Attributes:
        min: At least, also with nothing to do.
        max: At most.
    """

    min: int = Field(1, ge=0, le=1024)
    max: int = Field(1, ge=1, le=1024)

    @model_validator(mode="before")
    @classmethod
    def _as_table(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            return {"min": value, "max": value}
        if isinstance(value, dict) and "max" not in value and isinstance(value.get("min"), int):
            return {**value, "max": max(1, value["min"])}
        return value

    @model_validator(mode="after")
    def _ordered(self) -> WorkersConfig:
        if self.max < self.min:
            raise ValueError(f"max ({self.max}) is less than min ({self.min})")
        return self


class BacklogConfig(_Model):
    """What is much.

    Attributes:
        per_worker: More ready jobs than this for each worker bring a further one.
        alert: More ready jobs than this raise an alert; 0 for none.
    """

    per_worker: int = Field(100, ge=1)
    alert: int = Field(0, ge=0)


class RetryConfig(_Model):
    """What becomes of failed jobs.

    Attributes:
        max: Runs after the first.
        type: "requeue": back to the broker, by whichever worker is free then; "immediate": in the same worker.
        wait: "none", "fixed", "exponential" (doubled each time), each from `first` seconds.
        first: Seconds before the first retry.
        max_wait: Seconds at most.
        crashes: Runs of a job that may end with their worker, before it is a dead letter.
    """

    max: int = Field(3, ge=0)
    type: Literal["requeue", "immediate"] = "requeue"
    wait: Literal["none", "fixed", "exponential"] = "exponential"
    first: Seconds = 1.0
    max_wait: Seconds = 600.0
    crashes: int = Field(3, ge=1)

    def strategy(self) -> RetryStrategy:
        """For a worker that has none of its own."""
        import tenacity  # noqa: PLC0415  # slow to import, and only workers need it

        waits = {
            "none": None,
            "fixed": tenacity.wait_fixed(min(self.first, self.max_wait)),
            # Jitter: what failed together, as at an outage, need not come back together.
            "exponential": tenacity.wait_exponential_jitter(
                initial=self.first, max=self.max_wait, jitter=min(1.0, self.first / 2)
            ),
        }
        return RetryStrategy(self.max, RetryType(self.type), wait=waits[self.wait])


class ScheduleConfig(_Model):
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
        import croniter  # noqa: PLC0415

        if len(value.split()) not in (1, 5) or not croniter.croniter.is_valid(value):
            raise ValueError(f"{value!r} is no cron line of five fields, such as '*/5 * * * *'")
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


class PoolConfig(_Model):
    """Workers that several topics share.

    Attributes:
        name: Its name, that topics give as `pool`.
        workers: How many.
    """

    name: Name
    workers: WorkersConfig = WorkersConfig(min=1, max=1)


class TopicConfig(_Model):
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
    calls: list[Annotated[str, Field(pattern=_CALLS)]] = []
    priority: int = 0
    workers: WorkersConfig | None = None
    pool: Name | None = None
    backlog: BacklogConfig = BacklogConfig()
    retry: RetryConfig = RetryConfig()
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    max_jobs_per_worker: int = Field(0, ge=0)
    max_seconds_per_worker: Seconds = 0.0
    max_memory_per_worker: int | None = Field(None, ge=1)
    results: Seconds = 0.0
    schedules: list[ScheduleConfig] = []

    @model_validator(mode="after")
    def _one_of_two(self) -> TopicConfig:
        if (self.worker is None) == (not self.calls):
            raise ValueError(f"topic {self.name!r} needs either worker or calls")
        if self.workers is not None and self.pool is not None:
            raise ValueError(f"topic {self.name!r} has workers of its own and a pool; one of them must go")
        return self


class HttpConfig(_Model):
    """The door for other programs.

    Attributes:
        host: Address to listen at.
        port: 0 for any that is free.
        token: That a client must send as bearer; "env:NAME" takes it from the environment.
        body_limit: Bytes of a request at most.
        connections: Open at once, at most.
    """

    host: str = "127.0.0.1"
    port: int = Field(8070, ge=0, le=65535)
    token: str = Field(min_length=8)
    body_limit: int = Field(1_000_000, ge=1)
    connections: int = Field(1000, ge=1)


class AlertsConfig(_Model):
    """Whom to tell.

    Attributes:
        urls: Of apprise, such as "slack://…", "mailto://…", "json://host/path"; "env:NAME" for one from the
            environment.
        every: Seconds at least between two alerts about the same thing.
        title, body: Templates with {service}, {topic}, {kind}, {text} and {host}.
    """

    urls: list[str] = Field(min_length=1)
    every: Seconds = 600.0
    title: str = "{service}: {kind} {topic}"
    body: str = "{text}\n(on {host})"

    @field_validator("title", "body")
    @classmethod
    def _is_template(cls, value: str) -> str:
        try:
            value.format(service="", topic="", kind="", text="", host="")
        except (KeyError, ValueError, IndexError, AttributeError) as error:
            raise ValueError(
                f"{value!r} is no template of {{service}} {{topic}} {{kind}} {{text}} {{host}}"
            ) from error
        return value


class ServiceConfig(_Model):
    """A whole service.

    Attributes:
        name: Its name: one of a name runs for a runtime directory; jobs belong to it.
        broker: URL of the broker; "env:NAME" takes it from the environment.
        setup: MODULE:NAME of a function that is called once in each worker, before anything else.
        encoding: Of payloads: "json", "msgpack" or "pickle".
        secret: That signs pickles; "env:NAME" takes it from the environment.
        lease: Seconds after which the jobs of a host that is gone are others'.
        scale_seconds: Between two looks at the backlog.
        stop_timeout: Seconds that running jobs have at a stop.
        log: As a manager's `logger`: a path, "stderr", "syslog" or "journal"; None for a file of its name in
            the runtime directory when in the background, else standard error.
        log_format: "text" or "json".
        runtime_dir: For locks, sockets and such; by default the user's or the system's.
        user, group: To become.
        http, alerts, pools, topics: See there.
    """

    name: Name
    broker: str
    setup: Reference | None = None
    encoding: Literal["json", "msgpack", "pickle"] = "json"
    secret: str = ""
    lease: Annotated[float, Field(ge=3, le=86400)] = 60.0
    scale_seconds: Annotated[float, Field(gt=0, le=3600)] = 3.0
    stop_timeout: Seconds = 30.0
    log: str | None = None
    log_format: Literal["text", "json"] = "text"
    runtime_dir: str | None = None
    user: str | None = None
    group: str | None = None
    http: HttpConfig | None = None
    alerts: AlertsConfig | None = None
    pools: list[PoolConfig] = []
    topics: list[TopicConfig] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits(self) -> ServiceConfig:
        for kind, names in (
            ("topic", [topic.name for topic in self.topics]),
            ("pool", [pool.name for pool in self.pools]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{kind} {twice[0]!r} is there twice")
        pools = {pool.name for pool in self.pools}
        own = {topic.name for topic in self.topics if topic.pool is None}
        if pools & own:
            raise ValueError(
                f"pool {sorted(pools & own)[0]!r} has the name of a topic with workers of its own"
            )
        for topic in self.topics:
            if topic.pool is not None and topic.pool not in pools:
                raise ValueError(f"topic {topic.name!r}: there is no pool {topic.pool!r}")
        for unused in pools - {topic.pool for topic in self.topics}:
            raise ValueError(f"pool {unused!r} serves no topic")
        return self

    def topic(self, name: str) -> TopicConfig | None:
        """The topic of this name."""
        return next((topic for topic in self.topics if topic.name == name), None)

    def crews(self) -> dict[str, tuple[WorkersConfig, list[TopicConfig]]]:
        """Who serves what: by name of the pool or topic, how many workers, and the topics, first ones first."""
        found: dict[str, tuple[WorkersConfig, list[TopicConfig]]] = {
            pool.name: (pool.workers, []) for pool in self.pools
        }
        for topic in self.topics:
            if topic.pool is None:
                found[topic.name] = (topic.workers or WorkersConfig(min=1, max=1), [topic])
            else:
                found[topic.pool][1].append(topic)
        for _, topics in found.values():
            topics.sort(key=lambda topic: -topic.priority)
        return found

    def payloads(self) -> Payloads:
        """How this service writes and reads arguments and results."""
        return Payloads(self.encoding, from_environment(self.secret, "secret"))

    @property
    def broker_url(self) -> str:
        """The broker's, taken from the environment where it says so."""
        return from_environment(self.broker, "broker")


def from_environment(value: str, key: str) -> str:
    """What "env:NAME" stands for; other values as they are.

    Raises:
        ServiceConfigError: There is no such variable.
    """
    if not value.startswith("env:"):
        return value
    found = os.environ.get(value[4:])
    if not found:
        raise ServiceConfigError(
            f"{key} = {value!r}: there is no variable {value[4:]} in the environment", key=key
        )
    return found
