"""The inputs of a run, taken one by one and only when a child can use them."""

from __future__ import annotations

import os
from collections.abc import Iterator
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


class Source:
    """Any iterable: without a length, endless, or one that raises half-way.

    Attributes:
        exhausted: No input is left, or taking one failed.
        error: The exception with which taking one failed.
    """

    def __init__(self, inputs: Iterator[Any], interrupts: Interrupts) -> None:
        self._iterator = inputs
        self._interrupts = interrupts
        self._generation = _generation
        self.exhausted = False
        self.error: BaseException | None = None

    def take(self) -> list[Any]:
        """The next input as a list of one; empty when there is none."""
        interrupts = self._interrupts
        interrupts_before = interrupts.count
        interrupts.in_user_code = True
        try:
            return [next(self._iterator)]
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
        return []
