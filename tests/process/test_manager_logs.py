"""The log of a manager and its workers: written by the master alone, whole, and in order."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import resource
import signal
import socket
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from multiprocessing_kit.manager import logs
from tests.folders import PATIENCE, until
from tests.process.managers import Program

pytestmark = pytest.mark.timeout(180)

CHATTY = 16
LINES = 400

ROTATED = """
    import logging.handlers

    handler = logging.handlers.RotatingFileHandler("chat.log", maxBytes={size}, backupCount=1000)
    handler.setFormatter(logging.Formatter("%(processName)s|%(process)d|%(message)s"))

    def work(context):
        for number in range({lines}):
            log.info("line %d %s.", number, "x" * (number % 97))

    manager = Manager(
        "tested", workers={workers}, target=work, logger=handler, execute_times=1, {options}
    )
"""

FILE = re.compile(r"chat\.log(\.(\d+))?")


def chat_of(folder: Path) -> list[str]:
    """All lines, from the oldest file to the newest."""
    numbered = {int(found[2] or 0): path for path in folder.iterdir() if (found := FILE.fullmatch(path.name))}
    text = "".join(numbered[number].read_text() for number in sorted(numbered, reverse=True))
    assert text.endswith("\n")
    return text.splitlines()


def check_lines(lines: list[str], each: int) -> dict[tuple[str, str], int]:
    """Each worker's are in order, whole, and from the first on; returns how many each process has."""
    counts: defaultdict[tuple[str, str], int] = defaultdict(int)
    for line in lines:
        name, pid, message = line.split("|", 2)
        if not name.startswith("worker #"):
            continue
        number = counts[name, pid]
        assert message == f"line {number} {'x' * (number % 97)}."
        counts[name, pid] += 1
    assert all(count <= each for count in counts.values())
    return dict(counts)


@pytest.mark.parametrize("at_once", [500, 2])
def test_no_line_is_lost_or_torn_while_files_rotate(tmp_path: Path, at_once: int) -> None:
    """Also where the master writes so few of them in one turn that many are left at the end."""
    source = ROTATED.format(size=60_000, lines=LINES, workers=CHATTY, options="")
    patched = f"from multiprocessing_kit.manager import relay\nrelay._MOST_AT_ONCE = {at_once}\n"
    with Program(tmp_path, patched + textwrap.dedent(source)) as program:
        program.run()
        assert program.wait_for_end() == 0  # all have ended in order
        counts = check_lines(chat_of(tmp_path), LINES)
        assert [*counts.values()] == [LINES] * CHATTY
        assert {name for name, _ in counts} == {f"worker #{pin}" for pin in range(CHATTY)}
        files = [path for path in tmp_path.iterdir() if FILE.fullmatch(path.name)]
        assert len(files) > 4  # it did rotate
        assert all(path.stat().st_size <= 60_000 for path in files)


def test_a_worker_killed_in_the_midst_of_it_tears_no_line(tmp_path: Path) -> None:
    options = "backoff=(0, 0), respawn_limit=0"
    source = ROTATED.format(size=10**9, lines=10**9, workers=4, options=options)
    with Program(tmp_path, source) as program:
        program.start()
        killed = set()
        for _ in range(5):
            for worker in program.wait_until_ready().workers:
                pid = worker.pid
                until(lambda: f"|{pid}|line 9 " in (tmp_path / "chat.log").read_text(), "its lines")  # noqa: B023
                os.kill(pid, signal.SIGKILL)
                killed.add(str(pid))
            program.wait_until(lambda status: not killed & {str(w.pid) for w in status.workers})
        program.ask("exit")
        program.wait_for_end()
        counts = check_lines(chat_of(tmp_path), 10**9)
        assert killed <= {pid for _, pid in counts}


def test_a_restart_in_the_midst_of_it_loses_no_line(tmp_path: Path) -> None:
    source = """
        import logging.handlers

        handler = logging.handlers.RotatingFileHandler("chat.log", maxBytes=60_000, backupCount=1000)
        handler.setFormatter(logging.Formatter("%(processName)s|%(process)d|%(message)s"))

        def init(context):
            return iter(range(10**9))

        def work(context):
            number = next(context.resource)
            log.info("line %d %s.", number, "x" * (number % 97))
            with open(f"last {os.getpid()}", "w") as file:
                file.write(str(number))

        manager = Manager(
            "tested", workers=3, target=work, init=init, logger=handler, execute_sleep=0, stop_timeout=40
        )
    """
    with Program(tmp_path, source) as program:
        program.start()
        before = {worker.pid for worker in program.wait_until_ready().workers}
        program.command("restart", expect=0)
        after = {worker.pid for worker in program.wait_until_ready().workers}
        program.ask("stop")
        program.wait_for_end()
        counts = {int(pid): count for (_, pid), count in check_lines(chat_of(tmp_path), 10**9).items()}
        assert counts.keys() == before | after
        for pid, count in counts.items():
            assert count == int((tmp_path / f"last {pid}").read_text()) + 1


# ── where it goes ─────────────────────────────────────────────────────────────────────────────────────

ELSEWHERE = """
    from multiprocessing_kit.manager import logs

    logs._JOURNAL = logs._SYSLOG[sys.platform] = os.environ["XDG_RUNTIME_DIR"] + "/elsewhere"

    def work(context):
        log.warning("two\\nlines of %s", "one")
        log.debug("not written")
        log.info("half a character \\udcff")
        log.info("large %s.", "\u00e4" * {letters})
        context.sleep(3600)

    logging.getLogger().setLevel(logging.INFO)
    manager = Manager("tested", workers=1, target=work, logger={logger!r})
"""


@contextlib.contextmanager
def elsewhere(program: Program) -> Iterator[socket.socket]:
    """A socket in place of the system's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(program.base / "elsewhere"))
        receiver.settimeout(PATIENCE)
        yield receiver


def journal_entry(receiver: socket.socket) -> tuple[dict[str, str], bool]:
    """The fields of the next one, and whether they came in a file."""
    data, descriptors, _, _ = socket.recv_fds(receiver, 1 << 20, 1)
    for descriptor in descriptors:
        assert data == b""
        assert fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) == 0b1111
        with open(descriptor, "rb") as file:
            file.seek(0)
            data = file.read()
    fields = {}
    while data:
        name, _, rest = data.partition(b"\n")
        size = int.from_bytes(rest[:8], "little")
        fields[name.decode()] = rest[8 : 8 + size].decode()
        assert rest[8 + size : 9 + size] == b"\n"
        data = rest[9 + size :]
    return fields, bool(descriptors)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has systemd")
def test_the_journal_has_all_of_a_record_however_large(tmp_path: Path) -> None:
    source = ELSEWHERE.format(logger="journal", letters=300_000)
    with Program(tmp_path, source) as program, elsewhere(program) as receiver:
        program.run()
        entries = [journal_entry(receiver) for _ in range(5)]
        messages = {fields["MESSAGE"]: (fields, is_file) for fields, is_file in entries}
        pid = program.worker().pid
        fields, is_file = messages["two\nlines of one"]
        assert not is_file
        assert fields["PRIORITY"] == "4"
        assert (fields["SYSLOG_IDENTIFIER"], fields["LOGGED_BY_PID"]) == ("program", str(pid))
        assert (fields["CODE_FILE"], fields["CODE_FUNC"]) == (str(tmp_path / "program.py"), "work")
        fields, is_file = messages[f"large {'ä' * 300_000}."]
        assert is_file
        assert fields["PRIORITY"] == "6"
        assert f"worker #0 started (pid {pid})" in messages
        assert "half a character \\udcff" in messages


def test_syslog(tmp_path: Path) -> None:
    source = ELSEWHERE.format(logger="syslog", letters=1000)
    with Program(tmp_path, source) as program, elsewhere(program) as receiver:
        program.run()
        lines = [receiver.recv(1 << 20).decode().rstrip("\0") for _ in range(5)]
        pid = program.worker().pid
        user, warning, info = 1 << 3, 4, 6
        assert any(
            re.fullmatch(rf"<{user | info}>.* MainProcess\[\d+\] .*: worker #0 started .*", line)
            for line in lines
        )
        start = rf"<{user | warning}>[-\d :,]+ WARNING worker #0\[{pid}\] program: "
        assert any(re.fullmatch(start + "two\nlines of one", line) for line in lines)
        assert any(line.endswith(f"program: large {'ä' * 1000}.") for line in lines)
        assert any(line.endswith("program: half a character \\udcff") for line in lines)


ROTATED_SOON = """
    from multiprocessing_kit.manager import logs

    logs._BYTES = 3000

    def work(context):
        for number in range(400):
            log.info("line %d.", number)
        context.sleep(3600)

    manager = Manager("tested", workers=1, target=work, umask=0)
"""


def test_a_file_is_rotated_and_five_old_ones_are_kept(tmp_path: Path) -> None:
    """At 100 MB; here at less. Nobody else may read any of them."""
    assert (logs._BYTES, logs._FILES) == (100_000_000, 5)
    with Program(tmp_path, ROTATED_SOON) as program:
        program.start()
        path = program.runtime / "tested.log"
        until(lambda: "line 399." in path.read_text(), "the last line")
        files = [program.runtime / f"tested.log.{number}" for number in (5, 4, 3, 2, 1)] + [path]
        assert sorted(program.runtime.glob("tested.log*")) == sorted(files)
        assert {oct(file.stat().st_mode) for file in files} == {"0o100600"}
        assert all(file.stat().st_size <= 3000 for file in files)
        numbers = [
            int(number) for number in re.findall(r"line (\d+)\.", "".join(f.read_text() for f in files))
        ]
        assert numbers == [*range(numbers[0], 400)]
        assert numbers[0] > 0


def test_a_file_that_cannot_be_rotated_has_all_lines(tmp_path: Path) -> None:
    with Program(tmp_path, ROTATED_SOON) as program:
        program.runtime.mkdir(0o700)
        (program.runtime / "tested.log.4").touch()
        (program.runtime / "tested.log.5").mkdir()  # where the oldest one would go
        program.start()
        path = program.runtime / "tested.log"
        until(lambda: "line 399." in path.read_text(), "the last line")
        text = path.read_text()
        assert [int(number) for number in re.findall(r"line (\d+)\.", text)] == [*range(400)]
        assert 1 <= text.count("the log cannot be rotated: ") <= len(text) / 3000


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits another process")
def test_a_disk_that_is_full_is_told_once(tmp_path: Path) -> None:
    source = """
        def work(context):
            context.sleep(3600)
            for number in range(400):
                log.info("line %d.", number)

        manager = Manager("tested", workers=1, target=work, execute_sleep=3600)
    """
    with Program(tmp_path, source) as program:
        program.start()
        pid = program.status().pid
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))
        program.ask("wakeup")
        output = program.runtime / "tested.out"
        until(lambda: "the log cannot be written: " in output.read_text(), "the error")
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        program.ask("wakeup")  # which is logged
        assert len(program.wait_for_log(r"up to \d+ records are missing")) == 1
        assert output.read_text().count("\n") == 1


# ── one record of each kind ───────────────────────────────────────────────────────────────────────────

# The formatter writes what the user's handlers see of a record; the loggers had them before the fork.
KINDS = """
    import json

    class Fields(logging.Formatter):
        def format(self, record):
            names = ("name", "levelname", "process", "processName", "funcName", "exc_text", "stack_info")
            extra = ("number", "anything", "mapping", "when")
            fields = {name: getattr(record, name, None) for name in (*names, *extra)}
            return json.dumps({**fields, "message": record.getMessage()}, default=repr)

    def handler_of(path):
        handler = logging.FileHandler(path)
        handler.setFormatter(Fields())
        return handler

    own = logging.getLogger("program.own")
    own.addHandler(handler_of("own.log"))
    alone = logging.getLogger("program.alone")
    alone.addHandler(handler_of("alone.log"))
    alone.propagate = False
    quiet = logging.getLogger("program.quiet")
    quiet.setLevel(logging.ERROR)

    class Anything:
        def __repr__(self):
            return "<anything>"

    class Mute:
        def __repr__(self):
            raise RuntimeError("no repr")

    class Prefix(logging.Filter):
        def filter(self, record):
            record.msg = record.msg.replace("from a filter", "once from a filter")
            return True

    log.addFilter(Prefix())

    def speak(context):
        log.info("first of %s", ["a", "list"])
        log.info("large %s.", "\\u00e4" * 300_000)
        own.info("to its own file, too")
        alone.info("to its own file only")
        quiet.warning("not written")
        try:
            {}["missing"]
        except KeyError:
            log.exception("with a traceback")
        log.info("with a stack", stack_info=True)
        log.info("with extras", extra={"number": 7, "anything": Anything(), "when": {1, 2}})
        log.info("with odd keys", extra={"mapping": {(1, 2): 3, "key": 4}})
        circle = []
        circle.append(circle)
        log.info("with a circle", extra={"anything": circle})
        log.info("with a mute one", extra={"anything": Mute()})
        log.info("cannot be formatted: %d", "text")
        log.info("lone surrogate \\ud800")
        log.info("two\\nlines")
        logging.getLogger(f"program.made.{context.pin}").info("by a new logger")
        log.info("from a filter")
        log.info("last")
        context.sleep(3600)

    manager = Manager("tested", workers=1, target=speak, logger=handler_of("all.log"))
"""


def records_of(path: Path) -> dict[str, dict[str, object]]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return {record["message"]: record for record in found}


def test_records_of_all_kinds_arrive(tmp_path: Path) -> None:
    with Program(tmp_path, KINDS) as program:
        program.start()
        pid = program.worker(0).pid
        path = tmp_path / "all.log"
        until(lambda: '"message": "last"' in path.read_text(), "the last record")
        records = records_of(path)
        first = records["first of ['a', 'list']"]
        assert (first["name"], first["levelname"], first["funcName"]) == ("program", "INFO", "speak")
        assert (first["process"], first["processName"]) == (pid, "worker #0")
        assert f"large {'ä' * 300_000}." in records
        assert "KeyError: 'missing'" in str(records["with a traceback"]["exc_text"])
        assert "speak" in str(records["with a stack"]["stack_info"])
        extras = records["with extras"]
        assert (extras["number"], extras["anything"], extras["when"]) == (7, "<anything>", "{1, 2}")
        assert "key" in str(records["with odd keys"]["mapping"])
        assert "with a circle" in records
        assert "with a mute one" in records
        assert "lone surrogate \ud800" in records
        assert "two\nlines" in records
        assert records["by a new logger"]["name"] == "program.made.0"
        assert "once from a filter" in records
        assert "not written" not in records
        assert program.status().workers[0].pid == pid


def test_loggers_keep_the_handlers_they_had(tmp_path: Path) -> None:
    with Program(tmp_path, KINDS) as program:
        program.start()
        until(lambda: '"message": "last"' in (tmp_path / "all.log").read_text(), "the last record")
        everything = records_of(tmp_path / "all.log")
        assert records_of(tmp_path / "own.log").keys() == {"to its own file, too"}
        assert "to its own file, too" in everything
        assert records_of(tmp_path / "alone.log").keys() == {"to its own file only"}
        assert "to its own file only" not in everything


@pytest.mark.parametrize("given", ["shop", "handler"])
@pytest.mark.parametrize("propagates", [True, False])
def test_a_logger_of_the_programs_has_each_record_once(tmp_path: Path, given: str, propagates: bool) -> None:
    """Of the master and of workers, its own and those of others; also after new code and new workers."""
    source = f"""
        handler = logging.FileHandler("all.log")
        handler.setFormatter(logging.Formatter("%(name)s %(message)s"))
        shop = logging.getLogger("shop")
        shop.addHandler(handler)
        shop.setLevel(logging.INFO)
        shop.propagate = {propagates}
        above = logging.FileHandler("root.log")
        logging.getLogger().addHandler(above)
        shop.info("loaded by %d", os.getpid())

        def work(context):
            shop.info("from %d", os.getpid())
            log.info("from %d", os.getpid())
            context.sleep(3600)

        manager = Manager("tested", workers=1, target=work, logger={given})
    """
    with Program(tmp_path, source) as program:
        program.start()
        pids = [program.worker().pid]
        for command in ("reload", "restart"):
            program.command(command, expect=0)
            pids.append(program.worker().pid)
        path = tmp_path / "all.log"
        until(lambda: f"program from {pids[-1]}" in path.read_text(), "the last record")
        lines = path.read_text().splitlines()
        for pid in pids:
            assert [lines.count(f"{name} from {pid}") for name in ("shop", "program")] == [1, 1]
        assert len(set(lines)) == len(lines)
        # workers' records go wherever the program has sent them before
        assert (f"from {pids[0]}\n" * (1 + propagates)) in (tmp_path / "root.log").read_text()


def test_a_filter_that_fails_ends_nothing(tmp_path: Path) -> None:
    source = """
        class Faulty(logging.Filter):
            def filter(self, record):
                if record.getMessage().startswith("refused"):
                    raise RuntimeError("a filter fails")
                return True

        handler = logging.FileHandler("all.log")
        handler.addFilter(Faulty())

        def work(context):
            log.info("refused")
            log.info("taken")
            context.sleep(3600)

        manager = Manager("tested", workers=1, target=work, logger=handler)
    """
    with Program(tmp_path, source) as program:
        pid = program.start()
        until(lambda: "taken" in (tmp_path / "all.log").read_text(), "the record")
        assert program.status().pid == pid
        assert "a filter fails" in program.log
