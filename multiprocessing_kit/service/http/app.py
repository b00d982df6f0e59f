"""The paths, and what each does."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from multiprocessing_kit.errors import BrokerError, BrokerUnavailableError, PayloadError, ServiceConfigError
from multiprocessing_kit.service.brokers.base import Broker
from multiprocessing_kit.service.config import HttpConfig, ServiceConfig
from multiprocessing_kit.service.config_fields import from_environment
from multiprocessing_kit.service.http.access import AccessLog, Token
from multiprocessing_kit.service.http.answers import answer, problem
from multiprocessing_kit.service.http.bodies import BodyLimit, Linger
from multiprocessing_kit.service.http.calls import Calls, push
from multiprocessing_kit.service.http.connections import Guard
from multiprocessing_kit.service.http.metrics import Metrics
from multiprocessing_kit.service.http.openapi import LONGEST_WAIT, description
from multiprocessing_kit.service.http.requests import WrongRequestError, jobs_of
from multiprocessing_kit.service.job import Backlog, Job
from multiprocessing_kit.service.topic_config import TopicConfig

__all__ = ["Door", "token_of"]

_FIRST_LOOK, _LONGEST_LOOK = 0.01, 1.0
_HEALTH_SECONDS = 1.0
"""An answer about health holds so long: who needs no token must not be able to load the broker."""

_LEAST_TOKEN = 8

_log = logging.getLogger("multiprocessing_kit.service")


def token_of(http: HttpConfig) -> str:
    """The token, taken from the environment where the configuration says so.

    Raises:
        ServiceConfigError: It is not there, or too short.
    """
    token = from_environment(http.token, "http.token").strip()  # files of secrets end in a line break
    if len(token) < _LEAST_TOKEN:
        raise ServiceConfigError(f"http.token: it has less than {_LEAST_TOKEN} characters", key="http.token")
    return token


class Door:
    """The application.

    Args:
        config: Of the service, with [http] in it.
        calls: Of its broker.
        guard: Of the connections, for the metrics.

    Attributes:
        app: For uvicorn.
    """

    def __init__(self, config: ServiceConfig, calls: Calls, guard: Guard) -> None:
        assert config.http is not None
        self._config = config
        self._payloads = config.payloads()
        self._calls = calls
        self._metrics = Metrics(config, guard)
        self._description = description(config)
        self._health: asyncio.Task[str] | None = None
        self._health_until = 0.0
        self._is_closing = False
        routes = [
            Route("/topics/{topic}/jobs", self._push, methods=["POST"]),
            Route("/jobs/{id:path}/result", self._result, methods=["GET"]),
            Route("/topics", self._topics, methods=["GET"]),
            Route("/health", self._ask_health, methods=["GET"]),
            Route("/metrics", self._tell_metrics, methods=["GET"]),
            Route("/openapi.json", self._describe, methods=["GET"]),
        ]
        handlers: dict[Any, Callable[[Request, Any], Awaitable[Response]]] = {
            HTTPException: _refused,
            ClientDisconnect: _gone,
            WrongRequestError: _wrong,
            PayloadError: _wrong,
            BrokerUnavailableError: _away,
            BrokerError: _declined,
            Exception: _failed,  # it is logged by uvicorn as well
        }
        paths = Starlette(routes=routes, exception_handlers=handlers)
        paths.router.redirect_slashes = False  # it would send clients to http:// behind a proxy with TLS
        app: ASGIApp = Linger(Token(BodyLimit(paths, config.http.body_limit), token_of(config.http)))
        self.app: ASGIApp = AccessLog(app) if config.http.access_log else app

    def close(self) -> None:
        """Who waits for a result is told that there is none yet."""
        self._is_closing = True

    # ── jobs ──────────────────────────────────────────────────────────────────────────────────────

    async def _push(self, request: Request) -> Response:
        topic = self._topic(request)
        body = await request.body()

        def made(broker: Broker) -> tuple[list[Job], bool, list[bool]]:
            jobs, is_many = jobs_of(body, topic.name, self._payloads)
            return jobs, is_many, push(broker, jobs)

        jobs, is_many, added = await self._calls(made)
        request.state.job_id = jobs[0].id if len(jobs) == 1 else f"{len(jobs)} jobs"
        ids = [job.id for job, is_added in zip(jobs, added, strict=True) if is_added]
        refused = [job.id for job, is_added in zip(jobs, added, strict=True) if not is_added]
        if not refused:
            return answer(202, {"ids": ids} if is_many else {"id": ids[0]})
        which = f"{len(refused)} of {len(jobs)} jobs have" if is_many else "the job has"
        error = f"{which} an id of a job that is not done"
        return problem(409, error, ids=ids, duplicates=refused)

    def _topic(self, request: Request) -> TopicConfig:
        name = request.path_params["topic"]
        found = self._config.topic(name)
        if found is None:
            known = ", ".join(topic.name for topic in self._config.topics)
            raise HTTPException(404, f"there is no topic {name!r:.100}; there are {known}")
        request.state.topic = found.name
        return found

    async def _result(self, request: Request) -> Response:
        job_id = request.path_params["id"]
        request.state.job_id = job_id
        seconds = _seconds(request)
        await request.body()
        gone = asyncio.ensure_future(request.receive())  # after the body, until the client goes away
        try:
            found = await self._awaited(job_id, seconds, gone)
        finally:
            gone.cancel()
        if found is None:
            return problem(404, f"job {job_id!r:.250} has no result (yet), or its topic keeps none")
        if not found["ok"]:
            return answer(200, {"id": job_id, "ok": False, "error": found["error"]})
        try:
            return answer(200, {"id": job_id, "ok": True, "result": found["body"]})
        except (TypeError, ValueError):
            return problem(406, f"the result of job {job_id!r:.250} cannot be written as JSON")

    async def _awaited(self, job_id: str, seconds: float, gone: asyncio.Future[Any]) -> dict[str, Any] | None:
        """Not in a thread: those who wait must not keep the others from the broker."""
        until = time.monotonic() + seconds
        pause = _FIRST_LOOK
        while True:
            found = await self._calls(lambda broker: self._read(broker, job_id))
            left = until - time.monotonic()
            if found is not None or left <= 0 or gone.done() or self._is_closing:
                return found
            await asyncio.wait({gone}, timeout=min(pause, left))
            pause = min(pause * 1.5, _LONGEST_LOOK)

    def _read(self, broker: Broker, job_id: str) -> dict[str, Any] | None:
        record = broker.result(job_id)
        found: dict[str, Any] | None = None if record is None else self._payloads.decode(record)
        return found

    # ── how it is ─────────────────────────────────────────────────────────────────────────────────

    async def _topics(self, _request: Request) -> Response:
        backlogs = await self._calls(self._backlogs)
        topics = [{"name": name, **asdict(backlog)} for name, backlog in backlogs.items()]
        return answer(200, {"topics": topics})

    def _backlogs(self, broker: Broker) -> dict[str, Backlog]:
        return {topic.name: broker.backlog(topic.name) for topic in self._config.topics}

    async def _ask_health(self, _request: Request) -> Response:
        now = time.monotonic()
        if self._health is None or (self._health.done() and now >= self._health_until):
            self._health = asyncio.create_task(self._look())
        # One client that goes away must not take the answer from the others.
        if error := await asyncio.shield(self._health):
            return problem(503, error, {"Retry-After": "1"})
        return answer(200, {"status": "ok"})

    async def _look(self) -> str:
        try:
            await self._calls(lambda broker: broker.backlog(self._config.topics[0].name))
        except BrokerUnavailableError:
            return "the broker does not answer"
        except Exception as error:  # whatever is wrong there: a probe needs an answer
            return f"the broker does not answer as it should: {type(error).__name__}"
        finally:
            self._health_until = time.monotonic() + _HEALTH_SECONDS
        return ""

    async def _tell_metrics(self, _request: Request) -> Response:
        backlogs: dict[str, Backlog] | None
        try:
            backlogs = await self._calls(self._backlogs)
        except BrokerUnavailableError:
            backlogs = None
        except BrokerError as error:  # it is up in vain, and who watches it is to see the other numbers
            _log.error("the jobs cannot be counted: %s", error)
            backlogs = None
        text = self._metrics.text(backlogs)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _describe(self, _request: Request) -> Response:
        return answer(200, self._description)


def _seconds(request: Request) -> float:
    query = parse_qs(request.url.query, keep_blank_values=True)
    try:
        seconds = float(query.get("wait", ["0"])[-1])
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= LONGEST_WAIT:
        text = f"wait is not a number of seconds from 0 to {LONGEST_WAIT:g}"
        raise WrongRequestError(text, [{"at": "wait", "problem": text}])
    return seconds


async def _refused(_request: Request, error: HTTPException) -> Response:
    return problem(error.status_code, error.detail, dict(error.headers or {}))


async def _gone(_request: Request, _error: ClientDisconnect) -> Response:
    """Nobody hears it, but for the access log."""
    return problem(400, "the client went away before all of its body was there")


async def _wrong(_request: Request, error: WrongRequestError | PayloadError) -> Response:
    problems = error.problems if isinstance(error, WrongRequestError) else []
    return problem(422, str(error), problems=problems)


async def _away(_request: Request, _error: BrokerUnavailableError) -> Response:
    text = "the broker cannot be reached just now; whether a push had its effect is not known"
    return problem(503, text, {"Retry-After": "1"})


async def _declined(_request: Request, error: BrokerError) -> Response:
    """It answers, and somebody has to do something: its memory is full, its password another one."""
    _log.error("a request was not done: %s", error)
    return problem(503, str(error), {"Retry-After": "1"})


async def _failed(_request: Request, _error: Exception) -> Response:
    return problem(500, "this failed here; the log tells why")
