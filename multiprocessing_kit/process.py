"""`Process`: jobs across forked children, one response each."""

from __future__ import annotations

import atexit
import contextlib
import logging
import operator
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from multiprocessing_kit.errors import PoolError, QueueFullError
from multiprocessing_kit.progress import ProgressBar
from multiprocessing_kit.queues import NullQueue, Queue
from multiprocessing_kit.response import Response
from multiprocessing_kit.responses import Responses
from multiprocessing_kit.runner.arguments import not_negative, positive, seconds
from multiprocessing_kit.runner.crew import ABANDONED, IN_ORDER, Crew
from multiprocessing_kit.runner.feeding import Window
from multiprocessing_kit.runner.limits import Limits
from multiprocessing_kit.runner.listening import CallerEvents
from multiprocessing_kit.runner.run import Run
from multiprocessing_kit.runner.source import Source
from multiprocessing_kit.runner.stream import Stream
from multiprocessing_kit.supervise.cpus import available_cpus
from multiprocessing_kit.supervise.interrupts import Interrupts
from multiprocessing_kit.worker import Worker, as_worker

if TYPE_CHECKING:
    from concurrent.futures import Future

    from typing_extensions import Self

    from multiprocessing_kit.checkpoint.resume import Resumed
    from multiprocessing_kit.runner.serving import Serving

__all__ = ["Process"]

_log = logging.getLogger("multiprocessing_kit.runner")

_WINDOW_PER_CHILD = 64


class Process(CallerEvents):
    """Maps inputs across forked children.

    As a context manager it keeps its children between maps; without, each map forks its own.

    Args:
        processes: How many children at most; by default the processors this process may use
            (affinity and cgroup quota).
        queue: Where the responses of `map` go: None returns them; a `NullQueue` drops them; any other
            gets each with `put` in input order, and `map` returns its `get_all()`.
        timeout: Seconds that an attempt of a job may take, from its start in the child. Then the child is
            killed, whatever it is at, and the job fails with `JobTimeoutError`; its retry strategy applies.
        crash_retries: How often a job is run again after a child died while it was at it; then it is answered
            with `WorkerLostError`.
        max_tasks_per_child: Jobs after which a child is replaced, some children up to a tenth earlier.
        max_memory_per_child: Bytes of its own memory beyond which a child is replaced before its next job.
            Beyond twice as much it is killed in the midst of one, which counts as a crash.
        batch_size: How many jobs a child is given at once. "auto" adapts it to what jobs take: from one to
            about 20 ms of work. A child that is killed may have run some of them whose answers had not been
            sent yet, and these run again; 1, with `crash_retries=0`, is for work that must not be repeated.
        window: At most how many inputs `imap` takes from the iterable before their responses have
            been yielded, and how many go before a requeued job; by default 64 for each child, and for
            `imap` as many more as keep the children busy while jobs are tiny.
        progress: Show a progress bar on stderr, with counts of retries and failures.
        checkpoint: A file that keeps the answers of `map` and `imap`. After a crash of the program, the same
            call takes finished ones from it and runs only the rest.
        name: Shown in the children's process titles.

    Raises:
        TypeError, ValueError: An argument makes no sense.
    """

    def __init__(
        self,
        processes: int | None = None,
        queue: Queue[Response] | None = None,
        *,
        timeout: float | None = None,
        crash_retries: int = 2,
        max_tasks_per_child: int | None = None,
        max_memory_per_child: int | None = None,
        batch_size: int | Literal["auto"] = "auto",
        window: int | None = None,
        progress: bool = False,
        checkpoint: str | os.PathLike[str] | None = None,
        name: str = "",
    ) -> None:
        super().__init__()
        self._size = available_cpus() if processes is None else positive(processes, "processes")
        self._window = None if window is None else positive(window, "window")
        self._queue_length = self._window or _WINDOW_PER_CHILD * self._size
        self._batch_size = None if batch_size == "auto" else positive(batch_size, "batch_size")
        self._limits = Limits(
            not_negative(crash_retries, "crash_retries"),
            None if timeout is None else seconds(timeout, "timeout"),
            None if max_tasks_per_child is None else positive(max_tasks_per_child, "max_tasks_per_child"),
            None if max_memory_per_child is None else positive(max_memory_per_child, "max_memory_per_child"),
        )
        if queue is not None and not isinstance(queue, Queue):
            raise TypeError(f"queue must be a multiprocessing_kit Queue or None, not {queue!r:.100}")
        self._queue = queue
        self._progress = progress
        if checkpoint is not None and not isinstance(checkpoint, (str, os.PathLike)):
            raise TypeError(f"checkpoint must be a path or None, not {checkpoint!r:.100}")
        self._checkpoint = checkpoint
        self._name = name
        self._lock = threading.Lock()  # of the resident crew: maps may be started from several threads
        self._resident = False
        self._closed = False
        self._idle_crew: Crew | None = None
        self._streams: weakref.WeakSet[Stream | Resumed] = weakref.WeakSet()
        self._serving: Serving | None = None

    def map(self, worker: Worker | Callable[[Any], Any], inputs: Iterable[Any]) -> Responses:
        """Run one job for each input.

        Args:
            worker: Runs them; a plain function of one argument will do.
            inputs: Any iterable that ends.

        Returns:
            One response for each input, in their order; what the queue holds if one was given.

        Raises:
            BaseException: What taking an input raised; the responses before it are its attribute
                `responses`. The same holds for the following.
            PoolError: The children as a whole cannot go on, as when `setup()` fails.
            CheckpointError: The file is in use, is full, or belongs to another worker or other inputs.
            KeyboardInterrupt: Ctrl-C; the children are stopped, within 2 seconds.
            SystemExit: SIGTERM, where the program has no handler for it; likewise.
        """
        stream = self._answers(
            worker, inputs, ordered=True, eager=self._queue is not None, window=Window(None)
        )
        responses = Responses()
        with stream.interrupts as interrupts:  # also between two responses, where SIGTERM would kill
            try:
                if self._queue is None:
                    for part in stream.parts():
                        responses.add(part)
                else:
                    put = self._putter(self._queue, responses, interrupts)
                    for response in stream:
                        put(response)
            except BaseException as error:
                stream.close()
                self._drain_into(responses, interrupts)
                with contextlib.suppress(AttributeError):  # its class has no room for one
                    error.responses = responses  # type: ignore[attr-defined]
                raise
            self._drain_into(responses, interrupts)
        return responses

    def imap(
        self, worker: Worker | Callable[[Any], Any], inputs: Iterable[Any], *, ordered: bool = True
    ) -> Iterator[Response]:
        """Run one job for each input, lazily.

        Work goes on while the iterator is asked for the next response; inputs are taken only as far
        ahead as the window allows, so they may be endless. The responses go to the iterator, not to
        the queue.

        Args:
            worker: As for `map`.
            inputs: Any iterable.
            ordered: Yield in the order of the inputs; else as jobs finish.

        Returns:
            An iterator of responses. Closing or dropping it stops the children.

        Raises:
            BaseException: As for `map`, after the responses before it have been yielded.
        """
        window = Window(self._queue_length, grows=self._window is None)
        return self._answers(worker, inputs, ordered=ordered, eager=True, window=window)

    def submit(self, worker: Worker | Callable[[Any], Any], argument: Any) -> Future[Response]:
        """Run one job beside the program, which goes on meanwhile; from any thread.

        The first one forks children for this worker, apart from those of `map`, and starts a thread, in which
        listeners and the callbacks of futures are called. They end with `shutdown`, or when another worker
        is given and their jobs are done.

        Args:
            worker: As for `map`. A plain function is the same worker each time that it is given.
            argument: Its job's; pickled at once.

        Returns:
            A future of the response, also of one that is not ok. It may be canceled until the job begins.

        Raises:
            PoolError: This was shut down, or there is no child to be had. The future raises it where the
                children as a whole cannot go on.
        """
        if self._closed:
            raise PoolError("this Process was shut down; make another")
        return self._served().submit(worker, argument)

    def cancel(self, job_id: str) -> bool:
        """End a job that is under way; from a listener, or from another thread.

        A job that waits never starts. One that runs is ended with its child, and another child takes its
        place. It is answered with `JobCanceledError`, and JOB_CANCELED fires. The run does this when it
        next looks, so a job may be answered before.

        Args:
            job_id: As events and responses tell it.

        Returns:
            False if it belongs to no run of this object that is still open.
        """
        serving = [] if self._serving is None else [self._serving]
        return any(runs.cancel(job_id) for runs in [*self._streams, *serving])

    def shutdown(self, wait: bool = True, cancel_pending: bool = False) -> None:
        """Take no more maps, and end the children that were kept.

        Args:
            wait: Let them end in order, `teardown()` included; else end them within 2 seconds. Jobs that were
                submitted are waited for; else they go on.
            cancel_pending: Also end iterators of `imap` that are still open, and cancel submitted jobs that
                have not begun; else these go on.
        """
        self._shut_down(wait=wait, cancel_pending=cancel_pending, cancel_submitted=cancel_pending)

    def _shut_down(self, *, wait: bool, cancel_pending: bool, cancel_submitted: bool) -> None:
        self._closed = True
        self._resident = False
        if self._serving is not None:
            self._serving.close(cancel=cancel_submitted)
            if wait:
                self._serving.join()
        if cancel_pending:
            for stream in list(self._streams):
                stream.close()
        with self._lock:
            crew, self._idle_crew = self._idle_crew, None
        if crew is not None:
            with Interrupts(crew.bell.ring) as interrupts:
                crew.stop(IN_ORDER if wait else ABANDONED, interrupts)
                crew.close()

    def __enter__(self) -> Self:
        self._resident = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._shut_down(wait=kind is None, cancel_pending=True, cancel_submitted=kind is not None)

    # ── responses to the queue ────────────────────────────────────────────────────────────────────

    def _putter(
        self, queue: Queue[Response], drained: Responses, interrupts: Interrupts
    ) -> Callable[[Response], None]:
        if isinstance(queue, NullQueue):
            return queue.put

        def put(response: Response) -> None:
            interrupts.in_user_code = True  # it may be the user's own, on a database
            try:
                queue.put(response, block=False)
            except QueueFullError:  # nobody may be there to make room, and map returns them all anyway
                drained.add(queue.get_all())
                queue.put(response, block=False)
            finally:
                interrupts.in_user_code = False

        return put

    def _drain_into(self, responses: Responses, interrupts: Interrupts) -> None:
        if self._queue is not None:
            interrupts.in_user_code = True
            try:
                responses.add(self._queue.get_all())
            finally:
                interrupts.in_user_code = False

    # ── runs and their crews ──────────────────────────────────────────────────────────────────────

    def _answers(
        self,
        worker: Worker | Callable[[Any], Any],
        inputs: Iterable[Any],
        *,
        ordered: bool,
        eager: bool,
        window: Window,
    ) -> Stream | Resumed:
        """A stream, that goes on from the checkpoint if there is one."""
        if self._checkpoint is None:
            return self._stream(worker, inputs, ordered=ordered, eager=eager, window=window)
        from multiprocessing_kit.checkpoint.resume import Resumed  # noqa: PLC0415  # and sqlite3 with it

        worker = as_worker(worker)

        def start(left: Iterable[Any], window: Window) -> Stream:
            # Eager: an answer that waits in a child behind a long job is in no file.
            return self._stream(worker, left, ordered=False, eager=True, window=window)

        stream = Resumed(self._checkpoint, worker, inputs, start, ordered=ordered, window=window)
        self._streams.add(stream)
        return stream

    def _stream(
        self,
        worker: Worker | Callable[[Any], Any],
        inputs: Iterable[Any],
        *,
        ordered: bool,
        eager: bool,
        window: Window,
    ) -> Stream:
        worker = as_worker(worker)
        try:
            iterator = inputs if isinstance(inputs, range) else iter(inputs)
        except TypeError as error:
            raise TypeError(f"inputs must be an iterable, not {type(inputs).__qualname__}") from error
        if self._closed:
            raise PoolError("this Process was shut down; make another")
        with self._lock:
            crew, self._idle_crew = self._idle_crew, None
        if crew is None or not crew.is_ours:  # a copy of a parent's, in a process that was forked
            crew = Crew(self._size, self._name, self._limits, resident=self._resident)
        interrupts = Interrupts(crew.bell.ring)
        run = Run(
            worker,
            Source(iterator, interrupts),
            crew,
            ordered=ordered,
            window=window,
            queue_length=self._queue_length,
            batch_size=self._batch_size,
            eager=eager,
            interrupts=interrupts,
            audience=self._audience(),
        )
        bar = self._progress_bar(inputs, worker) if self._progress else None

        def give_back(crew: Crew, finished: bool) -> bool:
            if bar is not None:
                try:
                    bar.close()
                except Exception:  # as of any listener: the responses are there all the same
                    _log.exception("the progress bar could not be closed")
            return finished and self._keep(crew)

        stream = Stream(run, crew, interrupts, give_back)
        self._streams.add(stream)
        _open.add(self)
        return stream

    def _served(self) -> Serving:
        from multiprocessing_kit.runner.serving import Serving  # noqa: PLC0415  # futures are slow to import

        with self._lock:
            if self._serving is None:
                self._serving = Serving(
                    self._size,
                    name=self._name,
                    limits=self._limits,
                    batch_size=self._batch_size,
                    audience=self._weak_audience(),
                )
            return self._serving

    def _keep(self, crew: Crew) -> bool:
        """Keep `crew` for the next run, if there will be one and no other crew waits for it already."""
        with self._lock:
            if not self._resident or self._idle_crew is not None:
                return False
            self._idle_crew = crew
            return True

    def _progress_bar(self, inputs: Iterable[Any], worker: Worker) -> ProgressBar:
        try:
            length = operator.length_hint(inputs, -1)
        except Exception:  # its `__len__` is the user's own, and only the bar needs it
            length = -1
        return ProgressBar(self, None if length < 0 else length, self._name or worker.name)


_open: weakref.WeakSet[Process] = weakref.WeakSet()


@atexit.register
def _shut_down_open() -> None:
    """End, in some order, what a program left open; without this its children are killed with it."""
    for process in list(_open):
        process._shut_down(wait=False, cancel_pending=True, cancel_submitted=False)
