"""The life of one run: its crew is borrowed at the start and given back, or stopped, at the end."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator

from multiprocessing_kit.response import Response
from multiprocessing_kit.responses import Part
from multiprocessing_kit.runner.crew import ABANDONED, IN_ORDER, Crew
from multiprocessing_kit.runner.run import Run
from multiprocessing_kit.supervise.held_signals import HeldSignals
from multiprocessing_kit.supervise.interrupts import Interrupts

__all__ = ["Stream"]


class Stream(Iterator[Response]):
    """The responses of a run, as an iterator.

    Args:
        run: Not begun yet.
        crew: Its children.
        interrupts: Ctrl-C and SIGTERM, held back while the run works.
        give_back: Called at the end with the crew and whether it is free of this run's jobs; keeps the
            crew for another run, or returns False: then it is stopped.
    """

    def __init__(
        self, run: Run, crew: Crew, interrupts: Interrupts, give_back: Callable[[Crew, bool], bool]
    ) -> None:
        self._run = run
        self._crew: Crew | None = crew
        self._interrupts = interrupts
        self._give_back = give_back
        self._owner = os.getpid()
        self._ending = threading.RLock()  # nobody rings a doorbell whose number is somebody else's by now

    @property
    def run_id(self) -> str:
        """Prefix of the job ids."""
        return self._run.id

    @property
    def has_ready(self) -> bool:
        """Whether the next response can be had without work or waiting."""
        return bool(self._run.ready)

    @property
    def interrupts(self) -> Interrupts:
        """Enter it to hold signals back between two responses, too."""
        return self._interrupts

    def __next__(self) -> Response:
        run = self._run
        if run.ready and self._crew is not None:
            return run.ready.pop()
        self._wait()
        return run.ready.pop()

    def parts(self) -> Iterator[Part]:
        """The responses as they come, many at a time; not to be mixed with `next`."""
        ready = self._run.ready
        with contextlib.suppress(StopIteration):
            while True:
                if not ready:
                    self._wait()
                yield ready.pop_part()

    def _wait(self) -> None:
        """Have a response ready; StopIteration at the end."""
        run = self._run
        # The `with` stays open over the end: no signal may come between an error and the stop.
        with self._interrupts:
            if self._crew is None:
                raise StopIteration
            try:
                more = run.wait_ready()
            except BaseException:
                self._end(finished=False)
                raise
            if not more:
                self._end(finished=True)
                raise StopIteration

    def cancel(self, job_id: str) -> bool:
        """Have this job end; False if it is none of this run, or the run is over."""
        index = self._run.index_of(job_id)
        with self._ending:
            if index is None or self._crew is None:
                return False
            self._run.cancel(index)
        return True

    def close(self) -> None:
        """Stop here: jobs not answered yet are dropped, the children are stopped within 2 seconds."""
        with self._interrupts:
            self._end(finished=False)

    def __del__(self) -> None:
        if self._crew is not None and os.getpid() == self._owner:
            self.close()

    def _end(self, *, finished: bool) -> None:
        crew = self._crew
        if crew is None:
            return
        # A handler of the program's own may raise at any place. Then this is made again, at the latest by
        # `__del__`; so the crew is ours until it is somebody else's, or has no children any more.
        with HeldSignals():
            if not crew.is_ours or self._give_back(crew, finished or not self._run.begun):
                self._let_go()
                return
        try:
            crew.stop(IN_ORDER if finished else ABANDONED, self._interrupts)
        finally:
            with HeldSignals():
                if not crew.members:
                    self._let_go()
                    crew.close()

    def _let_go(self) -> None:
        with self._ending:
            self._crew = None
