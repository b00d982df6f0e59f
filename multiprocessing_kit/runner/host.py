"""What the life cycle of a job needs of the child that the job runs in."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from typing import Any

from multiprocessing_kit.errors import SerializationError
from multiprocessing_kit.events import JobEvent
from multiprocessing_kit.ipc.codec import encode
from multiprocessing_kit.response import JobResponse, Response
from multiprocessing_kit.runner import messages
from multiprocessing_kit.runner.answers import seal_answer
from multiprocessing_kit.runner.child_end import ChildEnd, DescriptorsLost
from multiprocessing_kit.runner.messages import HEADER
from multiprocessing_kit.supervise.fork import flush_stdio
from multiprocessing_kit.worker import Worker

__all__ = ["ChildHost"]

_PLACES = {event: place for place, event in enumerate(JobEvent)}


class ChildHost:
    """Implements `lifecycle.Host`.

    Args:
        lane: The child's end of the lane.
        worker: Whose jobs run.

    Attributes:
        pid: Of the child.
        worker: May be changed between two jobs, with `adopt`.
        index: Of the job under way, where that is given alone.
        sealed: Header and payload of the answer that was sealed last.
        is_copy: Whether this process was forked by `process()`.
    """

    def __init__(self, lane: ChildEnd, worker: Worker) -> None:
        self._lane = lane
        self.pid = os.getpid()
        self.is_copy = False
        os.register_at_fork(after_in_child=self._note_copy)  # cheaper than a getpid() for each job
        self.index = 0
        self.sealed: list[Any] = []
        self.adopt(worker)

    def adopt(self, worker: Worker) -> None:
        """From now on, its jobs run."""
        self.worker = worker
        worker._host = self

    def attempting(self, number: int) -> None:
        """Tell the caller, for when this child dies or takes too long."""
        self._lane.attempting(number)

    def pausing(self) -> None:
        """Stop the clock."""
        self._lane.pausing()

    @property
    def events(self) -> int:
        """START, RUNNING and RETRY, as far as the caller listens; the final ones it makes itself."""
        return self._lane.events

    def relay(self, payload: dict[str, Any]) -> None:
        """Send START, RUNNING or RETRY home."""
        if self.is_copy:
            return  # process() forked, and called running() there: this lane is its parent's
        if not self._lane.at_job:
            return  # from a thread that its job left behind
        fields = {name: payload[name] for name in ("response", "delay", "info")}
        place = _PLACES[payload["event"]]
        running = self.worker._running
        index = self.index if running is None else running.index
        header = HEADER.pack(messages.EVENT, payload["attempt"], index, float(place))
        what = f"the payload of {payload['event'].name}"
        try:
            record = encode(fields, what, payload["job_id"])
        except SerializationError as error:
            exception = getattr(fields["response"], "exception", None) or error
            fields["response"] = fields["response"] and JobResponse(exception=exception)
            fields["info"] = {name: _travels_or_repr(value) for name, value in fields["info"].items()}
            record = encode(fields, what, payload["job_id"])
        # Where descriptors are lost, the job goes on and its answer is the last thing this child sends.
        with contextlib.suppress(DescriptorsLost):
            self._lane.send(header + record)

    def seal(self, response: Response) -> Response:
        """Encode the answer, so that SUCCESS is not said of a job whose result cannot be sent."""
        worker = self.worker
        response, *self.sealed = seal_answer(response, self.index, worker.attempt, worker.job_id)
        return response

    def check_process(self) -> None:
        """End the copy of this child that `process()` forked, if this is that."""
        if self.is_copy:
            error = sys.exc_info()[1]
            status = 0
            if isinstance(error, SystemExit):
                status = error.code if isinstance(error.code, int) else int(error.code is not None)
            elif error is not None:
                traceback.print_exc()
                status = 1
            flush_stdio()
            os._exit(status)

    def _note_copy(self) -> None:
        self.is_copy = True
        if self.worker._running is not None:
            self.worker._running.cut()


def _travels_or_repr(value: object) -> object:
    try:
        encode(value, "the value")
    except SerializationError:
        return repr(value)
    return value
