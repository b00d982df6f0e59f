"""A child that is stopped from outside, as a debugger does it: the others go on, and later it does, too."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from multiprocessing_kit import JobResponse, Process
from tests.process.test_crashes import batches
from tests.process.test_uneven import Ran, ran, spin, unordered

__all__ = ["ran"]

COUNT = 3000


@batches
@pytest.mark.parametrize("at", [0, COUNT // 2])
def test_the_others_go_on(at: int, batch_size: Any, ran: Ran) -> None:
    """What one child holds is late, and nothing else; and nothing is run again."""
    reading, writing = os.pipe()

    def job(number: int) -> int:
        ran.note(number)
        spin(1000)
        if number == at:
            os.write(writing, os.getpid().to_bytes(8, "little"))
            os.kill(os.getpid(), signal.SIGSTOP)
        return number

    answers: list[JobResponse] = []
    lease = 1 if at == 0 or batch_size == 1 else COUNT // 4
    for answer in unordered(Process(3, batch_size=batch_size), job, range(COUNT)):
        answers.append(answer)
        if len(answers) == COUNT - lease:
            pid = int.from_bytes(os.read(reading, 8), "little")
            os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)  # it may have told us, and not be stopped yet
            os.kill(pid, signal.SIGCONT)
    os.close(reading)
    os.close(writing)
    assert sorted(answer.body for answer in answers) == list(range(COUNT))
    assert set(ran.counts().values()) == {1}
    assert [answer.pid for answer in answers if answer.body == at] == [pid]
