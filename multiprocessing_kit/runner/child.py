"""A child of the runner: its set-up, its end, and what it does with each record that comes."""

from __future__ import annotations

import time

from multiprocessing_kit.errors import SerializationError
from multiprocessing_kit.ipc.codec import decode, encode, pack_exception
from multiprocessing_kit.runner import messages
from multiprocessing_kit.runner.child_end import CallerGone, ChildEnd, DescriptorsLost, Stopped
from multiprocessing_kit.runner.hold import Cargo, Hold
from multiprocessing_kit.runner.host import ChildHost
from multiprocessing_kit.runner.job_runner import JobRunner
from multiprocessing_kit.runner.messages import HEADER
from multiprocessing_kit.runner.surroundings import NoWayBack
from multiprocessing_kit.supervise.death import PARENT_GONE
from multiprocessing_kit.supervise.memory import own_memory
from multiprocessing_kit.worker import Worker

__all__ = ["LOST_DESCRIPTORS", "JobChild"]

LOST_DESCRIPTORS = 114
"""Exit status of a child whose descriptors a job has closed; what it answered stands."""

_WEIGH_SECONDS = 0.005
"""Between two looks at the child's own memory, each of which takes some 50 µs."""

_AGAIN = (messages.AGAIN, messages.AGAIN_LARGE)


class JobChild:
    """One child of the runner.

    Args:
        lane: Its end of the lane.
        worker: Inherited by fork.
        run_id: Prefix of the job ids.
        memory: Bytes of its own beyond which it ends between two jobs, for another to take its place.
    """

    def __init__(self, lane: ChildEnd, worker: Worker, run_id: str, *, memory: int | None = None) -> None:
        self._lane = lane
        self._hold = Hold()
        self._host = ChildHost(lane, worker)
        self._jobs = JobRunner(self._host, lane, self._hold, run_id)
        self._set_up = False
        self._memory = memory
        self._weighed = 0.0

    def main(self) -> int:
        """Work until asked to stop; returns the exit status."""
        try:
            try:
                while (record := self._lane.receive()) is not None:
                    if not self._handle(record):
                        break
                    del record
                    self._jobs.report_dead()
                    if self._memory is not None and self._is_too_large(self._memory):
                        self._lane.send(HEADER.pack(messages.TOO_LARGE, 0, 0, 0.0))
                        break
            except NoWayBack:
                self._jobs.send_outcomes()
            if self._set_up:
                self._host.worker.teardown()
        except CallerGone:
            return PARENT_GONE
        except Stopped:
            return 0
        except DescriptorsLost:
            return LOST_DESCRIPTORS
        return 0

    def _handle(self, record: bytes) -> bool:
        """Act on one record; False to end."""
        kind, _, index, _ = HEADER.unpack_from(record)
        if kind == messages.RUN:
            return self._begin_run(record)
        if not self._set_up and not self._do_setup():
            return False
        if kind == messages.JOB:
            self._jobs.run_single(index, memoryview(record)[HEADER.size :])
        elif kind == messages.JOB_LARGE:
            self._jobs.run_large(index, Cargo(self._hold, memoryview(record)[HEADER.size :]))
        elif kind in _AGAIN:
            self._jobs.run_again(index, record)
        else:
            self._jobs.run_lease(index, record, apart=kind == messages.JOBS_APART)
        return True

    def _is_too_large(self, memory: int) -> bool:
        now = time.perf_counter()
        if now - self._weighed < _WEIGH_SECONDS:
            return False
        self._weighed = now
        return own_memory(self._host.pid) > memory

    def _begin_run(self, record: bytes) -> bool:
        self._jobs.run_id, pickled = decode(memoryview(record)[HEADER.size :], "the run")
        if pickled is None:
            return True
        try:
            worker = decode(pickled, "the worker")
        except SerializationError as error:
            self._lane.send(HEADER.pack(messages.RENEW, 0, 0, 0.0) + encode(str(error), "the reason"))
            return False
        if self._set_up:
            self._lane.set_up(False)
            self._host.worker.teardown()
            self._set_up = False
        self._host.adopt(worker)
        self._jobs = JobRunner(self._host, self._lane, self._hold, self._jobs.run_id)
        return True

    def _do_setup(self) -> bool:
        try:
            self._host.worker.setup()
        except BaseException as error:
            self._host.check_process()
            packed = encode(pack_exception(error), "the exception of setup()")
            self._lane.send(HEADER.pack(messages.NO_SETUP, 0, 0, 0.0) + packed)
            return False
        self._host.check_process()
        self._set_up = True
        self._lane.set_up(True)
        self._jobs.look_around()  # setup() may change the surroundings for all jobs
        return True
