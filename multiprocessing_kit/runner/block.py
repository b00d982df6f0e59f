"""The hot path: jobs that run one after the other while nobody listens and nothing fails.

For each job the loop announces its number and looks whether it was taken back, calls `process()`, and
keeps what came out. That is all that must be done between two jobs; the rest is done once for a block of
them. Whoever needs the loop to stop behind the current job cuts the block: the arguments that are left go
away under the loop, which costs it nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from multiprocessing_kit.ipc.codec import decode
from multiprocessing_kit.runner.child_end import ChildEnd
from multiprocessing_kit.runner.lane import BEGUN, TAKEN_BACK

__all__ = ["ALL", "TAKEN", "Block", "Pace", "PickledBlock", "Unreadable", "run_jobs"]

ALL: Final = object()
TAKEN: Final = object()


class Unreadable(Exception):
    """An argument cannot be unpickled; why is its cause."""


class Block:
    """Jobs in a row that are run in one go, as others see them meanwhile.

    Args:
        run_id: Prefix of their ids.
        first: Index of the first one.
        arguments: Of all; shorter after `cut`.
        outcomes: Of those that are done, behind what was there before.
        lane: Where they came from.

    Attributes:
        sent: Of how many the outcomes were sent.
    """

    def __init__(
        self, run_id: str, first: int, arguments: list[Any], outcomes: list[Any], lane: ChildEnd
    ) -> None:
        self._run_id = run_id
        self._first = first
        self._arguments = arguments
        self.outcomes = outcomes
        self._before = len(outcomes)
        self.lane = lane
        self._number_before = lane.begin_block()
        self.sent = 0
        self._clears = 0

    def __iter__(self) -> Iterator[Any]:
        """The arguments, as the jobs take them."""
        return iter(self._arguments)

    @property
    def done(self) -> int:
        """How many jobs are done, of those that were not sent."""
        return len(self.outcomes) - self._before

    @property
    def passed(self) -> int:
        """How many jobs are done; also the place of the one under way.

        The handler of a signal may send them at any bytecode (`clear`), which moves what is done to what was
        sent. Seen before and after that, the two do not add up.
        """
        while True:
            clears = self._clears
            passed = self.sent + self.done
            if clears == self._clears:
                return passed

    @property
    def number(self) -> int:
        """In the lane, of the job before the one under way."""
        return self._number_before + self.passed

    @property
    def index(self) -> int:
        """The job under way."""
        return self._first + self.passed

    @property
    def job_id(self) -> str:
        """Its id."""
        return f"{self._run_id}-{self.index}"

    @property
    def argument(self) -> Any:
        """Its argument."""
        return self._arguments[self.passed]

    @property
    def last(self) -> tuple[str, Any]:
        """Id and argument of the job that was done last, the first one's while none is."""
        place = max(0, self.passed - 1)
        return f"{self._run_id}-{self._first + place}", self._arguments[place]

    def cut(self) -> None:
        """End behind the job that is under way."""
        del self._arguments[self.passed + 1 :]

    def clear(self) -> None:
        """All outcomes, with those that were there before, were sent."""
        self._clears += 1
        self.sent += self.done
        self._before = 0
        self.outcomes.clear()


class PickledBlock(Block):
    """A block whose arguments are unpickled one by one."""

    _taken: Any = None

    def __iter__(self) -> Iterator[Any]:
        words = self.lane.words
        for data in self._arguments:
            words[BEGUN] = self.number + 1  # already now: to unpickle it may kill the child
            try:
                argument = decode(data, "the argument", self.job_id)
            except BaseException as error:  # it runs user code
                raise Unreadable from error
            self._taken = argument
            yield argument

    @property
    def argument(self) -> Any:
        """The argument of the job under way."""
        return self._taken

    @property
    def last(self) -> tuple[str, Any]:
        """Id of the job that was done last, and what was unpickled last: where all went well, for it."""
        return super().last[0], self._taken


def run_jobs(
    block: Block, process: Callable[[Any], Any], arguments: Iterator[Any], kind: type | None
) -> object:
    """Run jobs as long as their outcomes are of the same type.

    Args:
        block: Where they belong; the outcomes are added to it.
        process: To call.
        arguments: What is left of the block's.
        kind: A plain type.

    Returns:
        `ALL` at the end of the arguments; `TAKEN` before a job that was taken back; or an outcome of
        another type, which was not added.

    Raises:
        Unreadable: The next argument cannot be unpickled.
        BaseException: Whatever `process` raises.
    """
    lane, outcomes = block.lane, block.outcomes
    words, announced, is_taken = lane.words, lane.announced, lane.is_taken
    number = block.number
    for argument in arguments:
        number += 1
        words[BEGUN] = number
        if announced is not None:
            announced()
        if words[TAKEN_BACK] and is_taken(number):
            return TAKEN
        outcome = process(argument)
        if type(outcome) is not kind:
            return outcome
        outcomes.append(outcome)
    return ALL


class Pace:
    """How many jobs may run between two looks at the clock.

    Jobs that are long beside what it costs to look are timed one by one.
    """

    _ALONE = 2e-5
    _BLOCK = 4e-4

    def __init__(self) -> None:
        self.jobs = 1
        self.mean = self._ALONE

    def note(self, jobs: int, seconds: float) -> None:
        """So many took so long."""
        mean = self.mean = self.mean + (seconds / jobs - self.mean) * 0.25
        self.jobs = 1 if mean >= self._ALONE else min(2 * self.jobs, int(self._BLOCK / mean) or 1)
