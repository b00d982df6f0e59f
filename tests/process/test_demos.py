"""The demos, run as a newcomer runs them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any, NamedTuple

import psutil
import pytest

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parents[2]
GRACE = 10.0


@contextlib.contextmanager
def started(name: str, *options: object) -> Iterator[subprocess.Popen[str]]:
    """The demo, in a session of its own, which must be empty when it has ended."""
    demo = subprocess.Popen(
        [sys.executable, "-W", "error", f"demo/{name}.py", *map(str, options)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    )
    with demo:
        try:
            yield demo
            assert demo.poll() is not None
            assert until(lambda: not members(demo.pid)), members(demo.pid)
            assert until(lambda: not segments(demo.pid)), segments(demo.pid)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(demo.pid, signal.SIGKILL)


def members(session: int) -> list[str]:
    """Living processes of a session."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {process.cmdline()}")
    return found


def segments(creator: int) -> list[str]:
    """System V segments that a process made."""
    table = Path("/proc/sysvipc/shm")
    lines = table.read_text().splitlines() if table.exists() else []
    return [line for line in lines[1:] if int(line.split()[4]) == creator]


def until(condition: Any) -> bool:
    """Whether it comes true in time: the kernel may need a moment to clear up behind the killed."""
    deadline = time.monotonic() + GRACE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def run(name: str, *options: object, status: int = 0) -> tuple[str, int]:
    """What a demo prints, and its process id; it must end with `status`."""
    with started(name, *options) as demo:
        output, errors = demo.communicate()
        assert demo.returncode == status, output + errors
        if status == 0:
            assert errors == ""
    return output, demo.pid


def test_sums() -> None:
    output, _ = run("sums")
    small, large, check, times = output.splitlines()
    assert small == "sum of 1…100 in chunks of 20: 5050"
    assert large == "sum of 1…10,000,000 in chunks of 500,000: 50000005000000"
    assert check == "n(n+1)/2 says 50000005000000: the same"
    assert re.fullmatch(
        r"4 children [\d.]+ s, one process [\d.]+ s: [\d.]+ times as fast \(\d+ CPUs here\)", times
    )


@pytest.mark.parametrize("chunk", [1, 7, 1000, 2000])
def test_sums_in_other_chunks(chunk: int) -> None:
    output, _ = run("sums", "--numbers", 1000, "--chunk", chunk, "--processes", 2)
    assert "n(n+1)/2 says 500500: the same" in output


# ── the toolkit ─────────────────────────────────────────────────────────────────────────────────────

TOOLKIT = """
Pool: multiprocessing.Pool, and a child that is killed takes nothing with it
   squares: [0, 1, 4, 9, 16, 25, 36, 49] - bombs left: 0
   starmap: [8, 16, 32]
   a callback gets 81
   die: killed by SIGKILL in each of 3 attempts
   nine jobs at once: PoolFullError, maxsize 8

ForkExecutor: concurrent.futures.Executor, and a crash fails one call
   submit: 6 - map: [2, 1, 0, 1, 2]
   asyncio: 1024
   asyncio: WorkerLostError
   asyncio: (3, 2)

Child: one process with events, messages, signals and a result
   "start" of server, as its pid says: True
   "receive" of server: ready
   "success" of server: ended in order
   "finish" of server: 0
   "error": WorkerLostError SIGKILL
   delay: later there is (3, 2) - one that was canceled: True

FifoQueue, LifoQueue, PriorityQueue: what the killed have put is there, and nobody waits for them
   FifoQueue: one - ['two', 'three']
   LifoQueue: three - ['two', 'one']
   PriorityQueue: full ['answer', 'usual', 'tidy up']
   by name, through another program: desserts

Lockers: the owner is killed, the next one gets it at once, and is told
   FileLocker       was taken: True, owner known: True, owner died: True
   MutexLocker      was taken: True, owner known: True, owner died: True
   ReentrantLocker  was taken: True, owner known: True, owner died: True
   SemaphoreLocker  was taken: True, owner known: True, owner died: True
   RWLocker.writer  was taken: True, owner known: True, owner died: True
   SpinLocker       was taken: True, owner known: True, owner died: True
   ConditionLocker  was taken: True, owner known: True, owner died: True
   RWLocker: readers at once: 2
   ConditionLocker: woken, the door is open

Shared: a table in shared memory, with counters that lose nothing
   four times 1000 hits: {'hits': 4000, 'name': 'the front page'}
   about: 1 - keys: ['/', '/about'] - deleted: True

Pipe: multiprocessing.Pipe, with deadlines
   doubled: 42
   the other side has ended: EOFError, at once
   nothing came: PipeTimeoutError, in the middle of a message: False
"""


def test_the_toolkit() -> None:
    output, _ = run("toolkit")
    assert output == TOOLKIT


# ── events ──────────────────────────────────────────────────────────────────────────────────────────

TRY = ["START 1", "RUNNING 1", "RETRY 1", "START 2", "RUNNING 2", "RETRY 2", "START 3", "RUNNING 3"]
LIVES = {
    "flaky": [*TRY, "SUCCESS 3"],
    "steady": ["START 1", "RUNNING 1", "SUCCESS 1"],
    "doomed": [*TRY, "FAILED 3"],
    "unwanted": ["START 1", "CANCELED 1"],
}
HOW = {
    "child": {"worker.on": {"START", "RUNNING", "RETRY"}, "blinker": {"SUCCESS", "FAILED", "CANCELED"}},
    "caller": {"process.on": {"START", "RUNNING", "RETRY"}, "Observer": {"SUCCESS", "FAILED", "CANCELED"}},
}


class Line(NamedTuple):
    at: float
    who: str
    pid: int
    how: str
    event: str
    job: str
    attempt: int
    delay: float | None


def timeline(text: str) -> list[Line]:
    pattern = r"^ *([\d.]+)  (\w+) (\d+) +(\S+) +(\w+) +(\w+) +attempt (\d)(?:, again in ([\d.]+) s)?$"
    return [
        Line(float(at), who, int(pid), how, event, job, int(attempt), float(delay) if delay else None)
        for at, who, pid, how, event, job, attempt, delay in re.findall(pattern, text, re.MULTILINE)
    ]


@pytest.mark.parametrize("processes", [1, 2])
def test_events(processes: int) -> None:
    output, pid = run("events", "--processes", processes)
    _, immediate, requeue = re.split(r"^IMMEDIATE$|^REQUEUE$", output, flags=re.MULTILINE)
    for part in (immediate, requeue):
        lines = timeline(part)
        assert len(lines) == 2 * sum(map(len, LIVES.values()))
        for who in ("child", "caller"):
            mine = [line for line in lines if line.who == who]
            pids = {line.pid for line in mine}
            assert pids == {pid} if who == "caller" else pid not in pids and len(pids) <= processes
            for job, life in LIVES.items():
                assert [f"{line.event} {line.attempt}" for line in mine if line.job == job] == life
            assert all(line.event in HOW[who][line.how] for line in mine)
            assert all(
                line.delay == (0.05 * line.attempt if line.event == "RETRY" else None) for line in mine
            )
        assert "Answers: FLAKY, STEADY, ConnectionError, JobCanceledError." in part
    if processes == 1:
        assert "Started while flaky waited: nothing." in immediate
        order = [line.job for line in timeline(immediate) if line.who == "child"]
        assert order == [job for job, life in LIVES.items() for _ in life], "one job after the other"
        assert "Started while flaky waited: steady, doomed, unwanted." in requeue


# ── the crawler ─────────────────────────────────────────────────────────────────────────────────────


def table(output: str) -> dict[str, float]:
    rows = re.findall(r"^([a-zA-Z ]+?) +([\d,.]+)$", output, re.MULTILINE)
    return {name: float(value.replace(",", "")) for name, value in rows}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("options", [[], ["--limit", 20, "--processes", 2]], ids=["250", "20"])
def test_crawling_the_documentation(options: list[object]) -> None:
    output, _ = run("crawler", *options)
    counts = table(output)
    assert counts["pages"] == (20 if options else 250)
    assert counts["retries"] == counts["pages"], "each page once, from the dead mirror to the live server"
    assert counts["failures"] == counts["of these HTTP errors"] == 0
    assert counts["bytes"] > 1000 * counts["pages"]
    assert counts["pages per second"] > 0
    assert re.search(r"^  200 +[\d,]+  / +Pydoc: Index of Modules$", output, re.MULTILINE)
    levels = re.findall(r"^level (\d+): (\d+) of (\d+) pages$", output, re.MULTILINE)
    assert [int(level) for level, _, _ in levels] == list(range(len(levels)))
    assert sum(int(found) for _, found, _ in levels) == counts["pages"]


def test_interrupting_the_crawler() -> None:
    with started("crawler") as demo:
        assert demo.stdout is not None
        assert demo.stdout.readline() == "level 0: 1 of 1 pages\n"
        assert any("pydoc" in member for member in members(demo.pid))
        demo.send_signal(signal.SIGINT)
        _, errors = demo.communicate()
        assert demo.returncode == -signal.SIGINT
        assert "KeyboardInterrupt" in errors


class Site(ThreadingMixIn, HTTPServer):
    """A small site with what crawlers meet."""

    daemon_threads = False  # so that closing it waits for them

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Pages)
        self.asked: Counter[str] = Counter()
        self.lock = threading.Lock()


class Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Site)
        with self.server.lock:
            self.server.asked[self.path] += 1
            count = self.server.asked[self.path]
        port = self.server.server_port
        with contextlib.suppress(ConnectionError):  # who has read enough hangs up
            if self.path == "/":
                links = ["a?x=1&amp;y=2#part", "/b", "missing", "away", "moved", "large", "data", "busy"]
                links += ["down", "http://[bad", "mailto:me", f"http://localhost:{port}/left", "a b"]
                self.reply(200, page("The home\n page", *links))
            elif self.path == "/a?x=1&y=2":
                self.reply(200, page("A", "/", "/deep", "/b#again"))
            elif self.path in ("/b", "/deep", "/new", "/a%20b"):
                self.reply(200, page("Leaf &amp; end"))
            elif self.path == "/away":
                self.reply(302, b"", Location=f"http://localhost:{port}/left")
            elif self.path == "/moved":
                self.reply(301, b"", Location="/new")
            elif self.path == "/large":
                self.reply(200, page("Large") + b" " * (10 << 20))
            elif self.path == "/data":
                self.reply(200, page("Data", "/never"), **{"Content-Type": "application/octet-stream"})
            elif self.path == "/busy":
                self.reply(503 if count < 3 else 200, page("Busy"))
            elif self.path == "/down":
                self.reply(503, b"")
            else:
                self.reply(404, page("Not here"))

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "text/html", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def page(title: str, *links: str) -> bytes:
    anchors = "".join(f'<a href="{link}">link</a>' for link in links)
    return f"<html><head><title>{title}</title></head><body>{anchors}</body></html>".encode()


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_crawling_another_site(site: Site) -> None:
    output, _ = run("crawler", "--url", f"http://127.0.0.1:{site.server_port}")
    assert site.asked == {
        **dict.fromkeys(["/", "/a?x=1&y=2", "/b", "/deep", "/a%20b", "/missing", "/away"], 1),
        **dict.fromkeys(["/moved", "/new", "/large", "/data"], 1),
        "/busy": 3,  # a passing status is retried
        "/down": 4,  # until the retries are used up
    }
    counts = table(output)
    assert counts["pages"] == 11
    assert counts["of these HTTP errors"] == 1
    assert counts["retries"] == 2 + 3
    assert counts["failures"] == 1
    assert 4 << 20 < counts["bytes"] < (4 << 20) + 5000, "a large body is cut"
    assert "failed: /down: HTTP status 503\n" in output
    assert re.search(r"^  200 +[\d,]+  / +The home page$", output, re.MULTILINE)
    assert output.startswith("level 0: 1 of 1 pages\nlevel 1: 9 of 10 pages\nlevel 2: 1 of 1 pages\n")


def test_crawling_no_further_than_asked(site: Site) -> None:
    output, _ = run("crawler", "--url", f"http://127.0.0.1:{site.server_port}/b", "--limit", 1)
    assert site.asked == {"/b": 1}
    assert re.search(r"^  200 +[\d,]+  /b +Leaf & end$", output, re.MULTILINE)


def test_crawling_a_site_that_is_down() -> None:
    with socket.socket() as refusing:
        refusing.bind(("127.0.0.1", 0))
        output, _ = run("crawler", "--url", f"http://127.0.0.1:{refusing.getsockname()[1]}", status=1)
    counts = table(output)
    assert (counts["pages"], counts["retries"], counts["failures"]) == (0, 3, 1)
    assert re.search(r"^failed: /: .*refused", output, re.MULTILINE)


def test_a_url_that_is_none() -> None:
    run("crawler", "--url", "www.python.org", status=2)


def test_the_manager(tmp_path: Path) -> None:
    """Its master runs in a session of its own: the demo must have ended it."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "demo/manager.py"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == "6 of 6 workers are ready"
    assert lines[-1] == "stopped"
    pid = int(re.findall(r"mailer: running, pid (\d+)", done.stdout)[0])
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait(GRACE)  # it gave up its lock and socket; its interpreter still has to end
    assert [line for line in lines if line.startswith("──")] == [
        "── at work",
        re.search(r"── worker 1 \(pid \d+\) was killed", done.stdout)[0],  # type: ignore[index]
        "── worker 3 has died with 41",
        "── restarted with the code as it is now, one worker after the other",
        "── two workers will do",
    ]


@pytest.mark.timeout(180)
def test_the_service(tmp_path: Path) -> None:
    """Its master, too, runs in a session of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "demo/service.py"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []
    parts = [line for line in done.stdout.splitlines() if line.startswith("──")]
    assert parts == [
        "── service.toml",
        "── mpkit service start -d",
        parts[2],
        "── 10 workers were killed so far",
        "── all is done",
    ]
    assert re.fullmatch(r"── 10,000 mails and a poisonous one were pushed in [\d.]+ s", parts[2])
    # nothing is ready, running or delayed; one dead letter, and ten thousand done
    assert re.findall(r"^mail +0 +0 +0 +1 +10,000 ", done.stdout, re.MULTILINE)
    *_, poison, killed, count, end = done.stdout.splitlines()
    assert poison.startswith("the poisonous one is a dead letter: in attempt 5, too, its worker was killed")
    assert re.fullmatch(r"20 workers were killed, and \d+ mails were sent twice for that", killed)
    assert re.fullmatch(r"10,000 of 10,000 are done, in [\d.]+ s", count)
    assert end == "stopped"
    pid = int(re.findall(r"mails: running, pid (\d+)", done.stdout)[0])
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait(GRACE)
