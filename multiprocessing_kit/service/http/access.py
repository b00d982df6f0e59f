"""Who may come in, and the log of who came."""

from __future__ import annotations

import hmac
import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from multiprocessing_kit.service.http.answers import problem

__all__ = ["AccessLog", "Token"]

_OPEN = ("/health",)

_log = logging.getLogger("multiprocessing_kit.service.http")


class Token:
    """Lets those in who send the token.

    Args:
        app: For them.
        token: That they send as `Authorization: Bearer TOKEN`.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As an ASGI application."""
        if scope["path"] in _OPEN:
            return await self._app(scope, receive, send)
        scheme, _, sent = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not sent.strip():
            refusal = problem(401, "a bearer token is needed", {"WWW-Authenticate": "Bearer"})
        elif not hmac.compare_digest(sent.strip(), self._token):
            refusal = problem(403, "this is not the token")
        else:
            return await self._app(scope, receive, send)
        return await refusal(scope, receive, send)


class AccessLog:
    """A line for each request, with the topic and the job where it is about one.

    Args:
        app: Whose requests.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As an ASGI application."""
        began = time.perf_counter()
        status = 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            about = scope.get("state", {})
            _log.info(
                "%s %s %s %d %.1f ms",
                (scope.get("client") or ("-",))[0],
                scope["method"],
                scope["raw_path"].decode("ascii", "replace"),  # as it was sent: no control characters
                status,
                (time.perf_counter() - began) * 1000,
                extra={"job_id": about.get("job_id", ""), "topic": about.get("topic", "")},
            )
