"""The caller is killed, or interrupted, at two hundred instants: nothing of it stays."""

from __future__ import annotations

import random
import signal
import subprocess
import sys

import pytest

from tests.process.test_caller_death import ROOT, Program
from tests.process.test_interrupts import LATEST, check_end, main

pytestmark = [pytest.mark.stress, pytest.mark.timeout(1800)]

BUSY = """
    import subprocess
    import numpy as np

    class Any(Worker):
        def process(self, n):
            if n % 5 == 0:
                subprocess.Popen(["sleep", "1000"])
            if n % 7 == 0:
                time.sleep(0.01)
            return np.zeros(1 << 15) if n % 3 == 0 else n

    say("ready")
    process = Process(3, timeout=100, max_tasks_per_child=50)
    for response in process.imap(Any(), iter(range(10**9)), ordered=False):
        pass
"""


@pytest.mark.parametrize("seed", range(200))
def test_killed(seed: int) -> None:
    """Programs that its jobs have started are gone as well."""
    with Program(BUSY) as program:
        program.wait_for("ready")
        program.ends_within(random.Random(seed).uniform(0, 0.5))
        program.watch_children()
        program.signal(signal.SIGKILL)
        assert [what for what in program.left(1.0) if "child" in what] == []
        # A segment that was just being made, and not yet marked for removal, is swept.
        subprocess.run([sys.executable, ROOT / "scripts" / "clear_ipc.py"], check=True, capture_output=True)
        assert program.left(0) == []


@pytest.mark.parametrize("seed", range(200))
def test_interrupted(seed: int) -> None:
    with Program(main(BUSY)) as program:
        program.wait_for("ready")
        program.ends_within(random.Random(seed).uniform(0, 0.5))
        program.watch_children()
        program.signal(signal.SIGINT)
        assert program.ends_within(LATEST), program.errors
        assert program.left() == []
        check_end(program, signal.SIGINT)
