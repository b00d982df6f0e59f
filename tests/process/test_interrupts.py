"""Ctrl-C and SIGTERM of the caller, wherever it is: out in 2 seconds, children ended and nothing left."""

from __future__ import annotations

import contextlib
import inspect
import os
import random
import signal
import textwrap
import threading
import time
from collections.abc import Callable

import pytest

from multiprocessing_kit import Process
from multiprocessing_kit.supervise.interrupts import Interrupts
from tests.forks import in_child
from tests.instants import at_every_instruction
from tests.interrupts import Interrupted, interrupt
from tests.process.test_caller_death import LONG, PROGRAMS, Program

LATEST = 5.0  # seconds; 2 are promised, to a machine with other things to do

END = """
atexit.register(say, "atexit")
try:
    main()
finally:
    say("finally")
"""

# Beside those of the other file; each says "busy" where the signal is to strike.
STATES = PROGRAMS | {
    "jobs that come back": """
        Process(2).map(lambda n: say("busy"), iter(int, 1))
    """,
    "in a listener": """
        process = Process(2)
        process.on("job_success", lambda process: (say("busy"), time.sleep(1000)))
        process.map(lambda n: n, range(8))
    """,
    "retries wait": """
        from tenacity import wait_fixed
        class Failing(Worker):
            def process(self, n):
                raise ValueError
        process = Process(2)
        process.on("job_retry", lambda process, argument: say("busy") if argument == 7 else None)
        process.map(Failing(retry=RetryStrategy(3, RetryType.REQUEUE, wait=wait_fixed(1000))), range(8))
    """,
    "pickling": """
        class Slow:
            def __reduce__(self):
                say("busy")
                time.sleep(1000)
        Process(2).map(lambda n: n, [Slow()])
    """,
    "in the queue": """
        class Slow(Queue):
            def put(self, item, block=True, timeout=None):
                say("busy")
                time.sleep(1000)
            def get(self, block=True, timeout=None): ...
            def get_all(self): return []
            def qsize(self): return 0
            def clear(self): ...
            def destroy(self): ...
        Process(2, Slow()).map(lambda n: n, range(8))
    """,
    "in teardown": """
        class Slow(Worker):
            def process(self, n): ...
            def teardown(self):
                say("busy")
                time.sleep(1000)
        Process(2).map(Slow(), range(8))
    """,
    "in imap": """
        list(Process(2).imap(lambda n: (say("busy"), time.sleep(1000)), range(8)))
    """,
    "in the loop around imap": """
        for _ in Process(2).imap(lambda n: n, range(8)):
            say("busy")
            time.sleep(1000)
    """,
}
IN_THE_CALLERS_OWN_CODE = {"idle", "in the loop around imap"}


def main(code: str) -> str:
    return f"def main():\n{textwrap.indent(inspect.cleandoc(code), '    ')}\n{END}"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize("name", STATES)
def test_out_in_time_and_in_order(
    name: str, signum: signal.Signals, record_property: Callable[[str, object], None]
) -> None:
    with Program(main(STATES[name])) as program:
        record_property("seconds", check_end_in_time(program, signum))
        if signum == signal.SIGTERM and name in IN_THE_CALLERS_OWN_CODE:
            assert program.exitcode == -signal.SIGTERM  # nobody asked us
            return
        check_end(program, signum)


def check_end_in_time(program: Program, signum: signal.Signals) -> float:
    """Once it is busy, send it the signal: it ends in time, and leaves nothing. Returns the seconds."""
    program.wait_for("busy")
    program.watch_children()
    began = time.monotonic()
    program.signal(signum, group=signum == signal.SIGINT)
    assert program.ends_within(LONG), program.errors
    seconds = time.monotonic() - began
    assert program.left() == []
    assert seconds < LATEST
    return seconds


def check_end(program: Program, signum: signal.Signals) -> None:
    assert program.rest()[-2:] == ["finally", "atexit"]
    assert "Exception ignored" not in program.errors
    if signum == signal.SIGTERM:
        assert program.exitcode == 143, program.errors
    else:
        assert program.exitcode == -signal.SIGINT, program.errors
        assert program.errors.splitlines()[-1] == "KeyboardInterrupt"
        assert program.errors.count("Traceback") == 1, program.errors


def test_a_second_one_stops_at_once() -> None:
    patient = """
        from multiprocessing_kit.runner import stream
        from multiprocessing_kit.supervise.stop import StopSteps
        stream.ABANDONED = StopSteps(asked=1000.0, terminated=1000.0)
    """
    code = inspect.cleandoc(patient) + "\n" + inspect.cleandoc(PROGRAMS["ignoring signals"])
    with Program(code) as program:
        program.wait_for("busy")
        program.watch_children()
        for _ in range(100):
            program.signal(signal.SIGINT, group=True)
            if program.ends_within(0.2):
                break
        assert program.exitcode == -signal.SIGINT
        assert program.left() == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_handler_of_the_program_is_left_alone(signum: signal.Signals) -> None:
    code = """
        reading, writing = os.pipe()
        signals = []
        def handler(signum, frame):
            signals.append(signum)
            os.write(writing, b"go")
        def job(n):
            say("busy")
            return os.read(reading, 1)
        signal.signal(signal.SIGINT, handler)
        signal.signal(signal.SIGTERM, handler)
        responses = Process(2).map(job, range(2))
        say(sorted(response.body for response in responses))
        say(len(signals))
        say({signal.getsignal(number) is handler for number in (signal.SIGINT, signal.SIGTERM)})
    """
    with Program(code) as program:
        program.wait_for("busy")
        program.signal(signum, group=signum == signal.SIGINT)
        assert (program.exitcode, program.errors) == (0, "")
        assert program.rest()[-3:] == ["[b'g', b'o']", "1", "{True}"]


@pytest.mark.parametrize("seed", range(6))
def test_a_handler_of_the_program_that_raises(seed: int) -> None:
    """Wherever it strikes, `map` ends with that, and no child is left."""

    class Late(Exception):
        pass

    def late(_signum: int, _frame: object) -> None:
        raise Late

    def maps() -> None:
        instants = random.Random(seed)
        signal.signal(signal.SIGALRM, late)
        was_late = 0
        for _ in range(100):
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, instants.uniform(0.001, 0.03))
                    Process(2).map(abs, range(50))
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except Late:
                was_late += 1
            with pytest.raises(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)
        assert was_late

    assert in_child(maps) == 0


def test_the_handlers_there_were_are_there_again() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    during = []

    def listener(process: Process) -> None:
        during.append([signal.getsignal(number) for number in numbers])

    process = Process(1).on("job_success", listener)
    process.map(str, range(3))
    assert len(list(process.imap(str, range(3)))) == 3
    with process, pytest.raises(ZeroDivisionError):
        process.map(str, (1 // n for n in (1, 0)))
    assert before not in during
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.mark.parametrize("seed", range(6))
def test_at_any_instant(seed: int) -> None:
    """Ctrl-C from before the first fork on; SIGTERM, ours within `map` only, from the first input on."""
    code = """
        def inputs():
            say("begun")
            yield from range(10**9)
        def main():
            say("ready")
            process = Process(2)
            for event in "job_start", "job_running", "job_retry", "job_success", "job_failed":
                process.on(event, lambda process, event: None)
            class Any(Worker):
                def process(self, n):
                    self.running()
                    time.sleep(0.001 if n % 100 == 0 else 0)
                    return 1 // (n % 7)
            process.map(Any(retry=RetryStrategy(1, RetryType.REQUEUE)), inputs())
    """
    generator = random.Random(seed)
    with contextlib.ExitStack() as stack:
        programs = [stack.enter_context(Program(inspect.cleandoc(code) + END)) for _ in range(5)]
        for program in programs:
            signum = generator.choice([signal.SIGINT, signal.SIGTERM])
            program.wait_for("ready" if signum == signal.SIGINT else "begun")
            program.ends_within(generator.choice([0.005, 0.05, 0.3]) * generator.random())
            program.watch_children()
            program.signal(signum, group=signum == signal.SIGINT)
            assert program.ends_within(LATEST), program.errors
            assert program.left() == []
            check_end(program, signum)


@pytest.mark.parametrize("where", ["a listener", "a thread"])
def test_processes_that_are_forked_meanwhile_end_by_sigterm(where: str) -> None:
    """They are none of ours, and have no loop that would look what has come."""
    statuses: list[int] = []

    def fork_one() -> None:
        def waits() -> None:
            for _ in range(2):  # the first one would be raised, as in user code
                with contextlib.suppress(SystemExit):
                    os.kill(os.getpid(), signal.SIGTERM)

        statuses.append(in_child(waits))

    def listener(_process: Process) -> None:
        if where == "a thread":
            thread = threading.Thread(target=fork_one)
            thread.start()
            thread.join()
        else:
            fork_one()

    Process(1).on("job_success", listener).map(abs, [1])
    assert statuses == [-signal.SIGTERM]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_after_a_handler_that_raises_at_any_instant(signum: signal.Signals) -> None:
    """Within, the signal is noted; afterwards it does what it did before, and no Ctrl-C goes unheard."""
    former = signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
    before = signal.signal(signal.SIGUSR1, interrupt)

    def hold() -> None:
        with contextlib.suppress(Interrupted), Interrupts(lambda: None):
            pass

    try:
        for _ in at_every_instruction(hold, "/interrupts.py", only_looks=True):
            if signum == signal.SIGTERM:
                assert in_child(lambda: signal.raise_signal(signal.SIGTERM)) == -signal.SIGTERM
            else:
                with pytest.raises(KeyboardInterrupt):
                    signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGUSR1, before)
        signal.signal(signum, former)
