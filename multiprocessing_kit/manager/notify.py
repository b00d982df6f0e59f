"""The service manager's protocol (sd_notify(3)): READY, STOPPING, RELOADING, WATCHDOG, STATUS."""

from __future__ import annotations

import logging
import os
import socket
import time

__all__ = ["Notifier"]

_log = logging.getLogger("multiprocessing_kit.manager")


class Notifier:
    """Tells systemd, or whoever set `NOTIFY_SOCKET`; nothing where nobody did.

    Attributes:
        interval: Seconds between two signs of life that are asked for; None for none.
    """

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        microseconds = os.environ.get("WATCHDOG_USEC", "")
        meant = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        wanted = bool(self._address) and meant and microseconds.isdigit()
        self.interval = int(microseconds) / 1e6 / 3 if wanted else None
        self._next = 0.0

    def ready(self, status: str) -> None:
        """The workers are there, after a start or a reload."""
        self._send(f"READY=1\nMAINPID={os.getpid()}\nSTATUS={status}")

    def reloading(self) -> None:
        """New code or settings are taken."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The end has begun."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """A sign of life, if it is time for one."""
        if self.interval is not None and time.monotonic() >= self._next:
            self._next = time.monotonic() + self.interval
            self._send("WATCHDOG=1")

    def timeout(self) -> float | None:
        """Seconds to the next sign of life; None for never."""
        return None if self.interval is None else max(0.0, self._next - time.monotonic())

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto(message.encode(), self._address)
        except OSError as error:
            _log.warning("cannot tell %s at %r: %s", message.partition("\n")[0], self._address, error)
