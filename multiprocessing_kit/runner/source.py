"""The inputs of a run, taken only when a child can use them."""

from __future__ import annotations

import operator
import os
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from multiprocessing_kit.errors import PoolError
from multiprocessing_kit.supervise.interrupts import Interrupts

__all__ = ["Source"]


_generation = 0
"""How many forks this process is away from the one that imported this: cheaper to ask than the pid."""


def _after_fork_in_child() -> None:
    global _generation  # noqa: PLW0603
    _generation += 1


os.register_at_fork(after_in_child=_after_fork_in_child)

_AT_HAND: frozenset[type] = frozenset({type(iter([])), type(iter(()))})
"""Iterators that run no code of the user's: they never wait, fork or fail, and know how much is left."""

_PATIENCE = 0.001
"""Seconds after which inputs that come slowly are passed on as they are."""


def _has_length(inputs: range) -> bool:
    """Whether `len` can tell it."""
    return not inputs or abs(inputs[-1] - inputs[0]) <= sys.maxsize


class Source:
    """Any iterable: without a length, endless, or one that raises half-way.

    Attributes:
        exhausted: No input is left, or taking one failed.
        error: The exception with which taking one failed.
        slow: The last `take` gave fewer than it was asked for because they took their time.
    """

    def __init__(self, inputs: Iterator[Any] | range, interrupts: Interrupts) -> None:
        self._range = inputs if isinstance(inputs, range) and _has_length(inputs) else None
        self._iterator = iter(inputs) if isinstance(inputs, range) else inputs
        self._interrupts = interrupts
        self._generation = _generation
        self._at_hand = type(self._iterator) in _AT_HAND
        self.exhausted = False
        self.slow = False
        self.error: BaseException | None = None

    @property
    def left(self) -> int | None:
        """How many inputs there still are, if that is known."""
        if self._range is not None:
            return len(self._range)
        return operator.length_hint(self._iterator) if self._at_hand else None

    def take(self, count: int) -> Sequence[Any]:
        """The next inputs, at most `count`; empty when there is none.

        Waits for the first one only, or about as long as work for a child takes to be handed out.
        """
        if self._range is not None:  # a part of it is a range, too, which travels lightly
            taken, self._range = self._range[:count], self._range[count:]
            self.exhausted = not self._range
            return taken
        if self._at_hand and count > 1:
            arguments = list(islice(self._iterator, count))
            self.exhausted = len(arguments) < count
            return arguments
        return self._take_from_user(count)

    def _take_from_user(self, count: int) -> list[Any]:
        taken: list[Any] = []
        interrupts = self._interrupts
        interrupts_before = interrupts.count
        interrupts.in_user_code = True
        self.slow = False
        try:
            if count == 1:
                taken.append(next(self._iterator))
                return taken
            clock, following = time.perf_counter, self._iterator.__next__
            deadline = clock() + _PATIENCE
            for _ in range(count):
                taken.append(following())
                if clock() > deadline:
                    self.slow = True
                    break
        except StopIteration:
            self.exhausted = True
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) or interrupts.count > interrupts_before:
                raise  # a signal that struck here, not a fault of the inputs
            self.exhausted = True
            self.error = error
        finally:
            interrupts.in_user_code = False
            if self._generation != _generation:
                raise PoolError(
                    "the inputs forked and the copy came back into the runner; a generator of inputs "
                    "must end its own children (os._exit)"
                )
        return taken
