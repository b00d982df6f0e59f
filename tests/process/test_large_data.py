"""Large arguments and results: right, private or read-only as promised, and their memory comes back."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

from multiprocessing_kit import (
    JobResponse,
    Process,
    Response,
    RetriesExhaustedError,
    RetryStrategy,
    RetryType,
    Worker,
    WorkerLostError,
)
from multiprocessing_kit.errors import IpcError
from multiprocessing_kit.ipc import sysv
from multiprocessing_kit.ipc.arena import KEEP_BYTES, Arena, Block
from multiprocessing_kit.ipc.parcel import THRESHOLD
from multiprocessing_kit.runner.child_end import ChildEnd
from multiprocessing_kit.runner.hold import Hold
from multiprocessing_kit.worker import FunctionWorker
from tests.forks import die
from tests.process.test_caller_death import Program
from tests.process.test_interrupts import check_end, check_end_in_time, main

pytestmark = pytest.mark.thorough

np = pytest.importorskip("numpy")

TABLE = Path("/proc/sysvipc/shm")
KIB = 1 << 10
MIB = 1 << 20
LANES = 4 * MIB
"""Shared memory of the lanes themselves, at most."""

counts_memory = pytest.mark.skipif(not TABLE.exists(), reason="looks into /proc/sysvipc")


def in_use() -> int:
    """Bytes of shared memory in use by this process's segments; the kernel's own count."""
    head, *lines = TABLE.read_text().splitlines()
    rows = [dict(zip(head.split(), map(int, line.split()), strict=True)) for line in lines]
    return sum(row["rss"] for row in rows if row["cpid"] == os.getpid())


def bodies(responses: Iterable[Response]) -> list[Any]:
    return [response.result() for response in responses]  # type: ignore[attr-defined]


def echo(argument: Any) -> Any:
    return argument


def filled(number: int, size: int = MIB) -> Any:
    """An array that tells its number anywhere."""
    return np.full(size // 8, number, "i8")


def tells(value: Any, number: int, size: int = MIB) -> bool:
    return bool(value.shape == (size // 8,) and (value == number).all())


def all_tell(values: list[Any], size: int = MIB) -> bool:
    return all(tells(value, number, size) for number, value in enumerate(values))


def maps(resident: bool, process: Process, runs: int = 3) -> Iterator[Process]:
    """The process for some maps: with children that live on, or not."""
    if not resident:
        yield from [process] * runs
        return
    with process:
        yield from [process] * runs


RESIDENT = pytest.mark.parametrize("resident", [False, True], ids=["once", "resident"])


@pytest.fixture
def allocated(monkeypatch: pytest.MonkeyPatch) -> list[Block]:
    """The blocks that were allocated."""
    blocks: list[Block] = []
    allocate = Arena.allocate

    def noted(arena: Arena, size: int) -> Block:
        blocks.append(allocate(arena, size))
        return blocks[-1]

    monkeypatch.setattr(Arena, "allocate", noted)
    return blocks


# ── there and back, of every size ─────────────────────────────────────────────────────────────────


def as_bytes(size: int, seed: int = 1) -> bytes:
    unit = bytes((seed * number + number // 251) % 256 for number in range(4099))
    return (unit * (size // 4099 + 1))[:size]


KINDS: dict[str, Callable[[int], Any]] = {
    "bytes": as_bytes,
    "bytearray": lambda size: bytearray(as_bytes(size)),
    "memoryview": lambda size: memoryview(as_bytes(size)),
    "writable memoryview": lambda size: memoryview(bytearray(as_bytes(size))),
    "array": lambda size: np.frombuffer(bytearray(as_bytes(size)), "u1"),
    "str": lambda size: as_bytes(size).decode("latin-1").encode("ascii", "replace").decode(),
    "wide str": lambda size: "€" * (size // 3) + "x" * (size % 3),
}
SIZES = [
    0, 1, THRESHOLD - 1, THRESHOLD, 128 * KIB - 1, 128 * KIB, 256 * KIB, 300 * KIB, MIB, 16 * MIB, 100 * MIB,
]  # fmt: skip


def same_data(value: Any, other: Any) -> bool:
    """Equal; as `==` but quick for a memoryview, and of the same type."""
    if type(value) is not type(other):
        return False
    if isinstance(value, memoryview):
        same_form = (value.format, value.shape) == (other.format, other.shape)
        return same_form and value.tobytes() == other.tobytes()
    if isinstance(value, np.ndarray):
        return bool(value.dtype == other.dtype and np.array_equal(value, other))
    return bool(value == other)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_and_size(kind: str, size: int) -> None:
    if size == SIZES[-1] and kind not in {"bytes", "array"}:
        size = 33 * MIB
    make = KINDS[kind]
    expected = make(size)

    def job(argument: Any) -> Any:
        return argument if same_data(argument, make(size)) else "the argument was wrong"

    received, same = bodies(Process(1).map(job, [make(size), expected]))
    assert same_data(received, expected)
    assert same_data(same, expected)
    assert same_data(expected, make(size))


@pytest.mark.stress
@pytest.mark.timeout(400)
@pytest.mark.parametrize("way", ["argument", "result"])
@pytest.mark.parametrize("kind", ["bytes", "array"])
def test_three_gibibytes(kind: str, way: str) -> None:
    size = 3 << 30

    def make() -> Any:
        if kind == "bytes":
            return b"\x07" * (size - 1) + b"\x01"
        array = np.full(size, 7, "u1")
        array[-1] = 1
        return array

    def is_right(value: Any) -> bool:
        view = memoryview(value)
        return len(view) == size and (view[0], view[size // 2], view[-2], view[-1]) == (7, 7, 7, 1)

    process = Process(1)
    if way == "argument":
        assert bodies(process.map(is_right, iter([make()]))) == [True]
    else:
        assert is_right(bodies(process.map(lambda _: make(), [0])).pop())


def test_all_sizes_in_one_map() -> None:
    """Jobs that travel together, alone, and by shared memory, in any order."""
    sizes = [SIZES[number * 7 % 9] for number in range(60)]
    arguments = [KINDS[list(KINDS)[number % len(KINDS)]](size) for number, size in enumerate(sizes)]
    for batch_size in ("auto", 1, 10):
        process = Process(2, batch_size=cast(Any, batch_size))
        assert all(map(same_data, bodies(process.map(echo, arguments)), arguments))
        assert all(map(same_data, bodies(process.imap(echo, iter(arguments))), arguments))


# ── read-only there, private here ─────────────────────────────────────────────────────────────────


def test_a_job_sees_a_large_array_read_only_and_a_small_one_as_it_was() -> None:
    def job(array: Any) -> Any:
        try:
            array[0] = 100
        except ValueError as error:
            return str(error)
        return array

    large, small = filled(1), np.ones(10)
    refusal, changed = bodies(Process(1).map(job, [large, small]))
    assert "read-only" in refusal
    assert changed[0] == 100
    assert tells(large, 1)
    assert small[0] == 1


def test_a_job_sees_a_large_bytearray_of_its_own() -> None:
    """It cannot be a view: it can be resized, and lies in the pickle itself."""

    def job(data: bytearray) -> bytes:
        data[0] = 100
        data.append(101)
        return bytes(data)

    data = bytearray(MIB)
    (result,) = bodies(Process(1).map(job, [data]))
    assert result == b"\x64" + bytes(MIB - 1) + b"\x65"
    assert data == bytes(MIB)


def test_a_job_sees_a_large_memoryview_read_only() -> None:
    def job(view: memoryview) -> str:
        try:
            view[0] = 1.5  # type: ignore[call-overload]
        except TypeError as error:
            return f"{error} {view.format} {view.shape}"
        return ""

    view = memoryview(bytearray(MIB)).cast("d", (128, 1024))
    assert bodies(Process(1).map(job, [view])) == ["cannot modify read-only memory d (128, 1024)"]


@pytest.mark.parametrize("size", [1000, MIB])
def test_results_are_private_and_writable(size: int) -> None:
    with Process(1) as process:
        results = bodies(process.map(lambda number: filled(number, size), range(5)))
        for number, result in enumerate(results):
            result[0] = 1000 + number
            pid = os.fork()
            if pid == 0:
                result[:] = 5
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        later = bodies(process.map(lambda number: filled(-number, size), range(5)))
    for number, result in enumerate(results):
        assert result[0] == 1000 + number
        assert (result[1:] == number).all()
    assert all(tells(result, -number, size) for number, result in enumerate(later))


@pytest.mark.parametrize("size", [1000, THRESHOLD, MIB])
def test_a_result_that_was_read_only_still_is(size: int) -> None:
    def job(_: int) -> Any:
        locked, free = filled(1, size), filled(2, size)
        locked.flags.writeable = False
        return locked, free, memoryview(bytes(size)), memoryview(bytearray(size))

    locked, free, read_only, writable = bodies(Process(1).map(job, [0])).pop()
    assert (locked.flags.writeable, free.flags.writeable) == (False, True)
    assert (read_only.readonly, writable.readonly) == (True, False)
    writable[0] = 1
    free[0] = 1


def test_results_outlive_everything() -> None:
    with Process(2) as process:
        first = bodies(process.map(filled, range(20)))
        second = bodies(process.map(lambda number: filled(number + 20), range(20)))
        assert all_tell(first + second)
    third = bodies(Process(2).map(lambda number: filled(number + 40), range(20)))
    assert all_tell(first + second + third)
    if TABLE.exists():
        assert in_use() == 0


class Keeps(Worker):
    """Keeps its arguments, and looks at all of them in each job."""

    def __init__(self) -> None:
        super().__init__("keeps")
        self.kept: list[tuple[Any, int]] = []

    def process(self, argument: Any) -> tuple[int, int]:
        self.kept.append((argument, int(argument[0])))
        self.kept.append((argument[100:200], int(argument[0])))
        changed = sum(1 for array, number in self.kept if not (array == number).all())
        return changed, len(self.kept)

    def teardown(self) -> None:
        if any(not (array == number).all() for array, number in self.kept):
            os._exit(3)


@RESIDENT
def test_kept_arguments_never_change(resident: bool, caplog: pytest.LogCaptureFixture) -> None:
    kept = 0
    for run, process in enumerate(maps(resident, Process(2))):
        inputs = (filled(100 * run + number, 256 * KIB) for number in range(60))
        answers = bodies(process.map(Keeps(), inputs))
        assert {changed for changed, _ in answers} == {0}
        kept = max(kept, *(count for _, count in answers))
    assert kept >= (180 if resident else 60), "two of each argument, in one of two children"
    assert "at the end of its work" not in caplog.text


# ── memory comes back ─────────────────────────────────────────────────────────────────────────────


@counts_memory
def test_memory_between_maps_is_bounded(allocated: list[Block]) -> None:
    with Process(2) as process:
        for size in (MIB, 16 * MIB, 50 * MIB, 300 * KIB) * 2:
            count = max(4, 100 * MIB // size)
            assert all_tell(bodies(process.imap(echo, (filled(n, size) for n in range(count)))), size)
            # What the children say after their last answer is heard in the next map.
            assert in_use() <= KEEP_BYTES + 2 * size + LANES
    assert len({block.place for block in allocated}) < len(allocated) / 2
    assert in_use() == 0


IN_FLIGHT = 256 * MIB
"""Of arguments that are given to one child, as the guide says."""


def first(array: Any) -> int:
    return int(array[0])


def double(array: Any) -> Any:
    return array * 2


@counts_memory
@pytest.mark.parametrize(
    ("method", "job"), [("map", first), ("imap", first), ("imap", double), ("imap", echo)]
)
def test_memory_in_flight_is_bounded(method: str, job: Callable[[Any], Any]) -> None:
    """Of 3.2 GB of arguments that are made as they are taken."""
    most = 0
    size = 16 * MIB

    def inputs() -> Iterator[Any]:
        nonlocal most
        for number in range(200):
            most = max(most, in_use())
            yield filled(number, size)

    for number, response in enumerate(getattr(Process(2), method)(job, inputs())):
        body = response.body
        assert body == number if job is first else tells(body, number * (1 + (job is double)), size)
    assert number == 199
    assert most <= 2 * IN_FLIGHT + KEEP_BYTES + LANES


@counts_memory
def test_memory_that_waits_behind_a_long_job_is_bounded() -> None:
    """Jobs were quick so far, so many would be given ahead."""
    most = 0

    def inputs() -> Iterator[Any]:
        nonlocal most
        for number in range(100):
            most = max(most, in_use())
            yield number, filled(number, 300 * KIB if number < 30 else 16 * MIB)

    def job(argument: Any) -> int:
        number, array = argument
        if number == 31:
            time.sleep(0.3)
        return int(array[0])

    assert bodies(Process(1).map(job, inputs())) == list(range(100))
    assert most <= IN_FLIGHT + KEEP_BYTES + LANES


# ── the same array again and again ────────────────────────────────────────────────────────────────

WRAPPED: dict[str, tuple[Callable[[int, Any], Any], Callable[[Any], Any]]] = {
    "alone": (lambda number, array: array, lambda argument: argument),
    "in tuples": (lambda number, array: (number, array), lambda argument: argument[1]),
    "nested": (
        lambda number, array: {"a": [{"b": (number, [array, array[:10]])}]},
        lambda argument: argument["a"][0]["b"][1][0],
    ),
    "twice": (lambda number, array: [array, number, array], lambda argument: argument[2]),
}


@counts_memory
@pytest.mark.parametrize("name", WRAPPED)
def test_the_same_array_lies_there_once(name: str) -> None:
    wrap, unwrap = WRAPPED[name]
    array, size = filled(3, 16 * MIB), 16 * MIB
    most = 0

    def inputs() -> Iterator[Any]:
        nonlocal most
        for number in range(100):
            most = max(most, in_use())
            yield wrap(number, array)

    assert bodies(Process(2).map(lambda argument: int(unwrap(argument)[-1]), inputs())) == [3] * 100
    assert most <= size + LANES


@pytest.mark.parametrize("name", WRAPPED)
def test_the_same_array_in_jobs_at_the_same_time_is_copied_once(name: str, allocated: list[Block]) -> None:
    wrap, unwrap = WRAPPED[name]
    array = filled(3)
    reading, writing = os.pipe()

    def job(argument: Any) -> bool:
        os.read(reading, 1)  # what comes when all have begun
        return tells(unwrap(argument), 3)

    def let_go(_process: Process) -> None:
        begun.append(1)
        if len(begun) == 4:
            os.write(writing, b"....")

    begun: list[int] = []
    process = Process(4, batch_size=1).on("job_start", let_go)
    assert bodies(process.map(job, [wrap(number, array) for number in range(4)])) == [True] * 4
    assert len(allocated) == 1
    os.close(reading)
    os.close(writing)


@RESIDENT
@pytest.mark.parametrize("size", [1000, THRESHOLD, MIB])
def test_an_array_that_is_refilled_for_each_job(resident: bool, size: int) -> None:
    array = filled(0, size)

    def inputs() -> Iterator[Any]:
        for number in range(100):
            array[:] = number
            yield array

    def job(argument: Any) -> int:
        return int(argument[0]) if (argument == argument[0]).all() else -1

    for process in maps(resident, Process(2)):
        assert bodies(process.map(job, inputs())) == list(range(100))
        assert bodies(process.imap(job, inputs())) == list(range(100))


def test_an_array_of_which_little_changes() -> None:
    array = filled(0)

    def inputs() -> Iterator[Any]:
        for number in range(50):
            array[number * 2000] = number
            yield number, array, array.T

    def job(argument: Any) -> int:
        number, array, _ = argument
        return int(array.sum() - number * (number + 1) // 2)

    assert bodies(Process(2, window=1).imap(job, inputs())) == [0] * 50


# ── what is in them ───────────────────────────────────────────────────────────────────────────────


@dataclass
class Record:
    name: str
    data: Any
    more: Any = None


def values() -> dict[str, Any]:
    chance = np.random.default_rng(5)
    large = chance.random((300, 400))
    structured = np.zeros(30_000, [("a", "i4"), ("b", "f8", (2,)), ("c", "S5")])
    structured["a"] = range(30_000)
    structured["c"] = b"abc"
    objects = np.array([{"a": large}, "text", None, large[:5]], dtype=object)
    circle: list[Any] = [large]
    circle.append(circle)
    return {
        "dict of lists": {"a": [large, large.T], "b": [{"c": (large * 2, 1, "x")}]},
        "dataclass": Record("r", large, [Record("s", large + 1)]),
        "objects": objects,
        "structured": structured,
        "recarray": structured.view(np.recarray),
        "Fortran": np.asfortranarray(large),
        "strided": large[::2, ::3],
        "backwards": large[::-1],
        "transposed": np.arange(8 * 50_000).reshape(2, 4, -1).transpose(2, 0, 1),
        "big-endian": np.arange(50_000, dtype=">i8"),
        "dates": np.arange("1700", "2020", dtype="M8[D]"),
        "text": np.array([f"number {number}" for number in range(10_000)]),
        "masked": np.ma.masked_array(large, large > 0.5),
        "empty": [large, np.zeros((0, 5)), np.zeros((3, 0), "i1", order="F")],
        "scalar": [large, np.array(5), np.float64(3)],
        "wide": np.zeros((1, 1, 200_000)),
        "shared": [large, large, large[0]],
        "many": [np.full(20_000, number) for number in range(30)],
        "large bytes and arrays": [b"a" * MIB, large, bytearray(MIB), "é" * MIB, memoryview(b"b" * MIB)],
        "set of bytes": {bytes([number]) * MIB for number in range(3)},
        "exception": ValueError(large, "text"),
        "function": (len, large),
    }


def assert_same(value: Any, other: Any) -> None:
    assert type(value) is type(other)
    if isinstance(value, np.ma.MaskedArray):
        assert_same(value.filled(0), other.filled(0))
        assert_same(value.mask, other.mask)
    elif isinstance(value, np.ndarray):
        assert (value.dtype, value.shape) == (other.dtype, other.shape)
        if value.dtype == object:
            assert_same(value.tolist(), other.tolist())
        else:
            assert np.array_equal(value, other)
    elif isinstance(value, dict):
        assert value.keys() == other.keys()
        for key in value:
            assert_same(value[key], other[key])
    elif isinstance(value, (list, tuple)):
        assert len(value) == len(other)
        for left, right in zip(value, other, strict=True):
            assert_same(left, right)
    elif isinstance(value, Record):
        assert_same(vars(value), vars(other))
    elif isinstance(value, BaseException):
        assert_same(value.args, other.args)
    else:
        assert same_data(value, other)


@pytest.mark.parametrize("name", values())
def test_values(name: str) -> None:
    expected = values()[name]

    def job(argument: Any) -> Any:
        assert_same(argument, expected)  # as it was inherited
        return argument

    for result in bodies(Process(1).map(job, [expected] * 3)):
        assert_same(result, expected)
    if name == "Fortran":
        assert result.flags.f_contiguous


def test_what_is_shared_in_a_value_stays_shared() -> None:
    def job(argument: Any) -> Any:
        return argument[0] is argument[1], argument

    array = filled(1)
    circle: list[Any] = [array, array]
    circle.append(circle)
    shared, result = bodies(Process(1).map(job, [circle])).pop()
    assert shared
    assert result[0] is result[1]
    assert result[2] is result


def test_data_frames() -> None:
    pandas = pytest.importorskip("pandas")
    index = pandas.date_range("2000-01-01", periods=20_000, freq="h")
    frame = pandas.DataFrame(np.random.default_rng(1).random((20_000, 5)), index, list("abcde"))
    mixed = frame.assign(f=range(20_000), g="text", h=pandas.Categorical(["x", "y"] * 10_000), i=None)

    def job(given: Any) -> Any:
        given = given.copy()  # else it is read-only
        given.loc[given.index[0], "a"] = 7.0
        return given, given.describe(), given.groupby(given.index.month).a.mean()

    for given in (frame, mixed, frame.iloc[::2]):
        result, described, means = bodies(Process(1).map(job, [given])).pop()
        expected = given.copy()
        expected.iloc[0, 0] = 7.0
        pandas.testing.assert_frame_equal(result, expected)
        pandas.testing.assert_frame_equal(described, expected.describe())
        pandas.testing.assert_series_equal(means, expected.groupby(expected.index.month).a.mean())
        result.loc[result.index[0], "a"] = 9.0
        assert result.a.iloc[0] == 9.0
    (series,) = bodies(Process(1).map(echo, [frame.a]))
    pandas.testing.assert_series_equal(series, frame.a)


def test_arrow_tables() -> None:
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({
        "number": pyarrow.array(np.arange(100_000)),
        "text": pyarrow.array([f"text {number}" for number in range(100_000)]),
        "holes": pyarrow.array([None, 1.5] * 50_000),
    })  # fmt: skip

    def job(given: Any) -> Any:
        given.validate(full=True)
        return given, given.slice(100, 50_000)

    with Process(2) as process:
        for whole, part in bodies(process.map(job, [table] * 5)):
            whole.validate(full=True)
            assert whole.equals(table)
            assert part.equals(table.slice(100, 50_000))


# ── retries, failures, events ─────────────────────────────────────────────────────────────────────


class Shaky(Worker):
    def process(self, argument: Any) -> Any:
        number, array = argument
        if number % 3 == 1 and self.attempt < 3:
            raise RuntimeError("not yet")
        if number % 3 == 2 and self.attempt == 1:
            return JobResponse(array, exit_code=4)
        return array + 0 if tells(array, number) else None


@pytest.mark.parametrize("retry_type", RetryType)
def test_retries(retry_type: RetryType) -> None:
    worker = Shaky(retry=RetryStrategy(2, retry_type))
    responses = Process(2).map(worker, [(number, filled(number)) for number in range(20)])
    assert all_tell(bodies(responses))
    assert [r.attempts for r in responses] == [(1, 3, 2)[number % 3] for number in range(20)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("retries", [0, 1])
def test_a_failed_response_with_a_large_body(retries: int) -> None:
    def job(number: int) -> Any:
        return JobResponse(filled(number), exit_code=3)

    worker = FunctionWorker(job)
    worker.retry = RetryStrategy(retries)
    responses = Process(2).map(worker, range(10))
    assert [(response.ok, response.exit_code) for response in responses] == [(False, 3)] * 10
    assert all_tell([response.body for response in responses])
    for response in responses:
        response.body[0] = 5


def test_an_exhausted_retry_with_a_large_body() -> None:
    class Fails(Worker):
        def process(self, argument: Any) -> Any:
            return JobResponse(argument + self.attempt, exit_code=3)

    responses = Process(2).map(Fails(retry=RetryStrategy(2, RetryType.REQUEUE)), [filled(0)] * 5)
    assert [response.ok for response in responses] == [False] * 5
    for response in responses:
        assert response.body is None or tells(response.body, 3)
        assert response.exception is None or isinstance(response.exception, RetriesExhaustedError)


def test_a_large_exception() -> None:
    def job(array: Any) -> Any:
        raise ValueError("no", array, b"x" * MIB)

    responses = Process(2).map(job, [filled(number) for number in range(10)])
    for number, response in enumerate(responses):
        assert isinstance(response.exception, ValueError)
        text, array, data = response.exception.args
        assert (text, data) == ("no", b"x" * MIB)
        assert tells(array, number)


def test_a_large_response_of_its_own_class() -> None:
    responses = Process(2).map(lambda number: OwnResponse(filled(number)), range(10))
    assert {type(response) for response in responses} == {OwnResponse}
    assert all_tell([response.body for response in responses])


class OwnResponse:
    ok, exception, exit_code = True, None, 0

    def __init__(self, body: Any) -> None:
        self.body = body


class Tells(Worker):
    def process(self, argument: Any) -> Any:
        self.running(array=argument, text="x" * MIB)
        self.running(array=argument * 2)
        return argument + 0


def test_events_with_large_data() -> None:
    heard: list[tuple[str, int, bool]] = []

    def on_start(_process: Process, argument: Any) -> None:
        heard.append(("start", int(argument[0]), tells(argument, argument[0])))

    def on_running(_process: Process, argument: Any, info: dict[str, Any]) -> None:
        double = "text" not in info
        number = int(argument[0])
        heard.append(("double" if double else "running", number, tells(info["array"], number * (1 + double))))

    def on_success(_process: Process, argument: Any, response: Any) -> None:
        heard.append(("success", int(argument[0]), tells(response.body, argument[0])))
        response.body[0] = -1

    process = Process(2)
    process.on("job_start", on_start).on("job_running", on_running).on("job_success", on_success)
    responses = process.map(Tells(), [filled(number) for number in range(20)])
    assert [response.body[0] for response in responses] == [-1] * 20
    events = ("double", "running", "start", "success")
    assert sorted(heard) == [(event, number, True) for event in events for number in range(20)]


@pytest.mark.parametrize("size", [THRESHOLD, MIB])
def test_large_jobs_are_taken_back_from_a_stuck_child(size: int) -> None:
    """It waits for all others to be done, so those behind it have to run elsewhere."""
    reading, writing = os.pipe()
    count = 60

    def job(argument: Any) -> Any:
        number, array = argument
        if number != 20:
            os.write(writing, b".")
            return array
        missing = count - 1
        while missing:
            missing -= len(os.read(reading, missing))
        return array

    inputs = [(number, filled(number, size)) for number in range(count)]
    with Process(2) as process:
        for _ in range(3):
            assert all_tell(bodies(process.map(job, inputs)), size)
    os.close(reading)
    os.close(writing)


# ── children that are killed ──────────────────────────────────────────────────────────────────────


CALLER = os.getpid()


class Deadly:
    """Kills the child by which it is unpickled, or pickled."""

    def __init__(self, when: str) -> None:
        self.when = when

    def __getstate__(self) -> dict[str, Any]:
        if self.when == "pickled" and os.getpid() != CALLER:
            die()
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        if self.when == "unpickled" and os.getpid() != CALLER:
            die()


def _kill_before_grant(monkeypatch: pytest.MonkeyPatch) -> None:
    wait_for_grant = ChildEnd.wait_for_grant

    def deadly(lane: ChildEnd) -> Any:
        if _doomed:
            die()
        return wait_for_grant(lane)

    monkeypatch.setattr(ChildEnd, "wait_for_grant", deadly)


def _kill_while_filling(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Hold.load

    def deadly(hold: Hold, parcel: Any, place: Any) -> bytes:
        if _doomed and place is not None:
            hold._opened().memory(place)[: place.length // 2] = b"x" * (place.length // 2)
            die()
        return load(hold, parcel, place)

    monkeypatch.setattr(Hold, "load", deadly)


def _kill_when_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Hold.load

    def deadly(hold: Hold, parcel: Any, place: Any) -> bytes:
        data = load(hold, parcel, place)
        if _doomed:
            die()
        return data

    monkeypatch.setattr(Hold, "load", deadly)


_doomed: list[int] = []
"""Filled in a child whose job is to end it later."""


class Fault(NamedTuple):
    argument: Callable[[Any], Any] = lambda array: array
    job: Callable[[Any], Any] = lambda argument: argument
    patch: Callable[[pytest.MonkeyPatch], None] = lambda monkeypatch: None


def _and_doom(argument: Any) -> Any:
    _doomed.append(1)
    return argument


FAULTS = {
    "in the job": Fault(job=lambda argument: die()),
    "before the array is unpickled": Fault(argument=lambda array: [Deadly("unpickled"), array]),
    "after the array is unpickled": Fault(argument=lambda array: [array, Deadly("unpickled")]),
    "pickling the result": Fault(job=lambda argument: [argument + 1, Deadly("pickled")]),
    "waiting for a place": Fault(job=_and_doom, patch=_kill_before_grant),
    "filling the place": Fault(job=_and_doom, patch=_kill_while_filling),
    "with the place filled": Fault(job=_and_doom, patch=_kill_when_filled),
}


class Fatal(Worker):
    """Keeps some of its arguments, which are no more when it dies."""

    def __init__(self, fault: str) -> None:
        super().__init__(fault)
        self.kept: list[Any] = []

    def process(self, argument: Any) -> Any:
        number, value = argument
        if number % 10 == 7:
            return FAULTS[self.name].job(value)
        self.kept = [*self.kept[-2:], (number, value)]
        if not all(tells(array, number) for number, array in self.kept):
            return "changed"
        return value


@RESIDENT
@pytest.mark.parametrize("name", FAULTS)
def test_a_child_is_killed(name: str, resident: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = FAULTS[name]
    fault.patch(monkeypatch)
    arrays = [filled(number) for number in range(30)]
    inputs = [(n, fault.argument(array) if n % 10 == 7 else array) for n, array in enumerate(arrays)]
    for process in maps(resident, Process(2), 4):
        responses = process.map(Fatal(name), inputs)
        for number, response in enumerate(responses):
            if number % 10 == 7:
                assert isinstance(response.exception, WorkerLostError)
                assert response.exception.exitcode == -signal.SIGKILL
            else:
                assert tells(response.body, number)
        if TABLE.exists():
            assert in_use() <= KEEP_BYTES + LANES
    assert all_tell(arrays)


@counts_memory
def test_memory_of_killed_children_comes_back() -> None:
    """Each of many had 16 MiB when it died, which nobody may use again while it may be looked at."""

    def job(argument: Any) -> int:
        number, array = argument
        if number % 2:
            die()
        return int(array[0])

    with Process(2) as process:
        for _ in range(4):
            responses = process.map(job, ((number, filled(number, 16 * MIB)) for number in range(20)))
            assert [response.ok for response in responses] == [True, False] * 10
            assert in_use() <= 2 * KEEP_BYTES + LANES
        assert bodies(process.map(len, [filled(0)])) == [MIB // 8]
    assert in_use() == 0


# ── where shared memory is refused ────────────────────────────────────────────────────────────────

MIXED = [
    filled(0), b"x" * MIB, bytearray(300 * KIB), memoryview(bytes(MIB)).cast("i", (512, 512)),
    [filled(1), memoryview(bytearray(MIB)), "€" * MIB], "small", filled(3, 200 * KIB)[::2],
]  # fmt: skip


def check_mixed(process: Process) -> None:
    for results in (process.map(echo, MIXED * 3), process.imap(echo, iter(MIXED * 3))):
        for result, expected in zip(bodies(results), MIXED * 3, strict=True):
            assert_same(result, expected)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    records = [record for record in caplog.records if record.name == "multiprocessing_kit.runner"]
    return [record.getMessage() for record in records if record.levelno >= logging.WARNING]


def test_without_shared_memory(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(sysv, "sysv_ipc", None)
    with Process(2) as process:
        check_mixed(process)
        results = bodies(process.map(filled, range(10)))
        assert all_tell(results)
        for result in results:
            result[0] = 1
    (warning,) = warnings_of(caplog)
    assert warning.startswith("large data travel in pieces: ")


@pytest.mark.parametrize("most", [0, 1, 2, 3, 5, 10])
def test_where_blocks_are_refused_after_some(
    most: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    allocate = Arena.allocate
    calls = 0

    def refuses(arena: Arena, size: int) -> Block:
        nonlocal calls
        calls += 1
        if calls > most:
            raise IpcError(errno.ENOMEM, "refused")
        return allocate(arena, size)

    monkeypatch.setattr(Arena, "allocate", refuses)
    with Process(2) as process:
        check_mixed(process)
    assert calls > most
    assert warnings_of(caplog) == ["large data travel in pieces: [Errno 12] refused"]


@pytest.mark.parametrize("odd", [0, 1])
def test_where_each_second_block_is_refused(odd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    allocate = Arena.allocate
    calls = 0

    def refuses(arena: Arena, size: int) -> Block:
        nonlocal calls
        calls += 1
        if calls % 2 == odd:
            raise IpcError(errno.ENOMEM, "refused")
        return allocate(arena, size)

    monkeypatch.setattr(Arena, "allocate", refuses)
    with Process(2) as process:
        check_mixed(process)
        if TABLE.exists():
            assert in_use() <= 30 * MIB + LANES


# ── signals ───────────────────────────────────────────────────────────────────────────────────────

STATES = {
    "arguments": """
        def inputs():
            for number in range(1000000):
                if number == 20:
                    say("busy")
                yield bytes([number % 256]) * (1 << 24)
        Process(2).map(lambda data: data[0], inputs())
    """,
    "results": """
        def inputs():
            for number in range(1000000):
                if number == 20:
                    say("busy")
                yield number
        from multiprocessing_kit import NullQueue
        Process(2, NullQueue()).map(lambda n: bytes([n % 256]) * (1 << 24), inputs())
    """,
    "both, resident": """
        with Process(2) as process:
            def inputs():
                for number in range(1000000):
                    if number == 5:
                        say("busy")
                    yield memoryview(bytes(1 << 20))
            for _ in range(3):
                process.map(lambda data: data, [bytes(1 << 24), memoryview(bytes(1 << 20))] * 2)
            process.map(lambda data: data[:1 << 19], inputs())
    """,
    "kept": """
        class Keeps(Worker):
            def setup(self):
                self.kept = []
            def process(self, view):
                self.kept.append(view)
                say("busy")
                time.sleep(1000)
        Process(2).map(Keeps(), [memoryview(bytes(1 << 24))] * 8)
    """,
}


@pytest.mark.skipif(sys.platform != "linux", reason="large data travel otherwise")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize("name", STATES)
def test_a_signal(name: str, signum: signal.Signals) -> None:
    with Program(main(STATES[name])) as program:
        check_end_in_time(program, signum)
        check_end(program, signum)


@counts_memory
@RESIDENT
def test_a_signal_that_is_caught(resident: bool) -> None:
    def inputs() -> Iterator[Any]:
        for number in range(100):
            if number == 30:
                os.kill(os.getpid(), signal.SIGINT)
            yield filled(number)

    for process in maps(resident, Process(2)):
        with pytest.raises(KeyboardInterrupt):
            process.map(echo, inputs())
        assert in_use() == 0
        assert all_tell(bodies(process.map(echo, [filled(number) for number in range(20)])))
