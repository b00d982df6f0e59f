"""A manager as a service: what it tells systemd, the unit it prints, and whom it runs as."""

from __future__ import annotations

import configparser
import itertools
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from multiprocessing_kit.manager.settings import Settings
from multiprocessing_kit.manager.unit import systemd_unit
from tests.folders import PATIENCE
from tests.process.managers import Program

pytestmark = pytest.mark.timeout(180)

WORKS = """
    def work(context):
        context.sleep({seconds})

    manager = Manager("tested", workers=2, target=work{options})
"""

Message = dict[str, str]


class ServiceManager:
    """The socket that systemd listens at, and what has come in there.

    Attributes:
        address: For `NOTIFY_SOCKET`.
        heard: What has come, with the times at which it was read.
    """

    def __init__(self, folder: Path, abstract: bool) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.address = f"@mpkit-test-{os.getpid()}-{time.monotonic_ns()}" if abstract else f"{folder}/notify"
        self._socket.bind("\0" + self.address[1:] if abstract else self.address)
        self.heard: list[tuple[float, Message]] = []

    def wait_for(self, what: Callable[[Message], object]) -> Message:
        """The next message that is wanted."""
        deadline = time.monotonic() + PATIENCE
        while True:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data = self._socket.recv(4096).decode()
            except TimeoutError:
                pytest.fail(f"no such message; there were {self.heard}")
            message = dict(line.partition("=")[::2] for line in data.splitlines())
            self.heard.append((time.monotonic(), message))
            if what(message):
                return message

    def close(self) -> None:
        self._socket.close()


@contextmanager
def listening(folder: Path, abstract: bool = False) -> Iterator[ServiceManager]:
    manager = ServiceManager(folder, abstract)
    try:
        yield manager
    finally:
        manager.close()


@contextmanager
def service(folder: Path, service_manager: ServiceManager, options: str = "") -> Iterator[Program]:
    """A program as systemd starts it."""
    with Program(folder, WORKS.format(seconds=3600, options=options)) as program:
        program.environment["NOTIFY_SOCKET"] = service_manager.address
        yield program


def is_ready(message: Message) -> bool:
    return message.get("READY") == "1"


def is_reloading(message: Message) -> bool:
    return message.get("RELOADING") == "1"


def is_stopping(message: Message) -> bool:
    return message.get("STOPPING") == "1"


def is_alive(message: Message) -> bool:
    return message.get("WATCHDOG") == "1"


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_tells_its_start_and_its_end(tmp_path: Path, abstract: bool) -> None:
    with listening(tmp_path, abstract) as systemd, service(tmp_path, systemd) as program:
        pid = program.run().pid
        ready = systemd.wait_for(is_ready)
        assert ready["MAINPID"] == str(pid)
        assert ready["STATUS"] == "2 of 2 workers are ready"
        program.ask("stop")
        systemd.wait_for(is_stopping)
        assert program.wait_for_end() == 0
        assert len(systemd.heard) == 2


def test_is_not_ready_before_its_workers_are(tmp_path: Path) -> None:
    source = """
        def init(context):
            while not os.path.exists("gate"):
                time.sleep(0.01)

        def work(context):
            context.sleep(3600)

        manager = Manager("tested", workers=2, target=work, init=init)
    """
    with listening(tmp_path) as systemd, service(tmp_path, systemd) as program:
        program.write(source)
        program.run()
        program.wait_until(lambda status: [worker.state for worker in status.workers] == ["starting"] * 2)
        program.send(signal.SIGUSR2)
        program.wait_for_log("tested: starting")
        opened = time.monotonic()
        (tmp_path / "gate").touch()
        systemd.wait_for(is_ready)
        assert len(systemd.heard) == 1
        assert systemd.heard[0][0] >= opened
        program.ask("exit")
        program.wait_for_end()


def test_tells_the_background_masters_pid(tmp_path: Path) -> None:
    with listening(tmp_path) as systemd, service(tmp_path, systemd) as program:
        pid = program.start()
        assert systemd.wait_for(is_ready)["MAINPID"] == str(pid)


def test_tells_of_a_restart_with_new_code(tmp_path: Path) -> None:
    with listening(tmp_path) as systemd, service(tmp_path, systemd) as program:
        pid = program.run().pid
        systemd.wait_for(is_ready)
        before = time.monotonic_ns() // 1000
        program.send(signal.SIGHUP)
        reloading = systemd.wait_for(is_reloading)
        assert before <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        assert systemd.wait_for(is_ready)["MAINPID"] == str(pid)
        program.wait_until(lambda status: status.state == "running" and status.restarts == 1)


def test_is_ready_again_after_a_restart_that_failed(tmp_path: Path) -> None:
    with listening(tmp_path) as systemd, service(tmp_path, systemd) as program:
        program.run()
        systemd.wait_for(is_ready)
        program.write("raise RuntimeError('broken')")
        program.send(signal.SIGHUP)
        systemd.wait_for(is_reloading)
        assert "old code" in systemd.wait_for(is_ready)["STATUS"]
        assert "broken" in program.status().problem


def test_gives_signs_of_life_in_time(tmp_path: Path) -> None:
    seconds = 6.0
    with listening(tmp_path) as systemd, service(tmp_path, systemd) as program:
        program.environment["WATCHDOG_USEC"] = str(int(seconds * 1e6))
        program.run()
        systemd.wait_for(is_ready)
        for _ in range(3):
            systemd.wait_for(is_alive)
        program.send(signal.SIGHUP)  # also while it becomes its new code
        systemd.wait_for(is_reloading)
        systemd.wait_for(is_ready)
        for _ in range(2):
            systemd.wait_for(is_alive)
        times = [when for when, message in systemd.heard if is_alive(message)]
        assert all(after - before < seconds for before, after in itertools.pairwise(times)), times


def test_gives_signs_of_life_while_it_stops(tmp_path: Path) -> None:
    source = """
        def work(context):
            open("busy", "w").write("x")
            while not os.path.exists("gate"):
                time.sleep(0.01)

        manager = Manager("tested", workers=1, target=work, stop_timeout=100)
    """
    with listening(tmp_path) as systemd, service(tmp_path, systemd) as program:
        program.write(source)
        program.environment["WATCHDOG_USEC"] = "600000"
        program.run()
        program.wait_for_file("busy")
        program.send(signal.SIGTERM)
        systemd.wait_for(is_stopping)
        for _ in range(3):
            systemd.wait_for(is_alive)
        (tmp_path / "gate").touch()
        assert program.wait_for_end() == 0


@pytest.mark.parametrize(("name", "value"), [("WATCHDOG_PID", "1"), ("WATCHDOG_USEC", "nonsense")])
def test_gives_no_signs_of_life_that_are_not_wanted(tmp_path: Path, name: str, value: str) -> None:
    with listening(tmp_path) as systemd, service(tmp_path, systemd, ", check_interval=0.05") as program:
        program.environment["WATCHDOG_USEC"] = "1000"
        program.environment[name] = value
        program.run()
        systemd.wait_for(is_ready)
        program.wait_for_log("tested: running", 5)  # it has gone round that often
        program.ask("stop")
        systemd.wait_for(is_stopping)
        assert not [message for _, message in systemd.heard if is_alive(message)]


def test_a_service_manager_that_is_gone_holds_up_nothing(tmp_path: Path) -> None:
    with listening(tmp_path) as systemd, service(tmp_path, systemd) as program:
        systemd.close()
        program.run()
        program.wait_until_ready()
        program.wait_for_log("cannot tell READY=1")
        program.ask("stop")
        assert program.wait_for_end() == 0


# ── the unit ──────────────────────────────────────────────────────────────────────────────────────────


def unit_of(program: Program) -> configparser.ConfigParser:
    text = program.command("systemd", expect=0).stdout
    (program.folder / "tested.service").write_text(text)
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # names with capitals
    unit.read_string(text)
    return unit


def verified(program: Program) -> str:
    """What systemd finds fault with in the unit that was printed."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    words = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no"]
    done = subprocess.run(
        [*words, str(program.folder / "tested.service")], capture_output=True, text=True, check=False
    )
    return f"{done.stdout}{done.stderr}" + (f"exit status {done.returncode}" if done.returncode else "")


def test_the_unit(tmp_path: Path) -> None:
    with Program(tmp_path, WORKS.format(seconds=60, options=", stop_timeout=30, user='nobody'")) as program:
        unit = unit_of(program)
        service = unit["Service"]
        assert service["Type"] == "notify"
        assert service["User"] == "nobody"
        assert service["WorkingDirectory"] == str(tmp_path)
        assert service["TimeoutStopSec"] == "40"
        assert service["RestartPreventExitStatus"] == "75 78"
        assert service["ExecStart"].startswith(sys.executable)
        assert service["ExecStart"].endswith("manage run program:manager")
        assert int(service["WatchdogSec"]) > 0
        assert service["Restart"] == "on-failure"
        assert unit["Install"]["WantedBy"] == "multi-user.target"
        assert service["RuntimeDirectory"] == "mpkit-tested"
        assert service["Environment"] == "XDG_RUNTIME_DIR=%t/mpkit-tested"


@pytest.mark.parametrize(
    ("runtime_dir", "made"),
    [
        ("/run/shop", "shop"),
        ("/run/shop/mails 50%", '"shop/mails 50%%"'),
        ("/run/../run//$shop", "$shop"),
        ("/run", None),
        ("/running/shop", None),
        ("state", None),
    ],
)
def test_the_unit_of_one_with_a_runtime_directory(tmp_path: Path, runtime_dir: str, made: str | None) -> None:
    """All others use it, too; systemd makes it where a boot empties it, and leaves it there."""
    options = f", runtime_dir={runtime_dir!r}"
    with Program(tmp_path, WORKS.format(seconds=60, options=options)) as program:
        service = unit_of(program)["Service"]
        assert "Environment" not in service
        assert service.get("RuntimeDirectory") == made
        assert service.get("RuntimeDirectoryPreserve") == (made and "yes")
        assert service.get("RuntimeDirectoryMode") == (made and "0700")
        assert verified(program) == ""


@pytest.mark.parametrize(
    "folder", ["plain", "with space", "50%", "$HOME", "it's", 'a "quoted" one', "back\\s"]
)
def test_systemd_accepts_the_unit(tmp_path: Path, folder: str) -> None:
    place = tmp_path / folder
    place.mkdir()
    with Program(place, WORKS.format(seconds=60, options="")) as program:
        unit = unit_of(program)
        assert unit["Service"]["WorkingDirectory"] == str(place).replace("%", "%%")
        assert verified(program) == ""


def test_words_of_the_command_are_quoted_for_systemd() -> None:
    settings = Settings.checked("tested", {"workers": 1, "target": print})
    words = ["/bin/echo", "a b", 'a "c"', "50%", "$HOME", "back\\slash", "it's", "--x=1"]
    unit = systemd_unit(settings, words, "/")
    quoted = r"""/bin/echo "a b" "a \"c\"" 50%% $$HOME "back\\slash" "it's" --x=1"""
    assert f"ExecStart={quoted}\n" in unit


def test_systemd_finds_faults(tmp_path: Path) -> None:
    """So that the test above means something."""
    with Program(tmp_path, WORKS.format(seconds=60, options="")) as program:
        unit_of(program)
        path = tmp_path / "tested.service"
        path.write_text(path.read_text().replace("Type=notify", "Type=nonsense"))
        assert "nonsense" in verified(program)


# ── another user ──────────────────────────────────────────────────────────────────────────────────────

NOBODY = pwd.getpwnam("nobody")

AS_NOBODY = """
    def work(context):
        with open("run/written", "w") as file:
            file.write("x")
        context.sleep(3600)

    manager = Manager("tested", workers=2, target=work, runtime_dir="{runtime}", {options})
"""

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")


@contextmanager
def run_as(options: str) -> Iterator[Program]:
    """A program in a folder that everybody may enter; pytest's own are only for whom it runs as."""
    folder = Path(os.path.realpath(tempfile.mkdtemp(prefix="mpkit-test-user-")))
    folder.chmod(0o755)
    runtime = folder / "run"
    try:
        with Program(folder, AS_NOBODY.format(runtime=runtime, options=options)) as program:
            program.runtime = runtime
            yield program
    finally:
        shutil.rmtree(folder)


@only_root
@pytest.mark.parametrize(
    ("options", "uid", "gid"),
    [
        ("user='nobody'", NOBODY.pw_uid, NOBODY.pw_gid),
        (f"user={NOBODY.pw_uid}, group='daemon'", NOBODY.pw_uid, 1),
        ("group='daemon'", 0, 1),
    ],
)
def test_master_and_workers_run_as_another_user(options: str, uid: int, gid: int) -> None:
    with run_as(options + ", umask=0o027") as program:
        program.start()
        status = program.wait_until_ready()
        for pid in [status.pid, *(worker.pid for worker in status.workers)]:
            process = psutil.Process(pid)
            assert set(process.uids()) == {uid}
            assert set(process.gids()) == {gid}
            about = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            assert int(about["Umask"], 8) == 0o027
            assert uid == 0 or set(map(int, about["Groups"].split())) <= {gid, NOBODY.pw_gid}
        written = program.wait_for_file("run/written").stat()
        assert (written.st_uid, written.st_gid, written.st_mode & 0o777) == (uid, gid, 0o640)
        log = (program.runtime / "tested.log").stat()
        assert (log.st_uid, log.st_mode & 0o777) == (uid, 0o600)
        program.command("stop", expect=0)
        assert not program.socket.exists()


@only_root
def test_a_killed_master_of_another_user_leaves_nobody() -> None:
    with run_as("user='nobody'") as program:
        program.start()
        status = program.wait_until_ready()
        os.kill(status.pid, signal.SIGKILL)
        program.wait_for_end()
        program.start()
        program.wait_until_ready()


@only_root
def test_another_user_goes_on_with_new_code() -> None:
    with run_as("user='nobody'") as program:
        words = [sys.executable, "-c", "import multiprocessing_kit"]
        try:
            subprocess.run(words, env=program.environment, cwd="/", user="nobody", check=True)
        except (PermissionError, subprocess.CalledProcessError):
            pytest.skip("this interpreter is only for the user who runs the tests")
        pid = program.start()
        program.command("restart", expect=0)
        status = program.wait_until_ready()
        assert (status.pid, status.restarts) == (pid, 1)
        assert psutil.Process(status.workers[0].pid).uids().real == NOBODY.pw_uid
        program.command("stop", expect=0)


@only_root
@pytest.mark.parametrize(("mode", "owner"), [(0o755, 0), (0o500, NOBODY.pw_uid)])
def test_a_place_where_that_user_may_not_write_is_refused(mode: int, owner: int) -> None:
    with run_as("user='nobody'") as program:
        program.runtime.mkdir()
        program.runtime.chmod(mode)
        os.chown(program.runtime, owner, 0)
        done = program.command("start", "-d", expect=78)
        assert f"is not writable for user {NOBODY.pw_uid}" in done.stderr


@only_root
def test_by_default_each_user_has_a_place_of_its_own() -> None:
    with run_as("user='nobody'") as program:
        program.write(AS_NOBODY.format(runtime="", options="user='nobody'").replace('runtime_dir="",', ""))
        program.runtime.mkdir()
        os.chown(program.runtime, NOBODY.pw_uid, -1)
        words = ["unshare", "--mount", "sh", "-c"]
        script = 'mount -t tmpfs none /run && "$@" start program:manager -d >&2 && ' \
            '"$@" status program:manager --json && "$@" stop program:manager && ls /run'  # fmt: skip
        start = program.line("start")[:-2]
        done = subprocess.run(
            [*words, script, "sh", *start],
            cwd=program.folder, env=program.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if "unshare failed" in done.stderr or "mount:" in done.stderr:
            pytest.skip("this system does not let us mount")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.rpartition("}")[0] + "}")["state"] == "running"
        assert done.stdout.split()[-1] == f"mpkit-{NOBODY.pw_uid}"
