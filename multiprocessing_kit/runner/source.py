"""The inputs of a run, taken only when a child can use them."""

from __future__ import annotations

import operator
import os
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

from multiprocessing_kit.errors import PoolError
from multiprocessing_kit.ipc.parcel import Parcel
from multiprocessing_kit.runner.packing import IMMUTABLE, Pickled, pickled
from multiprocessing_kit.supervise.interrupts import Interrupts

__all__ = ["Inputs", "Source", "Taken"]

Taken = tuple[Sequence[Any], "list[Pickled] | None"]
"""Inputs, and their pickles if they were pickled already."""


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


class Inputs(Protocol):
    """Where the inputs of a run come from.

    Attributes:
        exhausted: No input is left, or taking one failed.
        left: How many inputs there still are, if that is known.
        error: The exception with which taking one failed.
        gives_large: The user's own iterator has given something large. The memory may be filled anew for the
            next input, so such an input can be sent only once: it should not wait where it may be taken back.
        slow: The last `take` gave fewer than it was asked for because they took their time.
    """

    error: BaseException | None
    gives_large: bool
    slow: bool

    @property
    def exhausted(self) -> bool: ...
    @property
    def left(self) -> int | None: ...
    def take(self, count: int) -> Taken:
        """The next inputs, at most `count`."""


class Source(Inputs):
    """Any iterable: without a length, endless, or one that raises half-way."""

    def __init__(self, inputs: Iterator[Any] | range, interrupts: Interrupts) -> None:
        self._range = inputs if isinstance(inputs, range) and _has_length(inputs) else None
        self._iterator = iter(inputs) if isinstance(inputs, range) else inputs
        self._interrupts = interrupts
        self._generation = _generation
        self._at_hand = type(self._iterator) in _AT_HAND
        self._exhausted = False
        self.slow = False
        self.gives_large = False
        self.error: BaseException | None = None

    @property
    def exhausted(self) -> bool:
        """Whether no input is left, or taking one failed."""
        return self._exhausted

    @property
    def left(self) -> int | None:
        """How many inputs there still are, if that is known."""
        if self._range is not None:
            return len(self._range)
        return operator.length_hint(self._iterator) if self._at_hand else None

    def take(self, count: int) -> Taken:
        """The next inputs, at most `count`; empty when there is none.

        Waits for the first one only, or about as long as work for a child takes to be handed out. What the
        user's own iterator gives is pickled before it is asked for more, because it may give the same object
        each time, changed. So there is no more behind something large, whose pickle refers to it.
        """
        self.slow = False
        if self._range is not None:  # a part of it is a range, too, which travels lightly
            taken, self._range = self._range[:count], self._range[count:]
            self._exhausted = not self._range
            return taken, None
        if self._at_hand:
            arguments = list(islice(self._iterator, count))
            self._exhausted = len(arguments) < count
            return arguments, None
        return self._take_from_user(1 if self.gives_large else count)

    def _take_from_user(self, count: int) -> Taken:
        taken: list[Any] = []
        pickles: list[Pickled] | None = None
        interrupts = self._interrupts
        interrupts_before = interrupts.count
        interrupts.in_user_code = True
        try:
            clock, following = time.perf_counter, self._iterator.__next__
            deadline = clock() + _PATIENCE
            for _ in range(count):
                argument = following()
                taken.append(argument)
                if pickles is not None or type(argument) not in IMMUTABLE:
                    if pickles is None:
                        pickles = list(map(pickled, taken[:-1]))
                    pickles.append(pickled(argument))
                    if isinstance(pickles[-1], Parcel):
                        self.gives_large = True
                        break
                if clock() > deadline:
                    self.slow = True
                    break
        except StopIteration:
            self._exhausted = True
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) or interrupts.count > interrupts_before:
                raise  # a signal that struck here, not a fault of the inputs
            self._exhausted = True
            self.error = error
        finally:
            interrupts.in_user_code = False
            if self._generation != _generation:
                raise PoolError(
                    "the inputs forked and the copy came back into the runner; a generator of inputs "
                    "must end its own children (os._exit)"
                )
        if pickles is not None:
            interrupts.check_user_code(interrupts_before)  # a refusal to be pickled may have been a signal
        return taken, pickles
