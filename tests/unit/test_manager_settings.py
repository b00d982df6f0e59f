"""What a manager may be told, and how each option that makes no sense is refused."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from multiprocessing_kit.errors import ManagerConfigError, ManagerError
from multiprocessing_kit.manager import Manager, ManagerGroup
from multiprocessing_kit.manager.safe_files import open_private, runtime_directory
from multiprocessing_kit.manager.settings import MOST_WORKERS
from multiprocessing_kit.queues import FifoQueue
from multiprocessing_kit.supervise.respawn import RECYCLED
from multiprocessing_kit.worker import Worker


class Doubler(Worker):
    """Some job."""

    def process(self, argument: int) -> int:
        """Do it."""
        return 2 * argument


def some_target(_context: object) -> None:
    """Some work."""


REFUSED: list[tuple[str, Any]] = [
    ("nonsense", 1),
    ("Workers", 1),
    ("policy", None),  # a field, but none that a user gives
    ("workers", 0),
    ("workers", -1),
    ("workers", 1.5),
    ("workers", "2"),
    ("workers", True),
    ("workers", None),
    ("workers", MOST_WORKERS + 1),
    ("target", None),
    ("target", "work"),
    ("target", Doubler),  # it must be one of them, not the class
    ("source", []),
    ("init", "connect"),
    ("respawn", "sometimes"),
    ("respawn", None),
    ("respawn", ["always"]),
    ("normal_exit_code", -1),
    ("normal_exit_code", 256),
    ("normal_exit_code", {0, 256}),
    ("normal_exit_code", "0"),
    ("normal_exit_code", 0.0),
    ("normal_exit_code", None),
    ("normal_exit_code", [[1]]),
    ("normal_exit_code", RECYCLED),
    ("fatal_exit_code", -9),
    ("fatal_exit_code", {RECYCLED}),
    ("execute_times", -1),
    ("execute_times", 1.0),
    ("execute_sleep", -0.1),
    ("execute_sleep", "1"),
    ("execute_sleep", None),
    ("execute_sleep", float("nan")),
    ("execute_sleep", float("inf")),
    ("limit_seconds", -1),
    ("max_memory", 0),
    ("max_memory", -1),
    ("max_memory", "100M"),
    ("check_interval", -1),
    ("stop_timeout", -1),
    ("stop_timeout", True),
    ("backoff", 1),
    ("backoff", (1,)),
    ("backoff", (1, 2, 3)),
    ("backoff", (-1, 2)),
    ("backoff", (1, "2")),
    ("healthy_seconds", -1),
    ("respawn_limit", -1),
    ("lock_file", 3),
    ("lock_file", ""),
    ("lock_file", b"lock"),
    ("lock_file", "nul\0"),
    ("runtime_dir", 3),
    ("runtime_dir", ""),
    ("title_prefix", None),
    ("title_prefix", "a\0b"),
    ("user", "no-such-user-here"),
    ("user", 2**31 - 5),
    ("user", 2**70),
    ("user", -7),
    ("user", 1.5),
    ("user", b"root"),
    ("user", "nul\0"),
    ("group", "no-such-group-here"),
    ("group", 2**31 - 5),
    ("group", 2**70),
    ("group", 1.5),
    ("umask", -1),
    ("umask", 0o1000),
    ("umask", "022"),
    ("logger", 3),
]


@pytest.mark.parametrize(
    ("option", "value"), REFUSED, ids=[f"{option}={value!r:.20}" for option, value in REFUSED]
)
def test_an_option_that_makes_no_sense_is_refused_by_name(option: str, value: Any) -> None:
    """As the manager is made, in the message and as an attribute."""
    with pytest.raises(ManagerConfigError, match=rf"^option {option}: ") as caught:
        Manager("tested", **{"workers": 1, "target": some_target, option: value})
    assert caught.value.option == option


@pytest.mark.parametrize("name", ["", "a/b", "../a", ".hidden", "a b", "a\n", "x" * 65, 3, None, "ä"])
def test_names_that_are_no_file_names_are_refused(name: Any) -> None:
    """For they become file names."""
    with pytest.raises(ManagerConfigError, match=r"^option name: "):
        Manager(name, workers=1, target=some_target)


@pytest.mark.parametrize("name", ["a", "A-b_c.d", "0", "x" * 64])
def test_other_names_are_taken(name: str) -> None:
    """With digits, dots, dashes."""
    assert Manager(name, workers=1, target=some_target).settings.name == name


def test_workers_must_be_given() -> None:
    """There is no number that would suit all."""
    with pytest.raises(ManagerConfigError, match=r"^option workers: it must be given") as caught:
        Manager("tested", target=some_target)
    assert caught.value.option == "workers"


def test_a_manager_without_target_waits_for_its_function() -> None:
    """As a decorator; other options are refused at once."""
    manager = Manager("tested", workers=1)
    with pytest.raises(ManagerConfigError, match=r"^option target: it must be given"):
        _ = manager.settings
    with pytest.raises(ManagerConfigError, match=r"^option target: it must be given"):
        manager.run()
    assert manager(some_target) is some_target
    assert manager.settings.target is some_target
    with pytest.raises(ManagerConfigError, match=r"^option workers: "):
        Manager("tested", workers=-1)


def test_only_the_main_thread_can_run_it() -> None:
    """For it takes signals."""
    caught: list[ManagerError] = []

    def run() -> None:
        try:
            Manager("tested", workers=1, target=some_target).run()
        except ManagerError as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "run it in the main thread" in str(caught[0])


GOOD: list[tuple[str, Any]] = [
    ("workers", MOST_WORKERS),
    ("respawn", "never"),
    ("normal_exit_code", {0, 3}),
    ("normal_exit_code", range(4)),
    ("normal_exit_code", iter([0, 7])),
    ("fatal_exit_code", 0),
    ("execute_sleep", 0),
    ("execute_sleep", 10**9),
    ("stop_timeout", 0),
    ("backoff", (0, 0)),
    ("backoff", [1, 2]),
    ("max_memory", 1),
    ("lock_file", Path("/run/a.lock")),
    ("user", os.geteuid()),
    ("group", os.getegid()),
    ("umask", 0o077),
    ("logger", "stderr"),
]


@pytest.mark.parametrize(("option", "value"), GOOD, ids=[f"{option}={value!r:.20}" for option, value in GOOD])
def test_what_makes_sense_is_taken(option: str, value: Any) -> None:
    """The edges of what is allowed."""
    Manager("tested", **{"workers": 1, "target": some_target, option: value})


def test_a_worker_needs_a_source_and_a_function_has_none() -> None:
    """A queue, or a function."""
    with FifoQueue[object]() as queue:
        for source in (queue, some_target):
            Manager("tested", workers=1, target=Doubler(), source=source)
        with pytest.raises(ManagerConfigError, match=r"^option source: a Worker needs a queue"):
            Manager("tested", workers=1, target=Doubler())
        with pytest.raises(ManagerConfigError, match=r"^option source: only a Worker"):
            Manager("tested", workers=1, target=some_target, source=queue)


def test_an_orderly_end_has_a_status_that_counts_as_one() -> None:
    """Also where 0 is none of them."""
    assert Manager("tested", workers=1, target=some_target).settings.orderly == 0
    assert Manager("tested", workers=1, target=some_target, normal_exit_code={7, 9}).settings.orderly == 7


# ── files ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With nothing but real directories in its path."""
    return Path(os.path.realpath(tmp_path))


def test_the_runtime_directory_is_made_and_private(folder: Path) -> None:
    """With those above it."""
    path = runtime_directory(folder / "a" / "b")
    assert path == folder / "a" / "b"
    assert path.stat().st_mode & 0o777 == 0o700


def test_private_files_are_private_whatever_the_umask(folder: Path) -> None:
    """0600."""
    with umask(0):
        os.close(open_private(folder / "file", "lock_file", os.O_RDWR | os.O_CREAT))
    assert (folder / "file").stat().st_mode & 0o777 == 0o600


@contextlib.contextmanager
def umask(value: int) -> Iterator[None]:
    """For a while."""
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def _link(folder: Path) -> Path:
    (folder / "real").mkdir()
    (folder / "link").symlink_to("real")
    return folder / "link" / "file"


def _last_link(folder: Path) -> Path:
    (folder / "file").symlink_to("elsewhere")
    return folder / "file"


def _directory(folder: Path) -> Path:
    (folder / "file").mkdir()
    return folder / "file"


def _second_name(folder: Path) -> Path:
    (folder / "first").write_text("somebody's")
    (folder / "file").hardlink_to(folder / "first")
    return folder / "file"


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "file")
    return folder / "file"


def _missing(folder: Path) -> Path:
    return folder / "no" / "such" / "file"


def _below_a_file(folder: Path) -> Path:
    (folder / "plain").write_text("")
    return folder / "plain" / "file"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (_link, "link is a symbolic link, which is not followed"),
        (_last_link, "file is a symbolic link, which is not followed"),
        (_directory, "file"),
        (_second_name, "is not a plain file of this user's"),
        (_pipe, "is not a plain file of this user's"),
        (_missing, "no: No such file"),
        (_below_a_file, "plain: Not a directory"),
    ],
)
def test_files_that_may_be_a_trap_are_refused(folder: Path, make: Any, text: str) -> None:
    """With the option that names them; what is there stays as it is."""
    path = make(folder)
    with pytest.raises(ManagerConfigError, match=r"^option lock_file: ") as caught:
        open_private(path, "lock_file", os.O_RDWR | os.O_CREAT)
    assert text in str(caught.value)
    assert caught.value.option == "lock_file"
    assert not (folder / "elsewhere").exists()


# ── groups ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_group_knows_its_managers_by_name() -> None:
    """In their order."""
    one, two, three = (Manager(name, workers=1, target=some_target) for name in ("one", "two", "three"))
    group = ManagerGroup([two, one])
    assert group.add(three) is three
    assert [manager.name for manager in group] == ["two", "one", "three"]
    assert group.get("one") is one
    assert group.remove("one") is one
    assert len(group) == 2
    with pytest.raises(ManagerError, match="no manager 'one' in this group; there are: two, three"):
        group.get("one")
    with pytest.raises(ManagerError, match="no manager 'one'"):
        group.remove("one")
    with pytest.raises(ManagerError, match="there is a manager 'two' in this group already"):
        group.add(Manager("two", workers=1, target=some_target))
    with pytest.raises(ManagerError, match="already"):
        ManagerGroup([one, one])
