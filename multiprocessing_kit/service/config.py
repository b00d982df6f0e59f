"""What `service.toml` may say, checked before anything starts; see docs/service.md."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args
from urllib.parse import quote, unquote, urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from multiprocessing_kit.errors import PayloadError, ServiceConfigError
from multiprocessing_kit.retry import RetryStrategy, RetryType
from multiprocessing_kit.service.payloads import Payloads

__all__ = [
    "PATTERNS",
    "AlertsConfig",
    "BacklogConfig",
    "HttpConfig",
    "Misfit",
    "PoolConfig",
    "RetryConfig",
    "ScheduleConfig",
    "ServiceConfig",
    "TopicConfig",
    "WorkersConfig",
    "from_environment",
    "known_keys",
]

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_REFERENCE = r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$"
_CALLS = r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*(\.\*)?$"

PATTERNS = {
    _NAME: "1 to 64 letters, digits, dots, dashes and underscores",
    _REFERENCE: "MODULE:NAME, such as shop.jobs:SendMail",
    _CALLS: "MODULE:NAME, or MODULE:CLASS.* for all of its methods",
}
"""In words."""

_Fault = tuple[tuple[str | int, ...], str]

_SCHEMES = ("sqlite", "redis", "rediss", "unix", "amqp", "amqps")
_LOGS = ("stderr", "syslog", "journal")
_SHORTEST_TOKEN = 8
_MOST_WORKERS = 1024

Name = Annotated[str, Field(pattern=_NAME)]
Reference = Annotated[str, Field(pattern=_REFERENCE)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Misfit(ValueError):
    """Values that do not go together.

    Attributes:
        problems: For each, the path of the key at fault within what was checked, and what is wrong.
    """

    def __init__(self, *problems: _Fault) -> None:
        super().__init__("; ".join(text for _, text in problems))
        self.problems = problems


class WorkersConfig(_Model):
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


class BacklogConfig(_Model):
    """What is much.

    Attributes:
        per_worker: More ready jobs than this for each worker bring a further one.
        alert: More ready jobs than this raise an alert; 0 for none.
    """

    per_worker: int = Field(default=100, ge=1)
    alert: int = Field(default=0, ge=0)


class RetryConfig(_Model):
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
    max_jobs_per_worker: int = Field(default=0, ge=0)
    max_seconds_per_worker: Seconds = 0.0
    max_memory_per_worker: int | None = Field(default=None, ge=1)
    results: Seconds = 0.0
    schedules: list[ScheduleConfig] = []

    @model_validator(mode="after")
    def _one_of_two(self) -> TopicConfig:
        if (self.worker is None) == (not self.calls):
            both = "and not both" if self.calls else "and there is neither"
            raise ValueError(f"topic {self.name!r} needs worker or calls, {both}")
        if self.workers is not None and self.pool is not None:
            what = f"topic {self.name!r} has workers of its own and a pool; one of them must go"
            raise Misfit((("pool",), what))
        return self


class HttpConfig(_Model):
    """The door for other programs.

    Attributes:
        host: Address to listen at.
        port: 0 for any that is free.
        token: That a client must send as bearer; "env:NAME" takes it from the environment.
        body_limit: Bytes of a request at most.
        connections: Open at once, at most.
        access_log: Whether each request is a line in the log.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8070, ge=0, le=65535)
    token: str
    body_limit: int = Field(default=1_000_000, ge=1)
    connections: int = Field(default=1000, ge=1)
    access_log: bool = False

    @field_validator("token")
    @classmethod
    def _is_long(cls, value: str) -> str:
        if len(value) < _SHORTEST_TOKEN and not value.startswith("env:"):
            raise ValueError(f"it is shorter than {_SHORTEST_TOKEN} characters")  # and not for a log
        return value


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
    scale_seconds: Annotated[float, Field(gt=0, le=30)] = 3.0
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

    _directory: str = PrivateAttr(default="")

    def model_post_init(self, context: Any, /) -> None:
        """Note where the file is that it was read from."""
        self._directory = (context or {}).get("directory", "")

    @field_validator("broker")
    @classmethod
    def _is_broker(cls, value: str) -> str:
        if not value.startswith("env:") and urlsplit(value).scheme not in _SCHEMES:
            # It may hold a password in any place.
            raise ValueError(f"it is none of {', '.join(f'{scheme}://…' for scheme in _SCHEMES)}, env:NAME")
        return value

    @field_validator("log", "runtime_dir")
    @classmethod
    def _absolute(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None or (info.field_name == "log" and value in _LOGS):
            return value
        if not value:
            raise ValueError("'' is no path")
        return os.path.join((info.context or {}).get("directory", ""), value)

    @model_validator(mode="after")
    def _fits(self) -> ServiceConfig:
        problems = [*self._twice(), *self._pooled(), *self._unwritable()]
        if self.encoding == "pickle" and not self.secret:
            problems.append((("secret",), "encoding 'pickle' needs one, that signs what is pickled"))
        if problems:
            raise Misfit(*problems)
        return self

    def _twice(self) -> Iterator[_Fault]:
        for kind, names in (
            ("topics", [topic.name for topic in self.topics]),
            ("pools", [pool.name for pool in self.pools]),
        ):
            for number, name in enumerate(names):
                if name in names[:number]:
                    yield (kind, number, "name"), f"{kind[:-1]} {name!r} is there twice"

    def _pooled(self) -> Iterator[_Fault]:
        pools = [pool.name for pool in self.pools]
        own = {topic.name for topic in self.topics if topic.pool is None}
        for number, name in enumerate(pools):
            if name in own:
                what = f"pool {name!r} has the name of a topic with workers of its own"
                yield ("pools", number, "name"), what
            if name not in {topic.pool for topic in self.topics}:
                yield ("pools", number), f"pool {name!r} serves no topic"
        for number, topic in enumerate(self.topics):
            if topic.pool is not None and topic.pool not in pools:
                there = f"there are {', '.join(pools)}" if pools else "there is none at all"
                yield ("topics", number, "pool"), f"there is no pool {topic.pool!r}; {there}"

    def _unwritable(self) -> Iterator[_Fault]:
        """TOML has dates and times, which not every encoding has."""
        try:
            payloads = Payloads(self.encoding, self.secret or "any")
        except ServiceConfigError as error:
            yield (error.key,), str(error)
            return
        for number, topic in enumerate(self.topics):
            for index, schedule in enumerate(topic.schedules):
                try:
                    payloads.encode(schedule.payload)
                except PayloadError as error:
                    yield ("topics", number, "schedules", index, "payload"), str(error)

    def topic(self, name: str) -> TopicConfig | None:
        """The topic of this name."""
        return next((topic for topic in self.topics if topic.name == name), None)

    def crews(self) -> dict[str, tuple[WorkersConfig, list[TopicConfig]]]:
        """Who serves what: by name of the pool or topic, how many workers, and the topics, highest first."""
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
        """The broker's, taken from the environment where it says so; a file's is absolute."""
        url = from_environment(self.broker, "broker")
        parts = urlsplit(url)
        if parts.scheme != "sqlite" or parts.netloc or len(parts.path) < 2 or not self._directory:
            return url
        path = os.path.join(self._directory, unquote(parts.path[1:]))
        return f"sqlite:///{quote(path)}" + (f"?{parts.query}" if parts.query else "")

    @property
    def directory(self) -> str:
        """Where its file is, and so its modules; without a file, the working directory."""
        return self._directory or os.getcwd()


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
            f"{key}: {value!r}: there is no variable {value[4:]} in the environment", key=key
        )
    return found


def known_keys(path: tuple[str | int, ...]) -> list[str]:
    """The keys of the table at a path that exists, such as `("topics", 0)`."""
    model: type[BaseModel] = ServiceConfig
    for part in path:
        if isinstance(part, str):
            model = next(_models(model.model_fields[part].annotation))
    return list(model.model_fields)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inside in get_args(annotation):
        yield from _models(inside)
