"""The inputs of a map, sorted into those that are answered in the file and those that are left to run."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from multiprocessing_kit.checkpoint.digest import Digester
from multiprocessing_kit.checkpoint.store import Store
from multiprocessing_kit.errors import CheckpointError
from multiprocessing_kit.supervise.interrupts import Interrupts

__all__ = ["Intake"]


class Intake(Iterable[Any]):
    """Gives the runner the inputs that are left to run.

    It knows nothing of who gives out the answers: the runner holds it, and a circle of references would
    keep children alive whose iterator was dropped.

    Args:
        inputs: All of them.
        store: The answers of earlier runs.

    Attributes:
        interrupts: Those of the run; set before the first input is taken.
        taken: How many inputs were taken: the position of the next one.
        answered: Ranges of positions, first and behind the last, whose answers are in the file and were not
            given out yet.
        left: Position and digest (None if there is none) of inputs that are left to run and have no answer
            yet, under the number of the job that the runner makes of each.
        exhausted: No input is left, or taking one failed.
        error: The exception with which it failed.
    """

    interrupts: Interrupts

    def __init__(self, inputs: Iterable[Any], store: Store) -> None:
        self._all = inputs
        self._inputs = iter(inputs)
        self._store = store
        self._digester = Digester()
        self._known: deque[tuple[int, bytes]] = deque()
        self._read = 0
        self._ahead: deque[Any] = deque()
        self._jobs = 0
        self.taken = 0
        self.answered: deque[list[int]] = deque()
        self.left: dict[int, tuple[int, bytes | None]] = {}
        self.exhausted = False
        self.error: BaseException | None = None
        self._next_known()

    def __iter__(self) -> Iterator[Any]:
        ahead, take = self._ahead, self.take
        while not self.exhausted:
            if not ahead:
                take()
            while ahead:
                yield ahead.popleft()
        yield from ahead

    def __length_hint__(self) -> int:
        """For the progress bar."""
        length = operator.length_hint(self._all, -1)
        return max(0, length - len(self._store)) if length >= 0 else NotImplemented

    def take(self) -> None:
        """Take one input, and see whether it is answered; runs code of the user's."""
        interrupts = self.interrupts
        before = interrupts.count
        try:
            argument = next(self._inputs)
            digest = self._digester(argument)
            if digest is None:  # the refusal to be pickled may have been a signal
                interrupts.check_user_code(before)
            position = self.taken
            if self._known and self._known[0][0] == position:
                self._note_answered(position, digest)
            else:
                self.left[self._jobs] = (position, digest)
                self._jobs += 1
                self._ahead.append(argument)
            self.taken = position + 1
        except StopIteration:
            self.exhausted = True
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) or interrupts.count > before:
                raise  # a signal that struck here, not a fault of the inputs
            self.exhausted = True  # the answers of those before it come first
            self.error = error

    def _note_answered(self, position: int, digest: bytes | None) -> None:
        if self._known[0][1] != digest:
            raise self._changed(position)
        if self.answered and self.answered[-1][1] == position:
            self.answered[-1][1] += 1
        else:
            self.answered.append([position, position + 1])
        self._next_known()

    def _next_known(self) -> None:
        """Have the next answer of the file in front."""
        if self._known:
            self._known.popleft()
        if not self._known and self._read >= 0:
            self._known.extend(self._store.digests(self._read))
            # What this run adds is for inputs that were taken: behind the end there will be nothing.
            self._read = self._known[-1][0] + 1 if self._known else -1

    def _changed(self, position: int) -> CheckpointError:
        path = self._store.path
        return CheckpointError(
            f"{path}: input {position} is not the one that was answered there (its digest differs), so the "
            "inputs have changed or cannot be told apart between runs. Give other inputs another file, or "
            f"drop the answers with `mpkit checkpoint clear {path}`",
            path=path,
            position=position,
        )
