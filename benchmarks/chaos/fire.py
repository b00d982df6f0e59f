"""Fires at the children of a process that maps, for some time; the figures.

The process is a fork of this one and is replaced every few seconds, so that its end is tried as well. This
one has no threads: it waits for news, and for the time of the next signal.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import random
import select
import signal
import time
from collections import deque
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil

from benchmarks.chaos import subject
from benchmarks.chaos.tally import Tally
from multiprocessing_kit.ipc.hygiene import scan

__all__ = ["fire"]

_FORK = multiprocessing.get_context("fork")
_PR_SET_CHILD_SUBREAPER = 36

_ROUND_SECONDS = 3.0
_HANGS_SECONDS = 20.0
"""Without news from a map that takes a second or two, when it is left alone."""

_GRACE = 3.0
"""Seconds for the kernel to end what dies with its parent."""

_INTERVAL = 0.02
_INTERVAL_TIMED = 0.05
"""Seconds between two shots, in the mean; with a timeout more: only who has lived for a while is stopped."""

_UNREADY = 0.3
"""Chance that a child is fired at before its first job, too. It is not stopped then: the timeout is for jobs.
If several in a row die so, the map gives up, as it should: their `setup()` may be why."""

_STOPS = 0.5
_SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGSEGV)


def fire(seconds: float, seed: int) -> Tally:
    """Fire for so many seconds."""
    tally = Tally()
    chance = random.Random(seed)
    began = time.monotonic()
    number = 0
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)  # whose parent has died becomes ours, and is counted
    try:
        while (left := began + seconds - time.monotonic()) > 0:
            part = min(_ROUND_SECONDS, left, max(0.5, seconds / 2))
            _Round(tally, chance, part, timed=number % 2 == 1).run(f"{seed}.{number}")
            number += 1
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0)
    tally.seconds = time.monotonic() - began
    return tally


class _Round:
    """One process that maps, and what is done to its children.

    Args:
        tally: Where to count.
        chance: When to fire, at whom, and with what.
        seconds: For how long.
        timed: Whether its jobs have a timeout. Only then are children stopped: without one, a stopped child
            is waited for.
    """

    def __init__(self, tally: Tally, chance: random.Random, seconds: float, timed: bool) -> None:
        self._tally = tally
        self._chance = chance
        self._seconds = seconds
        self._timed = timed
        self._size = 0
        self._mapping = False
        self._closed = True
        self._map = ""
        self._at_work: set[int] = set()
        self._seen: set[int] = set()
        self._stopped: set[int] = set()
        self._deaths: deque[float] = deque()
        self._stops: deque[float] = deque()
        self._news_at = 0.0

    def run(self, seed: str) -> None:
        """Fire until it is done."""
        reader, writer = os.pipe()
        process = _FORK.Process(target=_subject, args=(seed, self._seconds, self._timed, reader, writer))
        process.start()
        os.close(writer)
        assert process.pid is not None
        self._seen.add(process.pid)
        try:
            done = self._watch(process.pid, reader)
            if not done:
                if time.monotonic() - self._news_at >= _HANGS_SECONDS:
                    self._tally.hangs += 1
                    self._tally.errors.append(f"hung, seed {seed}: {self._map}")
                else:
                    self._tally.errors.append(f"ended early, seed {seed}: {self._map}")
                process.kill()
        finally:
            os.close(reader)
            self._clean_up(process)

    def _watch(self, pid: int, reader: int) -> bool:
        """Fire and listen; False if it fell silent, or died."""
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        self._news_at = time.monotonic()
        next_shot = self._news_at + self._interval()
        rest = b""
        while True:
            now = time.monotonic()
            if poll.poll(max(0.0, next_shot - now) * 1000):
                data = os.read(reader, 65536)
                if not data:
                    return False
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    if self._hear(json.loads(line)):
                        return True
            elif now - self._news_at >= _HANGS_SECONDS:
                return False
            if time.monotonic() >= next_shot:
                next_shot = time.monotonic() + self._interval()
                # after a while of silence it is left alone: what then does not end never does
                if time.monotonic() - self._news_at < _HANGS_SECONDS / 2:
                    self._shoot(pid)

    def _interval(self) -> float:
        return self._chance.expovariate(1 / (_INTERVAL_TIMED if self._timed else _INTERVAL))

    def _hear(self, news: dict[str, Any]) -> bool:
        """Take in a line; whether it was the last."""
        what = news["what"]
        if what not in {"crashes", "works"}:
            self._news_at = time.monotonic()
        if what == "works":
            self._at_work.add(news["pid"])
            self._seen.add(news["pid"])
            # a stopped child has its time-out before it: who comes sooner takes the place of a dead one
            if self._deaths:
                self._tally.after_death.append(news["at"] - self._deaths.popleft())
            elif self._stops:
                self._tally.after_stop.append(news["at"] - self._stops.popleft())
        elif what == "crashes":
            self._tally.faults["segmentation faults in jobs"] += 1
            self._note(self._deaths, news["pid"], news["at"])
        elif what == "begins":
            self._size, self._mapping, self._closed = news["processes"], True, False
            self._at_work.clear()
            self._map = f"{news['jobs']} jobs, {news['options']}"
        elif what == "answered":
            self._mapping = False
            self._deaths.clear()
            self._stops.clear()
            self._tally.add(news["counts"], news["error"])
            self._resume()
        elif what == "closed":
            self._closed = True
            self._at_work.clear()
        return bool(what == "done")

    def _note(self, times: deque[float], pid: int, at: float) -> None:
        """A child is lost; note when, if the next one to come takes its place: all were at work."""
        if self._mapping and pid in self._at_work and len(self._at_work) == self._size:
            times.append(at)
        self._at_work.discard(pid)

    def _shoot(self, pid: int) -> None:
        children = [each for each in _children(pid) if each not in self._stopped]
        if not children or self._closed:
            return
        child = self._chance.choice(children)
        ready = child in self._at_work
        if not ready and self._chance.random() > _UNREADY:
            return
        stop = self._timed and self._mapping and ready and self._chance.random() < _STOPS
        signum = signal.SIGSTOP if stop else self._chance.choice(_SIGNALS)
        at = time.monotonic()
        if not _send(child, pid, signum):
            return
        self._seen.add(child)
        self._tally.faults[signum.name] += 1
        if stop:
            self._stopped.add(child)
        self._note(self._stops if stop else self._deaths, child, at)

    def _resume(self) -> None:
        """No job is under way: who is still stopped was between two, and nothing waits for it."""
        for child in self._stopped:
            try:
                os.kill(child, signal.SIGCONT)
            except ProcessLookupError:
                continue
        self._stopped.clear()

    def _clean_up(self, process: BaseProcess) -> None:
        """See what is left, and end it."""
        process.join()
        orphans = psutil.Process().children()
        _, alive = psutil.wait_procs(orphans, timeout=_GRACE)
        self._tally.children_left += len(alive)
        for orphan in alive:
            orphan.kill()
        psutil.wait_procs(alive)
        deadline = time.monotonic() + _GRACE
        while (left := _objects(self._seen)) and time.monotonic() < deadline:
            time.sleep(0.05)
        self._tally.objects_left += left


def _subject(seed: str, seconds: float, timed: bool, reader: int, writer: int) -> None:
    os.close(reader)
    subject.run(seed, seconds, timed, writer)


def _children(pid: int) -> list[int]:
    """Those that live."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:  # it has ended, or the kernel was built without this file
        text = " ".join(str(each.pid) for each in _processes(pid))
    return [child for child in map(int, text.split()) if _state(child)[:1] not in ("Z", "X", "")]


def _processes(pid: int) -> Iterator[psutil.Process]:
    try:
        yield from psutil.Process(pid).children()
    except psutil.NoSuchProcess:
        return


def _state(pid: int) -> str:
    """State and parent of a process, as in its `stat`; "" if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].strip()
    except OSError:
        return ""


def _send(child: int, parent: int, signum: signal.Signals) -> bool:
    """Send a signal; to nobody else even where the number was used again."""
    try:
        descriptor = os.pidfd_open(child)
    except OSError:
        return False
    try:
        fields = _state(child).split()
        if len(fields) < 2 or fields[1] != str(parent):
            return False
        signal.pidfd_send_signal(descriptor, signum)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _objects(pids: set[int]) -> int:
    """System V objects that one of these made."""
    segments = 0
    table = Path("/proc/sysvipc/shm")
    if table.exists():
        header, *lines = table.read_text().splitlines()
        column = header.split().index("cpid")
        segments = sum(int(line.split()[column]) in pids for line in lines)
    return segments + sum(each.kind == "semaphore" and each.pid in pids for each in scan())
