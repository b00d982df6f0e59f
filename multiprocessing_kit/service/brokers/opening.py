"""From a URL to a broker."""

from __future__ import annotations

from multiprocessing_kit.errors import ServiceConfigError
from multiprocessing_kit.service.brokers.base import Broker

__all__ = ["open_broker"]


def open_broker(url: str, service: str) -> Broker:
    """The broker at a URL; it connects at its first call.

    Args:
        url: `sqlite:///relative.db`, `sqlite:////absolute.db`, `redis://…`, `rediss://…`, `unix://…` (Redis
            at a socket), `amqp://…` or `amqps://…`.
        service: Name of the service whose jobs they are.

    Raises:
        ServiceConfigError: The URL is none of these, or the client library is not installed.
    """
    scheme = url.partition(":")[0]  # nothing else of it is told: the rest may hold a password
    # Each needs a library that only its users have, or that takes long to import.
    if scheme == "sqlite":
        from multiprocessing_kit.service.brokers.sqlite.broker import SqliteBroker  # noqa: PLC0415

        return SqliteBroker(url, service)
    try:
        if scheme in ("redis", "rediss", "unix"):
            from multiprocessing_kit.service.brokers.redis.broker import RedisBroker  # noqa: PLC0415

            return RedisBroker(url, service)
        if scheme in ("amqp", "amqps"):
            from multiprocessing_kit.service.brokers.rabbitmq.broker import RabbitBroker  # noqa: PLC0415

            return RabbitBroker(url, service)
    except ModuleNotFoundError as error:
        extra = "rabbitmq" if scheme.startswith("amqp") else "redis"
        what = f"broker {scheme}://… needs {error.name}: pip install 'multiprocessing_kit[{extra}]'"
        raise ServiceConfigError(what, key="broker") from error
    what = f"broker {scheme}:… is none of sqlite:///FILE, redis://, rediss://, unix://, amqp://, amqps://"
    raise ServiceConfigError(what, key="broker")
