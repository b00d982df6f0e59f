"""Tells people, through apprise, what a service cannot mend by itself.

consumer: tell ──▶ told not long ago? (a file for each thing, which all consumers of this host share)
             └──▶ a child that sends, for it takes as long as somebody's server likes
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import math
import os
import re
import selectors
import socket
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from multiprocessing_kit.errors import ServiceConfigError
from multiprocessing_kit.service.config import AlertsConfig, ServiceConfig
from multiprocessing_kit.service.config_fields import from_environment
from multiprocessing_kit.service.paths import Paths
from multiprocessing_kit.supervise.child import ForkedChild
from multiprocessing_kit.supervise.fork import fork_child

__all__ = ["Alerts", "send", "wrong_url"]

_SENDING_SECONDS = 30.0
_EVERY_SECONDS = 600.0

_log = logging.getLogger("multiprocessing_kit.service")


class Alerts:
    """Sends each kind of alert about each topic once in a while.

    Args:
        config: Of the service.
        selector: Of the loop that calls `look`.
    """

    def __init__(self, config: ServiceConfig, selector: selectors.BaseSelector) -> None:
        self._config = config
        self._selector = selector
        self._paths = Paths(config)
        self._every = _EVERY_SECONDS if config.alerts is None else config.alerts.every
        self._not_before: dict[tuple[str, str], float] = {}
        self._held: dict[str, tuple[int, str]] = {}
        self._children: dict[ForkedChild, float] = {}

    def tell(self, kind: str, topic: str, text: str) -> None:
        """Something is wrong; nothing is sent if the like was told not long ago.

        Dead letters that come meanwhile are counted, and told of later.

        Args:
            kind: "backlog", "dead", "broker" or "worker".
            topic: Whose; or the name of a pool. The broker is everybody's: it is told of once.
            text: What, in words.
        """
        topic = "" if kind == "broker" else topic
        if self._claim(kind, topic):
            self._send(kind, topic, text)
        elif kind == "dead":
            count, _ = self._held.get(topic, (0, ""))
            self._held[topic] = (count + 1, text)

    def look(self) -> None:
        """Tell what was held back, bury those that have sent, and end those that take too long."""
        for topic, (count, text) in list(self._held.items()):
            if self._claim("dead", topic):
                del self._held[topic]
                self._send("dead", topic, f"{count} more since the last alert, the last of them {text}")
        for child, until in list(self._children.items()):
            if child.poll():
                self._selector.unregister(child)
                del self._children[child]
                child.close()
            elif time.monotonic() > until:
                _log.error("an alert was not taken in %g s", _SENDING_SECONDS)
                self._children[child] = math.inf
                child.kill()

    def close(self) -> None:
        """Let what is being sent go out, for a moment."""
        for child in list(self._children):
            if not child.wait(2.0):
                child.kill()
                child.wait()
        self.look()

    def _claim(self, kind: str, topic: str) -> bool:
        """Whether it is to be told now; then nobody else on this host tells it for a while."""
        now = time.monotonic()
        if now < self._not_before.get((kind, topic), 0.0):
            return False
        left = _seconds_left(self._paths.alert(kind, topic), self._every)
        self._not_before[kind, topic] = now + (left or self._every)
        return left == 0

    def _send(self, kind: str, topic: str, text: str) -> None:
        alerts, service = self._config.alerts, self._config.name
        _log.error("alert: %s: %s", f"{kind} {topic}".strip(), text)
        if alerts is None:
            return
        child = fork_child(
            lambda _: _in_child(alerts, service, kind, topic, text), title=f"mpkit: {service} alert"
        )
        self._selector.register(child, selectors.EVENT_READ, _nothing)
        self._children[child] = time.monotonic() + _SENDING_SECONDS


def send(alerts: AlertsConfig, service: str, kind: str, topic: str, text: str) -> int:
    """Send one to all; returns 0, or 1 if one of them could not be reached, which is logged.

    What apprise logs is kept for that, and goes nowhere else: there may be passwords and tokens in it.
    """
    words = {"service": service, "kind": kind, "topic": topic, "text": text, "host": socket.gethostname()}
    title, body = alerts.title.format(**words).strip(), alerts.body.format(**words)
    status = 0
    for number, configured in enumerate(alerts.urls):
        key, url = f"alerts.urls.{number}", ""
        try:
            url = from_environment(configured, key)
            why = _sent(url, title, body)
        except ServiceConfigError as error:
            why = str(error)
        except Exception as error:  # whatever a plugin of apprise raises
            why = f"{type(error).__name__}: {error}"
        if why:
            # The URL holds a password or a token as a rule.
            _log.error("%s (%s) did not take the alert: %s", key, _scheme(url), _without(url, why))
            status = 1
    return status


def wrong_url(url: str) -> str:
    """What is wrong with it, without what may be secret in it; "" if apprise takes it. Nothing is sent."""
    try:
        with _apprise() as (to, _):
            takes = to.add(url)
    except ModuleNotFoundError as error:
        return f"alerts need {error.name}: pip install 'multiprocessing_kit[service]'"
    return "" if takes else f"apprise takes no such URL ({_scheme(url)}); one is json://host/path"


def _sent(url: str, title: str, body: str) -> str:
    """Send it; returns why it was not, "" if it was."""
    with _apprise() as (to, said):
        is_sent = to.add(url) and to.notify(title=title, body=body)
    return "" if is_sent else "; ".join(said) or "it was refused"


@contextlib.contextmanager
def _apprise() -> Iterator[tuple[Any, list[str]]]:
    """One that has no URLs yet, and what apprise logs meanwhile."""
    with warnings.catch_warnings(), _overheard("apprise") as said:
        warnings.simplefilter("ignore")  # of apprise and its libraries, which their users cannot mend
        import apprise  # noqa: PLC0415  # slow to import, and seldom needed

        yield apprise.Apprise(), said


def _in_child(alerts: AlertsConfig, service: str, kind: str, topic: str, text: str) -> int:
    for handler in logging.getLogger().handlers:
        handler.addFilter(logging.Filter("multiprocessing_kit"))  # other libraries log URLs
    return send(alerts, service, kind, topic, text)


def _seconds_left(path: Path, every: float) -> float:
    """Until the thing that a file stands for may be told again; 0.0 for now, which is noted in it."""
    try:
        with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return min(every, 1.0)  # another consumer is about to tell it
            now = time.time()
            since = now - _number(file.read())
            if 0 <= since < every:
                return every - since
            file.seek(0)
            file.truncate()
            file.write(f"{now}")
    except OSError as error:
        _log.warning("cannot note the alert: %s", error)  # told twice is better than never
    return 0.0


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -math.inf


@contextlib.contextmanager
def _overheard(name: str) -> Iterator[list[str]]:
    """What a library logs, for as long as it lasts, in place of where it would go."""
    logger = logging.getLogger(name)
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    before = logger.propagate, logger.handlers
    logger.propagate, logger.handlers = False, [handler]
    try:
        yield said
    finally:
        logger.propagate, logger.handlers = before


def _scheme(url: str) -> str:
    return url.partition(":")[0] if "://" in url else "no URL"


def _without(url: str, text: str) -> str:
    """The text without all that the URL consists of."""
    rest = url.partition(":")[2]
    parts = {part for one in (rest, unquote(rest)) for part in re.split(r"[/:@?&=,;\s]+", one)}
    for part in sorted(parts, key=len, reverse=True):
        if len(part) > 2:
            text = text.replace(part, "…")
    return text


def _nothing() -> None:
    """The loop calls `look` anyway."""
