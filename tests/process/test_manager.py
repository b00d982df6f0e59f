"""Workers of a manager: how they end and what follows, what they know, what they work on."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from multiprocessing_kit.manager import Status, WorkerStatus
from multiprocessing_kit.queues import FifoQueue
from tests.folders import until
from tests.process.managers import Program

pytestmark = pytest.mark.timeout(300)

TOLD = """
def tell(**what):
    with open("told", "a") as file:
        file.write(json.dumps(what) + "\\n")

import json
"""


def told(folder: Path, count: int = 1) -> list[dict[str, Any]]:
    """What workers have told by `TOLD`, once they have told so much."""

    def look() -> list[dict[str, Any]]:
        lines = (folder / "told").read_text().splitlines() if (folder / "told").exists() else []
        return [json.loads(line) for line in lines] if len(lines) >= count else []

    return until(look, f"{count} lines in {folder / 'told'}")


# ── how a worker ends, and what follows ───────────────────────────────────────────────────────────────

ENDS = """
def in_first_life(context):
    file = f"lives-{context.pin}"
    with open(file, "a") as lives:
        lives.write(f"{os.getpid()}\\n")
    return os.path.getsize(file) == len(f"{os.getpid()}\\n")

def fail():
    raise LookupError("it is not there")

ends = [
    lambda: sys.exit(0),
    lambda: sys.exit(3),
    lambda: sys.exit(4),
    lambda: sys.exit(9),
    lambda: os._exit(3),
    lambda: os.kill(os.getpid(), signal.SIGKILL),
    fail,
]

def work(context):
    if context.executed == 0 and in_first_life(context):
        ends[context.pin]()

manager = Manager("tested", workers=len(ends), target=work, backoff=(0.1, 0.2), execute_sleep=600,
                  normal_exit_code={0, 3}, fatal_exit_code=9, respawn=RESPAWN)
"""

LAST_EXIT = [
    "exited with 0",
    "exited with 3",
    "exited with 4",
    "exited with 9",
    "exited with 3",
    "was killed by SIGKILL",
    "exited with 1",
]
WHAT_FOLLOWS = {
    "always": "again again again fatal again again again",
    "on-failure": "ended ended again fatal ended again again",
    "never": "ended ended fatal fatal ended fatal fatal",
}


def has_followed(worker: WorkerStatus) -> str:
    """In the words of `WHAT_FOLLOWS`."""
    if worker.pid:
        return "again" if worker.restarts == 1 and worker.state == "idle" else ""
    return worker.state


@pytest.mark.parametrize("respawn", WHAT_FOLLOWS)
def test_every_policy_with_every_end(tmp_path: Path, respawn: str) -> None:
    """Each PIN ends in a way of its own in its first life; a second one lives on."""
    wanted = WHAT_FOLLOWS[respawn].split()
    with Program(tmp_path, ENDS.replace("RESPAWN", repr(respawn))) as program:
        program.start()
        status = program.wait_until(lambda status: [has_followed(w) for w in status.workers] == wanted)
        assert [worker.pin for worker in status.workers] == list(range(7))
        assert [worker.last_exit for worker in status.workers] == LAST_EXIT
        assert status.starts == 7 + wanted.count("again")
        for worker, follows in zip(status.workers, wanted, strict=True):
            lives = (tmp_path / f"lives-{worker.pin}").read_text().split()
            assert len(lives) == 1 + (follows == "again"), worker
            assert worker.pid in (0, int(lives[-1]))
            assert bool(worker.reason) == (follows == "fatal"), worker
            assert worker.last_exit in worker.reason or not worker.reason
        assert "which is a fatal exit code" in status.workers[3].reason
        assert "LookupError: it is not there" in program.log
        assert "worker #6 failed" in program.log


def test_when_all_have_ended_the_master_ends_with_0(tmp_path: Path) -> None:
    """Under on-failure; one that failed once has had its second life."""
    source = """
        def work(context):
            if context.pin == 1 and not os.path.exists("failed"):
                open("failed", "w").close()
                os.kill(os.getpid(), signal.SIGKILL)

        manager = Manager("tested", workers=3, target=work, execute_times=2, execute_sleep=0.01)
    """
    with Program(tmp_path, source) as program:
        program.run()
        assert program.wait_for_end() == 0
        assert len(program.wait_for_log(r"worker #\d \(pid \d+\) exited with 0")) == 3
        assert len(program.wait_for_log(r"worker #1 .* was killed by SIGKILL")) == 1
        assert program.log.count("manager 'tested' ended") == 1
        program.command("status", expect=3)


def test_background_work_that_is_done_at_once_is_ready_first(tmp_path: Path) -> None:
    """The start tells so, and the end is one in order."""
    source = """
        manager = Manager("tested", workers=2, target=lambda context: None, execute_times=1)
    """
    with Program(tmp_path, source) as program:
        assert "2 workers are ready" in program.command("start", "-d", expect=0).stdout
        program.wait_for_end()
        program.wait_for_log("manager 'tested' ended")


def test_so_many_calls_and_no_more(tmp_path: Path) -> None:
    """`execute_times` under always: life after life, each with the same PIN and that many calls."""
    source = (
        TOLD
        + """
def work(context):
    tell(pin=context.pin, pid=os.getpid(), executed=context.executed)

manager = Manager("tested", workers=2, target=work, respawn="always", execute_times=3, execute_sleep=0.01,
                  normal_exit_code=7, backoff=(0.1, 0.2))
"""
    )
    with Program(tmp_path, source) as program:
        program.start()
        lines = told(tmp_path, 40)
        calls: dict[tuple[int, int], list[int]] = {}
        for line in lines:
            calls.setdefault((line["pin"], line["pid"]), []).append(line["executed"])
        whole = [found for found in calls.values() if len(found) == 3]
        assert len(whole) >= len(calls) - 2
        assert all(found == [0, 1, 2][: len(found)] for found in calls.values())
        status = program.wait_until(lambda status: all(w.restarts > 3 for w in status.workers))
        assert {worker.last_exit for worker in status.workers} == {"exited with 7"}


def test_limits_of_age_and_memory_bring_a_successor(tmp_path: Path) -> None:
    """Also under on-failure; that is no failure, so it comes again and again, at the pace of the back-off."""
    source = """
        def grow(context):
            if context.pin == 0:
                context.resource.append(bytearray(os.urandom(8 << 20)))

        manager = Manager("tested", workers=2, target=grow, init=lambda context: [], execute_sleep=0.05,
                          max_memory=MEMORY, limit_seconds=SECONDS, respawn_limit=1, backoff=(0.1, 0.1))
    """
    by_memory = source.replace("MEMORY", "100_000_000").replace("SECONDS", "0")
    with Program(tmp_path, by_memory) as program:
        program.start()
        status = program.wait_until(lambda status: status.workers[0].restarts >= 3)
        assert status.workers[0].last_exit == "exited with 88"
        assert status.workers[1].restarts == 0
        assert re.search(r"worker #0 has 1\d{8} bytes resident: it is replaced", program.log)
    by_age = source.replace("MEMORY", "None").replace("SECONDS", "0.5").replace("8 << 20", "1")
    with Program(tmp_path, by_age) as program:
        program.start()
        status = program.wait_until(lambda status: all(w.restarts >= 3 for w in status.workers))
        assert {worker.last_exit for worker in status.workers} == {"exited with 88"}
        assert not any(worker.reason for worker in status.workers)


def test_one_that_fails_again_and_again_is_given_up(tmp_path: Path) -> None:
    """After the scheduled waits; `status` says why, and the master is there to say it."""
    source = """
        def connect(context):
            if context.pin == 1:
                raise ConnectionError("no mailbox")

        manager = Manager("tested", workers=2, target=lambda context: None, init=connect,
                          backoff=(0.2, 0.4), respawn_limit=5)
    """
    with Program(tmp_path, source) as program:
        started = program.command("start", "-d", expect=0)
        assert started.stdout.startswith("1 of 2 workers are ready; of the others, one ")
        status = program.wait_until(lambda status: status.workers[1].state == "fatal")
        reason = "it failed 5 times in a row, the last time it exited with 1"
        assert status.workers[1].reason == reason
        assert reason in program.command("status", expect=0).stdout
        assert status.workers[0].restarts == 0
        waits = [float(line.split()[-2]) for line in program.wait_for_log("#1 starts again in")]
        assert waits == pytest.approx([0.2, 0.4, 0.4], rel=0.1, abs=0.06)
        assert "#1 is given up" in program.log
        assert program.log.count("ConnectionError: no mailbox") == 5
        program.ask("reload")
        program.wait_until(lambda status: status.workers[1].restarts > 5, "another try after a reload")


def test_a_healthy_life_makes_up_for_failures(tmp_path: Path) -> None:
    """One that lives for long enough each time is never given up, though its failures are many."""
    source = """
        def work(context):
            context.sleep(0.3)
            sys.exit(1)

        manager = Manager("tested", workers=1, target=work, healthy_seconds=0.2, respawn_limit=2,
                          backoff=(30, 30))
    """
    with Program(tmp_path, source) as program:
        program.start()
        program.wait_until(lambda status: status.workers[0].restarts >= 4)
        assert "starts again in" not in program.log


def test_exit_codes_of_workers(tmp_path: Path) -> None:
    """As those of the interpreter, wherever it is left."""
    source = """
        def interrupted():
            raise KeyboardInterrupt

        ends = [
            lambda: sys.exit(),
            lambda: sys.exit(5),
            lambda: sys.exit("gone for good"),
            lambda: sys.exit(300),
            lambda: sys.exit(-1),
            lambda: os._exit(6),
            interrupted,
            lambda: os.kill(os.getpid(), signal.SIGSEGV),
        ]

        def act(context):
            ends[context.pin % len(ends)]()

        def begin(context):
            if context.pin >= len(ends):
                act(context)

        manager = Manager("tested", workers=2 * len(ends), init=begin, target=act, respawn="never")
    """
    with Program(tmp_path, source) as program:
        program.start()
        status = program.wait_until(lambda status: not any(worker.pid for worker in status.workers))
        wanted = [f"exited with {code}" for code in (0, 5, 1, 44, 255, 6, 1)] + ["was killed by SIGSEGV"]
        assert [worker.last_exit for worker in status.workers] == wanted * 2
        assert [worker.state for worker in status.workers] == (["ended"] + ["fatal"] * 7) * 2
        assert program.log.count("gone for good") == 2


# ── what a worker knows ───────────────────────────────────────────────────────────────────────────────


def test_what_a_worker_knows(tmp_path: Path) -> None:
    """Its PIN, the manager's name, what `init` has made, its calls; `init` runs once in each worker."""
    source = (
        TOLD
        + """
def connect(context):
    tell(init=context.pin, pid=os.getpid(), executed=context.executed)
    return f"connection {context.pin}"

def work(context):
    tell(name=context.name, pin=context.pin, resource=context.resource, executed=context.executed,
         stopping=context.stopping, going_on=context.dispatch())

manager = Manager("tested", workers=2, target=work, init=connect, execute_times=2, execute_sleep=0)
"""
    )
    with Program(tmp_path, source) as program:
        program.run()
        assert program.wait_for_end() == 0
        lines = told(tmp_path, 6)
        assert sorted(line["init"] for line in lines if "init" in line) == [0, 1]
        calls = [line for line in lines if "init" not in line]
        assert sorted((line["pin"], line["executed"]) for line in calls) == [(0, 0), (0, 1), (1, 0), (1, 1)]
        for line in calls:
            assert line["name"] == "tested"
            assert line["resource"] == f"connection {line['pin']}"
            assert (line["stopping"], line["going_on"]) == (False, True)


SLEEPERS = """
def work(context):
    if context.pin == 0:
        tell(pin=0, slept=True)
        tell(pin=0, goes_on=context.sleep(SECONDS), stopping=context.stopping)
    elif context.pin == 1:
        tell(pin=1, slept=True)
        while context.dispatch():
            time.sleep(0.01)
        tell(pin=1, stopping=context.stopping, sleeps=context.sleep(SECONDS))
    else:
        tell(pin=2, call=context.executed)

manager = Manager("tested", workers=3, target=work, execute_sleep=SECONDS, check_interval=SECONDS)
"""


@pytest.mark.parametrize("seconds", ["3600", "10**9"])
def test_every_sleep_ends_at_a_wakeup_and_at_a_stop(tmp_path: Path, seconds: str) -> None:
    """That in a call and that between two calls; a loop hears of the stop. However long it would be."""
    with Program(tmp_path, TOLD + SLEEPERS.replace("SECONDS", seconds)) as program:
        program.run()
        told(tmp_path, 3)
        program.wait_until(lambda status: status.workers[2].executions == 1)
        program.command("wakeup", expect=0)
        told(tmp_path, 5)
        lines = [line for line in told(tmp_path, 5) if line["pin"] != 1]
        assert {"pin": 0, "goes_on": True, "stopping": False} in lines
        assert {"pin": 2, "call": 1} in lines
        program.command("wakeup", expect=0)  # that of pin 0 sleeps between its calls now
        assert {"pin": 2, "call": 2} in told(tmp_path, 7)
        program.send(signal.SIGTERM)
        assert program.wait_for_end() == 0
        lines = told(tmp_path, 9)
        assert {"pin": 0, "goes_on": False, "stopping": True} in lines
        assert {"pin": 1, "stopping": True, "sleeps": False} in lines
        assert "has not ended" not in program.log


def test_a_wakeup_of_one_that_is_just_starting_does_it_no_harm(tmp_path: Path) -> None:
    """Its handler is not there yet."""
    source = """
        def slowly():
            with open("forking", "a") as file:
                file.write("x")
            time.sleep(1)

        os.register_at_fork(after_in_child=slowly)

        def work(context):
            log.info("call %d", context.executed)

        manager = Manager("tested", workers=1, target=work, execute_sleep=3600, check_interval=0)
    """
    with Program(tmp_path, source) as program:
        program.run()
        program.wait_for_file("forking")
        program.ask("wakeup")
        status = program.wait_until_ready()
        assert status.workers[0].restarts == 0, status.workers[0]
        program.ask("wakeup")
        program.wait_for_log("call 1")


# ── what it works on ──────────────────────────────────────────────────────────────────────────────────

JOBS = """
from multiprocessing_kit import Worker
from multiprocessing_kit.queues import FifoQueue

class Job(Worker):
    def setup(self):
        tell(setup=os.getpid())

    def process(self, argument):
        if argument == "bad":
            raise ValueError("a bad one")
        tell(done=argument, pid=os.getpid())

    def teardown(self):
        tell(teardown=os.getpid())
"""


def test_a_worker_runs_the_jobs_of_a_named_queue(tmp_path: Path) -> None:
    """In all workers; a failed job is logged; when the queue is closed and empty, they end in order."""
    name = f"manager test {os.getpid()}"
    source = f"""
queue = FifoQueue(name={name!r})
manager = Manager("tested", workers=2, target=Job(), source=queue, execute_sleep=0.01)
"""
    queue: FifoQueue[object] = FifoQueue(name=name)
    try:
        with Program(tmp_path, TOLD + JOBS + source) as program:
            program.run()
            program.wait_until_ready()
            for number in range(20):
                queue.put(number)
            queue.put("bad")
            queue.put({"last": True})
            queue.put(None)  # an input as any other
            until(lambda: len([line for line in told(tmp_path) if "done" in line]) == 22)
            done = {json.dumps(line["done"]) for line in told(tmp_path) if "done" in line}
            assert done == {*map(str, range(20)), '{"last": true}', "null"}
            status = program.wait_until(lambda status: sum(w.executions for w in status.workers) == 23)
            assert status.starts == 2
            assert "ValueError('a bad one')" in program.wait_for_log("job .* failed")[0]
            queue.close()
            assert program.wait_for_end() == 0
            lines = told(tmp_path)
            ups = sorted(line["setup"] for line in lines if "setup" in line)
            downs = sorted(line["teardown"] for line in lines if "teardown" in line)
            assert ups == downs
            assert {line["pid"] for line in lines if "pid" in line} <= set(ups)
    finally:
        queue.destroy()


def test_a_worker_runs_the_jobs_that_a_function_gives(tmp_path: Path) -> None:
    """It gets the context; None is: none at the moment. A stop comes between two jobs."""
    source = """
def take(context):
    numbers = context.resource
    return numbers.pop() if numbers else None

def supply(context):
    return [f"{context.pin}/{n}" for n in range(3)]

manager = Manager("tested", workers=2, target=Job(), source=take, init=supply, execute_sleep=0.05)
"""
    with Program(tmp_path, TOLD + JOBS + source) as program:
        program.start()
        lines = told(tmp_path, 8)
        done = sorted(line["done"] for line in lines if "done" in line)
        assert done == [f"{pin}/{n}" for pin in (0, 1) for n in range(3)]
        program.command("stop", expect=0)
        program.wait_for_end()
        assert len([line for line in told(tmp_path, 10) if "teardown" in line]) == 2


def test_limits_are_looked_at_between_two_jobs(tmp_path: Path) -> None:
    """Also while there are always more; a job is a call, and to look for one in vain is none."""
    source = """
def take(context):
    return context.executed if context.pin == 0 else None

manager = Manager("tested", workers=2, target=Job(), source=take, execute_times=3, execute_sleep=0.01,
                  respawn="never")
"""
    with Program(tmp_path, TOLD + JOBS + source) as program:
        program.start()
        status = program.wait_until(lambda status: status.workers[0].state == "ended")
        assert [line["done"] for line in told(tmp_path) if "done" in line] == [0, 1, 2]
        assert len([line for line in told(tmp_path) if "teardown" in line]) == 1
        assert status.workers[1].executions == 0
        assert status.workers[1].pid


def test_programs_of_a_worker_start_with_the_usual_signals(tmp_path: Path) -> None:
    """What a worker ignores, they need not."""
    source = (
        TOLD
        + """
import subprocess

def work(context):
    lines = subprocess.run(["cat", "/proc/self/status"], stdout=subprocess.PIPE, text=True).stdout
    tell(ignored=next(line.split()[1] for line in lines.splitlines() if line.startswith("SigIgn")))

manager = Manager("tested", workers=1, target=work, execute_times=1)
"""
    )
    if not os.path.exists("/proc/self/status"):
        pytest.skip("needs /proc")
    with Program(tmp_path, source) as program:
        program.run()
        assert program.wait_for_end() == 0
        ignored = int(told(tmp_path)[0]["ignored"], 16)
        names = ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGTERM", "SIGINT", "SIGTTIN", "SIGTTOU", "SIGCHLD")
        assert not [name for name in names if ignored & 1 << (getattr(signal, name) - 1)]


def test_the_decorator_form(tmp_path: Path) -> None:
    """The function stays what it is, and is the work."""
    source = """
        manager = Manager("tested", workers=1, execute_times=1)

        @manager
        def work(context):
            log.info("work of #%d", context.pin)

        assert work.__name__ == "work"
    """
    with Program(tmp_path, source) as program:
        program.run()
        assert program.wait_for_end() == 0
        program.wait_for_log("worker #0.* work of #0")


def test_titles_tell_who_is_who(tmp_path: Path) -> None:
    """In `ps`; with a prefix of the user's."""
    source = """
        manager = Manager("tested", workers=2, target=lambda context: None, title_prefix="shop")
    """
    with Program(tmp_path, source) as program:
        program.start()
        program.wait_until_ready()
        titles = sorted(" ".join(process.cmdline()).strip() for process in program.living())
        assert titles == ["shop: master tested", "shop: worker tested #0", "shop: worker tested #1"]


def test_the_umask_is_set(tmp_path: Path) -> None:
    """In workers, also when it is none; by default it stays what it was."""
    source = """
        def work(context):
            with open("made", "w"):
                pass

        manager = Manager("tested", workers=1, target=work, execute_times=1, UMASK)
    """
    for option, mode in (("umask=0o027", 0o640), ("umask=0", 0o666), ("", 0o600)):
        with Program(tmp_path, source.replace("UMASK", option)) as program:
            before = os.umask(0o077)
            try:
                program.run()
            finally:
                os.umask(before)
            assert program.wait_for_end() == 0
            made = tmp_path / "made"
            assert made.stat().st_mode & 0o777 == mode, option
            made.unlink()


def test_it_runs_without_the_command_line(tmp_path: Path) -> None:
    """`start()`, `status()` and the rest from a program of the user's; the starter may end."""
    source = """
        manager = Manager("tested", workers=2, target=lambda context: None)

        if __name__ == "__main__":
            assert manager.start() == "2 of 2 workers are ready"
            assert manager.status().state == "running"
            manager.scale(3)
            manager.wakeup()
            manager.reload()
            assert len(manager.status().workers) == 3
    """
    with Program(tmp_path, source) as program:
        program.python("program.py")
        assert len(program.wait_until_ready().workers) == 3
        assert isinstance(program.status(), Status)
        started = time.time() - program.status().uptime
        assert abs(started - time.time()) < 600


def test_a_worker_that_somebody_else_stops(tmp_path: Path) -> None:
    """As by `kill PID`: it finishes its call, and another one comes."""
    source = 'manager = Manager("tested", workers=1, target=lambda context: None)'
    with Program(tmp_path, source) as program:
        program.command("start", "-d", expect=0)
        pid = program.kill_worker(0, signal.SIGTERM)
        status = program.wait_until(lambda status: status.workers[0].pid not in (0, pid))
        assert status.workers[0].last_exit == "exited with 88"
        assert status.workers[0].state != "fatal"
