"""What `service.toml` may say, checked before anything starts; see docs/service.md."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args
from urllib.parse import quote, unquote, urlsplit

from pydantic import BaseModel, Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from multiprocessing_kit.errors import PayloadError, ServiceConfigError
from multiprocessing_kit.service.config_fields import (
    Fault,
    Misfit,
    Model,
    Name,
    Reference,
    Seconds,
    from_environment,
)
from multiprocessing_kit.service.payloads import Payloads
from multiprocessing_kit.service.topic_config import PoolConfig, TopicConfig, WorkersConfig

__all__ = ["LOGS", "AlertsConfig", "HttpConfig", "ServiceConfig", "known_keys"]

_SCHEMES = ("sqlite", "redis", "rediss", "unix", "amqp", "amqps")
LOGS = ("stderr", "syslog", "journal")
_SHORTEST_TOKEN = 8


class HttpConfig(Model):
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


class AlertsConfig(Model):
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


class ServiceConfig(Model):
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
    pools: list[PoolConfig] = Field(default_factory=list)
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
        if value is None or (info.field_name == "log" and value in LOGS):
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

    def _twice(self) -> Iterator[Fault]:
        for kind, names in (
            ("topics", [topic.name for topic in self.topics]),
            ("pools", [pool.name for pool in self.pools]),
        ):
            for number, name in enumerate(names):
                if name in names[:number]:
                    yield (kind, number, "name"), f"{kind[:-1]} {name!r} is there twice"

    def _pooled(self) -> Iterator[Fault]:
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

    def _unwritable(self) -> Iterator[Fault]:
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
