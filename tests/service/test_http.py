"""The HTTP door: what it takes, what it refuses, and that it outlives those who are up to no good."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from uvicorn.server import ServerState

from benchmarks.servers import RedisServer, redis_server
from multiprocessing_kit.service.brokers.sqlite.broker import SqliteBroker
from multiprocessing_kit.service.config_file import load_config
from multiprocessing_kit.service.http import bodies
from multiprocessing_kit.service.http.connections import Guard, guarded
from multiprocessing_kit.service.job import Job, Outcome, Settlement
from multiprocessing_kit.service.paths import Paths
from multiprocessing_kit.service.payloads import Payloads
from multiprocessing_kit.service.stats import Stats
from multiprocessing_kit.service.topic_config import TopicConfig
from tests.folders import PATIENCE, until
from tests.service.doors import TOKEN, Door


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """One that runs, for tests that do not hurt it."""
    with Door(tmp_path_factory.mktemp("door"), http="access_log = true") as found:
        yield found.run()


@pytest.fixture
def broker(door: Door) -> Iterator[SqliteBroker]:
    """Its broker, with nothing in it."""
    with SqliteBroker(door.broker, "shop") as found:
        for topic in ("mail", "image"):
            found.purge(topic)
        yield found


# ── who may come in ───────────────────────────────────────────────────────────────────────────────


def test_a_token_with_a_line_break(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_OF_THE_TEST", f"{TOKEN}\n")
    with Door(tmp_path) as door:
        path = tmp_path / "service.toml"
        path.write_text(path.read_text().replace(TOKEN, "env:TOKEN_OF_THE_TEST"))
        door.run()
        assert door.ask("GET", "/topics").status_code == 200


# ── what is refused ───────────────────────────────────────────────────────────────────────────────

JOBS = "/topics/mail/jobs"
LARGE = b'{"argument": "' + b"x" * 10_000_000 + b'"}'


def chunked(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), 65536):
        yield body[start : start + 65536]


def request(method: str, path: str, token: str | None = TOKEN, **more: Any) -> dict[str, Any]:
    return {"method": method, "path": path, "token": token, **more}


REFUSED = {
    "no token": (request("GET", "/topics", None), 401, "token is needed"),
    "no token, path unknown": (request("GET", "/nowhere", None), 401, "token is needed"),
    "no token, large body": (request("POST", JOBS, None, content=LARGE), 401, "token is needed"),
    "another scheme": (request("GET", "/topics", None, auth=("me", TOKEN)), 401, "token is needed"),
    "empty token": (
        request("GET", "/topics", None, headers={"Authorization": "Bearer"}),
        401,
        "token is needed",
    ),
    "wrong token": (request("GET", "/topics", "wrong"), 403, "not the token"),
    "a bit of the token": (request("GET", "/topics", TOKEN[:-1]), 403, "not the token"),
    "wrong token for metrics": (request("GET", "/metrics", "wrong"), 403, "not the token"),
    "wrong token, large body": (request("POST", JOBS, "wrong", content=LARGE), 403, "not the token"),
    "10 MB": (request("POST", JOBS, content=LARGE), 413, "more than 1000000 bytes"),
    "10 MB, unknown topic": (request("POST", "/topics/x/jobs", content=LARGE), 413, "more than 1000000"),
    "10 MB in pieces": (request("POST", JOBS, content=(LARGE, chunked)), 413, "more than 1000000"),
    "invalid JSON": (request("POST", JOBS, content=b"{"), 422, "no JSON"),
    "empty body": (request("POST", JOBS, content=b""), 422, "no JSON"),
    "not UTF-8": (request("POST", JOBS, content=b'"\xff"'), 422, "no JSON"),
    "too deep": (request("POST", JOBS, content=b"[" * 200_000), 422, "no JSON"),
    "not a number": (request("POST", JOBS, content=b'{"argument": NaN}'), 422, "NaN is no JSON"),
    "half a character": (request("POST", JOBS, content=b'{"argument": "\\ud800"}'), 422, "cannot be written"),
    "neither object nor array": (request("POST", JOBS, json="x"), 422, "neither an object nor an array"),
    "no jobs": (request("POST", JOBS, json=[]), 422, "the body is wrong: there is no job in the array"),
    "too many jobs": (request("POST", JOBS, json=[{}] * 10_001), 422, "at most 10000 items"),
    "unknown field": (request("POST", JOBS, json={"to": "x"}), 422, "to: there is no such field"),
    "in the second job": (request("POST", JOBS, json=[{}, {"to": 1}]), 422, "1.to: there is no such field"),
    "delay is text": (request("POST", JOBS, json={"delay": "5"}), 422, "delay: "),
    "delay below 0": (request("POST", JOBS, json={"delay": -1}), 422, "delay: "),
    "delay and at": (request("POST", JOBS, json={"delay": 1, "at": 1}), 422, "one of them must go"),
    "at without zone": (request("POST", JOBS, json={"at": "2030-01-31T08:00:00"}), 422, "at: it is neither"),
    "at below 0": (request("POST", JOBS, json=[{"at": -1}]), 422, "wrong: 0.at: it is neither"),
    "at is a list": (request("POST", JOBS, json={"at": []}), 422, "at: it is neither"),
    "at is no time": (request("POST", JOBS, json={"at": "tomorrow"}), 422, "neither seconds since 1970"),
    "priority too high": (request("POST", JOBS, json={"priority": 101}), 422, "priority: "),
    "priority is true": (request("POST", JOBS, json={"priority": True}), 422, "priority: "),
    "id is empty": (request("POST", JOBS, json={"id": ""}), 422, "id: "),
    "id is long": (request("POST", JOBS, json={"id": "x" * 201}), 422, "id: "),
    "id with a line break": (request("POST", JOBS, json={"id": "a\nb"}), 422, "cannot be printed"),
    "unknown topic": (request("POST", "/topics/x/jobs", json={}), 404, "there are mail, image"),
    "unknown path": (request("GET", "/nowhere"), 404, "Not Found"),
    "a slash too many": (request("POST", f"{JOBS}/", json={}), 404, "Not Found"),
    "another method": (request("GET", JOBS), 405, "Method Not Allowed"),
    "no result": (request("GET", "/jobs/none/result"), 404, "no result"),
    "wait is text": (request("GET", "/jobs/none/result?wait=x"), 422, "wait is not"),
    "wait is too long": (request("GET", "/jobs/none/result?wait=61"), 422, "from 0 to 60"),
    "wait is no number": (request("GET", "/jobs/none/result?wait=nan"), 422, "from 0 to 60"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_it_refuses(door: Door, broker: SqliteBroker, what: str) -> None:
    asked, status, text = REFUSED[what]
    content = asked.get("content")
    if isinstance(content, tuple):
        body, split = content
        asked = {**asked, "content": split(body)}
    answer = door.ask(**asked)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert text in answer.json()["error"]
    assert ("www-authenticate" in answer.headers) == (status == 401)
    assert broker.backlog("mail").ready == broker.backlog("mail").delayed == 0
    assert door.ask("GET", "/health").status_code == 200


@pytest.mark.parametrize("length", ["Content-Length: 10000000", "Transfer-Encoding: chunked"])
def test_a_large_body_is_not_read_and_the_connection_closed(door: Door, length: str) -> None:
    with door.socket() as ours:
        ours.sendall(
            f"POST {JOBS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n{length}\r\n".encode()
        )
        if "chunked" in length:
            ours.sendall(b"\r\n%x\r\n%s" % (1_500_000, b"x" * 1_100_000))
        else:
            ours.sendall(b"Expect: 100-continue\r\n\r\n")
        answer = received(ours)  # to its end: though we have sent only a part
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"\r\nconnection: close\r\n" in answer


@pytest.mark.parametrize(
    "begun", [b"Content-Length: 50\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\nno chunk\r\n"]
)
def test_who_goes_away_in_the_midst_of_a_body_is_no_error_of_ours(door: Door, begun: bytes) -> None:
    before = door.log.count(f"POST {JOBS} 400 ")
    with door.socket() as ours:
        ours.sendall(f"POST {JOBS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n".encode() + begun)
    until(lambda: door.log.count(f"POST {JOBS} 400 ") > before, "a line of the access log")
    assert "Traceback" not in door.log


def test_a_body_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "_BODY_SECONDS", 0.01)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

    async def nothing() -> Message:
        await asyncio.sleep(PATIENCE)
        raise AssertionError

    async def send(message: Message) -> None:
        raise AssertionError

    scope = {"type": "http", "headers": [(b"content-length", b"5")]}
    with pytest.raises(Exception, match="408"):
        asyncio.run(bodies.BodyLimit(app, 10)(scope, nothing, send))


def received(ours: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    found = b""
    while data := ours.recv(65536):
        found += data
    return found


# ── jobs ──────────────────────────────────────────────────────────────────────────────────────────


def reserved(broker: SqliteBroker) -> list[Job]:
    broker.join("test", ["image", "mail"], 60.0)
    return [delivery.job for delivery in broker.reserve(100)]


def test_a_push(door: Door, broker: SqliteBroker) -> None:
    answer = door.ask("POST", JOBS, json={"argument": {"to": "ä"}, "priority": 7})
    assert answer.status_code == 202
    (job,) = reserved(broker)
    assert answer.json() == {"id": job.id}
    assert (job.topic, job.priority, job.due, job.is_unique) == ("mail", 7, 0.0, False)
    assert Payloads().decode(job.payload) == {"to": "ä"}


def test_a_push_of_several(door: Door, broker: SqliteBroker) -> None:
    later = datetime(2050, 1, 1, 12, 0, tzinfo=timezone.utc)
    jobs: list[dict[str, Any]] = [
        {"argument": 1},
        {"argument": 2, "id": "two"},
        {"argument": 3, "delay": 1000},
        {"argument": 4, "at": later.timestamp()},
        {"argument": 5, "at": "2050-01-01T13:00:00+01:00"},
        {"argument": 6, "at": "2050-01-01T12:00:00Z"},
    ]
    before = time.time()
    answer = door.ask("POST", "/topics/image/jobs", json=jobs)
    assert answer.status_code == 202
    ids = answer.json()["ids"]
    assert len(set(ids)) == 6
    assert ids[1] == "two"
    assert [Payloads().decode(job.payload) for job in reserved(broker)] == [1, 2]
    assert broker.backlog("image").delayed == 4
    with broker.database.reading("look") as database:
        rows = database.execute("SELECT id, due FROM jobs WHERE state = 1").fetchall()
    due = {key.removeprefix("shop/"): instant for key, instant in rows}
    assert before + 1000 <= due[ids[2]] <= time.time() + 1000
    assert due[ids[3]] == due[ids[4]] == due[ids[5]] == later.timestamp()


def test_duplicates(door: Door, broker: SqliteBroker) -> None:
    assert door.ask("POST", JOBS, json={"id": "invoice 7/2030"}).json() == {"id": "invoice 7/2030"}
    once_more = door.ask("POST", JOBS, json={"id": "invoice 7/2030"})
    assert (once_more.status_code, once_more.json()["duplicates"]) == (409, ["invoice 7/2030"])
    several = door.ask("POST", JOBS, json=[{"id": "8"}, {"id": "invoice 7/2030"}, {"id": "8"}])
    assert several.status_code == 409
    assert (several.json()["ids"], several.json()["duplicates"]) == (["8"], ["invoice 7/2030", "8"])
    assert sorted(job.id for job in reserved(broker)) == ["8", "invoice 7/2030"]


WAITING = (
    b"GET /jobs/none/result?wait=60 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n" % TOKEN.encode()
)

RESULTS = [
    ({"ok": True, "body": [1, "ä", None]}, {"ok": True, "result": [1, "ä", None]}),
    ({"ok": False, "error": "ValueError: no"}, {"ok": False, "error": "ValueError: no"}),
]


@pytest.mark.parametrize(("kept", "told"), RESULTS)
def test_a_result(door: Door, broker: SqliteBroker, kept: object, told: dict[str, Any]) -> None:
    job_id = door.ask("POST", JOBS, json={"id": f"a/b {told['ok']}"}).json()["id"]
    path = f"/jobs/a%2Fb%20{told['ok']}/result"
    assert door.ask("GET", path).status_code == 404
    with door.socket() as ours:
        ours.sendall(
            f"GET {path}?wait=60 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        broker.join("test", ["mail"], 60.0)
        (delivery,) = broker.reserve(1)
        broker.settle([Settlement(delivery, Outcome.ACK, Payloads().encode(kept), 60.0)])
        head, _, body = received(ours).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert json.loads(body) == {"id": job_id, **told}
    assert door.ask("GET", path).json() == {"id": job_id, **told}


def test_a_result_that_is_no_json(door: Door, broker: SqliteBroker) -> None:
    door.ask("POST", JOBS, json={"id": "nan"})
    broker.join("test", ["mail"], 60.0)
    (delivery,) = broker.reserve(1)
    result = Payloads().encode({"ok": True, "body": float("nan")})
    broker.settle([Settlement(delivery, Outcome.ACK, result, 60.0)])
    assert door.ask("GET", "/jobs/nan/result").status_code == 406


def test_who_waits_keeps_nobody_out(door: Door, broker: SqliteBroker) -> None:
    """More of them than there are threads; and they may go away before the time is over."""
    ended = "GET /jobs/none/result 404"
    before = door.log.count(ended)
    waiting = [door.socket() for _ in range(20)]
    try:
        for ours in waiting:
            ours.sendall(WAITING)
        for number in range(20):
            assert door.ask("POST", JOBS, json={"argument": number}).status_code == 202
    finally:
        for ours in waiting:
            ours.close()
    assert len(reserved(broker)) == 20
    until(lambda: door.metric("mpkit_http_connections") == 1, "nobody else")
    until(lambda: door.log.count(ended) >= before + 20, "the end of their requests", 50.0)  # and not in 60 s


@pytest.mark.timeout(240)
def test_with_its_service(tmp_path: Path) -> None:
    with Door(tmp_path) as door:
        door.run()
        door.command("start", "-d", of="service")
        job_id = door.ask("POST", JOBS, json={"argument": "/a/b"}).json()["id"]
        found = door.ask("GET", f"/jobs/{job_id}/result?wait=40")
        assert found.json() == {"id": job_id, "ok": True, "result": "b"}
        until(lambda: done_by(door) == 1, "the consumer to tell")
        assert door.metric('mpkit_consumer_up{crew="mail"}') == 1
        assert door.metric('mpkit_workers{crew="mail",state="idle"}') == 1
        door.command("stop", of="service")
        assert door.metric('mpkit_consumer_up{crew="mail"}') == 0


def done_by(door: Door) -> float:
    name = 'mpkit_jobs_done_total{topic="mail"}'
    return door.metric(name) if name in door.ask("GET", "/metrics").text else 0.0


# ── how it is ─────────────────────────────────────────────────────────────────────────────────────


def test_topics_and_metrics(door: Door, broker: SqliteBroker) -> None:
    door.ask("POST", JOBS, json=[{}, {}, {"delay": 1000}])
    found = {topic["name"]: topic for topic in door.ask("GET", "/topics").json()["topics"]}
    assert list(found) == ["mail", "image"]
    assert found["mail"].pop("oldest") >= 0
    assert found["mail"] == {"name": "mail", "ready": 2, "delayed": 1, "running": 0, "dead": 0}
    assert door.metric("mpkit_broker_up") == 1
    assert door.metric('mpkit_jobs{topic="mail",state="ready"}') == 2
    assert door.metric('mpkit_jobs{topic="mail",state="delayed"}') == 1
    assert door.metric('mpkit_oldest_job_seconds{topic="mail"}') > 0
    assert door.metric('mpkit_consumer_up{crew="mail"}') == 0


def test_metrics_of_consumers(door: Door, broker: SqliteBroker) -> None:
    broker.push([Job(str(number), "mail", b"jnull") for number in range(3)])
    broker.join("test", ["mail"], 60.0)
    deliveries = broker.reserve(3)
    topic = TopicConfig(name="mail", worker="os.path:basename")
    stats = Stats(Paths(load_config(door.folder / "service.toml")).stats("mail"), [topic])
    for delivery, outcome in zip(deliveries, (Outcome.ACK, Outcome.ACK, Outcome.DEAD), strict=True):
        stats.count(Settlement(delivery, outcome))
    stats.write([], 1, False, [])
    assert door.metric('mpkit_jobs_done_total{topic="mail"}') == 2
    assert door.metric('mpkit_jobs_dead_total{topic="mail"}') == 1
    assert door.metric('mpkit_jobs_retried_total{topic="mail"}') == 0
    assert door.metric('mpkit_consumer_up{crew="mail"}') == 1
    stats.close()
    assert door.metric('mpkit_consumer_up{crew="mail"}') == 0


def test_metrics_are_as_prometheus_wants_them(door: Door) -> None:
    answer = door.ask("GET", "/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    sample = re.compile(r'[a-z_]+(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? [-+0-9.e]+')
    lines = answer.text.splitlines()
    comments = [line for line in lines if line.startswith("#")]
    assert all(sample.fullmatch(line) for line in lines if line not in comments)
    names = [line.split()[2] for line in comments if line.startswith("# TYPE")]
    assert len(set(names)) == len(names)
    assert answer.text.endswith("\n")


def test_the_description(door: Door) -> None:
    found = door.ask("GET", "/openapi.json").json()
    assert found["openapi"].startswith("3.1")
    assert set(found["paths"]) == {
        "/topics/{topic}/jobs",
        "/jobs/{id}/result",
        "/topics",
        "/health",
        "/metrics",
        "/openapi.json",
    }
    (topic,) = found["paths"]["/topics/{topic}/jobs"]["post"]["parameters"]
    assert topic["schema"]["enum"] == ["mail", "image"]
    assert set(found["components"]["schemas"]["Job"]["properties"]) == {
        "argument",
        "delay",
        "at",
        "priority",
        "id",
    }
    told = {
        (path, method): set(one["responses"])
        for path, ways in found["paths"].items()
        for method, one in ways.items()
    }
    assert all({"401", "403"} <= statuses for (path, _), statuses in told.items() if path != "/health")
    assert set(found["components"]["schemas"]["Problem"]["properties"]) == {
        "error",
        "problems",
        "ids",
        "duplicates",
    }
    for reference in re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(found)):
        place: Any = found
        for part in reference.split("/"):
            place = place[part]


def test_health_needs_no_token(door: Door) -> None:
    assert door.ask("GET", "/health", token=None).json() == {"status": "ok"}


def test_the_access_log(door: Door, broker: SqliteBroker) -> None:
    job_id = door.ask("POST", JOBS, json={}).json()["id"]
    door.ask("GET", "/jobs/x%0Ay/result")
    line = until(lambda: [one for one in door.log.splitlines() if job_id in one], "a line with the job's id")[
        0
    ]
    assert "mail" in line.replace(JOBS, "")
    assert f"POST {JOBS} 202" in line
    lines = until(lambda: [one for one in door.log.splitlines() if "/jobs/x%0Ay/result" in one], "a line")
    assert " 404 " in lines[0]
    assert TOKEN not in door.log


# ── the broker away ───────────────────────────────────────────────────────────────────────────────


def test_a_locked_file(tmp_path: Path) -> None:
    with Door(tmp_path) as door, SqliteBroker(door.broker, "shop") as broker:
        door.run()
        with broker.database.transaction("lock"):
            answer = door.ask("POST", JOBS, json={"id": "one"})
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert door.ask("GET", "/health").status_code == 200  # it can be read
        assert door.ask("POST", JOBS, json={"id": "one"}).status_code == 202
        assert "access" not in door.log
        assert "POST" not in door.log  # no access log unless it is wanted
        assert len(re.findall("the broker is away", door.log)) == 1
        assert len(re.findall("the broker is back", door.log)) == 1


def test_a_server_whose_memory_is_full(tmp_path: Path) -> None:
    """The client reads what is wrong, for it is nothing of its own; what needs no memory goes on."""
    with (
        redis_server(tmp_path / "redis", maxmemory="1") as redis,
        Door(tmp_path, broker=redis.url) as door,
    ):
        door.run()
        declined = door.ask("POST", JOBS, json={})
        assert (declined.status_code, declined.headers["Retry-After"]) == (503, "1")
        assert re.search("its memory is full; .*maxmemory", declined.json()["error"])
        until(lambda: "its memory is full" in door.log, "a line in the log")
        assert door.ask("GET", "/health").status_code == 200
        assert [topic["ready"] for topic in door.ask("GET", "/topics").json()["topics"]] == [0, 0]


def test_a_server_that_does_not_let_us_in(tmp_path: Path, redis: RedisServer) -> None:
    """Who watches it sees that, and all numbers that need no broker."""
    with Door(tmp_path, broker=redis.url.replace("redis://", "redis://:not-its-password@")) as door:
        door.run()
        assert door.ask("GET", "/health").status_code == 503
        declined = door.ask("GET", "/topics")
        assert (declined.status_code, "does not let us in" in declined.json()["error"]) == (503, True)
        assert door.metric("mpkit_broker_up") == 0
        assert door.metric("mpkit_http_connections") == 1
        until(lambda: "the jobs cannot be counted: " in door.log, "a line in the log")
        assert "not-its-password" not in declined.text + door.log


@pytest.mark.timeout(240)
@pytest.mark.parametrize("fault", ["kill", "stop"])
def test_a_server_that_is_away(tmp_path: Path, redis: RedisServer, fault: str) -> None:
    with Door(tmp_path, broker=redis.url) as door:
        door.run()
        assert door.ask("POST", JOBS, json={}).status_code == 202
        assert door.ask("GET", "/health").status_code == 200
        getattr(redis, fault)()
        until(lambda: door.ask("GET", "/health", token=None).status_code == 503, "the health to know")
        for method, path, body in (
            ("POST", JOBS, {}),
            ("GET", "/topics", None),
            ("GET", "/jobs/x/result", None),
        ):
            answer = door.ask(method, path, json=body)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1"), path
        assert door.metric("mpkit_broker_up") == 0
        if fault == "kill":
            redis.start()
        else:
            redis.go_on()
        until(lambda: door.ask("GET", "/health", token=None).status_code == 200, "the health to know")
        assert door.ask("POST", JOBS, json={}).status_code == 202
        assert door.metric("mpkit_broker_up") == 1


# ── connections ───────────────────────────────────────────────────────────────────────────────────

SILENT = """
import resource, socket, sys, time
host, port, wanted = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
open_ones = [socket.create_connection((host, port), timeout=60) for _ in range(wanted)]
print(len(open_ones), flush=True)
sys.stdin.readline()
closed = 0
for one in open_ones:
    try:
        closed += one.recv(1) == b""
    except ConnectionError:
        closed += 1
print(closed, flush=True)
"""


@pytest.mark.timeout(240)
@pytest.mark.parametrize("connections", [100, 12_000])
def test_connections_that_send_nothing(tmp_path: Path, connections: int) -> None:
    """10,000, or what the limit of descriptors allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 10_000 if hard == resource.RLIM_INFINITY else min(10_000, hard - 1000)
    with Door(tmp_path, http=f"connections = {connections}") as door:
        door.run()
        host, port = door.place
        with subprocess.Popen(
            [sys.executable, "-c", SILENT, host, str(port), str(wanted)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as silent:
            assert silent.stdin is not None
            assert silent.stdout is not None
            answered = most = closed = 0
            told: list[str] = []
            with door.client() as client:
                while not told:
                    told = ready_line(silent)
                    try:
                        assert client.post(JOBS, json={}).status_code == 202
                        answered += 1
                        most = max(most, int(door.metric("mpkit_http_connections")))
                    except httpx.TransportError:  # pushed out before it was heard: there are few places
                        closed += 1
            print(answered, closed, most)
            assert int(told[0]) == wanted
            assert answered > closed, (answered, closed)
            most = max(most, int(door.metric("mpkit_http_connections")))
            assert door.ask("POST", JOBS, json={}).status_code == 202
            assert most <= connections
            assert most > min(connections, 500) / 2  # it was full, or there were many
            until(lambda: door.metric("mpkit_http_connections") == 1, "all to be closed")
            silent.stdin.write("\n")
            silent.stdin.flush()
            assert int(silent.stdout.readline()) == wanted
        assert door.metric('mpkit_http_dropped_total{why="silent"}') >= wanted
        with SqliteBroker(door.broker, "shop") as broker:
            assert broker.backlog("mail").ready == answered + 1


def ready_line(process: subprocess.Popen[str]) -> list[str]:
    """What it has written, without waiting for it."""
    assert process.stdout is not None
    return [process.stdout.readline()] if select.select([process.stdout], [], [], 0)[0] else []


@pytest.mark.parametrize("sent", [b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: x\r\n"])
def test_half_a_head_is_closed(door: Door, sent: bytes) -> None:
    with door.socket() as ours:
        began = time.monotonic()
        ours.sendall(sent)
        assert quiet(ours) == b""
        assert time.monotonic() - began > 5


def quiet(ours: socket.socket) -> bytes:
    try:
        return received(ours)
    except ConnectionResetError:
        return b""


def test_a_worker_that_is_killed_is_replaced(tmp_path: Path) -> None:
    with Door(tmp_path) as door:
        door.run()
        before = door.worker()
        before.send_signal(signal.SIGKILL)
        until(lambda: not before.is_running(), "its end")

        def answers() -> bool:
            try:
                return door.ask("GET", "/health").status_code == 200
            except httpx.TransportError:
                return False

        until(answers, "the next one")


def test_one_too_many(tmp_path: Path) -> None:
    """With all connections busy, the next one is told so; with one silent, that goes."""
    with Door(tmp_path, http="connections = 2") as door:
        door.run()

        def refused() -> str:
            with door.socket() as one, door.socket() as other:
                one.sendall(WAITING)
                other.sendall(WAITING)
                answer = door.ask("GET", "/health")  # they may not have been heard yet: then one is closed
                return answer.json().get("error", "") if answer.status_code == 503 else ""

        assert until(refused, "a refusal") == "there are too many connections"
        until(lambda: door.ask("GET", "/health").status_code == 200, "a place")
        assert door.metric('mpkit_http_dropped_total{why="full"}') >= 1


def test_a_burst_while_all_are_busy(tmp_path: Path) -> None:
    """Those for whom there is no place take none of the descriptors that others need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Door(tmp_path, http="connections = 260") as door, contextlib.ExitStack() as ours:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))  # it raises that to what it needs
        ours.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        door.run()
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(2048, hard), hard))
        for _ in range(260):
            ours.enter_context(door.socket()).sendall(WAITING)
        burst = [ours.enter_context(socket.socket()) for _ in range(500)]
        for one in burst:
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                one.connect(door.place)
        for one in burst:
            one.settimeout(PATIENCE)
            with contextlib.suppress(OSError):
                one.sendall(WAITING)
        until(lambda: len(select.select(burst, [], [], 0)[0]) > 400, "those who are refused")
        assert "out of system resource" not in door.log


class Fake:
    def __init__(self) -> None:
        self.is_open = True

    def drop(self) -> None:
        self.is_open = False


def test_the_oldest_silent_one_makes_room() -> None:
    guard = Guard(3)
    busy, second, third, fourth = ones = [Fake() for _ in range(4)]
    assert all(guard.opened(one) for one in ones[:3])
    guard.note(busy, True)
    assert guard.opened(fourth)
    assert [one.is_open for one in ones] == [True, False, True, True]
    guard.note(third, True)
    guard.note(fourth, True)
    assert not guard.opened(second)
    assert (guard.dropped, guard.refused, len(guard)) == (1, 1, 3)
    guard.note(busy, False)
    assert guard.opened(second)
    assert not busy.is_open


@pytest.mark.parametrize("is_busy", [True, False])
def test_each_state_has_its_time(is_busy: bool) -> None:
    guard = Guard(10, head_seconds=60.0 if is_busy else 0.0, request_seconds=0.0 if is_busy else 60.0)
    one = Fake()
    guard.opened(one)
    guard.note(one, is_busy)
    guard.sweep()
    assert (one.is_open, len(guard), guard.dropped) == (False, 0, 1)


def test_a_request_behind_another_has_its_own_time() -> None:
    guard = Guard(10)
    ends: list[float] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        ends.extend(guard._busy.values())
        await Response()(scope, receive, send)

    async def ask_twice() -> None:
        config = uvicorn.Config(app, lifespan="off", log_config=None)
        config.load()
        loop = asyncio.get_running_loop()
        made = guarded(guard)
        server = await loop.create_server(lambda: made(config, ServerState(), {}), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        head = b"GET / HTTP/1.1\r\nHost: x\r\n"
        writer.write(head + b"\r\n" + head + b"Connection: close\r\n\r\n")
        assert (await reader.read()).count(b"HTTP/1.1 200 ") == 2
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    asyncio.run(ask_twice())
    first, second = ends
    assert first < second


# ── the commands ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.timeout(240)
def test_the_commands(tmp_path: Path) -> None:
    with Door(tmp_path) as door:
        assert "not running" in door.command("status", expect=3).stderr
        assert door.command("start", "-d").stdout == f"manager 'shop-http' listens at {door.address}\n"
        assert door.ask("GET", "/health").status_code == 200
        assert "running as pid" in door.command("start", "-d", expect=75).stderr
        status = json.loads(door.command("status", "--json").stdout)
        assert (status["address"], status["state"]) == (door.address, "running")
        assert door.address in door.command("status").stdout
        door.write(topics='[[topics]]\nname = "other"\nworker = "os.path:basename"\n')
        door.command("restart")
        assert [topic["name"] for topic in door.ask("GET", "/topics").json()["topics"]] == ["other"]
        assert json.loads(door.command("status", "--json").stdout)["pid"] == status["pid"]
        door.command("stop")
        door.command("stop", expect=3)


@pytest.mark.timeout(240)
def test_a_restart_into_a_wrong_configuration(tmp_path: Path) -> None:
    with Door(tmp_path) as door:
        door.command("start", "-d")
        door.write(topics="")
        assert "topics" in door.command("restart", expect=78).stderr
        assert [topic["name"] for topic in door.ask("GET", "/topics").json()["topics"]] == ["mail", "image"]


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with Door(tmp_path) as door, socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        path = tmp_path / "service.toml"
        path.write_text(path.read_text().replace("port = 0", f"port = {port}"))
        assert f"cannot listen at 127.0.0.1 port {port}" in door.command("start", "-d", expect=78).stderr


def test_a_restart_at_a_port_that_is_taken(tmp_path: Path) -> None:
    """It goes on where it was; its own port is none that is taken, also at other addresses of the host."""
    with Door(tmp_path) as door, socket.create_server(("127.0.0.1", 0)) as other:
        door.command("start", "-d")
        path = tmp_path / "service.toml"
        before, port = path.read_text(), other.getsockname()[1]
        path.write_text(before.replace("port = 0", f"port = {port}"))
        wrong = door.command("restart", expect=1).stderr
        assert "goes on as it was" in wrong
        assert f"cannot listen at 127.0.0.1 port {port}" in wrong
        own = door.place[1]
        assert door.ask("GET", "/health").status_code == 200
        path.write_text(before.replace("port = 0", f'host = "0.0.0.0"\nport = {own}'))
        door.command("restart")
        assert door.address == f"http://0.0.0.0:{own}"
        assert door.ask("GET", "/health").status_code == 200


def test_no_http_in_the_configuration(tmp_path: Path) -> None:
    with Door(tmp_path) as door:
        path = tmp_path / "service.toml"
        path.write_text(re.sub(r"\[http\]\n.*\n.*\n", "", path.read_text()))
        told = door.command("start", expect=78).stderr
        assert told.startswith("Error: service.toml: there is no [http] in the configuration; the only key ")


@pytest.mark.timeout(240)
def test_a_stop_ends_who_waits(tmp_path: Path) -> None:
    """A request for a result is answered, and not cut off; silent connections do not hold it up."""
    with Door(tmp_path) as door:
        door.run()
        with door.socket() as silent, door.socket() as ours:
            ours.sendall(WAITING)
            until(lambda: door.metric("mpkit_http_connections") == 3, "three connections")
            door.command("stop")
            assert received(ours).startswith(b"HTTP/1.1 404 ")
            assert quiet(silent) == b""
        assert door.master is not None
        assert door.master.wait(PATIENCE) == 0
