"""Tells people, through apprise, what a service cannot mend by itself."""

from __future__ import annotations

import logging
import selectors
import socket
import time

from multiprocessing_kit.service.config import AlertsConfig, ServiceConfig, from_environment
from multiprocessing_kit.supervise.child import ForkedChild
from multiprocessing_kit.supervise.fork import fork_child

__all__ = ["Alerts", "send"]

_SENDING_SECONDS = 30.0

_log = logging.getLogger("multiprocessing_kit.service")


class Alerts:
    """Sends each kind of alert about each topic once in a while.

    Sending takes as long as somebody's server likes, and so a child does it.

    Args:
        config: Of the service.
        selector: Of the loop that calls `look`.
    """

    def __init__(self, config: ServiceConfig, selector: selectors.BaseSelector) -> None:
        self._config = config
        self._selector = selector
        self._told: dict[tuple[str, str], float] = {}
        self._held: dict[tuple[str, str], int] = {}
        self._children: dict[ForkedChild, float] = {}

    def tell(self, kind: str, topic: str, text: str) -> None:
        """Something is wrong; nothing is sent if the like was told not long ago.

        Args:
            kind: "backlog", "dead", "broker" or "worker".
            topic: Whose; or the name of a pool.
            text: What, in words.
        """
        key = (kind, topic)
        now = time.monotonic()
        alerts = self._config.alerts
        every = 600.0 if alerts is None else alerts.every
        if key in self._told and now - self._told[key] < every:
            self._held[key] = self._held.get(key, 0) + 1
            return
        self._told[key] = now
        if held := self._held.pop(key, 0):
            text = f"{text} (and {held} more since the last alert)"
        _log.error("alert %s %s: %s", kind, topic, text)
        if alerts is None:
            return
        service = self._config.name
        child = fork_child(
            lambda _: send(alerts, service, kind, topic, text), title=f"mpkit: {service} alert"
        )
        self._selector.register(child, selectors.EVENT_READ, _nothing)
        self._children[child] = now + _SENDING_SECONDS

    def look(self) -> None:
        """Bury those that have sent, and end those that take too long."""
        for child, until in list(self._children.items()):
            if child.poll():
                self._selector.unregister(child)
                del self._children[child]
                child.close()
            elif time.monotonic() > until:
                child.kill()

    def close(self) -> None:
        """Let what is being sent go out, for a moment."""
        for child in list(self._children):
            if not child.wait(2.0):
                child.kill()
                child.wait()
        self.look()


def send(alerts: AlertsConfig, service: str, kind: str, topic: str, text: str) -> int:
    """Send one to all; returns 0, or 1 if one of them could not be reached, which is logged."""
    import apprise  # noqa: PLC0415  # slow to import, and seldom needed

    words = {"service": service, "kind": kind, "topic": topic, "text": text, "host": socket.gethostname()}
    status = 0
    for number, url in enumerate(alerts.urls):
        to = apprise.Apprise()
        added = to.add(from_environment(url, f"alerts.urls.{number}"))
        if not added or not to.notify(title=alerts.title.format(**words), body=alerts.body.format(**words)):
            # The URL holds a password as a rule.
            _log.error("alerts.urls.%d (%s…) did not take the alert", number, url.partition(":")[0])
            status = 1
    return status


def _nothing() -> None:
    """The loop calls `look` anyway."""
