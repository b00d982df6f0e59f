"""The caller is killed: its children end, whatever they do, and no System V object stays."""

from __future__ import annotations

import contextlib
import inspect
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import psutil
import pytest

from multiprocessing_kit.ipc.tables import read_segments, read_semaphores

ROOT = Path(__file__).resolve().parents[2]
LONG = 30.0  # seconds, where the right answer takes one or two and a wrong one for ever

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="waits through pidfds")

PRELUDE = """
import atexit, hashlib, os, re, signal, sys, threading, time
from multiprocessing_kit import Process, Queue, RetryStrategy, RetryType, Worker

def say(text):
    os.write(1, f"{text}\\n".encode())
"""


class Program:
    """A Python program in a session of its own, which tells by lines on stdout where it is."""

    def __init__(self, code: str) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed by __exit__
        self._popen = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + inspect.cleandoc(code)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._errors,
            cwd=ROOT, start_new_session=True,
        )  # fmt: skip
        self.pid = self._popen.pid
        self._semaphores = {row.id for row in read_semaphores()}
        self._output = b""
        self._watched: dict[int, int] = {}

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pidfd in self._watched:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
        self._popen.kill()
        with self._popen, self._errors:
            pass

    def wait_for(self, *lines: str) -> None:
        """Wait until it has printed all of `lines`."""
        deadline = time.monotonic() + LONG
        while missing := set(lines) - set(self.output):
            if not self._read(deadline):
                pytest.fail(f"no {missing} but {self.output} and {self.errors}", pytrace=False)

    def watch_children(self) -> None:
        """Note those that there are now; `children_end` waits for them."""
        for child in psutil.Process(self.pid).children(recursive=True):
            with contextlib.suppress(ProcessLookupError):
                self._watched[os.pidfd_open(child.pid)] = child.pid

    def signal(self, signum: int, *, group: bool = False) -> None:
        (os.killpg if group else os.kill)(self.pid, signum)

    def ends_within(self, seconds: float) -> bool:
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    @property
    def exitcode(self) -> int:
        """Waits for its end."""
        return self._popen.wait(LONG)

    @property
    def output(self) -> list[str]:
        return self._output.decode().splitlines()

    @property
    def errors(self) -> str:
        self._errors.seek(0)
        return self._errors.read()

    def rest(self) -> list[str]:
        """All that it printed; once it and its children have ended."""
        deadline = time.monotonic() + LONG
        while self._read(deadline):
            pass
        return self.output

    def left(self, patience: float = LONG) -> list[str]:
        """What is still there of it and of the children watched, after `patience` seconds at most."""
        deadline = time.monotonic() + patience
        left = []
        for pidfd, pid in self._watched.items():
            if not select.select([pidfd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                left.append(f"child {pid} {psutil.Process(pid).status()}")
        # Nothing announces that the kernel has freed a segment after its last process.
        while (objects := self._objects()) and not left and time.monotonic() < deadline:
            os.sched_yield()
        return left + objects

    def _objects(self) -> list[str]:
        family = {self.pid, *self._watched.values()}
        segments = [f"segment {row.id}" for row in read_segments() if row.creator in family]
        ours = {row.id for row in read_semaphores()} - self._semaphores
        return segments + [f"semaphore {identity}" for identity in ours]

    def _read(self, deadline: float) -> bool:
        assert self._popen.stdout is not None
        if not select.select([self._popen.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return False
        data = os.read(self._popen.stdout.fileno(), 65536)
        self._output += data
        return data != b""


PROGRAMS = {
    "idle": """
        with Process(2) as process:
            process.map(lambda n: time.sleep(0.01), range(8))
            say("busy")
            signal.pause()
    """,
    "waiting for a job": """
        def inputs():
            yield from range(8)
            say("busy")
            time.sleep(1000)
        Process(2).map(lambda n: time.sleep(0.01), inputs())
    """,
    "sleeping": "Process(2).map(lambda n: (say('busy'), time.sleep(1000)), range(8))",
    "ignoring signals": """
        def job(n):
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            say("busy")
            signal.pause()
        Process(2).map(job, range(8))
    """,
    "in C, without the GIL": """
        Process(2).map(lambda n: (say("busy"), hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)), range(8))
    """,
    "in C, holding the GIL": """
        Process(2).map(lambda n: (say("busy"), re.match("(a|a)*b", "a" * 60)), range(8))
    """,
    "in setup": """
        class Slow(Worker):
            def setup(self):
                say("busy")
                signal.pause()
        Process(2).map(Slow(), range(8))
    """,
    "waiting for room": """
        process = Process(2)
        process.on("job_success", lambda process: (say("busy"), signal.pause()))
        process.map(lambda n: bytes(10**7), range(8))
    """,
    "descriptors closed": """
        def job(n):
            os.closerange(3, 1024)
            say("busy")
            signal.pause()
        Process(2).map(job, range(8))
    """,
    "a map in a job": """
        def job(n):
            Process(1).map(lambda n: (say("busy"), signal.pause()), [0])
        Process(2).map(job, range(8))
    """,
}


def in_thread(code: str) -> str:
    """The same, with children that are forked by another thread."""
    return f"""
def main():
    {inspect.cleandoc(code).replace(chr(10), chr(10) + "    ")}
thread = threading.Thread(target=main)
thread.start()
thread.join()  # Python 3.12 forks no more once its main thread has ended
"""


# A thread's children learn of their caller's death by a descriptor alone.
@pytest.mark.parametrize(
    ("name", "thread"),
    [
        (name, thread)
        for name in PROGRAMS
        for thread in ("main", "other")[: 2 - (name == "descriptors closed")]
    ],
)
def test_the_caller_is_killed(name: str, thread: str) -> None:
    wrap: Callable[[str], str] = in_thread if thread == "other" else str
    with Program(wrap(PROGRAMS[name])) as program:
        program.wait_for("busy")
        program.watch_children()
        program.signal(signal.SIGKILL)
        assert program.exitcode == -signal.SIGKILL
        assert [what for what in program.left() if "child" in what] == []
        if name == "in setup":  # it may have been making the next child's segment: that is swept
            clear_ipc = ROOT / "scripts" / "clear_ipc.py"
            subprocess.run([sys.executable, clear_ipc], check=True, capture_output=True)
        assert program.left() == []


def test_the_thread_that_forked_has_ended() -> None:
    """Its children live on, and still die with the process."""
    code = """
        process = Process(2).__enter__()
        def first():
            process.map(lambda n: n, range(8))
        thread = threading.Thread(target=first)
        thread.start()
        thread.join()
        say(sum(response.ok for response in process.map(lambda n: n, range(8))))
        signal.pause()
    """
    with Program(code) as program:
        program.wait_for("8")
        program.watch_children()
        program.signal(signal.SIGKILL)
        assert program.exitcode == -signal.SIGKILL
        assert program.left() == []
