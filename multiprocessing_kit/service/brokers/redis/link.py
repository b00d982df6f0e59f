"""One connection to a Redis server: packed commands out, replies or this package's errors back.

redis-py opens it and logs in. Its clients are not used: what they do beside (pools, repeating a call whose
reply was lost) costs more than a command, and here nothing may be repeated unseen.
"""

from __future__ import annotations

import re
import select
import socket
import ssl
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import redis
from redis import exceptions

from multiprocessing_kit.errors import BrokerError, BrokerUnavailableError, ServiceConfigError
from multiprocessing_kit.service.brokers.redis.replies import Replies, unsent
from multiprocessing_kit.service.brokers.redis.scripts import Script

__all__ = ["RedisLink", "RedisServerAt"]

_SECONDS = 3.0
_FRESH_SECONDS = 0.01  # after its last reply a connection is taken as open
_PIECE = 1 << 16  # that is to go within the timeout
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}

_AWAY = ("LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "READONLY", "MISCONF", "NOREPLICAS", "TRYAGAIN")
"""What a server answers that cannot do it just now."""

_CODE = re.compile(r"(?:^|: -)(?!ERR )([A-Z]+) ")
"""Of an error; before Redis 7, a script's has it within its text."""


FAILURES = (exceptions.RedisError, OSError)
"""What redis-py and sockets raise."""


class RedisServerAt:
    """Where a server is, and how to connect to it.

    Args:
        url: `redis://`, `rediss://` or `unix://`, as redis-py takes it.

    Attributes:
        shown: The URL without what is secret in it.
    """

    def __init__(self, url: str) -> None:
        try:
            self.shown = _without_password(url)
            pool: Any = redis.ConnectionPool.from_url(
                url, protocol=2, socket_timeout=_SECONDS, socket_connect_timeout=_SECONDS
            )
        except (ValueError, TypeError):  # whose text may tell the password
            text = (
                f"broker {url.partition(':')[0]}://… is no URL of a Redis server, such as redis://host:6379/0"
            )
            raise ServiceConfigError(text, key="broker") from None
        parts = urlsplit(url)
        # redis-py takes it as 0. It is not told: it may be the end of a password with a slash in it.
        if parts.scheme != "unix" and not re.fullmatch(r"/?\d*", parts.path):
            text = f"broker {parts.scheme}://…: the database is a number, as in {parts.scheme}://host:6379/0"
            raise ServiceConfigError(text, key="broker")
        self._kind = pool.connection_class
        self._options = dict(pool.connection_kwargs)
        if parts.scheme != "unix":
            self._options.setdefault("socket_keepalive", True)
            if sys.platform == "linux":
                seconds = {getattr(socket, name): value for name, value in _KEEPALIVE.items()}
                self._options.setdefault("socket_keepalive_options", seconds)

    def connect(self, what: str) -> RedisLink:
        """Connect, or raise.

        Args:
            what: It is for, in an error's text.
        """
        connection = self._kind(**self._options)
        try:
            connection.connect()
        except FAILURES as error:
            raise self.failed(what, error) from error
        return RedisLink(self, connection)

    def failed(self, what: str, error: Exception) -> BrokerError:
        """One of `FAILURES`, as an error of ours."""
        if isinstance(error, exceptions.AuthenticationError):
            return BrokerError(f"{self.shown} does not let us in: {error}", broker=self.shown)
        if isinstance(error, exceptions.ResponseError):
            return self._refused(what, error)
        if isinstance(error.__context__, ssl.SSLCertVerificationError):  # redis-py has made another of it
            text = f"cannot {what} at {self.shown}: {error.__context__}"
            return BrokerError(text, broker=self.shown)
        return self._away(what, error)

    def _refused(self, what: str, error: exceptions.ResponseError) -> BrokerError:
        code = _CODE.search(str(error))
        if code and code[1] == "NOAUTH":
            return BrokerError(f"{self.shown} does not let us in: {error}", broker=self.shown)
        if code and code[1] == "OOM":
            cure = "let jobs be done or purge topics, or give it more (maxmemory)"
            text = f"cannot {what} at {self.shown}: its memory is full; {cure}"
            return BrokerError(text, broker=self.shown)
        if code and code[1] in _AWAY:
            return self._away(what, error)
        return BrokerError(f"cannot {what} at {self.shown}: {error}", broker=self.shown)

    def _away(self, what: str, error: Exception) -> BrokerUnavailableError:
        return BrokerUnavailableError(f"cannot {what} at {self.shown}: {error}", broker=self.shown)


class RedisLink:
    """An open connection, from `RedisServerAt.connect`.

    Args:
        server: Where it leads.
        connection: Of redis-py.
    """

    def __init__(self, server: RedisServerAt, connection: Any) -> None:
        self._server = server
        self._connection = connection
        self._socket: socket.socket = connection._sock
        self._replies = Replies(self._socket)
        self._used = time.monotonic()

    def call(self, what: str, *commands: Sequence[bytes]) -> list[Any]:
        """Send commands in one go, and read their replies. After an error that it raises, close it.

        Args:
            what: They are for, in an error's text.
            commands: Each as its words.
        """
        try:
            return _good(self._exchange(commands))
        except FAILURES as error:
            raise self._server.failed(what, error) from error

    def run(self, what: str, script: Script, key: bytes, *arguments: bytes, soon: bool = False) -> Any:
        """Run a script, and return its reply; see `run_all`."""
        return self.run_all(what, script, key, [arguments], soon=soon)[0]

    def run_all(
        self, what: str, script: Script, key: bytes, calls: Iterable[Sequence[bytes]], *, soon: bool = False
    ) -> list[Any]:
        """Run a script, once for each of the calls' arguments.

        Args:
            what: It is for, in an error's text.
            script: The script, which the server is told if it does not know it.
            key: Its key.
            calls: The arguments of each. The server is at one while the next is made.
            soon: Whether not to sleep until the reply, if that is a matter of some hundred microseconds.
        """
        commands: list[Sequence[bytes]] = []

        def made() -> Iterator[Sequence[bytes]]:
            for call in calls:
                commands.append([b"EVALSHA", script.sha, b"1", key, *call])
                yield commands[-1]

        try:
            replies = self._exchange(made(), soon=soon)
            # The server has started anew, or an operator has dropped the scripts: none of these has run.
            unknown = [i for i, reply in enumerate(replies) if _is_unknown(reply)]
            if unknown:
                commands = [[b"SCRIPT", b"LOAD", script.text], *(commands[i] for i in unknown)]
                _, *again = self._exchange(commands)
                for i, reply in zip(unknown, again, strict=True):
                    replies[i] = reply
            return _good(replies)
        except FAILURES as error:
            raise self._server.failed(what, error) from error

    def subscribe(self, channels: Sequence[bytes]) -> None:
        """Hear of these; returns when the server has taken note. From then on, only `drain` it."""
        try:
            self._send([b"SUBSCRIBE", *channels])
            _good([self._replies.read() for _ in channels])
            self._socket.setblocking(False)
        except FAILURES as error:
            raise self._server.failed("subscribe", error) from error

    def drain(self) -> bool:
        """Drop what was published; returns False if the connection is closed."""
        try:
            while self._socket.recv(65536):
                pass
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            pass
        return False

    def is_lost(self) -> bool:
        """Whether it was closed meanwhile, or something came that nobody has asked for."""
        if time.monotonic() - self._used < _FRESH_SECONDS:
            return False
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def fileno(self) -> int:
        """Of its socket."""
        return self._socket.fileno()

    def close(self) -> None:
        """Idempotent. In a child that was forked since, what the parent has stays open."""
        self._connection.disconnect()

    def _send(self, command: Sequence[bytes]) -> int:
        """Returns its size."""
        data = _packed(command)
        for start in range(0, len(data), _PIECE):  # the timeout is that of one call
            self._socket.sendall(data[start : start + _PIECE])
        return len(data)

    def _exchange(self, commands: Iterable[Sequence[bytes]], *, soon: bool = False) -> list[Any]:
        count = size = 0
        for command in commands:
            size += self._send(command)
            count += 1
        self._replies.unsent = unsent(self._socket) if size > _PIECE else 0
        if soon and count:
            self._replies.look()
        replies = [self._replies.read() for _ in range(count)]
        self._used = time.monotonic()
        return replies


def _good(replies: list[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


def _is_unknown(reply: object) -> bool:
    return isinstance(reply, exceptions.ResponseError) and str(reply).startswith("NOSCRIPT")


def _packed(words: Sequence[bytes]) -> bytes:
    return b"*%d\r\n%b" % (len(words), b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words]))


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    user, at, place = parts.netloc.rpartition("@")
    name = user.partition(":")[0]
    options = "&".join(
        f"{key}={value}"
        for key, values in parse_qs(parts.query).items()
        for value in values
        if "pass" not in key
    )
    who = f"{name}{at}" if name else ""
    return f"{parts.scheme}://{who}{place}{parts.path}{'?' if options else ''}{options}"
