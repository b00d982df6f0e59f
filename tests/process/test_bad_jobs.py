"""One bad job among good ones: it has its one answer, and nobody else notices."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest

from multiprocessing_kit import Process, RemoteError, SerializationError, Worker, WorkerLostError

ROOT = Path(__file__).resolve().parents[2]
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
BAD, JOBS = 13, 31
HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGALRM)


def blow_up(error: BaseException) -> NoReturn:
    raise error


class Nasty:
    """Values that make trouble once `process()` is over."""

    class Reduces:
        """Pickles to a call that raises `error`; `at_once`, it does not even pickle."""

        def __init__(self, error: BaseException, *, at_once: bool = False) -> None:
            self.error, self.at_once = error, at_once

        def __reduce__(self) -> tuple[Any, ...]:
            if self.at_once:
                raise self.error
            return blow_up, (self.error,)

    class FunctionError(Exception):
        def __init__(self, text: str) -> None:
            super().__init__(text)
            self.function = lambda: 0

    class TwoArgumentsError(Exception):
        def __init__(self, text: str, _more: int) -> None:
            super().__init__(text)

    class ReduceExitsError(Exception):
        def __reduce__(self) -> NoReturn:
            sys.exit(9)

    class TextError(Exception):
        def __reduce__(self) -> tuple[Any, ...]:
            return str, ("text",)

    class CodeError(Exception):
        @property
        def code(self) -> int:
            raise RuntimeError("no code")

        def __str__(self) -> str:
            raise RuntimeError("no text")

    class Attributes(dict[str, int]):
        def __getattr__(self, name: str) -> int:
            if name.startswith("__"):
                raise AttributeError(name)
            return self[name]  # a KeyError, where an AttributeError is due

    class Response:
        body, exception, exit_code = 1, None, 0

        @property
        def ok(self) -> bool:
            raise RuntimeError("cannot tell")

    @staticmethod
    def nested(depth: int) -> list[Any]:
        value: list[Any] = []
        for _ in range(depth):
            value = [value]
        return value


class Jobs(Worker):
    """Good jobs tell where they run; a bad one calls `do`."""

    def __init__(self, do: Callable[[Any], object]) -> None:
        super().__init__("jobs")
        self.do = do

    def process(self, argument: object) -> object:
        if not isinstance(argument, int):
            return self.do(self)
        handlers = [str(signal.getsignal(number)) for number in HANDLED]
        return [argument, os.getcwd(), handlers, signal.getitimer(signal.ITIMER_REAL)]

    def recurse(self) -> object:
        return self.recurse()


class Case(NamedTuple):
    """What the bad job does; and what comes out: `body`, or an exception of class `raises`."""

    do: Callable[[Any], object] = lambda jobs: None
    raises: type[BaseException] | None = None
    match: str = ""
    body: object = None
    argument: object = "bad"
    exit_code: int = 1

    @staticmethod
    def bad_argument(argument: object, match: str) -> Case:
        return Case(raises=SerializationError, match=f"the argument.* cannot be {match}", argument=argument)

    @staticmethod
    def bad_result(result: object, match: str) -> Case:
        return Case(lambda jobs: result, SerializationError, f"the result.* cannot be {match}")

    @staticmethod
    def throws(error: BaseException, match: str = "", *, remote: bool = False, exit_code: int = 1) -> Case:
        raises = RemoteError if remote else type(error)
        return Case(lambda jobs: blow_up(error), raises, match, exit_code=exit_code)


CASES = {
    "argument does not pickle": Case.bad_argument(lambda: 0, "pickled"),
    "argument does not unpickle": Case.bad_argument(
        Nasty.Reduces(ValueError("oh")), "unpickled: ValueError: oh"
    ),
    "pickling the argument exits": Case.bad_argument(
        Nasty.Reduces(SystemExit(9), at_once=True), "pickled: SystemExit: 9"
    ),
    "unpickling the argument exits": Case.bad_argument(
        Nasty.Reduces(SystemExit(9)), "unpickled: SystemExit: 9"
    ),
    "unpickling it is interrupted": Case(
        raises=KeyboardInterrupt, argument=Nasty.Reduces(KeyboardInterrupt())
    ),
    "argument is too deep": Case.bad_argument(Nasty.nested(100_000), "pickled: RecursionError"),
    "result does not pickle": Case.bad_result(lambda: 0, "pickled"),
    "result does not unpickle": Case.bad_result(Nasty.Reduces(ValueError("oh")), "unpickled: ValueError: oh"),
    "pickling the result exits": Case.bad_result(
        Nasty.Reduces(SystemExit(9), at_once=True), "pickled: SystemExit: 9"
    ),
    "unpickling the result exits": Case.bad_result(Nasty.Reduces(SystemExit(9)), "unpickled: SystemExit: 9"),
    "result is too deep": Case.bad_result(Nasty.nested(100_000), "pickled: RecursionError"),
    "result has no attributes": Case(lambda jobs: Nasty.Attributes(a=1), body={"a": 1}),
    "response cannot tell": Case(lambda jobs: Nasty.Response(), RuntimeError, "cannot tell"),
    "exception does not pickle": Case.throws(Nasty.FunctionError("oh"), "FunctionError: oh", remote=True),
    "exception does not unpickle": Case.throws(Nasty.TwoArgumentsError("two", 2), "Error: two", remote=True),
    "pickling the exception exits": Case.throws(
        Nasty.ReduceExitsError("oh"), "ReduceExitsError: oh", remote=True
    ),
    "exception unpickles to text": Case.throws(Nasty.TextError("oh"), "TextError: oh", remote=True),
    "exception without text and code": Case.throws(Nasty.CodeError()),
    "exit": Case.throws(SystemExit()),
    "exit 0": Case.throws(SystemExit(0)),
    "exit 3": Case.throws(SystemExit(3), exit_code=3),
    "exit with text": Case.throws(SystemExit("text"), "text"),
    "KeyboardInterrupt": Case.throws(KeyboardInterrupt()),
    "GeneratorExit": Case.throws(GeneratorExit()),
    "StopIteration": Case.throws(StopIteration(4)),
    "BaseException": Case.throws(BaseException("own"), "own"),
    "RecursionError": Case(lambda jobs: jobs.recurse(), RecursionError),
    "MemoryError": Case(lambda jobs: bytearray(1 << 60), MemoryError),
}


def check(responses: Sequence[Any], case: Case, here: list[object]) -> None:
    assert [response.argument_index for response in responses] == list(range(JOBS))
    for index, response in enumerate(responses):
        if index != BAD:
            assert response.result() == [index, *here]
    bad = responses[BAD]
    if case.raises is None:
        assert bad.result() == case.body
        return
    with pytest.raises(case.raises, match=f"(?s){case.match}" if case.match else None) as caught:
        bad.result()
    assert (bad.ok, bad.body, bad.exit_code, bad.exception) == (False, None, case.exit_code, caught.value)
    told = caught.value if isinstance(caught.value, RemoteError) else caught.value.__cause__
    if case.argument == "bad" and case.raises is not WorkerLostError and "unpickled" not in case.match:
        assert isinstance(told, RemoteError)
        assert "Traceback (most recent call last)" in told.traceback_text
        assert case.raises is SerializationError or "test_bad_jobs.py" in told.traceback_text


def check_map(jobs: Jobs, case: Case, process: Process) -> None:
    """Map with the bad job, and once more without."""
    here = process.map(jobs, [0])[0].body[1:]
    check(process.map(jobs, [case.argument if index == BAD else index for index in range(JOBS)]), case, here)
    assert [response.body for response in process.map(jobs, range(JOBS))] == [
        [index, *here] for index in range(JOBS)
    ]


@pytest.mark.parametrize("resident", [False, True], ids=["once", "resident"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_one_bad_job_among_good_ones(case: Case, resident: bool) -> None:
    process = Process(2)
    with process if resident else contextlib.nullcontext():
        check_map(Jobs(case.do), case, process)


def test_what_is_printed_without_a_newline_appears_once() -> None:
    program = """
        import sys
        from multiprocessing_kit import Process
        print("<caller>", end="")
        with Process(2) as process:
            process.map(lambda number: print(f"<{number}>", end=""), range(30))
            process.map(lambda number: print(f"<{number}>", end="", file=sys.stderr), range(30))
        print("<end>")
    """
    command = [sys.executable, "-c", inspect.cleandoc(program)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=ROOT, env=BUFFERED, timeout=60
    )
    numbers = [f"<{number}>" for number in range(30)]
    assert sorted(re.findall("<.*?>", done.stdout)) == sorted([*numbers, "<caller>", "<end>"])
    assert sorted(re.findall("<.*?>", done.stderr)) == sorted(numbers)
    assert len(done.stdout) == len("".join(numbers)) + len("<caller><end>\n")
