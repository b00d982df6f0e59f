"""What each signal means to a master, one after another and at bad moments; and what a stop leaves behind."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import psutil
import pytest

from tests.folders import until
from tests.process.managers import Program

pytestmark = pytest.mark.timeout(300)

IDLE = """
def work(context):
    log.info("call %d of #%d", context.executed, context.pin)

manager = Manager("tested", workers=2, target=work, execute_sleep=0.1)
"""

BUSY = """
def work(context):
    log.info("begun by #%d", context.pin)
    try:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            time.sleep(0.05)
    except SystemExit as exit_:
        log.info("interrupted with %s", exit_.code)
        INTERRUPTED
    log.info("completed by #%d", context.pin)

manager = Manager("tested", workers=2, target=work, execute_sleep=600, stop_timeout=PATIENCE)
"""


def busy(seconds: float = 1.0, patience: float = 60.0, interrupted: str = "raise") -> str:
    """Workers that are in a call of some seconds."""
    source = BUSY.replace("SECONDS", str(seconds)).replace("PATIENCE", str(patience))
    return source.replace("INTERRUPTED", interrupted)


def count(program: Program, text: str) -> int:
    """How often it is in the log."""
    return program.log.count(text)


# ── stopping ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_term_and_int_let_running_calls_end(tmp_path: Path, signum: signal.Signals) -> None:
    """Then the master ends with 0."""
    with Program(tmp_path, busy(2.0)) as program:
        program.run()
        program.wait_for_log("begun by", 2)
        program.send(signum)
        assert program.wait_for_end() == 0
        assert count(program, "completed by") == 2
        assert count(program, "interrupted") == 0
        assert f"signal {signum.name}" in program.log
        assert not program.socket.exists()


def test_quit_ends_all_at_once(tmp_path: Path) -> None:
    """Running calls are cut off; the master ends with 0."""
    with Program(tmp_path, busy(600.0)) as program:
        program.run()
        program.wait_for_log("begun by", 2)
        program.send(signal.SIGQUIT)
        assert program.wait_for_end() == 0
        assert count(program, "was killed by SIGKILL") == 2
        assert count(program, "interrupted") == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_second_signal_while_it_stops_is_out_of_patience(tmp_path: Path, second: signal.Signals) -> None:
    """It ends at once, whatever runs."""
    with Program(tmp_path, busy(600.0)) as program:
        program.run()
        program.wait_for_log("begun by", 2)
        program.send(signal.SIGTERM)
        status = program.wait_until(lambda status: status.state == "stopping")
        assert {worker.state for worker in status.workers} == {"stopping"}
        program.send(second)
        assert program.wait_for_end() == 0
        assert count(program, "completed") == 0
        assert count(program, "was killed by SIGKILL") == 2


def test_two_terms_in_a_row(tmp_path: Path) -> None:
    """Before it could act on the first: the system may make one of them, so it stops or exits; and with 0."""
    with Program(tmp_path, busy(1.0)) as program:
        program.run()
        program.wait_for_log("begun by", 2)
        pid = program.status().pid
        for _ in range(2):
            os.kill(pid, signal.SIGTERM)
        assert program.wait_for_end() == 0


IGNORED = [
    # while it stops: refused with a word in the log, or without meaning
    (signal.SIGHUP, "signal SIGHUP: it is stopping"),
    (signal.SIGTTIN, "signal SIGTTIN: it is stopping"),
    (signal.SIGTTOU, "signal SIGTTOU: it is stopping"),
    (signal.SIGUSR1, "signal SIGUSR1"),
    (signal.SIGUSR2, "tested: stopping"),
]


def test_other_signals_while_it_stops_do_not_hold_it_up(tmp_path: Path) -> None:
    """Nothing is started any more; running calls end as they would."""
    with Program(tmp_path, busy(4.0)) as program:
        program.run()
        program.wait_for_log("begun by", 2)
        program.send(signal.SIGTERM)
        pid = program.wait_until(lambda status: status.state == "stopping").pid
        for signum, line in IGNORED:
            os.kill(pid, signum)
            program.wait_for_log(line)
        assert program.wait_for_end() == 0
        assert count(program, "completed by") == 2
        assert len(program.wait_for_log(r"worker #\d started")) == 2


@pytest.mark.parametrize(
    ("interrupted", "ends"),
    [
        ("raise", "exited with 143"),
        ("sys.exit(7)", "exited with 7"),
        ("time.sleep(600)", "was killed by SIGKILL"),
    ],
)
def test_a_stop_interrupts_and_then_kills(tmp_path: Path, interrupted: str, ends: str) -> None:
    """When its patience is at an end; a call that swallows the interrupt is killed."""
    with Program(tmp_path, busy(600.0, 0.5, interrupted)) as program:
        program.start()
        program.wait_for_log("begun by", 2)
        program.command("stop", expect=0)
        program.wait_for_end()
        assert count(program, "has not ended: sending SIGTERM") == 2
        assert count(program, "interrupted with 143") == 2
        assert count(program, "has not ended: sending SIGKILL") == 2 * ("KILL" in ends)
        assert len(program.wait_for_log(rf"worker #\d .* {ends}")) == 2


def test_no_patience_is_no_mercy(tmp_path: Path) -> None:
    """`stop_timeout=0` kills at once."""
    with Program(tmp_path, busy(600.0, 0)) as program:
        program.start()
        program.wait_for_log("begun by", 2)
        program.send(signal.SIGTERM)
        program.wait_for_end()
        assert count(program, "was killed by SIGKILL") == 2


def test_a_workers_second_term_interrupts_its_call(tmp_path: Path) -> None:
    """From whomever; the first one lets it end, and that is an end in order."""
    with Program(tmp_path, busy(600.0)) as program:
        program.start()
        program.wait_for_log("begun by", 2)
        first = program.kill_worker(0, signal.SIGTERM)
        program.kill_worker(1, signal.SIGKILL)
        program.wait_until(lambda status: status.workers[1].restarts == 1)
        assert program.worker(0).pid == first
        program.kill_worker(0, signal.SIGTERM)
        program.wait_for_log("interrupted with 143")
        status = program.wait_until(lambda status: status.workers[0].restarts == 1)
        assert status.workers[0].last_exit == "exited with 143"


FAMILY = """
import subprocess

def work(context):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open(f"child-{context.pin}", "w") as file:
        file.write(str(child.pid))
    context.sleep(600)
    WAIT

manager = Manager("tested", workers=2, target=work, stop_timeout=1.0)
"""


@pytest.mark.parametrize("how", ["stop", "interrupt", "exit", "worker killed", "master killed"])
def test_a_workers_own_children_go_with_it(tmp_path: Path, how: str) -> None:
    """However it ends."""
    with Program(tmp_path, FAMILY.replace("WAIT", "child.wait()" if how == "interrupt" else "")) as program:
        program.start()
        children = [int(program.wait_for_file(f"child-{pin}").read_text()) for pin in (0, 1)]
        if how == "worker killed":
            program.kill_worker(0)
            until(lambda: not is_alive(children[0]), "the end of its child")
            assert is_alive(children[1])
            assert program.wait_until_ready().workers[0].restarts == 1
        elif how == "master killed":
            program.send(signal.SIGKILL)
        else:
            program.command("exit" if how == "exit" else "stop", expect=0)
        if how != "worker killed":
            program.wait_for_end()
            assert not any(map(is_alive, children))


def is_alive(pid: int) -> bool:
    """And is no zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


SLOW_START = """
def connect(context):
    log.info("connecting #%d", context.pin)
    time.sleep(SECONDS)

manager = Manager("tested", workers=2, init=connect, target=lambda context: None, stop_timeout=PATIENCE)
"""


@pytest.mark.parametrize(("seconds", "patience"), [(2.0, 60.0), (600.0, 0.5)])
def test_a_term_while_it_starts(tmp_path: Path, seconds: float, patience: float) -> None:
    """Who waits for the start hears that it ended; `init` has the patience of a call."""
    source = SLOW_START.replace("SECONDS", str(seconds)).replace("PATIENCE", str(patience))
    with Program(tmp_path, source) as program:
        starter = program.run("start", "-d")
        program.wait_for_log("connecting", 2)
        assert program.status().state == "starting"
        assert {worker.state for worker in program.status().workers} == {"starting"}
        program.send(signal.SIGTERM)
        assert starter.wait(60) == 1
        program.wait_for_end()
        program.wait_for_log("Error: manager 'tested' ended before it was ready")
        assert count(program, "are ready") == 0


def test_a_term_at_any_moment_of_a_start_ends_it(tmp_path: Path) -> None:
    """From the first instruction on, in which it is the system that ends it."""
    with Program(tmp_path, IDLE) as program:
        for tenths in range(0, 12, 2):
            master = program.run()
            try:
                assert master.wait(tenths / 10) is None
            except Exception:  # it goes on, as it should
                master.send_signal(signal.SIGTERM)
            assert program.wait_for_end() in (0, -signal.SIGTERM)


# ── logs and numbers ──────────────────────────────────────────────────────────────────────────────────


def test_usr1_goes_on_in_a_new_log_file(tmp_path: Path) -> None:
    """Where the old one was moved away; workers' records, too, and no line is lost."""
    with Program(tmp_path, IDLE) as program:
        program.start()
        program.wait_for_log("call 3 of #1")
        log, old = program.runtime / "tested.log", program.runtime / "tested.log.1"
        log.rename(old)
        program.wait_until(lambda status: status.workers[1].executions > 6)
        assert not log.exists()
        program.send(signal.SIGUSR1)
        until(lambda: log.exists() and "call" in log.read_text())
        assert log.stat().st_mode & 0o777 == 0o600
        calls = [int(n) for n in re.findall(r"call (\d+) of #1", old.read_text() + log.read_text())]
        assert calls == list(range(len(calls)))


def test_usr1_without_a_place_for_the_log_is_no_end(tmp_path: Path) -> None:
    """It goes on, and logs again once it can."""
    source = IDLE.replace("execute_sleep=0.1", "execute_sleep=0.1, logger='logs/a.log'")
    logs = tmp_path / "logs"
    logs.mkdir()
    with Program(tmp_path, source) as program:
        program.start()
        until(lambda: "call 1" in (logs / "a.log").read_text())
        logs.rename(tmp_path / "elsewhere")
        program.send(signal.SIGUSR1)
        executed = program.status().workers[0].executions
        program.wait_until(lambda status: status.workers[0].executions > executed + 3)
        logs.mkdir()
        program.send(signal.SIGUSR1)
        until(lambda: (logs / "a.log").exists() and "call" in (logs / "a.log").read_text())


def test_usr2_writes_the_status_to_the_log(tmp_path: Path) -> None:
    """The table, line by line."""
    with Program(tmp_path, IDLE) as program:
        program.start()
        program.send(signal.SIGUSR2)
        program.wait_for_log(r"multiprocessing_kit.manager: tested: running, pid \d+, up .*, 2 workers")
        program.wait_for_log(r"multiprocessing_kit.manager: PIN +PID +STATE")
        program.wait_for_log(r"multiprocessing_kit.manager: 1 +\d+ +(idle|busy|starting)")


def test_ttin_and_ttou_are_one_worker_more_and_one_fewer(tmp_path: Path) -> None:
    """Never fewer than one; those that stay are not disturbed."""
    with Program(tmp_path, IDLE) as program:
        program.start()
        first = program.wait_until_ready().workers
        program.send(signal.SIGTTIN)
        status = program.wait_until(lambda s: [w.state in ("idle", "busy") for w in s.workers] == [True] * 3)
        assert [worker.pin for worker in status.workers] == [0, 1, 2]
        for left in (2, 1, 1):
            lines = count(program, "signal SIGTTOU")
            program.send(signal.SIGTTOU)
            program.wait_for_log("signal SIGTTOU", lines + 1)
            status = program.wait_until(lambda status, left=left: len(status.workers) == left)  # type: ignore[misc]
        assert status.workers[0].pid == first[0].pid
        assert status.starts == 3


def test_a_worker_less_finishes_its_call(tmp_path: Path) -> None:
    """And one that is wanted again before that is replaced, not given up."""
    with Program(tmp_path, busy(3.0)) as program:
        program.start()
        program.wait_for_log("begun by", 2)
        before = program.worker(1).pid
        program.send(signal.SIGTTOU)
        program.wait_until(lambda status: status.workers[1].state == "stopping")
        program.send(signal.SIGTTIN)
        status = program.wait_until(lambda status: status.workers[1].pid not in (0, before))
        assert count(program, "completed by #1") == 1
        assert count(program, "interrupted") == 0
        assert status.workers[1].restarts == 1


# ── smooth restarts ───────────────────────────────────────────────────────────────────────────────────


def test_hup_takes_new_code_and_settings(tmp_path: Path) -> None:
    """The number of workers, the pause, the target, a title; under the same process id."""
    new = """
        def other(context):
            log.info("new call %d of #%d", context.executed, context.pin)

        manager = Manager("tested", workers=3, target=other, execute_sleep=0.05, title_prefix="new")
    """
    with Program(tmp_path, IDLE) as program:
        program.start()
        before = program.wait_until_ready()
        program.write(new)
        program.send(signal.SIGHUP)
        status = program.wait_until(lambda status: status.state == "running" and status.restarts == 1)
        assert status.pid == before.pid
        assert status.uptime > before.uptime
        assert status.problem == ""
        assert len(status.workers) == 3
        assert not {w.pid for w in status.workers} & {w.pid for w in before.workers}
        assert {w.last_exit for w in status.workers if w.pin < 2} == {"was stopped"}
        program.wait_for_log("new call 3 of #2")
        assert psutil.Process(status.pid).cmdline()[0].startswith("new: master tested")
        program.write(new.replace("workers=3", "workers=1"))
        program.send(signal.SIGHUP)
        status = program.wait_until(
            lambda s: s.restarts == 2 and s.state == "running" and len(s.workers) == 1
        )
        assert status.pid == before.pid
        program.command("stop", expect=0)


BROKEN = {
    "syntax": ("def work(:", "SyntaxError"),
    "import": ("import no_such_module_here", "ModuleNotFoundError"),
    "raises": ("raise RuntimeError('not today')", "RuntimeError: not today"),
    "setting": (IDLE.replace("workers=2", "workers=-2"), "option workers: -2"),
    "log": (IDLE.replace("workers=2", "workers=2, logger='no/such/log'"), "option logger"),
    "directory": (IDLE.replace("workers=2", "workers=2, runtime_dir='.'"), "does not change lock_file and"),
    "lock": (IDLE.replace("workers=2", "workers=2, lock_file='other'"), "does not change lock_file and"),
    "name": (IDLE.replace('"tested"', '"renamed"'), "renamed"),
    "no manager": ("manager = None", "NoneType"),
    "exits": ("sys.exit(0)", "the new code exited with 0 before it started the manager"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_hup_with_broken_code_goes_on_with_the_old(tmp_path: Path, fault: str) -> None:
    """With the same workers; `status` tells why, until a restart that succeeds."""
    source, reason = BROKEN[fault]
    with Program(tmp_path, IDLE) as program:
        program.start()
        before = program.wait_until_ready()
        program.write(source)
        program.send(signal.SIGHUP)
        status = program.wait_until(lambda status: status.problem)
        assert reason in status.problem
        assert status.restarts == 0
        assert [w.pid for w in status.workers] == [w.pid for w in before.workers]
        assert "not restarted: the new code" in status.table()
        program.wait_for_log("goes on with its old code: the new code")
        program.write(IDLE)
        program.send(signal.SIGHUP)
        program.wait_until(lambda status: status.restarts == 1 and status.state == "running")
        assert program.status().problem == ""


def test_hup_in_the_foreground(tmp_path: Path) -> None:
    """It stays the same process, which its starter waits for."""
    with Program(tmp_path, IDLE) as program:
        master = program.run()
        program.wait_until_ready()
        program.send(signal.SIGHUP)
        status = program.wait_until(lambda status: status.restarts == 1 and status.state == "running")
        assert status.pid == master.pid
        program.send(signal.SIGTERM)
        assert program.wait_for_end() == 0


def test_several_hups_in_a_row(tmp_path: Path) -> None:
    """Also while workers are being replaced: running calls are never cut off, and it comes to rest."""
    with Program(tmp_path, busy(0.5).replace("execute_sleep=600", "execute_sleep=0")) as program:
        program.start()
        program.wait_for_log("begun by", 2)
        for restarts in (1, 2):
            for _ in range(2):
                program.send(signal.SIGHUP)
            program.wait_until(lambda status, restarts=restarts: status.restarts >= restarts)  # type: ignore[misc]
        program.wait_until(lambda status: status.state == "running")
        assert count(program, "interrupted") == 0
        program.command("stop", expect=0)
        assert count(program, "begun by") == count(program, "completed by")


def test_a_term_during_a_smooth_restart(tmp_path: Path) -> None:
    """It stops: while the new code is tried, and while workers are replaced."""
    slow = "time.sleep(1.5)\n" + busy(0.5).replace("execute_sleep=600", "execute_sleep=0")
    for state in ("trial", "rolling"):
        with Program(tmp_path, slow) as program:
            program.start()
            program.wait_for_log("begun by", 2)
            program.send(signal.SIGHUP)
            program.wait_until(
                lambda status, wanted=state == "rolling": (  # type: ignore[misc]
                    status.state == "restarting" and bool(status.restarts) == wanted
                )
            )
            program.send(signal.SIGTERM)
            program.wait_for_end()
            assert count(program, "manager 'tested' ended") == 1
            assert count(program, "interrupted") == 0


def test_a_worker_on_its_way_out_is_not_replaced(tmp_path: Path) -> None:
    """Where workers are replaced while it still finishes its call."""
    with Program(tmp_path, busy(2.0)) as program:
        program.start()
        program.wait_for_log("begun by", 2)
        program.ask("scale", workers=1)
        assert program.status().workers[1].state == "stopping"
        program.ask("reload")
        status = program.wait_until(
            lambda status: status.state == "running" and [w.pin for w in status.workers] == [0]
        )
        assert (status.workers[0].restarts, status.starts) == (1, 3)


def test_who_restarts_waits_for_slow_new_code(tmp_path: Path) -> None:
    """Longer than for other answers; and not for a manager that has ended meanwhile."""
    restart = """
import multiprocessing_kit.manager.manager as module
module._ANSWER_SECONDS = 0.5
manager = module.Manager("tested", workers=1)
manager.restart(timeout=90)
assert manager.status().restarts == 1
manager._ask({"command": "exit"})
try:
    manager._wait_until_running(90)
except module.NotRunningError:
    print("ended")
"""
    with Program(tmp_path, "time.sleep(3)\n" + IDLE) as program:
        program.start()
        assert program.python("-c", restart).stdout == "ended\n"


def test_a_scaled_number_survives_a_restart(tmp_path: Path) -> None:
    """Until the next start."""
    with Program(tmp_path, IDLE) as program:
        program.start()
        program.command("scale", "4", expect=0)
        program.command("restart", expect=0)
        assert len(program.wait_until_ready().workers) == 4
        program.command("stop", expect=0)
        program.start()
        assert len(program.wait_until_ready().workers) == 2
