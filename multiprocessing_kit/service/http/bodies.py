"""Request bodies: how large, how long they may take, and what becomes of those that nobody reads."""

from __future__ import annotations

import asyncio
import contextlib
import time
from email.utils import formatdate

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from multiprocessing_kit.service.http.answers import problem

__all__ = ["BodyLimit", "Linger"]

_LINGER_SECONDS = 2.0
_BODY_SECONDS = 30.0


class Linger:
    """Closes a connection whose request was answered before all of it was there, so that the answer arrives.

    Closing while the client still sends makes its system drop what it has received, the answer included; so
    what it sends is thrown away for a moment, and then the connection is closed.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As an ASGI application."""
        headers = dict(scope["headers"])
        is_whole = b"transfer-encoding" not in headers and headers.get(b"content-length", b"0") == b"0"

        async def heard() -> Message:
            nonlocal is_whole
            message = await receive()
            is_whole = is_whole or not message.get("more_body", False)
            return message

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                more = [(b"date", formatdate(usegmt=True).encode())]
                if not is_whole:
                    more.append((b"connection", b"close"))
                message = {**message, "headers": [*message["headers"], *more]}
            elif not is_whole and not message.get("more_body", False):
                await send({**message, "more_body": True})
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(drained(), _LINGER_SECONDS)
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        async def drained() -> None:
            while not is_whole:
                await heard()

        await self._app(scope, heard, answer)


class BodyLimit:
    """Answers 413 to bodies that are too large, and 408 to those that take too long.

    Args:
        app: Who gets the others.
        limit: Bytes.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit
        self._too_large = f"the body has more than {limit} bytes"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As an ASGI application."""
        headers = dict(scope["headers"])
        length = int(headers.get(b"content-length", b"0"))  # h11 lets digits through, and nothing else
        if length > self._limit:
            return await problem(413, self._too_large)(scope, receive, send)
        until = time.monotonic() + _BODY_SECONDS
        size = 0
        is_whole = False

        async def counted() -> Message:
            nonlocal size, is_whole
            if is_whole:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, until - time.monotonic()))
            except asyncio.TimeoutError:
                raise HTTPException(408, f"the body was not there in {_BODY_SECONDS:g} s") from None
            size += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if size > self._limit:
                raise HTTPException(413, self._too_large)
            return message

        return await self._app(scope, counted, send)
