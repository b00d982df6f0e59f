"""scikit-learn's grid search on joblib's backends: what a backend costs around real work."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from benchmarks.clock import milliseconds
from benchmarks.harness import Case, Contender, NoMoreThan, Scale
from benchmarks.peers import CHILDREN

__all__ = ["CASE"]

_ROWS = 700
_FEW_ROWS = 60

_SEARCHES = 5
"""Their times differ by a fifth, whoever makes them."""

_GRID = {"C": [0.1, 1, 10, 100], "gamma": [0.001, 0.01, 0.1, 1]}
_FOLDS = 5


@contextlib.contextmanager
def _backend(name: str) -> Iterator[None]:
    joblib = import_module("joblib")
    if name == "multiprocessing_kit":
        import_module("multiprocessing_kit.joblib_backend")
    with joblib.parallel_config(name, n_jobs=CHILDREN):
        yield
    if name == "loky":  # its children would outlive it, for the next one, and keep its files open
        import_module("joblib.externals.loky").get_reusable_executor().shutdown(wait=True)


def _search(rows: int) -> Callable[[], Any]:
    make = import_module("sklearn.datasets").make_classification
    grid_search = import_module("sklearn.model_selection").GridSearchCV
    machine = import_module("sklearn.svm").SVC
    data, target = make(rows, 20, n_informative=10, flip_y=0.1, random_state=0)
    return lambda: grid_search(machine(), _GRID, cv=_FOLDS, refit=False).fit(data, target)


def _fit(backend: str, *, warm: bool) -> Callable[[Scale], float]:
    """Measures milliseconds of a search.

    Args:
        backend: Its name.
        warm: Whether children that an earlier search has started may be there.
    """

    def measure(scale: Scale) -> float:
        with _backend(backend):
            search = _search(_FEW_ROWS if scale.quick else _ROWS)
            if not warm:
                return milliseconds(search)
            _search(_FEW_ROWS)()
            return statistics.median(milliseconds(search) for _ in range(_SEARCHES))

    return measure


CASE = Case(
    name="grid-search",
    title=f"scikit-learn's GridSearchCV, {16 * _FOLDS} fits of an SVC, {CHILDREN} jobs",
    unit="ms",
    contenders=(
        Contender("multiprocessing_kit", _fit("multiprocessing_kit", warm=True), NoMoreThan("loky")),
        Contender(
            "multiprocessing_kit, with its start",
            _fit("multiprocessing_kit", warm=False),
            NoMoreThan("loky, with its start"),
        ),
        Contender("loky", _fit("loky", warm=True)),
        Contender("loky, with its start", _fit("loky", warm=False)),
        Contender("multiprocessing, which starts each time", _fit("multiprocessing", warm=True)),
        Contender("threading", _fit("threading", warm=True)),
    ),
)
