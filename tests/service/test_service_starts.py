"""What a service is started with: code that cannot run, a name that another one has, and where its log is."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.service.doors import Door
from tests.service.services import WORK, Shop

pytestmark = pytest.mark.timeout(300)  # a command takes a second, and many on a loaded machine

BROKEN = {
    "a module that does not import": ("", "import not_there", "No module named 'not_there'"),
    "a syntax error": ("", "def broken(:", "SyntaxError: "),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_cannot_run_is_not_started(tmp_path: Path, what: str) -> None:
    settings, jobs, told = BROKEN[what]
    with Shop(tmp_path, WORK, jobs, settings=settings) as shop:
        for words in (["start"], ["start", "-d"]):
            done = shop.command(*words, expect=78)
            assert done.stderr.startswith("Error: service.toml:")
            assert told in done.stderr
        assert not shop.living()


def test_a_setup_that_raises_may_work_later(tmp_path: Path) -> None:
    jobs = """
        def boot():
            if not os.path.exists(os.path.join(os.path.dirname(os.path.abspath(__file__)), "ready")):
                raise ConnectionError("no database yet")
    """
    with Shop(tmp_path, WORK, jobs, settings="setup = 'jobs:boot'") as shop:
        told = shop.command("start", "-d").stderr
        assert "setup: 'jobs:boot': ConnectionError: no database yet" in told
        assert told.endswith("; workers try on\n")
        shop.wait_for_log("a worker of work failed")
        (shop.folder / "ready").touch()
        assert shop.result(shop.push("work", 1)) == 1


def test_a_reload_into_code_that_cannot_run_leaves_the_workers(tmp_path: Path) -> None:
    with Shop(tmp_path) as shop:
        shop.start()
        # Those that have not imported their jobs yet would do it with the new ones.
        shop.wait_until(lambda status: [one.state for one in status.crew("work").workers] == ["idle"] * 2)
        workers = shop.workers(count=2)
        shop.write_jobs("1 / 0")
        told = shop.command("reload", expect=78).stderr
        assert told.startswith("Error: service.toml:8: topics.0.worker: 'jobs:work': ZeroDivisionError")
        assert shop.workers(count=2) == workers
        assert shop.result(shop.push("work", 1)) == 1


def test_a_broker_that_is_away_is_told_at_the_start(tmp_path: Path) -> None:
    with Shop(tmp_path, broker="redis://127.0.0.1:1/0") as shop:
        started = shop.command("start", "-d")
        assert started.stdout.startswith("1 of 1 consumers are at work; ")
        assert started.stderr.startswith("the broker cannot be reached: ")
        assert started.stderr.endswith("; the service tries on\n")


def test_two_configurations_of_one_name_and_place(tmp_path: Path) -> None:
    """The commands of the one leave the service of the other alone."""
    with Shop(tmp_path / "a") as ours, Shop(tmp_path / "b") as other:
        other.runtime = ours.runtime
        other.write()
        pid = ours.start()
        refused = (
            f"Error: service 'shop' runs with {ours.toml}, not with {other.toml}: give one of them another"
        )
        for command in ("stop", "exit", "restart", "reload", "status", "pause", "resume"):
            assert other.command(command, expect=1).stderr.startswith(refused), command
        told = other.command("start", "-d", expect=75).stderr
        assert told.endswith(f", with {ours.toml}; give one of them another name or runtime_dir\n")
        assert (ours.master().pid, ours.topic().paused) == (pid, False)
        (note,) = ours.runtime.glob("shop.start")
        noted = note.read_text()
        for unknown in ("", "[]", "7"):
            note.write_text(unknown)
            other.command("status")
        note.write_text(noted)
        ours.command("stop")
        other.command("status", expect=3)  # that of one which has ended is nobody's
        other.start()
        assert other.result(other.push("work", 1)) == 1


def test_the_file_of_a_service_may_be_moved_and_linked(tmp_path: Path) -> None:
    with Shop(tmp_path) as shop:
        shop.start()
        (tmp_path / "linked.toml").symlink_to(shop.toml)
        shop.command("status", "-c", "linked.toml")
        shop.toml.rename(tmp_path / "moved.toml")
        shop.command("stop", "-c", "moved.toml")
        assert not shop.living()
        (tmp_path / "moved.toml").rename(shop.toml)


LOGS = {
    "background": ("", ["-d"], "{runtime}/shop.log"),
    "background, stderr": ("log = 'stderr'", ["-d"], "{runtime}/shop.out"),
    "background, a file": ("log = 'here.log'", ["-d"], "{folder}/here.log"),
    "foreground": ("", [], "stderr"),
    "foreground, a file": ("log = 'here.log'", [], "{folder}/here.log"),
}


@pytest.mark.parametrize("how", LOGS)
def test_where_the_log_is(tmp_path: Path, how: str) -> None:
    settings, words, where = LOGS[how]
    with Shop(tmp_path, settings=settings) as shop:
        if words:
            shop.command("start", *words)
        else:
            shop.run()
        log = where.format(runtime=shop.runtime, folder=shop.folder)
        assert f"\nlog: {log}\n" in shop.command("status").stdout
        assert shop.status_json()["log"] == log
        if log != "stderr":
            assert "manager 'shop' started" in Path(log).read_text()


def test_only_the_door_needs_its_token(tmp_path: Path) -> None:
    door = "\n[http]\nport = 0\ntoken = 'env:SHOP_NO'\n"
    with Shop(tmp_path, WORK + door) as shop:
        shop.start()
        assert "http.token: 'env:SHOP_NO': there is no variable" in shop.command("check", expect=78).stdout
        shop.command("reload")


def test_commands_of_a_door_without_its_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Door(tmp_path) as door:
        path = tmp_path / "service.toml"
        line = path.read_text().splitlines().index("[http]") + 3
        door.command("start", "-d")
        path.write_text(path.read_text().replace("token = ", "token = 'env:SHOP_NO' # "))
        told = door.command("start", "-d", expect=78).stderr
        assert told.startswith(f"Error: service.toml:{line}: http.token: 'env:SHOP_NO': there is no variable")
        table = door.command("status").stdout.splitlines()[2:]
        assert table[0].split() == ["PIN", "PID", "AGE", "RESTARTS", "MEMORY", "LAST", "EXIT"]
        assert table[1].split()[:2] == ["0", str(door.worker().pid)]
        assert "http.token: 'env:SHOP_NO'" in door.command("restart", expect=1).stderr
        door.command("stop")
        monkeypatch.setenv("SHOP_NO", "short")
        told = door.command("start", "-d", expect=78).stderr
        assert told == f"Error: service.toml:{line}: http.token: it has less than 8 characters\n"


def test_the_unit_names_the_variables(tmp_path: Path) -> None:
    alerts = "\n[alerts]\nurls = ['env:SHOP_HOOK', 'json://x', 'env:SHOP_HOOK']\n"
    with Shop(tmp_path, WORK + alerts, broker="env:SHOP_BROKER") as shop:
        lines = shop.command("systemd").stdout.splitlines()
        assert "# EnvironmentFile=/etc/shop.env  (SHOP_BROKER, SHOP_HOOK)" in lines
        shop.broker_url = "sqlite:///shop.db"
        shop.write()
        assert "EnvironmentFile" not in shop.command("systemd").stdout


def test_a_runtime_directory_that_is_too_long(tmp_path: Path) -> None:
    with Shop(tmp_path) as shop:
        shop.toml.write_text(shop.toml.read_text().replace(f'"{shop.runtime}"', f'"{tmp_path}/{"x" * 100}"'))
        for command in ("start", "stop", "status", "pause"):
            told = shop.command(command, expect=78).stderr
            assert told.startswith("Error: service.toml:3: runtime_dir: "), command
            assert told.endswith(" is too long for a socket; use a shorter directory\n")


def test_a_second_signal_is_told(tmp_path: Path) -> None:
    slow = '[[topics]]\nname = "slow"\nworker = "jobs:slow"\n'
    with Shop(tmp_path, slow) as shop:
        shop.run()
        shop.push("slow", 600)
        shop.wait_for_lines(1, "begun")
        shop.kill(signum=signal.SIGINT)
        shop.wait_for_log("manager 'shop' stops")
        shop.kill(signum=signal.SIGINT)
        shop.wait_for_log("a second signal: it ends at once, and what runs is cut off")
        assert shop.wait_for_end() == 0
