"""joblib on our runner: what its own backends promise, and children that may be killed."""

from __future__ import annotations

import functools
import multiprocessing
import operator
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy
import psutil
import pytest
from joblib import Parallel, delayed, parallel_config

import multiprocessing_kit.joblib_backend  # noqa: F401  # registers it
from multiprocessing_kit import Child, PoolError, RemoteError, SerializationError, WorkerLostError
from multiprocessing_kit.joblib_backend import ForkBackend
from tests.process.test_crashes import quietly

ROOT = Path(__file__).parents[2]
NAME = "multiprocessing_kit"

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture
def backend() -> Iterator[None]:
    """Two children for each test that asks for them, and none after it."""
    with parallel_config(backend=NAME, n_jobs=2):
        yield
    assert not psutil.Process().children()


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A pipe that nobody opens for writing: to read it waits for ever."""
    os.mkfifo(tmp_path / "gate")
    return tmp_path / "gate"


def square(number: int) -> int:
    return number * number


def pid(_: object = None) -> int:
    return os.getpid()


def pids(count: int = 20, **options: Any) -> set[int]:
    return set(Parallel(**options)(delayed(pid)() for _ in range(count)))


# ── calls ─────────────────────────────────────────────────────────────────────────────────────────


class Multiplier:
    def __init__(self, by: int) -> None:
        self.by = by

    def __call__(self, number: int) -> int:
        return self.by * number


def closure(more: int) -> Callable[[int], int]:
    def add(number: int) -> int:
        return number + more

    return add


def local_class() -> Callable[[int], int]:
    class Local(Multiplier):
        pass

    return Local(3)


@pytest.mark.parametrize(
    ("function", "results"),
    [
        (square, [0, 1, 4]),
        (lambda number: number + 1, [1, 2, 3]),
        (closure(5), [5, 6, 7]),
        (functools.partial(operator.mul, 2), [0, 2, 4]),
        (Multiplier(4), [0, 4, 8]),
        (local_class(), [0, 3, 6]),
        (float, [0.0, 1.0, 2.0]),
    ],
)
@pytest.mark.parametrize("return_as", ["list", "generator"])
@pytest.mark.usefixtures("backend")
def test_calls(function: Callable[[int], object], results: list[object], return_as: str) -> None:
    assert list(Parallel(return_as=return_as)(delayed(function)(number) for number in range(3))) == results


@pytest.mark.parametrize("batch_size", ["auto", 1, 7])
@pytest.mark.parametrize("pre_dispatch", ["2 * n_jobs", "all", 3])
@pytest.mark.usefixtures("backend")
def test_many_calls(batch_size: Any, pre_dispatch: Any) -> None:
    parallel = Parallel(batch_size=batch_size, pre_dispatch=pre_dispatch)
    assert parallel(delayed(square)(number) for number in range(200)) == list(map(square, range(200)))


@pytest.mark.usefixtures("backend")
def test_what_is_local_comes_back() -> None:
    class Point:
        x = 3

    made = Parallel()(delayed(lambda: (Point(), lambda: 5))() for _ in range(3))
    assert [(type(point) is Point, five()) for point, five in made] == [(True, 5)] * 3


def test_functions_of_a_program_are_the_latest() -> None:
    """Although the children are older."""
    program = """if 1:
        import joblib, multiprocessing_kit.joblib_backend

        joblib.parallel_config(backend="multiprocessing_kit", n_jobs=2)  # for good
        class Said(Exception): pass
        for version in "ab":
            def said(number): return f"{version}{number}"
            def raises(number): raise Said(version)
            print(*joblib.Parallel()(joblib.delayed(said)(number) for number in range(3)))
        try:
            joblib.Parallel()(joblib.delayed(raises)(number) for number in range(3))
        except Said as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    assert done.stdout.split() == ["a0", "a1", "a2", "b0", "b1", "b2", "b"]


@pytest.mark.usefixtures("backend")
def test_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    Parallel(verbose=11)(delayed(square)(number) for number in range(10))
    told = capsys.readouterr().err
    assert "ForkBackend with 2 concurrent workers" in told
    assert "Done  10 out of  10" in told


# ── arrays ────────────────────────────────────────────────────────────────────────────────────────


def total(array: Any) -> tuple[float, bool]:
    return float(array.sum()), bool(array.flags.writeable)


@pytest.mark.parametrize(
    ("size", "options", "writeable"),
    [
        (1_000, {}, True),
        (100_000, {}, True),
        (1_000_000, {}, False),
        (1_000_000, {"max_nbytes": None}, True),
        (1_000_000, {"mmap_mode": "c"}, True),
        (100_000, {"max_nbytes": "500K"}, False),
    ],
)
@pytest.mark.usefixtures("backend")
def test_arrays(size: int, options: dict[str, Any], writeable: bool) -> None:
    """As with joblib's own: what is larger than `max_nbytes` is shared, and cannot be written to."""
    array = numpy.ones(size)
    assert Parallel(**options)(delayed(total)(array) for _ in range(4)) == [(float(size), writeable)] * 4


@pytest.mark.parametrize("size", [10, 1_000_000])
@pytest.mark.usefixtures("backend")
def test_results_are_the_callers_own(size: int) -> None:
    arrays = Parallel()(delayed(numpy.full)(size, number) for number in range(4))
    arrays[3][:] = 4
    assert arrays[3].sum() == 4 * size


def write(array: Any, place: int) -> int:
    array[place] += place
    return os.getpid()


@pytest.mark.usefixtures("backend")
def test_mapped_files_are_mapped_in_the_children(tmp_path: Path) -> None:
    """What they write is in the file; and what is not the file's is a copy."""
    mapped = numpy.memmap(tmp_path / "file", "int32", "w+", shape=(4, 8))
    ran = Parallel()(delayed(write)(mapped[row, 2:6], row) for row in range(4))
    assert os.getpid() not in ran
    assert mapped.tolist() == [[0] * (2 + row) + [row] + [0] * (5 - row) for row in range(4)]
    results = Parallel()(delayed(numpy.add)(part, 1) for part in (mapped, mapped + 1, mapped[:, ::2]))
    assert [(numpy.asarray(made) >= 1).all() for made in results] == [True] * 3
    (shared,) = {made.filename for made in Parallel()(delayed(mapped.view)() for _ in range(2))}
    assert shared == mapped.filename


# ── failures ──────────────────────────────────────────────────────────────────────────────────────


class Finicky(Exception):
    """Pickles, and does not unpickle."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__()


def raises(error: BaseException) -> None:
    raise error


def raises_finicky() -> None:
    raise Finicky(1, 2)


class LocalError(Exception):
    pass


def raises_local() -> None:
    class Inner(LocalError):
        pass

    raise Inner("of a function")


@pytest.mark.parametrize(
    ("call", "raised"),
    [
        (delayed(raises)(ValueError(7)), ValueError),
        (delayed(raises)(KeyboardInterrupt()), KeyboardInterrupt),
        (delayed(sys.exit)(3), SystemExit),
        (delayed(raises_finicky)(), RemoteError),
        (delayed(raises_local)(), LocalError),
        (delayed(threading.Lock)(), SerializationError),
        (delayed(square)(threading.Lock()), SerializationError),
    ],
)
@pytest.mark.parametrize("managed", [False, True])
def test_a_call_that_fails(call: Any, raised: type[BaseException], managed: bool) -> None:
    """Raises its own error, and `Parallel` can be used again."""
    parallel = Parallel(2, backend=NAME, pre_dispatch="all")
    calls = [*(delayed(square)(number) for number in range(5)), call, delayed(square)(9)]
    if managed:
        parallel.__enter__()
    with pytest.raises(raised):
        parallel(calls)
    assert parallel(delayed(square)(number) for number in range(3)) == [0, 1, 4]
    if managed:
        parallel.__exit__(None, None, None)


@pytest.mark.usefixtures("backend")
def test_an_error_tells_where_it_was_raised() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        Parallel()(delayed(operator.truediv)(1, number) for number in (1, 0))
    assert isinstance(caught.value.__cause__, RemoteError)
    assert "ZeroDivisionError" in caught.value.__cause__.traceback_text


@pytest.mark.usefixtures("backend")
def test_inputs_that_fail() -> None:
    def numbers() -> Iterator[int]:
        yield from range(50)
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        Parallel()(delayed(square)(number) for number in numbers())


@pytest.mark.parametrize("return_as", ["list", "generator_unordered"])
def test_a_call_that_takes_too_long(gate: Path, return_as: str) -> None:
    with pytest.raises(multiprocessing.TimeoutError):
        list(Parallel(2, backend=NAME, timeout=0.1, return_as=return_as)([delayed(gate.read_text)()] * 2))


# ── crashes ───────────────────────────────────────────────────────────────────────────────────────


def dies_once(number: int, folder: Path) -> int:
    with (folder / f"run {number}").open("a") as runs:
        runs.write("x")
    if number % 3 == 0 and os.path.getsize(runs.name) == 1:
        quietly()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def exits() -> None:
    quietly()
    os._exit(3)


@pytest.mark.usefixtures("backend")
def test_children_that_are_killed_lose_nothing(tmp_path: Path) -> None:
    calls = (delayed(dies_once)(number, tmp_path) for number in range(12))
    assert Parallel(batch_size=1)(calls) == [*range(12)]
    assert {os.path.getsize(tmp_path / f"run {number}") for number in range(0, 12, 3)} == {2}


@pytest.mark.usefixtures("backend")
def test_children_that_are_killed_between_two_calls_lose_nothing() -> None:
    for _ in range(3):
        for child in psutil.Process().children():
            child.kill()
        assert Parallel()(delayed(square)(number) for number in range(20)) == list(map(square, range(20)))


@pytest.mark.parametrize("crash_retries", [0, 2])
def test_a_call_that_always_kills_its_child(crash_retries: int) -> None:
    with parallel_config(backend=NAME, n_jobs=2, crash_retries=crash_retries):
        with pytest.raises(WorkerLostError) as caught:
            Parallel()([delayed(square)(1), delayed(exits)(), delayed(square)(2)])
        assert (caught.value.exitcode, caught.value.attempts) == (3, crash_retries + 1)
        assert Parallel()(delayed(square)(number) for number in range(3)) == [0, 1, 4]


def interrupts(gate: Path) -> None:
    os.kill(os.getppid(), signal.SIGINT)
    gate.read_text()


@pytest.mark.usefixtures("backend")
def test_ctrl_c_leaves_no_child_at_work(gate: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        Parallel()([delayed(gate.read_text)(), delayed(interrupts)(gate)])
    assert not psutil.Process().children()


@pytest.mark.usefixtures("backend")
def test_ctrl_c_leaves_parallel_usable(gate: Path) -> None:
    with Parallel() as parallel:
        with pytest.raises(KeyboardInterrupt):
            parallel([delayed(gate.read_text)(), delayed(interrupts)(gate)])
        assert parallel(delayed(square)(number) for number in range(3)) == [0, 1, 4]


# ── generators ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("backend")
def test_results_as_they_come(tmp_path: Path) -> None:
    """The first call waits until the second one's result is here."""
    os.mkfifo(tmp_path / "pipe")

    def waits() -> str:
        return (tmp_path / "pipe").read_text()

    results = Parallel(return_as="generator_unordered")([delayed(waits)(), delayed(square)(2)])
    assert next(results) == 4
    (tmp_path / "pipe").write_text("done")
    assert list(results) == ["done"]


@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
@pytest.mark.parametrize("within", [False, True])
def test_a_generator_that_is_dropped(return_as: str, within: bool) -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(10**9):
            taken.append(number)
            yield number

    with parallel_config(backend=NAME, n_jobs=2):
        results = Parallel(return_as=return_as)(delayed(square)(number) for number in numbers())
        assert next(results) in range(100)
        if within:
            with pytest.warns(UserWarning, match="tasks"):
                results.close()
            assert Parallel()(delayed(square)(number) for number in range(3)) == [0, 1, 4]
    if not within:
        with pytest.warns(UserWarning, match="tasks"):
            results.close()
    assert len(taken) < 10**6
    assert not psutil.Process().children()


@pytest.mark.usefixtures("backend")
def test_two_generators_at_once() -> None:
    ways = [Parallel(n, return_as="generator")(delayed(square)(i) for i in range(50)) for n in (2, 3)]
    assert list(zip(*ways, strict=True)) == [(number * number,) * 2 for number in range(50)]


# ── who runs them, and how long ───────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("backend")
def test_children_live_as_long_as_the_context() -> None:
    first = pids()
    assert os.getpid() not in first
    assert set(range(1, 3)) >= {len(first)}
    assert len(first | pids() | pids()) <= 2
    assert len(pids(n_jobs=3, batch_size=1) | pids(n_jobs=3, batch_size=1)) <= 3


def test_children_end_with_the_call_where_there_is_no_context() -> None:
    parallel = Parallel(2, backend=NAME)
    children = [parallel(delayed(pid)() for _ in range(20)) for _ in range(2)]
    assert not set(children[0]) & set(children[1])
    assert not psutil.Process().children()


def test_children_live_as_long_as_parallel_where_it_is_a_context() -> None:
    with Parallel(2, backend=NAME) as parallel:
        assert len({child for _ in range(5) for child in parallel(delayed(pid)() for _ in range(20))}) <= 2
    assert not psutil.Process().children()


@pytest.mark.parametrize(
    ("n_jobs", "expected"),
    [(None, 1), (1, 1), (2, 2), (5, 5), (-1, "all"), (-1000, 1)],
)
def test_how_many(n_jobs: int | None, expected: int | str) -> None:
    with parallel_config(backend=NAME):
        assert joblib.effective_n_jobs(n_jobs) == (joblib.cpu_count() if expected == "all" else expected)
    with pytest.raises(ValueError, match="n_jobs == 0"):
        Parallel(0, backend=NAME)([])


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_as_many_as_this_process_may_use() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        with parallel_config(backend=NAME):
            assert joblib.effective_n_jobs(-1) == 1
            assert set(Parallel(-1)(delayed(pid)() for _ in range(3))) == {os.getpid()}
    finally:
        os.sched_setaffinity(0, before)


def inner(options: dict[str, Any]) -> tuple[str, set[int]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ran = pids(4, **options)
    return str(caught[0].message) if caught else "", {os.getpid()} ^ ran


@pytest.mark.parametrize(
    ("options", "warns"),
    [({}, ""), ({"n_jobs": 2}, ""), ({"n_jobs": 2, "backend": NAME}, "one by one")],
)
@pytest.mark.usefixtures("backend")
def test_calls_below_calls_fork_no_more(options: dict[str, Any], warns: str) -> None:
    for warned, elsewhere in Parallel()(delayed(inner)(options) for _ in range(3)):
        assert not elsewhere
        assert warns in warned
        assert bool(warns) == bool(warned)


def by_loky() -> list[int]:
    """And ends what loky would keep."""
    from joblib.externals import loky

    try:
        return Parallel(2, backend="loky")(delayed(square)(number) for number in range(3))  # type: ignore[no-any-return]
    finally:
        loky.get_reusable_executor().shutdown()


@pytest.mark.thorough
@pytest.mark.timeout(180)
def test_loky_that_the_caller_has_used_does_not_hang_below() -> None:
    """In a program of its own: loky leaves a process of its own."""
    program = """if 1:
        from joblib import Parallel, delayed
        from tests.process.test_joblib import NAME, by_loky, square

        Parallel(2, backend="loky")(delayed(square)(number) for number in range(3))
        print(Parallel(2, backend=NAME)([delayed(by_loky)()]))
    """
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    assert done.stdout == "[[0, 1, 4]]\n"


@pytest.mark.usefixtures("backend")
def test_a_fork_of_the_program_has_children_of_its_own() -> None:
    ours = pids()
    child = Child(pids)
    child.start()
    theirs = child.result(30)
    assert theirs
    assert not ours & theirs
    assert len(pids() | ours) <= 2


initialized = ""


def initialize(text: str) -> None:
    global initialized  # noqa: PLW0603
    initialized += text


def tell_initialized() -> str:
    return initialized


def test_initializer() -> None:
    calls: dict[str, Any] = {"context": {}, "call": {"initializer": initialize, "initargs": ("call",)}}
    with parallel_config(NAME, n_jobs=2, initializer=initialize, initargs=("context",)):
        for whose in ("context", "context", "call", "call", "context"):
            ran = Parallel(batch_size=1, **calls[whose])(delayed(tell_initialized)() for _ in range(10))
            assert set(ran) == {whose}
    assert not initialized


def test_an_initializer_that_fails() -> None:
    with (
        pytest.raises(PoolError),
        parallel_config(NAME, n_jobs=2, initializer=operator.truediv, initargs=(1, 0)),
    ):
        Parallel()(delayed(square)(number) for number in range(10))


@pytest.mark.parametrize("crash_retries", [-1, "2", 1.5])
def test_options_that_make_no_sense(crash_retries: Any) -> None:
    with (
        pytest.raises((TypeError, ValueError), match="crash_retries"),
        parallel_config(NAME, crash_retries=crash_retries),
    ):
        pass


def test_what_is_handed_in_too_late_fails() -> None:
    """And is not waited for."""
    assert isinstance(ForkBackend().submit(list).exception(0), PoolError)


# ── scikit-learn ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def digits() -> Any:
    datasets = pytest.importorskip("sklearn.datasets")
    return datasets.make_classification(400, 20, random_state=0)


@pytest.mark.usefixtures("backend")
def test_cross_val_score(digits: Any) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score

    one, two = (cross_val_score(LogisticRegression(), *digits, n_jobs=n) for n in (1, 2))
    assert list(one) == list(two)


@pytest.mark.usefixtures("backend")
def test_grid_search(digits: Any) -> None:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import GridSearchCV

    def search(n_jobs: int) -> Any:
        forest = RandomForestClassifier(10, random_state=0)
        return GridSearchCV(forest, {"max_depth": [2, 4, 6]}, n_jobs=n_jobs).fit(*digits)

    one, two = search(1), search(2)
    for key in ("mean_test_score", "std_test_score", "rank_test_score"):
        assert list(one.cv_results_[key]) == list(two.cv_results_[key])
    assert one.best_params_ == two.best_params_


@pytest.mark.usefixtures("backend")
def test_arrays_that_are_shared_do_for_scikit_learn() -> None:
    """They are read-only."""
    datasets = pytest.importorskip("sklearn.datasets")
    from sklearn.linear_model import Lasso, SGDClassifier
    from sklearn.model_selection import cross_val_score
    from sklearn.tree import DecisionTreeClassifier

    data, target = datasets.make_classification(4_000, 50, random_state=0)
    assert data.nbytes > 1024 * 1024
    for model in (
        Lasso(),
        SGDClassifier(random_state=0),
        DecisionTreeClassifier(max_depth=3, random_state=0),
    ):
        scores = [cross_val_score(model, data, target, cv=2, n_jobs=n, error_score="raise") for n in (1, 2)]
        assert list(scores[0]) == list(scores[1])


def fit_trees(data: Any, target: Any) -> float:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return float(HistGradientBoostingClassifier(max_iter=5).fit(data, target).score(data, target))


@pytest.mark.usefixtures("backend")
def test_openmp_that_the_caller_has_used_does_not_hang(digits: Any) -> None:
    expected = fit_trees(*digits)
    assert Parallel()(delayed(fit_trees)(*digits) for _ in range(4)) == [expected] * 4


def threads() -> dict[str, int]:
    import threadpoolctl

    return {each["user_api"]: each["num_threads"] for each in threadpoolctl.threadpool_info()}


@pytest.mark.parametrize(("options", "expected"), [({}, 1), ({"inner_max_num_threads": 2}, 2)])
def test_threads_in_the_children(digits: Any, options: dict[str, int], expected: int) -> None:
    before = threads()
    with parallel_config(backend=NAME, n_jobs=max(2, joblib.cpu_count()), **options):
        for told in Parallel()(delayed(threads)() for _ in range(4)):
            assert told == dict.fromkeys(before, expected)
    assert threads() == before
