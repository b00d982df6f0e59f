"""The commands of a manager: exit codes, what they print, groups, own programs, and what is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from multiprocessing_kit.errors import ManagerError, NotRunningError
from multiprocessing_kit.manager import Status, WorkerStatus
from tests.folders import until
from tests.forks import in_child
from tests.process.managers import Program

DONE, FAILED, USAGE, NOT_RUNNING, ALREADY_RUNNING, CONFIG = 0, 1, 2, 3, 75, 78
NOBODY = 65534

SOURCE = """
manager = Manager("tested", workers=2, target=lambda context: None, execute_sleep=0.05)
"""

pytestmark = pytest.mark.timeout(300)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


# ── one manager ───────────────────────────────────────────────────────────────────────────────────────


BY_NAME = "tested"
BY_MODULE = "program:manager"


def test_nothing_runs_and_so_nothing_can_be_asked(tmp_path: Path) -> None:
    """Each command says so, and exits with 3; by MODULE:OBJECT and by name."""
    with Program(tmp_path, SOURCE) as program:
        for line in ("stop", "exit", "restart", "reload", "wakeup", "status --json", "scale 3"):
            done = program.command(*line.split(), reference=BY_NAME, expect=NOT_RUNNING)
            assert re.match(r"Error: manager 'tested' is not running \(nobody listens at .*\)$", done.stderr)
            assert done.stdout == ""
        for line in ("stop", "status"):
            program.command(line, reference=BY_MODULE, expect=NOT_RUNNING)


def test_a_second_start_says_who_runs_since_when(tmp_path: Path) -> None:
    """And exits with 75; what runs is not disturbed."""
    with Program(tmp_path, SOURCE) as program:
        assert program.command("start", "-d", expect=DONE).stdout == "2 of 2 workers are ready\n"
        pid = program.status().pid
        for words in (("start", "-d"), ("start",), ("run",)):
            done = program.command(*words, expect=ALREADY_RUNNING)
            assert re.match(
                rf"Error: manager 'tested' is running as pid {pid} since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d"
                r" \(.*tested.lock is locked\)$",
                done.stderr,
            )
        assert program.status().starts == 2


def test_every_command(tmp_path: Path) -> None:
    """By MODULE:OBJECT, and by the name of one that runs; with its effect."""
    with Program(tmp_path, SOURCE) as program:
        program.start()
        program.command("scale", "3", reference=BY_NAME, expect=DONE)
        before = program.wait_until(lambda s: len(s.workers) == 3 and all(w.pid for w in s.workers))
        program.command("reload", reference=BY_MODULE, expect=DONE)
        status = program.status()
        assert (status.state, status.restarts, len(status.workers)) == ("running", 0, 3)
        assert [w.restarts for w in status.workers] == [1, 1, 1]
        assert not {w.pid for w in status.workers} & {w.pid for w in before.workers}
        program.command("restart", reference=BY_NAME, expect=DONE)
        status = program.status()
        assert (status.state, status.restarts, len(status.workers)) == ("running", 1, 3)
        assert [w.restarts for w in status.workers] == [2, 2, 2]
        program.command("wakeup", reference=BY_MODULE, expect=DONE)
        program.command("stop", reference=BY_NAME, expect=DONE)
        program.wait_for_end()
        program.start()
        program.command("exit", reference=BY_MODULE, expect=DONE)
        program.wait_for_end()
        program.command("status", expect=NOT_RUNNING)


def test_in_the_foreground(tmp_path: Path) -> None:
    """`run`, and `start` without --detach; the log is on standard error."""
    with Program(tmp_path, SOURCE) as program:
        for words in ("run", "start"):
            program.run(words)
            program.wait_until_ready()
            program.command("stop", expect=DONE)
            assert program.wait_for_end() == 0
        assert len(program.wait_for_log("manager 'tested' ended", 2)) == 2


WRONG = [
    (["status", "program"], NOT_RUNNING, "manager 'program' is not running"),
    (["start", "tested"], USAGE, "start needs MODULE:OBJECT; a name stands for a manager that runs"),
    (["run", "tested"], USAGE, "run needs MODULE:OBJECT"),
    (["systemd", "tested"], USAGE, "systemd needs MODULE:OBJECT"),
    (["status", "a/b"], CONFIG, "option name: 'a/b' is not"),
    (["status", "nowhere:manager"], USAGE, "there is no module 'nowhere' here"),
    (["status", "program.deeper:manager"], USAGE, "there is no module 'program.deeper' here"),
    (["status", "program:other"], USAGE, "module 'program' has no 'other'"),
    (["status", "program:manager.other"], USAGE, "module 'program' has no 'manager.other'"),
    (["status", "program:log"], USAGE, "program:log is a Logger, not a Manager or ManagerGroup"),
    (["status", ":manager"], USAGE, "is not MODULE:OBJECT"),
    (["status", "program:"], USAGE, "is not MODULE:OBJECT"),
    (["status", "program.py:manager"], USAGE, "there is no module 'program.py' here"),
    (["status", "shop/program:manager"], USAGE, "there is no module 'shop/program' here"),
    (["status"], USAGE, "Missing argument"),
    (["status", "program:manager", "more"], USAGE, "unexpected extra argument"),
    (["nonsense", "program:manager"], USAGE, "No such command 'nonsense'"),
    (["scale", "program:manager"], USAGE, "Missing argument 'WORKERS'"),
    (["scale", "program:manager", "0"], USAGE, "0 is not in the range"),
    (["scale", "program:manager", "-1"], USAGE, "such option"),
    (["scale", "program:manager", "many"], USAGE, "'many' is not a valid integer"),
]


def test_wrong_usage_has_a_clear_message(tmp_path: Path) -> None:
    """And an exit code that tells it from what failed."""
    with Program(tmp_path, SOURCE) as program:
        for words, code, text in WRONG:
            line = [*program.line("x")[:-2], *words]
            done = program.run_line(line)
            assert (done.returncode, text in done.stderr, "Traceback" in done.stderr) == (
                code,
                True,
                False,
            ), f"{words}: {done.returncode} {done.stderr}"
            assert done.stdout == ""


def test_what_a_module_raises_is_not_hidden(tmp_path: Path) -> None:
    """A module that it imports is missing, or there is an error in it: with its place."""
    with Program(tmp_path, "import no_such_module_here") as program:
        done = program.command("status", expect=FAILED)
        assert "ModuleNotFoundError: No module named 'no_such_module_here'" in done.stderr
        program.write("def oops(:")
        done = program.command("status", expect=FAILED)
        assert "SyntaxError" in done.stderr
        program.write("manager = Manager('tested', workers=1, nonsense=1)")
        done = program.command("status", expect=CONFIG)
        assert done.stderr.startswith("Error: option nonsense: there is no such option; there are workers, ")


def test_too_many_workers_are_refused_by_the_master(tmp_path: Path) -> None:
    """With its reason; nothing changes."""
    with Program(tmp_path, SOURCE) as program:
        program.start()
        done = program.command("scale", "2000", expect=FAILED)
        assert "cannot have 2000 workers: 1 to 1024 are possible" in done.stderr
        assert len(program.status().workers) == 2


TABLE = """\
tested: running, pid N, up N s, N MB, 3 workers, 4 started
PIN  PID  STATE  AGE  CALLS  RESTARTS  MEMORY  LAST EXIT
0    N    idle   N s  1      1         N MB    was killed by SIGKILL
1    -    ended  -    0      1         -       exited with 0
2    -    fatal  -    0      1         -       it exited with 9, which is a fatal exit code
"""


def test_status_as_a_table_and_as_json(tmp_path: Path) -> None:
    """What varies is masked."""
    source = """
        def work(context):
            if context.pin == 1:
                sys.exit(0)
            if context.pin == 2:
                sys.exit(9)

        manager = Manager("tested", workers=3, target=work, execute_sleep=600, fatal_exit_code=9)
    """
    with Program(tmp_path, source) as program:
        program.start()
        program.wait_until(lambda status: [w.state for w in status.workers] == ["idle", "ended", "fatal"])
        killed = program.kill_worker(0)
        program.wait_until(lambda s: s.workers[0].pid not in (0, killed) and s.workers[0].executions == 1)
        assert masked(program.command("status", expect=DONE).stdout) == TABLE
        found = program.status_json()
        assert set(found) == {field.name for field in dataclasses.fields(Status)}
        assert set(found["workers"][0]) == {field.name for field in dataclasses.fields(WorkerStatus)}
        assert (found["name"], found["state"], found["starts"], found["restarts"]) == (
            "tested",
            "running",
            4,
            0,
        )
        assert found["pid"] == program.status().pid
        assert 5e6 < found["memory"] < 100e6
        assert 5e6 < found["workers"][0]["memory"] < 100e6
        assert [worker["memory"] for worker in found["workers"][1:]] == [0, 0]
        assert found["workers"][2]["reason"] == "it exited with 9, which is a fatal exit code"
        assert json.loads(json.dumps(Status.parse(found).as_dict())) == found


def masked(table: str) -> str:
    """Numbers that vary are N; columns are as wide as then needed."""
    head, *rows = table.splitlines()
    head = re.sub(r"pid \d+, up \d+ s, \d+ MB", "pid N, up N s, N MB", head)
    cells = [re.split(r"  +", row) for row in rows]
    for row in cells[1:]:
        row[1], row[3], row[6] = (re.sub(r"^\d+", "N", row[at]) for at in (1, 3, 6))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([head, *lines, ""])


def test_restart_tells_why_it_was_not_made(tmp_path: Path) -> None:
    """And exits with 1; so does a reload whose workers do not start."""
    source = """
        def connect(context):
            if os.path.exists("broken"):
                sys.exit(9)

        manager = Manager("tested", workers=2, target=lambda context: None, init=connect, fatal_exit_code=9)
    """
    with Program(tmp_path, source) as program:
        program.start()
        program.write("raise RuntimeError('not today')")
        done = program.command("restart", reference="tested", expect=FAILED)
        assert done.stderr.startswith("Error: manager 'tested' goes on as it was: the new code exited with 1")
        assert "RuntimeError: not today" in done.stderr
        (tmp_path / "broken").touch()
        done = program.command("reload", reference="tested", expect=FAILED)
        assert "worker #0 does not start anew: the others are not replaced" in done.stderr
        status = program.status()
        assert [worker.state for worker in status.workers] == ["fatal", "idle"]
        assert status.workers[1].restarts == 0
        (tmp_path / "broken").unlink()
        program.command("reload", reference="tested", expect=DONE)
        assert [worker.state in ("idle", "busy") for worker in program.status().workers] == [True, True]


def test_a_start_that_fails_tells_why(tmp_path: Path) -> None:
    """One whose master cannot go on: with what it raised, in the background, too."""
    with Program(tmp_path, SOURCE) as program:
        program.write(SOURCE.replace("workers=2", "workers=2, logger='no/such/place.log'"))
        for words in (["start", "-d"], ["run"]):
            done = program.command(*words, expect=CONFIG)
            assert re.match("Error: option logger: cannot open .*no: No such file or directory$", done.stderr)
        program.write(SOURCE)
        program.start()


def test_the_unit_for_systemd(tmp_path: Path) -> None:
    """It runs this program in the foreground, from this directory; systemd's own check has nothing to say."""
    with Program(tmp_path, SOURCE.replace('"tested",', '"tested", stop_timeout=25, user="root",')) as program:
        unit = program.command("systemd", expect=DONE).stdout
        lines = unit.splitlines()
        python = f"{sys.executable} -W error -m multiprocessing_kit.cli"
        assert f"ExecStart={python} manage run program:manager" in lines
        assert {"Type=notify", f"WorkingDirectory={tmp_path}", "TimeoutStopSec=35", "User=root"} <= set(lines)
        assert "RestartPreventExitStatus=75 78" in lines
        if shutil.which("systemd-analyze"):
            file = tmp_path / "tested.service"
            file.write_text(unit)
            checked = subprocess.run(
                ["systemd-analyze", "verify", file], capture_output=True, text=True, check=False
            )
            assert (checked.returncode, checked.stderr) == (0, "")


# ── several managers, and programs of the user's own ──────────────────────────────────────────────────

GROUP = """
def work(context):
    pass

one, two, bad = (Manager(name, workers=1, target=work) for name in ("one", "two", "bad"))
group = ManagerGroup([one, two])
spoiled = ManagerGroup([Manager("bad", workers=1, target=work, lock_file="no/such/file"), two])

if __name__ == "__main__":
    print({name: status and status.state for name, status in group.status().items()})
    group.start()
    print({name: status and status.state for name, status in group.status().items()})
    before = group.get("two").status().pid
    group.start()
    assert group.get("two").status().pid == before
    group.restart()
    print([manager.status().restarts for manager in group])
    group.remove("one")
    group.stop()
    print(one.status().state, group.status())
    group.add(one)
    group.stop()
    group.stop()
"""


def test_a_group_in_a_program(tmp_path: Path) -> None:
    """Each a master of its own; what runs is not started again, what does not run is not stopped."""
    with Program(tmp_path, GROUP) as program:
        done = program.python("program.py")
        assert done.stdout.splitlines() == [
            "{'one': None, 'two': None}",
            "{'one': 'running', 'two': 'running'}",
            "[1, 1]",
            "running {'two': None}",
        ]
        program.wait_for_end()


def test_a_group_on_the_command_line(tmp_path: Path) -> None:
    """All commands that make sense for several; the others say so."""
    with Program(tmp_path, GROUP, reference="program:group") as program:
        program.command("start", "-d", expect=DONE)
        table = program.command("status", expect=DONE).stdout
        assert re.findall(r"^(\w+): running", table, re.MULTILINE) == ["one", "two"]
        for words in (["scale", "2"], ["run"], ["systemd"]):
            done = program.command(*words, expect=FAILED)
            assert done.stderr == f"Error: {words[0]} is for one manager, not for a group of 2\n"
        for command in ("wakeup", "reload", "restart"):
            program.command(command, expect=DONE)
        program.command("stop", reference="program:one", expect=DONE)
        found = program.status_json()
        assert found["one"] is None
        assert (found["two"]["state"], found["two"]["restarts"]) == ("running", 1)
        program.command("restart", expect=DONE)
        found = program.status_json()
        assert found["one"] is None, "the restart of the other one has started it"
        assert found["two"]["restarts"] == 2
        assert "one: not running" in program.command("status", expect=DONE).stdout
        program.command("stop", expect=DONE)
        program.wait_for_end()
        program.command("stop", expect=DONE)


def test_what_one_of_a_group_refuses_is_done_to_the_others(tmp_path: Path) -> None:
    """And the errors come together at the end."""
    with Program(tmp_path, GROUP, reference="program:spoiled", name="two") as program:
        done = program.command("start", "-d", expect=FAILED)
        assert done.stderr.startswith("Error: option lock_file: cannot open")
        assert program.status().state == "running"
        program.wait_until_ready()
        (program.runtime / "bad.sock").symlink_to("bad.sock")  # not one that can be asked
        done = program.command("stop", expect=FAILED)
        assert "cannot ask manager 'bad'" in done.stderr
        with pytest.raises(NotRunningError):
            program.status()


def test_the_commands_in_a_program_of_the_users(tmp_path: Path) -> None:
    """Mounted beside others; also a smooth restart, which executes that program anew."""
    source = """
        import click

        manager = Manager("tested", workers=1, target=lambda context: None)
        group = ManagerGroup([manager])

        @click.group()
        def shop():
            pass

        @shop.command()
        def greet():
            print("hello")

        shop.add_command(manager.cli(), "mails")
        shop.add_command(group.cli(), "all")

        if __name__ == "__main__":
            shop()
    """
    with Program(tmp_path, source) as program:
        assert program.python("program.py", "greet").stdout == "hello\n"
        assert program.python("program.py", "mails", "start", "-d").stdout == "1 of 1 workers are ready\n"
        program.python("program.py", "mails", "restart")
        assert program.status().restarts == 1
        assert json.loads(program.python("program.py", "mails", "status", "--json").stdout)["restarts"] == 1
        assert "tested: running" in program.python("program.py", "all", "status").stdout
        program.python("program.py", "mails", "start", "-d", expect=ALREADY_RUNNING)
        assert "program.py mails run" in program.python("program.py", "mails", "systemd").stdout
        program.python("program.py", "mails", "stop")
        program.python("program.py", "mails", "stop", expect=NOT_RUNNING)
        program.wait_for_end()


def test_a_program_that_calls_run(tmp_path: Path) -> None:
    """Without any command; it is restarted as well, and goes on after it when it is stopped."""
    source = SOURCE + "if __name__ == '__main__':\n    print('ended with', manager.run(), flush=True)\n"
    with Program(tmp_path, source) as program:
        program.run_python("program.py")
        program.wait_until_ready()
        program.send(signal.SIGHUP)
        program.wait_until(lambda status: status.restarts == 1 and status.state == "running")
        program.send(signal.SIGTERM)
        assert program.wait_for_end() == 0
        assert program.log.count("ended with 0") == 1


def test_a_program_that_ignores_its_children(tmp_path: Path) -> None:
    """So that the system takes their exit statuses; the manager's workers come back all the same."""
    source = SOURCE + "if __name__ == '__main__':\n    print(manager.start())\n"
    with Program(tmp_path, "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n" + source) as program:
        assert program.python("program.py").stdout == "2 of 2 workers are ready\n"
        killed = program.kill_worker()
        status = program.wait_until(lambda status: status.workers[0].pid not in (0, killed))
        assert status.workers[0].last_exit == "was killed by SIGKILL"


# ── what is refused before anything is forked ─────────────────────────────────────────────────────────


def _directory_as_lock(folder: Path) -> str:
    (folder / "lock").mkdir()
    return "lock_file='lock'"


def _link_in_path_of_lock(folder: Path) -> str:
    (folder / "real").mkdir()
    (folder / "link").symlink_to("real")
    return "lock_file='link/lock'"


def _link_as_lock(folder: Path) -> str:
    (folder / "lock").symlink_to("elsewhere")
    return "lock_file='lock'"


def _link_as_runtime(folder: Path) -> str:
    (folder / "real").mkdir()
    (folder / "link").symlink_to("real")
    return "runtime_dir='link'"


def _file_as_runtime(folder: Path) -> str:
    (folder / "file").touch()
    return "runtime_dir='file'"


def _long_runtime(folder: Path) -> str:
    return f"runtime_dir={'d' * 120!r}"


def _option(text: str) -> Callable[[Path], str]:
    return lambda folder: text


REFUSED = [
    ("nonsense", _option("nonsense=1"), "there is no such option"),
    ("workers", _option("workers=-1"), "-1 is not a whole number, from 1 to 1024"),
    ("execute_sleep", _option("execute_sleep=-1"), "-1 is not a number of seconds, 0 or more"),
    ("execute_times", _option("execute_times='3'"), "'3' is not a whole number, 0 or more"),
    ("user", _option("user='no-such-user-here'"), "there is no user 'no-such-user-here' on this system"),
    ("group", _option("group='no-such-group-here'"), "there is no group 'no-such-group-here'"),
    ("lock_file", _option("lock_file='no/such/lock'"), "no: No such file or directory"),
    ("lock_file", _directory_as_lock, "lock: Is a directory"),
    ("lock_file", _link_in_path_of_lock, "link is a symbolic link, which is not followed"),
    ("lock_file", _link_as_lock, "lock is a symbolic link, which is not followed"),
    ("runtime_dir", _link_as_runtime, "link is a symbolic link, which is not followed"),
    ("runtime_dir", _file_as_runtime, "file: Not a directory"),
    ("runtime_dir", _long_runtime, "is too long for a socket; use a shorter directory"),
    ("logger", _option("logger='no/such/file.log'"), "no: No such file or directory"),
]


@pytest.mark.parametrize(("option", "make", "text"), REFUSED)
@pytest.mark.parametrize("words", [("run",), ("start", "-d")], ids=["run", "background"])
def test_a_wrong_option_is_refused_before_anything_is_forked(
    tmp_path: Path, option: str, make: Callable[[Path], str], text: str, words: tuple[str, ...]
) -> None:
    """With its name, and 78. A worker would leave a file."""
    folder = Path(os.path.realpath(tmp_path))
    given = {"workers": "workers=1"} if option != "workers" else {}
    options = ", ".join([*given.values(), make(folder)])
    source = f"""
def work(context):
    open("forked", "w").close()

os.register_at_fork(after_in_child=lambda: open("forked.{{}}".format(os.getpid()), "w").close())
manager = Manager("tested", target=work, {options})
"""
    with Program(folder, source) as program:
        done = program.command(*words, expect=CONFIG)
        assert done.stderr.startswith(f"Error: option {option}: "), done.stderr
        assert text in done.stderr
        assert "Traceback" not in done.stderr
        assert not (folder / "forked").exists()
        assert not (folder / "elsewhere").exists()
        assert not list(folder.glob("forked.*"))


# ── whose it is ───────────────────────────────────────────────────────────────────────────────────────


def test_its_files_are_private(tmp_path: Path) -> None:
    """Lock, log, output and socket, whatever the umask; the directory, too."""
    with Program(tmp_path, SOURCE.replace("workers=2", "workers=2, umask=0, lock_file='a.lock'")) as program:
        program.start()
        modes = {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in program.runtime.iterdir()}
        assert modes == dict.fromkeys(["tested.log", "tested.out", "tested.sock"], "0o600")
        assert stat.S_IMODE((tmp_path / "a.lock").stat().st_mode) == 0o600
        assert stat.S_IMODE(program.runtime.stat().st_mode) == 0o700


@as_root
def test_another_user_cannot_ask(tmp_path: Path) -> None:
    """Neither where only the socket's mode is in the way, nor where that is not either."""
    with Program(tmp_path, SOURCE) as program:
        program.start()
        for directory in (program.runtime.parent, program.runtime):
            directory.chmod(0o755)

        def fails_with(error: type[ManagerError], text: str) -> None:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            with pytest.raises(error, match=text):
                program.ask("exit")

        assert in_child(lambda: fails_with(ManagerError, "Permission denied")) == 0
        program.socket.chmod(0o666)
        assert in_child(lambda: fails_with(NotRunningError, "ended before it answered")) == 0
        assert program.status().state == "running"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that every user may enter; pytest's own are closed to others."""
    folder = Path(os.path.realpath(tempfile.mkdtemp(prefix="mpkit-open-")))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


# Loaded as root, for another user may not be able to read this interpreter's files.
AS_NOBODY = f"""
import encodings.idna, traceback
import setproctitle, psutil
import multiprocessing_kit.cli
import multiprocessing_kit.manager.cli
import program
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid({NOBODY})
    os.setuid({NOBODY})
multiprocessing_kit.cli.main(prog_name="mpkit")
"""


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ("runtime_dir='closed'", "runtime_dir"),
        ("runtime_dir='closed/deeper'", "runtime_dir"),
        ("runtime_dir='enclosed/deeper'", "runtime_dir"),
        ("lock_file='enclosed/a.lock', runtime_dir='open'", "lock_file"),
        ("lock_file='closed/a.lock', runtime_dir='open'", "lock_file"),
        ("logger='closed/a.log', runtime_dir='open'", "logger"),
    ],
)
def test_directories_that_cannot_be_written_to_are_refused(
    open_folder: Path, options: str, option: str
) -> None:
    """By a user who is not root."""
    with Program(open_folder, SOURCE.replace("workers=2", f"workers=2, {options}")) as program:
        (open_folder / "closed").mkdir(mode=0o555)
        (open_folder / "enclosed").mkdir(mode=0)  # nobody but root may even look there
        (open_folder / "open").mkdir()
        (open_folder / "open").chmod(0o777)
        (open_folder / "main.py").write_text("import os, sys\n" + AS_NOBODY)
        done = program.python("main.py", "manage", "run", "program:manager", expect=CONFIG)
        (open_folder / "enclosed").rmdir()
        assert done.stderr.startswith(f"Error: option {option}: "), done.stderr
        assert "closed" in done.stderr
        assert re.search("Permission denied|is not writable", done.stderr)


@as_root
@pytest.mark.parametrize("words", [("run",), ("start", "--detach")], ids=["run", "background"])
@pytest.mark.parametrize("option", ["user", "group"])
def test_only_root_may_become_another_user(open_folder: Path, option: str, words: tuple[str, ...]) -> None:
    """Others are told so before anything is forked."""
    source = (
        SOURCE.replace("workers=2", f"workers=2, {option}='root', runtime_dir='open'")
        + """
os.register_at_fork(after_in_child=lambda: open("open/forked", "w").close())
"""
    )
    with Program(open_folder, source) as program:
        (open_folder / "open").mkdir()
        (open_folder / "open").chmod(0o777)
        (open_folder / "main.py").write_text("import os, sys\n" + AS_NOBODY)
        done = program.python("main.py", "manage", words[0], "program:manager", *words[1:], expect=CONFIG)
        assert done.stderr == f"Error: option {option}: only root may become another one\n"
        assert not (open_folder / "open" / "forked").exists()
        with contextlib.suppress(FileNotFoundError):
            until(lambda: not list((open_folder / "open").glob("*.sock")), "the socket to go", 5)
