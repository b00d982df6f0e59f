"""One map that goes on from a file.

    inputs ─▶ intake ──those left to run──▶ the run's own stream ──answers, as they come──▶ store
                │                                                          │
                └──positions answered in the file──▶ in order? ◀───────────┘
                                                        │
                                                        ▼ responses

The run gives its answers as they come, whatever the order of ours is: so the file has them although an
earlier job takes its time.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from multiprocessing_kit.checkpoint.intake import Intake
from multiprocessing_kit.checkpoint.rows import Row
from multiprocessing_kit.checkpoint.store import Store
from multiprocessing_kit.errors import CheckpointError, PoolError
from multiprocessing_kit.response import JobResponse, Response
from multiprocessing_kit.responses import Part
from multiprocessing_kit.runner.answers import Sealed
from multiprocessing_kit.runner.feeding import Window
from multiprocessing_kit.runner.ready import Indexed
from multiprocessing_kit.runner.stream import Stream
from multiprocessing_kit.supervise.interrupts import Interrupts
from multiprocessing_kit.worker import FunctionWorker, Worker

__all__ = ["Resumed", "name_of"]

_log = logging.getLogger("multiprocessing_kit.checkpoint")

_AT_ONCE = 256
"""How many inputs are looked up together where nobody waits for single answers."""

_Some = Part | list[Response]


class Resumed(Iterator[Response]):
    """The responses of a map, some of them from the file; in the place of a `Stream`.

    Args:
        path: The file.
        worker: What to run.
        inputs: On what.
        start: Makes the stream for the inputs that are left, with this window, in no order.
        ordered: Whether to keep to the order of the inputs.
        window: How far inputs are taken ahead of the answers.

    Raises:
        CheckpointError: The file is none for this map.
        TypeError: The inputs are none.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        worker: Worker,
        inputs: Iterable[object],
        start: Callable[[Iterable[object], Window], Stream],
        *,
        ordered: bool,
        window: Window,
    ) -> None:
        self._owner = os.getpid()
        self._closed = True  # until all of it is there
        self._store = store = Store(path, name_of(worker))
        try:
            self._intake = Intake(inputs, store)
            self._early = _Early(window)
            self._stream = start(self._intake, self._early)
        except BaseException:
            store.close()
            raise
        self._fresh: Iterator[Indexed] = self._stream.parts()  # type: ignore[assignment]  # they are
        self._interrupts = self._intake.interrupts = self._stream.interrupts
        self._ordered = ordered
        self._given = 0
        self._rows: deque[Row] = deque()
        self._ready: deque[_Some] = deque()
        self._open: Iterator[Response] = iter(())
        self._sealed = False
        self._closed = False

    @property
    def interrupts(self) -> Interrupts:
        """Enter it to hold signals back between two responses, too."""
        return self._interrupts

    def __next__(self) -> Response:
        while True:
            response = next(self._open, None)
            if response is not None:
                return response
            self._wait()
            part = self._ready.popleft()
            self._open = iter(part if isinstance(part, list) else part.open())

    def parts(self) -> Iterator[_Some]:
        """The responses as they come, many at a time; not to be mixed with `next`."""
        self._sealed = True
        with contextlib.suppress(StopIteration):
            while True:
                self._wait()
                yield self._ready.popleft()

    def cancel(self, job_id: str) -> bool:
        """As `Stream.cancel`."""
        return self._stream.cancel(job_id)

    def close(self) -> None:
        """Stop here, as `Stream.close`; what was answered is written."""
        with self._interrupts:
            self._end(finished=False)

    def __del__(self) -> None:
        if not self._closed and os.getpid() == self._owner:
            self.close()

    def _wait(self) -> None:
        """Have a part ready; StopIteration at the end."""
        if self._ready:
            return
        # The `with` stays open over the end: no signal may come between an error and the stop.
        with self._interrupts:
            if self._closed:
                raise StopIteration
            try:
                more = self._look()
            except BaseException:
                self._end(finished=False)
                raise
            if not more:
                self._end(finished=True)
                raise StopIteration

    def _look(self) -> bool:
        """Have a part ready; False at the end."""
        intake = self._intake
        while not self._ready:
            self._interrupts.check()
            if self._give_known():
                continue
            if intake.left and (not self._ordered or self._given < intake.taken):
                fresh = next(self._fresh, None)
                if fresh is None:  # it was closed by `shutdown`
                    return False
                self._add(fresh)
            elif not intake.exhausted:
                self._take()
            elif intake.error is not None:
                raise intake.error
            else:
                next(self._fresh, None)  # lets the run see its end
                return False
        return True

    def _give_known(self) -> bool:
        """Make ready what may be given next, of what is there; whether there was any."""
        answered = self._intake.answered
        if self._ordered and (early := self._early.pop(self._given)) is not None:
            self._give(early)
        elif answered and (not self._ordered or answered[0][0] == self._given):
            self._give_stored(*answered[0])
            if answered[0][0] == answered[0][1]:
                answered.popleft()
        else:
            return False
        return True

    def _give_stored(self, first: int, end: int) -> None:
        """Make ready answers at positions of this range, from its start on."""
        if not self._rows or self._rows[0][0] != first:
            # More than are wanted yet: inputs may be taken one by one. This run changes none of these.
            self._rows = deque(self._store.rows(first))
        if not self._rows or self._rows[0][0] != first:
            path = self._store.path
            message = f"{path}: the answer of input {first} has gone from the file while it was in use"
            raise CheckpointError(message, path=path, position=first)
        responses = []
        with self._user_code():
            while self._rows and self._rows[0][0] < end:
                responses.append(self._store.open(self._rows.popleft()))
        self._intake.answered[0][0] += len(responses)
        self._give(responses)

    def _give(self, part: _Some) -> None:
        self._ready.append(part)
        self._given += len(part)

    def _take(self) -> None:
        """Take an input when no job is under way, so nobody else will; several if nobody waits for each."""
        intake = self._intake
        interrupts = self._interrupts
        interrupts.in_user_code = True
        try:
            for _ in range(_AT_ONCE if self._sealed else 1):
                intake.take()
                if intake.left or intake.exhausted:
                    break
        finally:
            interrupts.in_user_code = False
            if os.getpid() != self._owner:
                raise PoolError(
                    "the inputs forked and the copy came back into the runner; a generator of inputs "
                    "must end its own children (os._exit)"
                )

    def _add(self, fresh: Indexed) -> None:
        """Store answers of the run, and put them in their places."""
        store, left = self._store, self._intake.left
        if not store.has_run:
            store.begin_run(self._stream.run_id)
        with self._user_code():
            responses = fresh.open()
            places = []
            for job, response in enumerate(responses, fresh.first):
                position, digest = left.pop(job)
                places.append(position)
                if position != job and isinstance(response, JobResponse):
                    response.argument_index = position
                if digest is not None:
                    store.add(position, digest, response, job)
        if self._stream.has_ready:
            store.write_if_due()
        else:  # the next thing is to wait, or to go back to the user's code: who knows how long
            store.write()
        if not self._ordered:
            self._give(responses)
        elif places[-1] - places[0] == len(places) - 1:
            closed = self._sealed and isinstance(fresh, Sealed)
            self._early.add(places[0], _Moved(fresh, places[0]) if closed else responses)
        else:
            for position, response in zip(places, responses, strict=True):
                self._early.add(position, [response])

    @contextlib.contextmanager
    def _user_code(self) -> Iterator[None]:
        """Around pickling and unpickling: a signal then raises where it strikes."""
        interrupts = self._interrupts
        before = interrupts.count
        interrupts.in_user_code = True
        try:
            yield
        finally:
            interrupts.in_user_code = False
        interrupts.check_user_code(before)

    def _end(self, *, finished: bool) -> None:
        if self._closed or os.getpid() != self._owner:
            return
        self._closed = True
        try:
            self._stream.close()
        finally:
            try:
                self._store.write()
            except CheckpointError as error:
                if finished:
                    raise
                _log.error("%s", error)  # there is another one on its way already, or it is closed
            finally:
                self._store.close()


class _Early(Window):
    """Answers that wait for earlier ones; they count as inputs that were taken and not given out."""

    def __init__(self, window: Window) -> None:
        super().__init__(None)
        self._window = window
        self._parts: dict[int, _Some] = {}
        self._held = 0

    def room(self, out: int, lease: int, children: int) -> int:
        return self._window.room(out + self._held, lease, children)

    def add(self, position: int, part: _Some) -> None:
        """Keep answers in a row from `position` on."""
        self._parts[position] = part
        self._held += len(part)

    def pop(self, position: int) -> _Some | None:
        """Those that begin there."""
        part = self._parts.pop(position, None)
        if part is not None:
            self._held -= len(part)
        return part


class _Moved:
    """Answers whose jobs were other inputs than their numbers say; see `responses.Part`."""

    __slots__ = ("_first", "_part")

    def __init__(self, part: Indexed, first: int) -> None:
        self._part = part
        self._first = first

    def __len__(self) -> int:
        return len(self._part)

    def open(self) -> list[Response]:
        """The responses."""
        responses = self._part.open()
        for position, response in enumerate(responses, self._first):
            if isinstance(response, JobResponse):
                response.argument_index = position
        return responses


def name_of(worker: Worker) -> str:
    """The class or function, by its qualified name, and the worker's name."""
    what = worker.function if isinstance(worker, FunctionWorker) else type(worker)
    if not hasattr(what, "__qualname__"):
        what = getattr(what, "func", None) or type(what)  # a partial's
    qualified = f"{what.__module__}.{what.__qualname__}"
    if not worker.name or isinstance(worker, FunctionWorker) or worker.name == what.__name__:
        return qualified
    return f"{qualified} {worker.name!r}"
