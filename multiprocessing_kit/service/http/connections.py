"""How many connections there may be, and how long one may keep silent.

    opened ──▶ silent ──whole request head──▶ busy ──response sent──▶ silent ──▶ closed
                 └── too long, or the oldest when others want in ──▶ closed

uvicorn waits for ever for the first request of a connection. Here each state has its time, and a program that
opens connections and sends nothing takes the places of its own connections, and not those of others.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Protocol

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["Droppable", "Guard", "guarded"]

_TOO_MANY = b'{"error": "there are too many connections"}'
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(_TOO_MANY), _TOO_MANY)
)


class Droppable(Protocol):
    """What a guard watches."""

    def drop(self) -> None:
        """Close it at once."""


class Guard:
    """Of all connections of a server.

    Args:
        most: Connections at once.
        head_seconds: For a whole request head, from the opening or the last response.
        request_seconds: For all of a request and its response.

    Attributes:
        dropped: Connections that were closed since they were silent or slow.
        refused: Connections that found no place.
    """

    def __init__(self, most: int, head_seconds: float = 10.0, request_seconds: float = 120.0) -> None:
        self._most = most
        self._head_seconds = head_seconds
        self._request_seconds = request_seconds
        # Of one and the same time each, so the first in is the first due.
        self._silent: dict[Droppable, float] = {}
        self._busy: dict[Droppable, float] = {}
        self.dropped = 0
        self.refused = 0

    def __len__(self) -> int:
        return len(self._silent) + len(self._busy)

    def opened(self, connection: Droppable) -> bool:
        """A new one; returns False if there is no place for it."""
        if len(self) >= self._most:
            oldest = next(iter(self._silent), None)
            if oldest is None:
                self.refused += 1
                return False
            self._drop(oldest)
        self._silent[connection] = time.monotonic() + self._head_seconds
        return True

    def note(self, connection: Droppable, is_busy: bool) -> None:
        """Whether it has a request that is not answered."""
        if is_busy and self._silent.pop(connection, None) is not None:
            self._busy[connection] = time.monotonic() + self._request_seconds
        elif not is_busy and self._busy.pop(connection, None) is not None:
            self._silent[connection] = time.monotonic() + self._head_seconds

    def closed(self, connection: Droppable) -> None:
        """It is gone."""
        self._silent.pop(connection, None)
        self._busy.pop(connection, None)

    def sweep(self) -> None:
        """Drop those whose time is over."""
        now = time.monotonic()
        for waiting in (self._silent, self._busy):
            while (first := next(iter(waiting), None)) is not None and waiting[first] <= now:
                self._drop(first)

    def _drop(self, connection: Droppable) -> None:
        self.closed(connection)
        self.dropped += 1
        connection.drop()


def guarded(guard: Guard) -> type[H11Protocol]:
    """uvicorn's protocol, whose connections this guard watches."""

    class Guarded(H11Protocol):
        _is_refused = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if not guard.opened(self):
                self._is_refused = True
                transport.write(_FULL)
                transport.close()

        def data_received(self, data: bytes) -> None:
            if self._is_refused:
                return
            super().data_received(data)
            self._note()

        def on_response_complete(self) -> None:
            guard.note(self, False)  # what was sent behind it begins now, and has its own time
            super().on_response_complete()
            self._note()

        def connection_lost(self, exc: Exception | None) -> None:
            guard.closed(self)
            super().connection_lost(exc)

        def drop(self) -> None:
            self.transport.abort()

        def _note(self) -> None:
            cycle: Any = self.cycle
            guard.note(self, cycle is not None and not cycle.response_complete)

    return Guarded
