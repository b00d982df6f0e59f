"""`Process(checkpoint=...)`: answered jobs stay answered, whatever ends the program."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from multiprocessing_kit import (
    CheckpointError,
    JobCanceledError,
    JobResponse,
    NullQueue,
    PoolError,
    Process,
    Response,
    SerializationError,
    SharedMemQueue,
    Worker,
)
from multiprocessing_kit.checkpoint import store
from multiprocessing_kit.checkpoint.resume import name_of
from multiprocessing_kit.worker import as_worker
from tests.process.test_caller_death import Program

LONG = 30.0


class BrokenInputsError(Exception):
    pass


class Own:
    """A response of the user's own."""

    def __init__(self, body: Any, exit_code: int = 0) -> None:
        self.body = body
        self.exit_code = exit_code
        self.exception = None

    @property
    def ok(self) -> bool:
        return self.exit_code == 0


class Goes:
    """Pickles; its class can be made to refuse to be unpickled."""

    gone = False

    def __init__(self, number: int) -> None:
        self.number = number

    def __setstate__(self, state: dict[str, Any]) -> None:
        if Goes.gone:
            raise LookupError("moved away")
        self.__dict__.update(state)


class OnceOnly:
    """Pickles in the child and not in the caller."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.maker = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        if os.getpid() != self.maker:
            raise TypeError("only once")
        return self.__dict__


class Noted(Worker):
    """Notes in a file which jobs it ran, and does one of several things with the number."""

    def __init__(self, path: Path, what: str = "double") -> None:
        super().__init__()
        self.path = path
        self.what = what

    def process(self, argument: Any) -> Any:
        with open(self.path, "ab", buffering=0) as file:
            file.write(f"{argument}\n".encode())
        return getattr(self, self.what)(argument)

    def double(self, number: int) -> int:
        return 2 * number

    def odd_fail(self, number: int) -> int:
        if number % 2:
            raise ValueError(number)
        return number

    def exit_code(self, number: int) -> Response:
        return JobResponse(number, exit_code=number % 3)

    def own(self, number: int) -> Own:
        return Own(number, number % 2)

    def goes(self, number: int) -> Goes:
        return Goes(number)

    def once_only(self, number: int) -> OnceOnly:
        return OnceOnly(number)

    def array(self, number: int) -> Any:
        import numpy

        return numpy.full(1_000_000, number)

    def cancels(self, number: int) -> int:
        if number == 1:
            self.cancel()
        return number

    def value(self, number: int) -> object:
        return BODIES[number]

    def ran(self) -> list[int]:
        """The numbers, in order; forgets them."""
        if not self.path.exists():
            return []
        numbers = sorted(map(int, self.path.read_text().split()))
        self.path.unlink()
        return numbers


BODIES = [
    0, -1, 2**63 - 1, -(2**63), 2**63, 10**40, True, False, None, 0.0, -0.0, 1.0, 1e300, float("inf"),
    "", "a", "ä€", "a\0b", "\udc80", b"", b"a\0b", bytearray(b"a"), (1, 2), [1], {"a": {1}}, 1j, {1, 2},
    "x" * 10**6,
]  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "crawl.db"


@pytest.fixture
def noted(tmp_path: Path) -> Callable[..., Noted]:
    return lambda what="double": Noted(tmp_path / "ran", what)


def mapped(process: Process, worker: Worker, inputs: Iterable[Any], how: str) -> list[Response]:
    """By any way there is, in the order of the inputs."""
    if how == "map":
        return list(process.map(worker, inputs))
    found = list(process.imap(worker, inputs, ordered=how == "imap"))
    return found if how == "imap" else sorted(found, key=place)


def place(response: Response) -> int:
    return response.argument_index if isinstance(response, JobResponse) else response.body


def facts(response: Response) -> tuple[Any, ...]:
    if isinstance(response, JobResponse):
        more: tuple[Any, ...] = (
            response.job_id, response.attempts, response.duration, response.pid, response.argument_index,
            response.exception and str(response.exception.__cause__),
        )  # fmt: skip
    else:
        more = ()
    return (
        type(response),
        response.ok,
        repr(response.body),
        response.exit_code,
        repr(response.exception),
        *more,
    )


HOWS = ["map", "imap", "imap unordered"]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("make", [list, iter, lambda numbers: numbers], ids=["list", "iterator", "range"])
def test_nothing_runs_twice(
    file: Path, noted: Callable[..., Noted], how: str, make: Callable[..., Any]
) -> None:
    worker = noted()
    first = mapped(Process(2, checkpoint=file), worker, make(range(300)), how)
    assert worker.ran() == list(range(300))
    again = mapped(Process(2, checkpoint=str(file)), worker, make(range(300)), how)
    assert worker.ran() == []
    assert list(map(facts, again)) == list(map(facts, first))
    assert [(response.body, place(response)) for response in again] == [(2 * n, n) for n in range(300)]
    assert os.listdir(file.parent) == [file.name]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(
    "gone",
    [
        [0], [299], range(100, 200), range(0, 300, 2), range(1, 300, 7), range(299), range(1, 300),
        random.Random(5).sample(range(300), 150),
    ],
    ids=str,
)  # fmt: skip
def test_only_what_is_missing_runs(
    file: Path, noted: Callable[..., Noted], how: str, gone: Iterable[int]
) -> None:
    worker = noted()
    Process(2, checkpoint=file).map(worker, range(300))
    worker.ran()
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.executemany("DELETE FROM answers WHERE position = ?", [(n,) for n in gone])
    responses = mapped(Process(2, checkpoint=file), worker, iter(range(300)), how)
    assert worker.ran() == sorted(gone)
    assert [(response.body, place(response)) for response in responses] == [(2 * n, n) for n in range(300)]
    assert len(mapped(Process(2, checkpoint=file), worker, iter(range(300)), how)) == 300
    assert worker.ran() == []


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("what", ["odd_fail", "exit_code", "own", "array", "cancels"])
def test_any_answer_is_kept(file: Path, noted: Callable[..., Noted], how: str, what: str) -> None:
    worker = noted(what)
    first = mapped(Process(2, checkpoint=file), worker, range(8), how)
    assert worker.ran() == list(range(8))
    again = mapped(Process(2, checkpoint=file), worker, range(8), how)
    assert worker.ran() == []
    assert list(map(facts, again)) == list(map(facts, first))
    assert isinstance(again[1].exception, JobCanceledError) == (what == "cancels")


def test_any_body_comes_back_as_it_was(file: Path, noted: Callable[..., Noted]) -> None:
    worker = noted("value")
    for _ in range(2):
        responses = Process(2, checkpoint=file).map(worker, range(len(BODIES)))
        assert [(type(r.body), repr(r.body)) for r in responses] == [(type(b), repr(b)) for b in BODIES]
    assert len(worker.ran()) == len(BODIES)


def test_nan_comes_back(file: Path) -> None:
    for _ in range(2):
        assert [repr(r.body) for r in Process(1, checkpoint=file).map(float, ["nan"])] == ["nan"]


def test_an_answer_whose_class_has_gone(
    file: Path, noted: Callable[..., Noted], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = noted("goes")
    Process(1, checkpoint=file).map(worker, range(3))
    with monkeypatch.context() as patch:
        patch.setattr(Goes, "gone", True)
        responses = Process(1, checkpoint=file).map(worker, range(3))
        assert [response.ok for response in responses] == [False] * 3
        with pytest.raises(
            SerializationError, match=r"moved away.*kept in .*crawl.db as the answer of input 1,"
        ):
            raise responses[1].exception or AssertionError
    assert [r.body.number for r in Process(1, checkpoint=file).map(worker, range(3))] == [0, 1, 2]
    assert worker.ran() == [0, 1, 2]


def test_an_answer_that_cannot_be_pickled_again_is_given_and_not_kept(
    file: Path, noted: Callable[..., Noted], caplog: pytest.LogCaptureFixture
) -> None:
    worker = noted("once_only")
    for _ in range(2):
        assert [r.body.number for r in Process(1, checkpoint=file).map(worker, range(3))] == [0, 1, 2]
        assert worker.ran() == [0, 1, 2]
    assert "input 0 will run again next time" in caplog.text
    assert len(caplog.records) == 2


def test_an_argument_that_cannot_be_pickled_is_refused_each_time(file: Path) -> None:
    for _ in range(2):
        responses = Process(1, checkpoint=file).map(repr, [1, lambda: None, 3])
        assert [response.ok for response in responses] == [True, False, True]
        assert isinstance(responses[1].exception, SerializationError)


@pytest.mark.parametrize("how", HOWS)
def test_no_inputs(file: Path, how: str) -> None:
    for _ in range(2):
        assert mapped(Process(2, checkpoint=file), as_worker(abs), iter(()), how) == []


def test_children_that_live_on(file: Path, noted: Callable[..., Noted]) -> None:
    worker = noted()
    with Process(2, checkpoint=file) as process:
        for count in (10, 20, 20, 30):
            assert [r.body for r in process.map(worker, range(count))] == [2 * n for n in range(count)]
    assert worker.ran() == list(range(30))


@pytest.mark.parametrize("make", [NullQueue, SharedMemQueue, lambda: SharedMemQueue(5)])
def test_a_queue_gets_all(file: Path, noted: Callable[..., Noted], make: Callable[[], Any]) -> None:
    worker = noted()
    for _ in range(2):
        queue = make()
        found = Process(2, queue, checkpoint=file).map(worker, range(20))
        if isinstance(queue, SharedMemQueue):
            assert [response.body for response in found] == [2 * n for n in range(20)]
            queue.destroy()
    assert worker.ran() == list(range(20))


# ── inputs ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(
    ("inputs", "position"), [([0, 1, 3], 2), ([True, 1, 2], 0), ([0, 1.0, 2, 9], 1), (["0"], 0)]
)
def test_other_inputs_are_noticed(file: Path, how: str, inputs: list[Any], position: int) -> None:
    worker = as_worker(float)
    mapped(Process(1, checkpoint=file), worker, [0, 1, 2], how)
    with pytest.raises(CheckpointError) as caught:
        mapped(Process(1, checkpoint=file), worker, inputs, how)
    assert (caught.value.path, caught.value.position) == (str(file), position)
    for part in (str(file), f"input {position} ", "another file", f"mpkit checkpoint clear {file}"):
        assert part in str(caught.value)
    if how == "map":
        assert len(caught.value.responses) == position  # type: ignore[attr-defined]
    assert [r.body for r in mapped(Process(1, checkpoint=file), worker, [0, 1, 2], how)] == [0, 1, 2]


@pytest.mark.parametrize("how", HOWS)
def test_inputs_that_fail_half_way(file: Path, noted: Callable[..., Noted], how: str) -> None:
    def broken(count: int) -> Iterator[int]:
        yield from range(count)
        raise BrokenInputsError

    worker = noted()
    for count, fresh in ((50, range(50)), (50, []), (80, range(50, 80)), (30, [])):
        found: list[Response] = []
        process = Process(2, checkpoint=file)
        with pytest.raises(BrokenInputsError) as caught:
            found.extend(
                process.map(worker, broken(count))
                if how == "map"
                else process.imap(worker, broken(count), ordered=how == "imap")
            )
        found = found or list(caught.value.responses)  # type: ignore[attr-defined]
        assert sorted(response.body for response in found) == [2 * n for n in range(count)]
        assert worker.ran() == list(fresh)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("stored", [0, 10, 1000])
def test_inputs_are_taken_as_far_as_the_window_needs(file: Path, ordered: bool, stored: int) -> None:
    taken = 0

    def endless() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken - 1

    Process(2, checkpoint=file).map(abs, range(stored))
    responses = Process(2, checkpoint=file, window=4).imap(abs, endless(), ordered=ordered)
    for given in range(1, 41):
        next(responses)
        assert given <= taken <= given + 4
    responses.close()  # type: ignore[attr-defined]


def test_answers_behind_a_long_job_are_in_the_file_and_the_window_holds(file: Path) -> None:
    """The first job ends when the file has all answers that the window lets be, of those behind it."""
    taken = 0

    def numbers() -> Iterator[int]:
        nonlocal taken
        for number in range(100):
            taken += 1
            yield number

    def job(number: int) -> int:
        if number == 0:
            wait_for(lambda: positions(file) == set(range(1, 8)))
        return number

    responses = Process(2, checkpoint=file, window=8, batch_size=1).imap(job, numbers())
    assert next(responses).body == 0
    assert taken <= 8
    assert [response.body for response in responses] == list(range(1, 100))


# ── who may use it ────────────────────────────────────────────────────────────────────────────────


def test_another_worker_is_refused(file: Path, noted: Callable[..., Noted]) -> None:
    Process(1, checkpoint=file).map(abs, [1])
    for worker in (float, noted()):
        with pytest.raises(CheckpointError, match=r"crawl.db has answers of the worker builtins.abs, not of"):
            Process(1, checkpoint=file).map(worker, [1])
    assert Process(1, checkpoint=file).map(abs, [1])[0].body == 1


def newer(file: Path) -> None:
    Process(1, checkpoint=file).map(abs, [1])
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA user_version = 99")


def test_names_of_workers() -> None:
    import functools

    worker = Noted(Path("x"))
    assert name_of(worker) == f"{__name__}.Noted"
    worker.name = "night"
    assert name_of(worker) == f"{__name__}.Noted 'night'"
    assert name_of(as_worker(functools.partial(name_of))) == "multiprocessing_kit.checkpoint.resume.name_of"
    assert name_of(as_worker(worker.double)) == f"{__name__}.Noted.double"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda file: file.write_text("no database at all, but long enough"), "file is not a database"),
        (lambda file: file.mkdir(), "cannot be opened"),
        (
            lambda file: sqlite3.connect(file).execute("CREATE TABLE a (b)").connection.close(),
            "something else",
        ),
        (newer, "checkpoint format 99, but"),
    ],
)
def test_a_file_that_is_no_checkpoint(file: Path, make: Callable[[Path], object], message: str) -> None:
    make(file)
    before = file.read_bytes() if file.is_file() else b""
    with pytest.raises(CheckpointError, match=message):
        Process(1, checkpoint=file).map(abs, [1])
    assert (file.read_bytes() if file.is_file() else b"") == before


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        Process(1, checkpoint=tmp_path / "no" / "file").map(abs, [1])


def test_arguments_that_make_no_sense(file: Path) -> None:
    with pytest.raises(TypeError, match="checkpoint must be a path"):
        Process(1, checkpoint=3)  # type: ignore[arg-type]
    process = Process(1, checkpoint=file)
    with pytest.raises(TypeError):
        process.map(abs, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        process.map(3, [])  # type: ignore[arg-type]
    process.shutdown()
    with pytest.raises(PoolError):
        process.map(abs, [1])


def test_one_at_a_time(file: Path) -> None:
    """In this process and its children; free again afterwards, also without `close`."""
    responses = Process(1, checkpoint=file).imap(abs, [1, 2, 3])
    next(responses)
    with pytest.raises(CheckpointError, match="this program maps with it already"):
        Process(1, checkpoint=file).map(abs, [1])
    (inner,) = Process(1).map(lambda n: Process(1, checkpoint=file).map(abs, [n])[0].body, [1])
    assert isinstance(inner.exception, CheckpointError)
    assert "in use by another program" in str(inner.exception)
    assert next(responses).body == 2
    del responses
    assert len(Process(1, checkpoint=file).map(abs, [1, 2, 3])) == 3


def test_it_is_used_by_another_thread_than_it_was_made_by(file: Path) -> None:
    responses = Process(1, checkpoint=file).imap(abs, range(1000))
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(responses))
    thread.start()
    thread.join()
    assert len(found) == 1000


def test_shutdown_ends_it(file: Path) -> None:
    process = Process(1, checkpoint=file)
    responses = process.imap(abs, range(10**6))
    assert next(responses).body == 0
    process.shutdown(cancel_pending=True)
    assert len(list(responses)) < 10**6
    assert len(Process(1, checkpoint=file).map(abs, range(10))) == 10


# ── ends of the program ───────────────────────────────────────────────────────────────────────────

CRAWL = """
class Crawl(Worker):
    def process(self, number):
        descriptor = os.open("{ran}", os.O_WRONLY | os.O_APPEND)
        os.write(descriptor, b"%d\\n" % number)
        os.close(descriptor)
        time.sleep(0.0005)
        if number % 10 == 3:
            raise ValueError(number)
        return 2 * number

process = Process(2, checkpoint="{file}", batch_size={batch})
for response in {call}:
    say(response.argument_index)
say("done")
"""


@pytest.mark.parametrize(
    ("call", "batch"),
    [
        ("process.imap(Crawl(), iter(range(2000)))", "'auto'"),
        ("process.imap(Crawl(), range(2000), ordered=False)", "1"),
        ("process.map(Crawl(), list(range(2000)))", "'auto'"),
    ],
)
def test_the_caller_is_killed_again_and_again(file: Path, tmp_path: Path, call: str, batch: str) -> None:
    ran = tmp_path / "ran"
    ran.touch()
    code = CRAWL.format(ran=ran, file=file, call=call, batch=batch)
    generator = random.Random(11)
    in_file: set[int] = set()
    for kill in range(10):
        lines = generator.randrange(55 * kill, 55 * (kill + 1) + 1)
        with Program(code) as program:
            if ".map(" in call:  # it prints at its end
                wait_for_rows(file, len(in_file) + lines - 55 * kill)
            while ".map(" not in call and len(program.output) < lines:
                assert program._read(time.monotonic() + LONG), program.errors
            program.watch_children()
            program.signal(signal.SIGKILL)
            assert program.exitcode == -signal.SIGKILL
            assert program.left() == []
            assert "done" not in program.output
        again = {int(line) for line in ran.read_text().split()} & in_file
        assert again == set(), "jobs whose answers were in the file ran again"
        ran.write_text("")
        in_file = positions(file)
    assert len(in_file) > 100
    with Program(code) as program:
        *printed, last = program.rest()
        assert (last, program.exitcode, program.errors) == ("done", 0, "")
    assert sorted(map(int, printed)) == list(range(2000))
    fresh = list(map(int, ran.read_text().split()))
    assert Counter(fresh) == Counter(set(range(2000)) - in_file)


def wait_for_rows(file: Path, count: int) -> None:
    wait_for(lambda: len(positions(file)) >= count)


def wait_for(is_so: Callable[[], bool]) -> None:
    """For what nothing announces: a row in a file that another process writes."""
    deadline = time.monotonic() + LONG
    while not is_so():
        assert time.monotonic() < deadline
        os.sched_yield()


def positions(file: Path) -> set[int]:
    if not file.exists():
        return set()
    with contextlib.closing(sqlite3.connect(file)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'answers'").fetchone():
            return set()
        return {position for (position,) in connection.execute("SELECT position FROM answers")}


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("call", ["process.map(job, range(1000))", "list(process.imap(job, range(1000)))"])
def test_a_signal_to_the_caller(file: Path, signum: signal.Signals, call: str) -> None:
    """It waits for a long job; what was answered before is in the file already, and stays there."""
    code = f"""
def job(number):
    if number == 20:
        say("busy")
        time.sleep(1000)
    return number

process = Process(1, checkpoint="{file}", batch_size=1)
{call}
"""
    with Program(code) as program:
        program.wait_for("busy")
        wait_for(lambda: positions(file) == set(range(20)))
        program.signal(signum)
        assert program.exitcode == (-signal.SIGINT if signum == signal.SIGINT else 143)
    assert positions(file) == set(range(20))
    assert not Path(f"{file}-lock").exists()


def test_an_error_of_the_run(file: Path) -> None:
    class NoSetup(Worker):
        def setup(self) -> None:
            raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(PoolError):
            Process(1, checkpoint=file).map(NoSetup(), range(10))


def test_ctrl_c_in_the_loop_around_an_iterator(file: Path, noted: Callable[..., Noted]) -> None:
    worker = noted()
    given = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012  # the loop is the point
        for response in Process(1, checkpoint=file).imap(worker, range(10**6)):
            given.append(response.body // 2)
            if len(given) == 50:
                raise KeyboardInterrupt
    assert positions(file) >= set(given)


# ── full disks ────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of 512 KiB; where that is not allowed, no file may be longer than 200 KB."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if not mounted:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def grow(folder: Path) -> None:
    if folder.is_mount():
        subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.mark.parametrize("how", HOWS)
def test_a_full_disk(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "disk"
    file = folder / "crawl.db"
    ran = Noted(tmp_path / "ran")
    with small_disk(folder):
        with pytest.raises(CheckpointError, match=r"cannot be written: .*make room and run the same"):
            mapped(Process(2, checkpoint=file), Page(ran.path), range(2000), how)
        kept = positions(file)
        assert 0 < len(kept) < 2000
        assert set(ran.ran()) >= kept
        grow(folder)
        responses = mapped(Process(2, checkpoint=file), Page(ran.path), range(2000), how)
        assert [response.body for response in responses] == [bytes([n % 256]) * 1000 for n in range(2000)]
        assert ran.ran() == sorted(set(range(2000)) - kept)


class Page(Noted):
    def double(self, number: int) -> Any:
        return bytes([number % 256]) * 1000


def test_a_disk_that_is_full_from_the_start(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    with small_disk(folder):
        if not folder.is_mount():
            pytest.skip("needs a file system of its own")
        with contextlib.suppress(OSError), open(folder / "ballast", "wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(4096))
        with pytest.raises(CheckpointError, match=r"full|No space"):
            Process(1, checkpoint=folder / "crawl.db").map(abs, [1])


# ── the front door ────────────────────────────────────────────────────────────────────────────────


def test_sqlite_is_imported_with_the_first_checkpoint() -> None:
    code = """if True:
        import sys
        from multiprocessing_kit import Process
        Process(1).map(abs, [1])
        assert not {"sqlite3", "_sqlite3"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True)


def test_what_is_in_the_file_fires_no_events(file: Path) -> None:
    heard: list[int] = []
    for expected in (20, 20):
        process = Process(2, checkpoint=file)
        process.on("job_success", lambda process, argument: heard.append(argument))
        process.map(abs, range(20))
        assert len(heard) == expected


def test_answers_wait_for_each_other_in_one_transaction(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    write = store.Store.write

    def counted(self: store.Store) -> None:
        written.append(len(self._rows))
        write(self)

    monkeypatch.setattr(store.Store, "write", counted)
    Process(2, checkpoint=file).map(abs, range(50_000))
    assert sum(written) == 50_000
    assert len(written) < 5_000
