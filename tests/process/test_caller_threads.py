"""A caller whose other threads hold locks, and log, at the instant of each fork."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from multiprocessing_kit import Process

THREADS = 8


@contextmanager
def busy_threads(log: logging.Logger) -> Iterator[None]:
    """They take and release locks of their own, and write to the log, until the end."""
    ended = threading.Event()

    def work() -> None:
        lock, condition = threading.Lock(), threading.Condition()
        while not ended.is_set():
            with lock, condition:
                log.info("a line")

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize(
    "rounds", [pytest.param(1000, marks=pytest.mark.stress), pytest.param(60, marks=pytest.mark.thorough)]
)
@pytest.mark.timeout(600)
def test_no_child_waits_for_a_thread_that_it_has_not(rounds: int, tmp_path: Path) -> None:
    log = logging.getLogger("tests.busy_threads")
    handler = logging.FileHandler(tmp_path / "log")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False

    def job(number: int) -> int:
        log.info("job %d", number)
        return number

    try:
        with busy_threads(log):
            for _ in range(rounds):
                responses = Process(2, timeout=30).map(job, range(4))
                assert [response.body for response in responses] == [0, 1, 2, 3]
    finally:
        log.removeHandler(handler)
        handler.close()
