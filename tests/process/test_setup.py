"""Before the first job: what is refused, and what goes wrong in `setup()`."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from multiprocessing_kit import NullQueue, PoolError, Process, RemoteError, Worker
from multiprocessing_kit.supervise.memory import own_memory

PROCESS: Any = Process
WORKER: Any = Worker
BOUNDED = 20.0  # seconds, where a hang would take for ever


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: PROCESS(0), ValueError, "processes must be at least 1, not 0"),
        (lambda: PROCESS(-1), ValueError, "processes must be at least 1, not -1"),
        (lambda: PROCESS(1.5), TypeError, "processes must be an int, not 1.5"),
        (lambda: PROCESS(True), TypeError, "processes must be an int, not True"),
        (lambda: PROCESS("2"), TypeError, "processes must be an int, not '2'"),
        (lambda: PROCESS(1, window=0), ValueError, "window must be at least 1, not 0"),
        (lambda: PROCESS(1, []), TypeError, r"queue must be a .*Queue or None, not \[\]"),
        (lambda: PROCESS(1, NullQueue), TypeError, "queue must be a .*Queue or None, not <class"),
        (lambda: PROCESS(1).map(3, [1]), TypeError, "worker must be a Worker or a function .*not 3"),
        (lambda: PROCESS(1).map(Worker, [1]), TypeError, r"an instance: Worker\(\), not the class Worker"),
        (lambda: PROCESS(1).imap(None, [1]), TypeError, "worker must be a Worker or a function .*not None"),
        (lambda: PROCESS(1).map(abs, 3), TypeError, "inputs must be an iterable, not int"),
        (lambda: PROCESS(1).imap(abs, None), TypeError, "inputs must be an iterable, not NoneType"),
        (lambda: PROCESS(1).on("job_done", print), ValueError, "unknown event 'job_done'.*JOB_SUCCESS"),
        (lambda: PROCESS(1).on("job_start", 3), TypeError, "a listener must be callable, not int"),
        (lambda: PROCESS(1).on("job_start", lambda a, b: 0), TypeError, "'b', which no event carries"),
        (lambda: PROCESS(1).on("job_start", lambda: 0), TypeError, "must take the .*process or child first"),
        (lambda: PROCESS(1).off("job_done"), ValueError, "unknown event 'job_done'"),
        (lambda: PROCESS(1).attach(print), TypeError, "an observer must be an Observer"),
        (lambda: WORKER(retry=3), TypeError, "retry must be a RetryStrategy, not 3"),
    ],
)
def test_what_is_refused(call: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


def test_inputs_may_come_from_an_iterator_that_is_no_iterable() -> None:
    class Numbers:
        def __init__(self) -> None:
            self.left = [3, 2, 1]

        def __next__(self) -> int:
            if not self.left:
                raise StopIteration
            return self.left.pop()

    class Inputs:
        def __iter__(self) -> Any:
            return Numbers()

    assert [response.body for response in Process(1).map(str, Inputs())] == ["1", "2", "3"]


class Setup(Worker):
    """Notes each call in a file, a letter each, and then does `do`."""

    def __init__(self, notes: Path, do: Callable[[], object], *, at: str = "setup") -> None:
        super().__init__("named")
        self.notes, self.do, self.at = notes, do, at

    def note(self, what: str) -> None:
        with self.notes.open("a") as file:
            file.write(what)
        if what == self.at:
            self.do()

    def setup(self) -> None:
        self.note("setup ")

    def process(self, argument: Any) -> Any:
        return os.getpid(), os.getppid()

    def teardown(self) -> None:
        self.note("teardown ")


def forks_and_returns() -> None:
    if pid := os.fork():
        os.waitpid(pid, 0)


def throw(error: BaseException) -> Callable[[], object]:
    def do() -> None:
        raise error

    return do


class TwoArgumentsError(Exception):
    def __init__(self, text: str, _more: int) -> None:
        super().__init__(text)


@pytest.mark.parametrize("resident", [False, True], ids=["once", "resident"])
@pytest.mark.parametrize(
    ("do", "match", "cause"),
    [
        (throw(ValueError("oh")), r"setup\(\) of worker 'named' failed: ValueError\('oh'\)", ValueError),
        (throw(TwoArgumentsError("two", 2)), r"setup\(\).*TwoArgumentsError: two", RemoteError),
        (throw(KeyboardInterrupt()), r"setup\(\) .* failed: KeyboardInterrupt", KeyboardInterrupt),
        (lambda: sys.exit(4), r"setup\(\) .* failed: SystemExit\(4\)", SystemExit),
        (lambda: os._exit(5), r"children in a row .* exited with 5: look at setup\(\)", None),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), r"in a row .* killed by SIGKILL.*setup\(\)", None),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), r"in a row .* killed by SIGTERM.*setup\(\)", None),
    ],
    ids=["raises", "raises what cannot travel", "Ctrl-C", "exits", "_exit", "SIGKILL", "SIGTERM"],
)
def test_setup_fails(
    do: Callable[[], object], match: str, cause: type[BaseException] | None, resident: bool, tmp_path: Path
) -> None:
    worker, process = Setup(tmp_path / "notes", do, at="setup "), Process(3)
    began = time.monotonic()
    with process if resident else contextlib.nullcontext():
        for _ in range(2 if resident else 1):
            with pytest.raises(PoolError, match=match) as caught:
                process.map(worker, range(100))
            assert caught.value.responses == []  # type: ignore[attr-defined]
            assert type(caught.value.__cause__) is (cause or type(None))
            if cause is not None and cause is not RemoteError:
                assert "test_setup.py" in str(caught.value.__cause__.__cause__)  # type: ignore[union-attr]
        if resident:
            good = Setup(tmp_path / "good", lambda: None)
            assert all(response.ok for response in process.map(good, range(20)))
    assert time.monotonic() - began < BOUNDED
    assert 1 <= len((tmp_path / "notes").read_text().split()) <= 10 * (1 + resident), "forks"


def test_setup_that_fails_in_later_children(tmp_path: Path) -> None:
    """The first child is sound; a job ends it, and the next one cannot be set up."""

    def do() -> None:
        if (tmp_path / "notes").read_text() != "setup ":
            raise ValueError("only once")

    class Ends(Setup):
        def process(self, argument: Any) -> Any:
            return argument if argument != 3 else os._exit(1)

    with pytest.raises(PoolError, match="only once") as caught:
        Process(1, batch_size=1, crash_retries=0).map(Ends(tmp_path / "notes", do, at="setup "), range(10))
    responses = caught.value.responses  # type: ignore[attr-defined]
    assert [response.ok for response in responses] == [True, True, True, False]


def test_setup_that_fails_in_all_but_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The one goes on alone, and no more of the others than that are forked while it is at its job."""

    def do() -> None:
        try:
            (tmp_path / "first").touch(exist_ok=False)
        except FileExistsError:
            os._exit(3)

    class Waits(Setup):
        def process(self, argument: Any) -> Any:
            while not argument and not (tmp_path / "told").exists():
                time.sleep(0.01)
            return argument

    class Telling(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "going on with 1 children" in record.getMessage():
                (tmp_path / "told").touch()

    telling = Telling()
    logging.getLogger("multiprocessing_kit.runner").addHandler(telling)
    worker = Waits(tmp_path / "notes", do, at="setup ")
    try:
        responses: Any = Process(2, batch_size=1).map(worker, range(200))
    finally:
        logging.getLogger("multiprocessing_kit.runner").removeHandler(telling)
    assert [response.body for response in responses] == [*range(200)]
    assert (tmp_path / "notes").read_text().count("setup") == 6
    assert "exited with 3: look at setup()" in caplog.text


def test_setup_that_takes_too_much_memory(tmp_path: Path) -> None:
    """A child begins with what its parent has, and may have twice the limit before it is killed."""
    limit = own_memory(os.getpid()) + (20 << 20)

    def do() -> None:
        kept.append(b"." * (limit + (80 << 20)))
        signal.pause()

    kept: list[bytes] = []
    worker = Setup(tmp_path / "notes", do, at="setup ")
    with pytest.raises(PoolError, match=r"SIGKILL, since it had \d+ MiB \(see max_memory_per_child\)"):
        Process(1, max_memory_per_child=limit).map(worker, range(5))
    assert (tmp_path / "notes").read_text().count("setup") <= 10


@pytest.mark.parametrize(
    "do",
    [lambda: os.closerange(3, 256), lambda: os.closerange(3, 1024), forks_and_returns, sys.stdout.flush],
    ids=["closes some descriptors", "closes descriptors", "forks", "nothing"],
)
def test_setup_that_does_not_fail(do: Callable[[], object], tmp_path: Path) -> None:
    responses: Any = Process(2).map(Setup(tmp_path / "notes", do, at="setup "), range(20))
    assert [response.argument_index for response in responses] == list(range(20))
    assert {response.result()[1] for response in responses} == {os.getpid()}
    children = {response.pid for response in responses}
    assert (tmp_path / "notes").read_text().count("setup") >= len(children)


@pytest.mark.parametrize("resident", [False, True], ids=["once", "resident"])
def test_once_in_each_child(resident: bool, tmp_path: Path) -> None:
    process = Process(2)
    children = set()
    with process if resident else contextlib.nullcontext():
        for _ in range(3):
            worker = Setup(tmp_path / "notes", print)
            children |= {response.pid for response in process.map(worker, range(20))}  # type: ignore[attr-defined]
    notes = (tmp_path / "notes").read_text().split()
    assert sorted(notes) == ["setup"] * len(children) + ["teardown"] * len(children)


@pytest.mark.parametrize(
    "do",
    [throw(ValueError("oh")), lambda: sys.exit(4), lambda: os._exit(5), lambda: os.kill(os.getpid(), 9)],
    ids=["raises", "exits", "_exit", "SIGKILL"],
)
@pytest.mark.parametrize("resident", [False, True], ids=["once", "resident"])
def test_teardown_fails(do: Callable[[], object], resident: bool, tmp_path: Path) -> None:
    process = Process(2)
    with process if resident else contextlib.nullcontext():
        for _ in range(2):
            responses = process.map(Setup(tmp_path / "notes", do, at="teardown "), range(20))
            assert all(response.ok for response in responses)
