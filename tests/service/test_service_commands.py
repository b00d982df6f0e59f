"""The commands of a service, by the real command line, on SQLite."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from multiprocessing_kit.cli import main
from multiprocessing_kit.errors import DuplicateJobError, ManagerError
from multiprocessing_kit.service.checking import wrong_around
from multiprocessing_kit.service.config_file import load_config
from multiprocessing_kit.service.paths import Paths
from multiprocessing_kit.service.service import Service
from tests.folders import PATIENCE, until
from tests.forks import exit_of, fork, in_child
from tests.service.holding import every_broker
from tests.service.services import ROOT, WORK, Shop

FAIL = """
    [[topics]]
    name = "fail"
    worker = "jobs:fail"
    retry = { max = 1, wait = "none" }
"""
OK = "worker = 'jobs:work'"
SLOW = """
    [[topics]]
    name = "slow"
    worker = "jobs:slow"
"""


pytestmark = pytest.mark.timeout(300)  # a command takes a second, and many on a loaded machine


def in_this_process(shop: Shop, *words: str) -> Result:
    """Run a command that leaves nothing behind; a process for each row of a table takes long."""
    return CliRunner().invoke(main, ["service", *words, "-c", str(shop.toml)])


# ── check ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_configuration_is_fine(tmp_path: Path) -> None:
    with Shop(
        tmp_path, WORK + SLOW, settings='setup = "jobs:boot"', jobs="def boot(): note('booted')"
    ) as shop:
        out = shop.command("check").stdout
        assert out.startswith("service.toml: fine\n")
        assert re.search(r"^work +jobs:work +0 +2 to 2 +3 +none", out, re.MULTILINE)
        assert shop.lines() == ["booted"]  # as each worker will


UNFIT = [
    ("", "worker = 'nowhere:x'", "", r"7: topics.0.worker: 'nowhere:x': there is no module 'nowhere' in /"),
    ("", "worker = 'jobs:nobody'", "", r"7: .*: 'jobs:nobody': AttributeError: .*'nobody'"),
    ("", "worker = 'jobs:note.x'", "", r"7: .*: AttributeError"),
    ("", "worker = 'jobs:os'", "", r"7: topics.0.worker: 'jobs:os': TypeError: "),
    ("", "worker = 'jobs:x'", "import not_there", r"7: .*No module named 'not_there' \(.*jobs\.py:\d+\)$"),
    ("", "worker = 'jobs:x'", "def broken(:", r"7: .*SyntaxError: .*jobs.py, line"),
    ("", "worker = 'jobs:x'", "sys.exit('no program')", r"7: .*SystemExit: no program"),
    ("", "worker = 'jobs:x'", "1 / 0", r"7: .*ZeroDivisionError: .*jobs\.py:\d+\)$"),
    ("", "worker = 'jobs:x'", "os._exit(7)", r"service.toml: a process that imports what it names .*7"),
    ("", "worker = 'jobs:x'", "os.kill(os.getpid(), 9)", r"a process that imports what it names .*SIGKILL"),
    ("", "calls = ['jobs:work', 'jobs:No.*']", "", r"7: topics.0.calls.1: 'jobs:No.\*': AttributeError"),
    (
        "setup = 'jobs:boot'",
        "worker = 'jobs:nobody'",
        "def boot(): 1 / 0",
        r"4: setup: 'jobs:boot': ZeroDivisionError",
    ),
    ("setup = 'jobs:boot'", OK, "", r"4: setup: 'jobs:boot': AttributeError"),
    ("secret = 'env:SHOP_NO'", OK, "", r"4: secret: 'env:SHOP_NO': there is no variable SHOP_NO"),
    ("user = 'nobody-at-all'", OK, "", r"4: user: there is no user 'nobody-at-all'"),
    ("", f"{OK}\n[http]\ntoken = 'env:SHOP_NO'", "", r"9: http.token: 'env:SHOP_NO': there is no variable"),
    (
        "",
        f"{OK}\n[alerts]\nurls = ['json://x', 'env:SHOP_NO']",
        "",
        r"9: alerts.urls.1: 'env:SHOP_NO': there",
    ),
    ("lease = 'x'", OK, "", r"4: lease: 'x' is not a number"),
    (
        "",
        "worker = 'jobs:X'",
        "class X: pass",
        r"7: .*'jobs:X': TypeError: X is a class, but none of Worker's",
    ),
    ("", "worker = 'jobs:X'", "class X(Worker): pass", r"7: .*: X has no process\(argument\) of its own"),
    (
        "",
        "worker = 'jobs:X'",
        "class X(Worker):\n    def process(self): pass",
        r"7: .*: X.process\(\) is called with one argument, the job's: too many positional arguments$",
    ),
    (
        "",
        "worker = 'jobs:x'",
        "def x(): pass",
        r"7: .*: x\(\) is called with one argument, the job's: too many",
    ),
    (
        "",
        "worker = 'jobs:x'",
        "def x(a, b): pass",
        r"7: .*: x\(a, b\) is .*: missing a required argument: 'b'$",
    ),
    ("log = 'nodir/x.log'", OK, "", r"4: log: cannot open /.*/nodir: No such file or directory$"),
    (
        "",
        f"{OK}\n[alerts]\nurls = ['json://x', 'foo://secret']",
        "",
        r"9: alerts.urls.1: apprise takes no such URL \(foo\); one is json://host/path$",
    ),
    ("", f"{OK}\n[alerts]\nurls = ['secret']", "", r"9: alerts.urls.0: .* no such URL \(no URL\); one is"),
]


@pytest.mark.parametrize(
    ("settings", "topic", "jobs", "told"), UNFIT, ids=lambda text: text.replace("\n", " ")
)
def test_what_does_not_fit_is_told_with_its_line(
    tmp_path: Path, settings: str, topic: str, jobs: str, told: str
) -> None:
    with Shop(tmp_path, f"[[topics]]\nname = 'x'\n{topic}", jobs, settings=settings) as shop:
        done = in_this_process(shop, "check")
        assert done.exit_code == 78
        (line,) = done.stdout.splitlines()
        assert re.search(told, line)


def test_a_file_that_nobody_can_write(tmp_path: Path) -> None:
    with Shop(tmp_path, broker="sqlite:///nodir/x.db") as shop:
        told = in_this_process(shop, "check").stdout.replace(f"{tmp_path}/", "")
        assert told == "service.toml:2: broker: cannot open nodir/x.db: there is no directory nodir\n"
        assert in_this_process(shop, "start").exit_code == 78


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_files_of_others_cannot_be_written(tmp_path: Path) -> None:
    with Shop(tmp_path, settings="log = '/usr/x.log'", broker="sqlite:////usr/x.db") as shop:
        config = load_config(shop.toml)
        own = config.model_copy(update={"broker": f"sqlite:///{tmp_path}/x.db"})

        def look() -> None:
            os.setuid(65534)
            told = dict(wrong_around(config))
            assert told["log",] == "cannot write /usr"
            assert told["broker",].startswith("cannot write /usr; run this as its owner, or let a group")
            assert (
                "x.db: this user may not look into its directory; run" in dict(wrong_around(own))["broker",]
            )

        assert in_child(look) == 0


@pytest.mark.parametrize(
    "worker", ["builtins:print", "builtins:min", "jobs:Own", "jobs:own", "jobs:Own.more", "jobs:some"]
)
def test_what_can_be_called_with_one_argument_is_fine(tmp_path: Path, worker: str) -> None:
    jobs = """
        import functools
        class Own(Worker):
            def process(self, argument, more=None): pass
            @staticmethod
            def more(*arguments): pass
        own = Own()
        some = functools.partial(max, 5)
    """
    with Shop(tmp_path, f"[[topics]]\nname = 'x'\nworker = '{worker}'", jobs) as shop:
        done = in_this_process(shop, "check")
        assert (done.exit_code, done.stdout.splitlines()[0]) == (0, f"{shop.toml}: fine")


def test_all_that_does_not_fit_is_told_at_once(tmp_path: Path) -> None:
    topics = "[[topics]]\nname = 'a'\nworker = 'jobs:a'\n[[topics]]\nname = 'b'\nworker = 'jobs:b'"
    with Shop(tmp_path, topics, settings="secret = 'env:SHOP_NOTHING'") as shop:
        lines = shop.command("check", expect=78).stdout.splitlines()
        assert [line.split(":")[1] for line in lines] == ["4", "7", "10"]


# ── start, stop, exit ─────────────────────────────────────────────────────────────────────────────


def test_the_life_of_a_service_in_the_background(tmp_path: Path) -> None:
    with Shop(tmp_path) as shop:
        started = shop.command("start", "-d")
        assert started.stdout == f"1 of 1 consumers are at work; log: {shop.runtime}/shop.log\n"
        assert started.stderr == ""
        pid = shop.master().pid
        for words in (["start"], ["start", "-d"]):
            told = shop.command(*words, expect=75).stderr
            assert f"service 'shop' is running already as pid {pid} since " in told
            assert told.endswith(f", with {shop.toml}; mpkit service restart takes up changes\n")
        assert shop.master().pid == pid
        assert shop.command("status").stdout.startswith(f"shop: running, pid {pid}")
        shop.command("stop")
        assert not shop.living()
        assert (shop.runtime / "shop.log").read_text().endswith("manager 'shop' ended\n")
        assert shop.command("status", expect=3).stdout.startswith("shop: not running")
        for command in ("stop", "exit", "restart", "reload"):
            done = in_this_process(shop, command)
            assert done.exit_code == 3
            assert done.stderr.startswith("Error: service 'shop' is not running (nobody listens at ")
            assert "; mpkit service start -d starts it" in done.stderr


def test_a_service_in_the_foreground_drains_at_sigterm(tmp_path: Path) -> None:
    with Shop(tmp_path, SLOW) as shop:
        shop.run()
        shop.push("slow", 1.5)
        shop.push("slow", 0)
        shop.wait_for_lines(1, "begun")
        shop.kill(signum=signal.SIGTERM)
        assert shop.wait_for_end() == 0
        assert shop.lines() == ["1.5"]  # what had begun has ended
        assert shop.backlog("slow").ready == 1


def test_exit_cuts_jobs_off_and_loses_none(tmp_path: Path) -> None:
    with Shop(tmp_path, SLOW) as shop:
        shop.start()
        shop.push("slow", 600)
        shop.push("slow", 0)
        shop.wait_for_lines(1, "begun")
        shop.command("exit")
        assert not shop.living()
        assert shop.topic("slow").ready == 1
        shop.start()  # and finds what it held
        assert shop.wait_for_lines(2, "begun") == ["600", "600"]


def test_a_wrong_configuration_does_not_start(tmp_path: Path) -> None:
    with Shop(tmp_path, settings="lease = 1") as shop:
        told = "Error: service.toml:4: lease: 1 is not 3 or more\n"
        assert shop.command("start", expect=78).stderr == told
        for line in (["start", "-d"], ["stop"], ["status"], ["push", "work", "1"], ["systemd"]):
            done = in_this_process(shop, *line)
            assert (done.exit_code, done.stderr.replace(f"{tmp_path}/", "")) == (78, told)
        shop.write(settings="secret = 'env:SHOP_NO'")
        told = (
            "Error: service.toml:4: secret: 'env:SHOP_NO': there is no variable SHOP_NO in the environment\n"
        )
        assert shop.command("start", expect=78).stderr == told
        told = shop.command("start", "-c", "other.toml", expect=78).stderr
        assert told == "Error: other.toml: cannot be read: No such file or directory\n"


def test_a_service_is_where_its_file_is(tmp_path: Path) -> None:
    """Its modules, its broker and its log, wherever it is started."""
    there = tmp_path / "there"
    there.mkdir()
    with Shop(tmp_path / "elsewhere", settings='log = "shop.log"') as shop:
        for name in ("service.toml", "jobs.py"):
            shutil.move(shop.folder / name, there)
        shop.toml = there / "service.toml"
        shop.command("start", "-d", "-c", "../there/service.toml")
        out = shop.command("push", "work", "7", "--wait", f"{PATIENCE}", "-c", str(shop.toml)).stdout
        assert out.splitlines()[1] == "7"
        assert {path.name for path in there.iterdir()} >= {"shop.db", "shop.log", "runs"}
        assert not list(shop.folder.iterdir())


# ── restart, reload ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("begin", [Shop.start, Shop.run], ids=["background", "foreground"])
def test_a_restart_takes_the_new_configuration(tmp_path: Path, begin: Callable[[Shop], int]) -> None:
    with Shop(tmp_path) as shop:
        pid = begin(shop)
        shop.write(WORK + SLOW.replace("jobs:slow", "jobs:added"))
        shop.write_jobs("def added(argument): note('added')")
        shop.command("restart")
        assert shop.master().pid == pid
        assert shop.result(shop.push("work", 1)) == 1
        shop.push("slow", 0)
        shop.wait_for_lines(2)
        assert shop.runs == {"1": 1, "added": 1}


UNSTARTABLE = [
    ("lease = 1", WORK, "", "service.toml:4: lease: 1 is not 3 or more"),
    (
        "secret = 'env:SHOP_NO'",
        WORK,
        "",
        "service.toml:4: secret: 'env:SHOP_NO': there is no variable SHOP_NO",
    ),
    ("lease = ", WORK, "", "service.toml:4: no TOML: Invalid value"),
    ("", WORK, "1 / 0", "'jobs:work': ZeroDivisionError: division by zero"),
]


def test_a_restart_that_cannot_be_leaves_the_old_service_as_it_is(tmp_path: Path) -> None:
    with Shop(tmp_path) as shop:
        shop.start()
        workers = set(shop.workers(count=2))
        good = shop.toml.read_text()
        asked = Service(load_config(shop.toml)).manager
        shop.write(settings="name2 = 5")
        assert in_this_process(shop, "restart").exit_code == 78  # the master is not even asked
        for settings, topics, jobs, told in UNSTARTABLE:
            shop.write(topics, settings=settings)
            shop.write_jobs(jobs)
            with pytest.raises(ManagerError, match="goes on as it was") as caught:
                asked.restart()
            assert told in str(caught.value)
        assert told in asked.status().problem
        shop.toml.write_text(good)
        assert set(shop.workers(count=2)) == workers
        assert shop.result(shop.push("work", 1)) == 1
        shop.write_jobs()
        shop.command("restart")
        assert not set(shop.workers(count=2)) & workers
        assert shop.status().problem == ""


def test_topics_in_another_order_take_over_from_each_other(tmp_path: Path) -> None:
    """A topic's new consumer is started in a place of its own before the old one ends, and waits for that."""
    one, two = SLOW, SLOW.replace('"slow"', '"two"')
    with Shop(tmp_path, one + two) as shop:
        shop.start()
        shop.push("two", 4)
        shop.push("two", 0)
        shop.wait_for_lines(1, "begun")
        shop.write(two + one)
        shop.command("restart")
        shop.wait_for_lines(2)
        shop.wait_until_empty("two")
        assert shop.lines("begun") == ["4", "0"]


def test_a_reload_takes_new_code(tmp_path: Path) -> None:
    with Shop(tmp_path, jobs="def work(argument): return 'old'") as shop:
        shop.start()
        assert shop.result(shop.push()) == "old"
        shop.write_jobs("def work(argument): return 'new'")
        shop.command("reload")
        assert shop.result(shop.push()) == "new"


# ── pause, resume ─────────────────────────────────────────────────────────────────────────────────


def test_a_paused_topic_waits(tmp_path: Path) -> None:
    with Shop(tmp_path, WORK + FAIL + SLOW) as shop:
        shop.start()
        assert shop.command("pause", "work", "fail").stdout == "paused: fail, work\n"
        shop.wait_for_log("paused topics of fail: fail$")
        shop.push("work", 1)
        shop.push("slow", 0)
        shop.wait_for_lines(1)
        assert [line.split()[-1] == "paused" for line in shop.command("status").stdout.splitlines()[5:8]] == [
            True, True, False,
        ]  # fmt: skip
        shop.command("stop")
        shop.command("start", "-d")  # it is still
        shop.wait_until(lambda status: status.topic("work").paused and status.crew("work").workers)
        assert (shop.runs["1"], shop.backlog("work").ready) == (0, 1)
        assert shop.command("resume", "work").stdout == "paused: fail\n"
        shop.wait_for_lines(2)
        assert shop.command("resume").stdout == "paused: none\n"


def test_a_worker_of_a_paused_topic_dies(tmp_path: Path) -> None:
    """What it had, and had not begun, waits as well."""
    with Shop(tmp_path, WORK.replace("workers = 2", "workers = 1")) as shop:
        shop.start()
        shop.push_many("work", range(100))  # a worker with such jobs is given many at once
        shop.wait_for_lines(100)
        (worker,) = shop.workers()
        shop.kill(worker, signal.SIGSTOP)
        shop.push_many("work", range(100, 110))
        shop.wait_until(lambda _: shop.backlog().running == 10)
        shop.command("pause")
        shop.wait_for_log("paused topics of work: work")
        shop.kill(worker)
        shop.wait_until(lambda _: shop.backlog().ready == 10)
        shop.command("resume")
        shop.wait_for_lines(110)
        shop.wait_until_empty()
        assert set(shop.runs.values()) == {1}


@pytest.mark.parametrize("umask", [0o027, 0o077])
def test_a_pause_by_root_is_read_by_the_user_of_the_service(tmp_path: Path, umask: int) -> None:
    nobody = 65534
    with Shop(tmp_path) as shop:
        before = os.umask(umask)
        try:
            shop.command("pause")
        finally:
            os.umask(before)
        (note,) = shop.runtime.glob("*.paused")
        assert note.stat().st_mode & 0o777 == 0o644
        config = load_config(shop.toml)
        if os.geteuid() == 0:
            os.chown(shop.runtime, nobody, nobody)

        def read() -> None:
            if os.geteuid() == 0:
                os.setuid(nobody)
            assert Paths(config).paused() == {"work"}

        assert in_child(read) == 0


def test_pauses_at_the_same_time(tmp_path: Path) -> None:
    """None undoes another's."""
    with Shop(tmp_path) as shop:
        service = Service(load_config(shop.toml))

        def pause(topic: str) -> None:
            for _ in range(50):
                assert topic in service.pause([topic])
                assert topic in Paths(service.config).paused()
                assert topic not in service.resume([topic])

        children = [fork(partial(pause, f"topic-{number}")) for number in range(4)]
        assert [exit_of(child) for child in children] == [0] * 4
        assert Paths(service.config).paused() == set()


def test_a_service_that_is_down_can_be_paused(tmp_path: Path) -> None:
    with Shop(tmp_path, WORK + SLOW) as shop:
        assert shop.command("pause").stdout == "paused: slow, work\n"
        shop.push("work", 1)
        shop.start()
        shop.wait_until(lambda status: all(crew.workers for crew in status.crews))
        assert shop.backlog("work").ready == 1


# ── jobs ──────────────────────────────────────────────────────────────────────────────────────────


def test_push(tmp_path: Path) -> None:
    with Shop(tmp_path, WORK + FAIL) as shop:
        shop.start()
        argument = {"to": "ärger@example.org", "list": [1, None]}
        lines = shop.command(
            "push", "work", json.dumps(argument), "--wait", f"{PATIENCE}"
        ).stdout.splitlines()
        assert (len(lines[0]), json.loads(lines[1])) == (24, argument)
        assert shop.command("push", "work", "1", "--id", "mine", "--delay", "600").stdout == "mine\n"
        assert "'mine'" in shop.command("push", "work", "2", "--id", "mine", expect=1).stderr
        shop.command("push", "work", "3", "--at", "2100-01-31T08:00Z")
        assert shop.backlog("work").delayed == 2
        shop.command("push", "work", '"past"', "--at", "2001-01-31T08:00+01:00", "--priority", "-5")
        shop.wait_for_lines(2)
        assert shop.command("purge", "work", expect=1).stderr  # nobody to ask
        assert shop.command("purge", "work", "--yes").stdout == "dropped 2 jobs of work\n"


REFUSED = [
    (["push", "wrk", "1"], "there is no topic 'wrk'; there are work, fail"),
    (["push", "work", "{'a': 1}"], "\"{'a': 1}\" is no JSON: Expecting property name"),
    (["push", "work", "hello"], "Expecting value: line 1 column 1 (char 0); a text needs its own quotes"),
    (["push", "work", "1", "--at", "tomorrow"], "--at: 'tomorrow' is no time such as 2030-01-31T08:00"),
    (["push", "work", "1", "--at", "2030-01-01", "--delay", "5"], "--delay and --at are two ways"),
    (["push", "work", "1", "--priority", "101"], "101 is not in the range -100<=x<=100"),
    (["push", "work", "1", "--delay", "-1"], "-1.0 is not in the range x>=0"),
    (["push", "fail", "1", "--wait", "5"], "topic 'fail' keeps no results to wait for"),
    (["pause", "work", "wrk"], "there is no topic 'wrk'; there are work, fail"),
    (["resume", "wrk"], "there is no topic 'wrk'; there are work, fail"),
    (["purge", "wrk", "--yes"], "there is no topic 'wrk'; there are work, fail"),
    (["dead", "list", "wrk"], "there is no topic 'wrk'; there are work, fail"),
    (["dead", "retry", "fail"], "give either ids or --all"),
    (["dead", "purge", "fail", "some", "--all"], "give either ids or --all"),
]  # fmt: skip


def test_wrong_usage_is_told(tmp_path: Path) -> None:
    with Shop(tmp_path, WORK + FAIL) as shop:
        for line, told in REFUSED:
            done = in_this_process(shop, *line)
            assert done.exit_code == 2, line
            assert told in done.stderr, line
        assert not (tmp_path / "shop.db").exists()


def test_a_job_that_fails_is_told_to_who_waits(tmp_path: Path) -> None:
    with Shop(tmp_path, FAIL + "results = 60", settings="stop_timeout = 2.0") as shop:
        told = shop.command("push", "fail", "5", "--wait", "0.1", expect=1).stderr
        assert "has no result after 0.1 s" in told
        shop.start()
        told = shop.command("push", "fail", "5", "--wait", f"{PATIENCE}", expect=1).stderr
        assert "failed: ValueError: no 5" in told


def test_the_cycle_of_a_dead_letter(tmp_path: Path) -> None:
    with Shop(tmp_path, FAIL) as shop:
        assert in_this_process(shop, "dead", "list", "fail").stdout == "fail has no dead letters\n"
        shop.start()
        for number in range(3):
            shop.push("fail", {"n": number}, id=f"job-{number}")
        shop.wait_until(lambda status: status.topic("fail").dead == 3)
        with pytest.raises(DuplicateJobError):
            shop.push("fail", 1, id="job-1")
        rows = shop.command("dead", "list", "fail").stdout.splitlines()
        assert rows[0].split() == ["ID", "DIED", "ATTEMPTS", "LAST", "ERROR"]
        assert sorted(row.split()[0] for row in rows[1:]) == ["job-0", "job-1", "job-2"]
        assert all(row.split()[3] == "2" and "failed: ValueError: no {'n'" in row for row in rows[1:])
        assert in_this_process(shop, "dead", "list", "fail", "--limit", "1").stdout.endswith("… and 2 more\n")

        shown = shop.command("dead", "show", "fail", "job-1").stdout
        assert shown.startswith("job-1\n")
        assert "job-0" not in shown
        assert re.search(r"  1\. .* failed: ValueError: no .*\n +2\. .* failed: ValueError: no ", shown)
        assert '"n": 1' in shown
        assert (
            "no dead letter other" in shop.command("dead", "show", "fail", "job-1", "other", expect=1).stderr
        )

        assert shop.command("dead", "retry", "fail", "job-1").stdout == "made ready again: 1\n"
        until(lambda: shop.lines().count("{'n': 1}") == 4, "two more attempts")
        shop.wait_until(lambda status: status.topic("fail").dead == 3)
        shown = shop.command("dead", "show", "fail", "job-1").stdout
        assert shown.count("ValueError") == 4  # the history goes on

        done = in_this_process(shop, "dead", "purge", "fail", "job-1", "other")
        assert (done.exit_code, done.stdout) == (1, "dropped: 1\n")
        assert done.stderr == "Error: topic 'fail' has no dead letter other\n"
        assert in_this_process(shop, "dead", "purge", "fail", "--all").stdout == "dropped: 2\n"
        assert shop.backlog("fail").dead == 0


# ── pools ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_flooded_topic_of_a_pool_does_not_starve_another(tmp_path: Path) -> None:
    topics = """
        [[pools]]
        name = "crowd"
        [[topics]]
        name = "full"
        worker = "jobs:nap"
        pool = "crowd"
        [[topics]]
        name = "quiet"
        worker = "jobs:work"
        pool = "crowd"
    """
    nap = """
        def nap(argument):
            time.sleep(0.05)
            note(argument)
    """
    with Shop(tmp_path, topics, nap) as shop:
        shop.run()
        shop.push_many("full", ["full"] * 1000)
        shop.wait_for_lines(3)
        shop.push("quiet", "quiet")
        until(lambda: shop.runs["quiet"], "the job of the other topic")
        assert shop.backlog("full").ready > 500


# ── status ────────────────────────────────────────────────────────────────────────────────────────


def test_status_of_a_service_at_work(tmp_path: Path) -> None:
    pool = """
        [[pools]]
        name = "crowd"
        workers = 1
        [[topics]]
        name = "slow"
        worker = "jobs:slow"
        pool = "crowd"
    """
    with Shop(tmp_path, WORK + pool) as shop:
        shop.start()
        busy = shop.push("slow", 600)
        shop.push_many("slow", [0] * 3)
        shop.push_many("slow", [0] * 2, delay=600)
        shop.push_many("work", range(5))
        shop.wait_until(lambda s: s.topic("work").done == 5 and s.crew("crowd").workers[0].job == busy)
        found = shop.status_json()
        work, slow = found["topics"]
        assert (found["state"], found["broker_error"], found["pid"]) == ("running", "", shop.master().pid)
        assert (work["ready"], work["done"], work["crew"], slow["crew"]) == (0, 5, "work", "crowd")
        assert work["rate"] > 0
        assert (slow["ready"] + slow["running"], slow["delayed"], slow["dead"]) == (4, 2, 0)
        crowd = next(crew for crew in found["crews"] if crew["name"] == "crowd")
        (worker,) = crowd["workers"]
        assert (crowd["alive"], crowd["wanted"], crowd["max"]) == (1, 1, 1)
        assert (worker["pid"], worker["state"], worker["job"]) == (shop.workers("crowd")[0], "busy", busy)
        table = shop.command("status").stdout
        assert re.search(r"^work +0 +0 +0 +0 +5 .* 2/2/2 +-$", table, re.MULTILINE)
        assert re.search(r"^slow .* 1/1/1 +pool crowd$", table, re.MULTILINE)
        assert re.search(rf"^crowd #0 +{worker['pid']} +busy +{busy} ", table, re.MULTILINE)


@every_broker
def test_status_tells_how_many_jobs_run(tmp_path: Path, broker_url: str, service_name: str) -> None:
    topics = """
        [[topics]]
        name = "slow"
        worker = "jobs:slow"
        workers = 2
    """
    with Shop(tmp_path, topics, broker=broker_url, name=service_name) as shop:
        shop.run()
        shop.push_many("slow", [600] * 3)
        shop.wait_until(lambda status: (status.topic("slow").running, status.topic("slow").ready) == (2, 1))
        shop.ask("exit")
        shop.wait_for_end()


def test_status_of_a_service_that_is_down_or_was_killed(tmp_path: Path) -> None:
    with Shop(tmp_path) as shop:
        shop.push_many("work", range(3))
        down = json.loads(shop.command("status", "--json", expect=3).stdout)
        assert (down["state"], down["pid"], down["topics"][0]["ready"]) == ("not running", 0, 3)
        shop.command("pause")
        shop.run()
        shop.wait_until(lambda status: status.crew("work").workers)
        shop.kill_all()
        assert (shop.runtime / "shop@work.stats").exists()  # of one that is gone
        dead = json.loads(shop.command("status", "--json", expect=3).stdout)
        assert (dead["state"], dead["crews"][0]["workers"], dead["topics"][0]["ready"]) == (
            "not running",
            [],
            3,
        )


def test_status_tells_when_the_broker_cannot_be_asked(tmp_path: Path) -> None:
    with Shop(tmp_path) as shop:
        (tmp_path / "shop.db").write_text("this is no database, and long enough to be seen as none" * 100)
        out = shop.command("status", expect=3).stdout
        assert re.search(r"^broker sqlite:///.*shop.db: cannot be asked: .*database", out, re.MULTILINE)
        assert re.search(r"^work +- +- +- +- ", out, re.MULTILINE)


def test_status_is_watched_until_ctrl_c(tmp_path: Path) -> None:
    with Shop(tmp_path) as shop, open(tmp_path / "watched", "wb") as output:
        line = shop.line("status", "--watch")
        watching = subprocess.Popen(line, cwd=tmp_path, env=shop.environment, stdout=output, stderr=output)
        try:
            read = (tmp_path / "watched").read_text
            until(lambda: read().count("shop: not running") > 1, "a second look")
            shop.push("work", 1)
            until(lambda: re.search(r"^work +1 ", read(), re.MULTILINE), "the job")
            watching.send_signal(signal.SIGINT)
            assert watching.wait(PATIENCE) == 0
            assert "Traceback" not in read()
            assert re.match(r"── \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\nshop: not running\n", read())
        finally:
            watching.kill()
            watching.wait()


# ── systemd, help ─────────────────────────────────────────────────────────────────────────────────


def test_the_unit_of_systemd(tmp_path: Path) -> None:
    with Shop(tmp_path / "a b", settings="stop_timeout = 5.0") as shop:
        unit = shop.command("systemd").stdout
        assert f"WorkingDirectory={shop.folder}\n" in unit
        assert f'service start -c "{shop.folder}/service.toml"\n' in unit
        assert "RuntimeDirectoryPreserve=yes\n" in unit  # who holds which jobs is noted there
        path = tmp_path / "shop.service"
        path.write_text(unit)
        if verify := shutil.which("systemd-analyze"):
            done = subprocess.run(
                [verify, "verify", path], capture_output=True, text=True, timeout=60, check=False
            )
            assert (done.returncode, "shop.service" in done.stderr) == (0, False), done.stderr


def test_the_command_of_the_unit_runs(tmp_path: Path) -> None:
    with Shop(tmp_path) as shop:
        (line,) = (
            line for line in shop.command("systemd").stdout.splitlines() if line.startswith("ExecStart=")
        )
        with open(tmp_path / "output", "ab") as output:
            shop.foreground = subprocess.Popen(
                line.partition("=")[2].split(" "),
                cwd=tmp_path,
                env=shop.environment,
                stdout=output,
                stderr=output,
            )
        shop.wait_until_ready()
        shop.stop()


def test_help_does_not_wait_for_what_only_services_need() -> None:
    code = """
import sys
from multiprocessing_kit.cli import main
try:
    main(["service", "dead", "--help"])
except SystemExit:
    print(sorted({"pydantic", "croniter", "multiprocessing_kit.service"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert done.stdout.endswith("[]\n")


def test_without_pydantic_it_is_told_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "pydantic.py").write_text("raise ModuleNotFoundError('no pydantic', name='pydantic')")
    with Shop(tmp_path, environment={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}) as shop:
        told = shop.command("status", expect=1).stderr
        assert "pip install 'multiprocessing_kit[service]'" in told
