"""A descriptor that stays, though the connection it tells of does not."""

from __future__ import annotations

import os
import selectors

from multiprocessing_kit.service.brokers.rabbitmq.wire import Wire

__all__ = ["Bell"]


class Bell:
    """Readable when the followed wire has something to receive, or while it rings by itself."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._always, writing = os.pipe()
        os.close(writing)  # so that the other end is readable, for good
        self._wire: Wire | None = None
        self._followed = -1
        self._rings = False

    def fileno(self) -> int | None:
        """An epoll's or kqueue's; None where the system has neither."""
        ask = getattr(self._selector, "fileno", None)
        return None if ask is None else ask()

    def follow(self, wire: Wire | None) -> None:
        """Tell of this wire from now on. Another may have the same descriptor as the last one."""
        if wire is self._wire and (wire is None or wire.fileno() == self._followed):
            return
        if self._followed >= 0:
            self._selector.unregister(self._followed)
        self._wire, self._followed = wire, -1 if wire is None else wire.fileno()
        if self._followed >= 0:
            self._selector.register(self._followed, selectors.EVENT_READ)

    def ring(self, rings: bool) -> None:
        """Whether to be readable by itself."""
        if rings and not self._rings:
            self._selector.register(self._always, selectors.EVENT_READ)
        elif self._rings and not rings:
            self._selector.unregister(self._always)
        self._rings = rings

    def close(self) -> None:
        """Close the descriptors."""
        self._selector.close()
        os.close(self._always)
