"""What a shared count costs: one more, and what else is done with a row of a table."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

from benchmarks.calls import RUNS, typical
from benchmarks.harness import AtMost, Case, Contender, NoMoreThan, Scale
from multiprocessing_kit import Shared

__all__ = ["COUNT", "ROW"]

_KEYS = [f"/page/{number}" for number in range(20)]
_ROW = {"hits": 1, "rate": 0.5, "name": "the front page"}
_MANAGER = "Manager().dict()"

_FORK = multiprocessing.get_context("fork")

_Step = Callable[[Any, str], object]


def _each(step: _Step, mapping: Any, scale: Scale) -> float:
    """Microseconds for one step, with all keys in turn."""

    def work(turns: int) -> None:
        for _ in range(turns):
            for key in _KEYS:
                step(mapping, key)

    return typical(work, scale) / len(_KEYS)


def _table(step: _Step) -> Callable[[Scale], float]:
    def measure(scale: Scale) -> float:
        with Shared({"hits": int, "rate": float, "name": (str, 64)}, rows=1000) as table:
            table.update(dict.fromkeys(_KEYS, _ROW))
            return _each(step, table, scale)

    return measure


def _manager_dict(value: object, step: _Step) -> Callable[[Scale], float]:
    def measure(scale: Scale) -> float:
        with _FORK.Manager() as manager:
            return _each(step, manager.dict(dict.fromkeys(_KEYS, value)), scale)

    return measure


def _value(scale: Scale) -> float:
    """For one number only: the keys are not looked at."""
    return _each(_add_to_value, _FORK.Value("q"), scale)


def _add_to_value(value: Any, _key: str) -> None:
    with value.get_lock():
        value.value += 1


def _incr(table: Any, key: str) -> None:
    table.incr(key, "hits")


def _add(mapping: Any, key: str) -> None:
    mapping[key] = mapping[key] + 1


def _add_in_place(mapping: Any, key: str) -> None:
    mapping[key] += 1


def _read(mapping: Any, key: str) -> None:
    mapping[key]


def _read_one(table: Any, key: str) -> None:
    table.get(key, "hits")


def _write(mapping: Any, key: str) -> None:
    mapping[key] = _ROW


COUNT = Case(
    name="shared-count",
    title=f"one of {len(_KEYS)} shared counts goes up by 1, median of {RUNS} short runs",
    unit="us",
    contenders=(
        Contender(
            "Shared.incr",
            _table(_incr),
            (AtMost(8), NoMoreThan(f"{_MANAGER}, d[k] = d[k] + 1", 1 / 20)),
        ),
        Contender(f"{_MANAGER}, d[k] = d[k] + 1", _manager_dict(0, _add)),
        Contender(f"{_MANAGER}, d[k] += 1", _manager_dict(0, _add_in_place)),
        Contender("multiprocessing.Value, with its lock", _value),
    ),
    rounds=3,
)

ROW = Case(
    name="shared-row",
    title=f"one of {len(_KEYS)} rows of three columns is read or written, median of {RUNS} short runs",
    unit="us",
    contenders=(
        Contender("Shared, a row read", _table(_read), ours=True),
        Contender("Shared, a column read", _table(_read_one), ours=True),
        Contender("Shared, a row written", _table(_write), ours=True),
        Contender(f"{_MANAGER}, a row read", _manager_dict(_ROW, _read)),
        Contender(f"{_MANAGER}, a row written", _manager_dict(_ROW, _write)),
    ),
    rounds=3,
)
