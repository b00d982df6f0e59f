"""Children that die on the way of a job: while its argument, its result or its exception is (un)pickled."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import pytest

from multiprocessing_kit import JobEvent, Process, WorkerLostError
from tests.process.test_crashes import CASES, batches, in_order, quietly, unordered


def die(name: str) -> NoReturn:
    quietly()
    CASES[name].do()
    raise AssertionError


class DiesUnpickled:
    """Whoever unpickles it dies."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return die, (self.name,)


class DiesPickled:
    """Whoever pickles it dies."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> NoReturn:
        die(self.name)


class DiesPickledError(Exception):
    def __reduce__(self) -> NoReturn:
        die(self.args[0])


class DiesUnpickledError(Exception):
    def __reduce__(self) -> tuple[Any, ...]:
        return die, self.args


def throw(error: Exception) -> NoReturn:
    raise error


class Place(NamedTuple):
    """The bad job's argument, and what is done with it."""

    argument: Callable[[str], object]
    run: Callable[[Any], object]


PLACES = {
    "argument unpickled": Place(DiesUnpickled, id),
    "run": Place(str, die),
    "result pickled": Place(str, DiesPickled),
    "result in a list pickled": Place(str, lambda name: [b"." * 200_000, DiesPickled(name)]),
    "exception pickled": Place(str, lambda name: throw(DiesPickledError(name))),
    "exception unpickled": Place(str, lambda name: throw(DiesUnpickledError(name))),
}
ENDS = ["_exit 3", "segfault", "SIGKILL"]


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("run", [in_order, unordered])
@batches
@pytest.mark.parametrize(
    ("resident", "listens"),
    [(False, False), (True, False), pytest.param(False, True, marks=pytest.mark.thorough)],
)
def test_the_job_is_answered_and_no_other(  # noqa: PLR0917
    place: Place, name: str, run: Any, batch_size: Any, resident: bool, listens: bool
) -> None:
    bad = place.argument(name)

    def job(argument: Any) -> object:
        return argument if isinstance(argument, int) else place.run(argument)

    process = Process(2, batch_size=batch_size, crash_retries=1)
    started: list[object] = []
    if listens:
        process.on(JobEvent.JOB_START, lambda _, argument: started.append(argument))
    with process if resident else contextlib.nullcontext():
        responses = run(process, job, [*range(50), bad, *range(50)])
        error = responses.pop(50).exception
        assert type(error) is WorkerLostError
        assert (error.exitcode, error.attempts) == (CASES[name].exitcode, 2)
        assert [response.body for response in responses] == [*range(50)] * 2
        assert {response.attempts for response in responses} == {1}
        assert [response.body for response in run(process, job, range(10))] == [*range(10)]
    if listens:
        assert {*range(50)} <= {argument for argument in started if isinstance(argument, int)}
