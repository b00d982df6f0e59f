"""Checks of what users pass: each error names the argument and what was expected."""

from __future__ import annotations

import math

__all__ = ["not_negative", "positive", "seconds"]


def positive(value: object, what: str) -> int:
    """`value`, an int of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{what} must be an int, not {value!r:.100}")
    if value < 1:
        raise ValueError(f"{what} must be at least 1, not {value}")
    return value


def not_negative(value: object, what: str) -> int:
    """`value`, an int of at least 0."""
    return 0 if value == 0 and type(value) is int else positive(value, what)


def seconds(value: object, what: str) -> float:
    """`value`, a finite number above 0."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{what} must be a number of seconds, not {value!r:.100}")
    if not 0 < value < math.inf:
        raise ValueError(f"{what} must be more than 0 seconds, and finite, not {value}")
    return float(value)
