"""What the jobs do.

Apart from the cases, because children that are not forked import this module: they should pay for nothing
else.
"""

from __future__ import annotations

import time
from importlib import import_module
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[numpy.float64]

__all__ = ["busy", "filled", "increment", "total", "total_and"]


def increment(number: int) -> int:
    """The trivial job."""
    return number + 1


def busy(seconds: float) -> None:
    """A job of that length, by the clock, whoever else gets the processor meanwhile."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def total(array: Array) -> float:
    """A large argument, a small result."""
    return float(array.sum())


def filled(size: int, value: float) -> Array:
    """A large result."""
    array: Array = import_module("numpy").full(size, value)
    return array


def total_and(pair: tuple[Array, int]) -> float:
    """A large argument beside a small one."""
    array, number = pair
    return float(array.sum()) + number
