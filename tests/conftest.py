"""What every test must prove: that it ended, and that it left nothing behind."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Container, Generator, Iterator
from pathlib import Path
from zlib import crc32

import psutil
import pytest

TIMEOUT = 60.0
# For what the kernel ends by itself: a removed segment stays until a killed process has let go of it.
GRACE = 5.0
# Written out and not imported: the guard does not take the word of what it guards.
KEY_PREFIX = 0x4D4B

FAILED = pytest.StashKey[bool]()

# A shell that starts a job in the background has it ignore them, and so all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--sample", type=int, default=1, metavar="N", help="of each parametrised test, run every N-th case"
    )
    parser.addoption(
        "--share", default="1/1", metavar="K/N", help="deal all tests out to N runs, and do the K-th one's"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    step = config.getoption("sample")
    share, shares = map(int, config.getoption("share").split("/"))
    seen: Counter[str] = Counter()
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        test = item.nodeid.partition("[")[0]
        wanted = seen[test] % step == 0 and crc32(test.encode()) % shares == share - 1
        (kept if wanted else left_out).append(item)
        seen[test] += 1
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


def pytest_configure(config: pytest.Config) -> None:
    """Let SIGALRM print where every thread stands and then end the run, children included.

    It works in C, so also while the interpreter is stuck in a system call or a lock. The children
    die with their parent, as everywhere in this package. pytest's own `faulthandler_timeout` and
    `faulthandler.dump_traceback_later` would start a thread, and forking beside a thread is a
    DeprecationWarning from Python 3.12 on, so an error here.
    """
    # While pytest configures itself, descriptor 2 is not captured yet.
    faulthandler.register(signal.SIGALRM, file=os.dup(2), all_threads=True, chain=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    marker = item.get_closest_marker("timeout")
    seconds = marker.args[0] if marker else TIMEOUT
    if not item.config.getoption("usepdb"):
        signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a child, a thread, a file descriptor or a System V object."""
    before = frozenset(held())
    yield
    if request.node.stash.get(FAILED, False):
        return  # its traceback keeps objects alive, and it is red already
    deadline = time.monotonic() + GRACE
    left = held(without=before)
    if left:
        gc.collect()
        left = held(without=before)
    # Only System V objects may need time; nothing announces their end, so this has to look again.
    while left and all(kind in SYSV_KINDS for kind, _ in left) and time.monotonic() < deadline:
        time.sleep(0.01)
        left = held(without=before)
    if left:
        pytest.fail("left behind: " + ", ".join(left.values()), pytrace=False)


Key = tuple[str, object]
Held = dict[Key, str]
SYSV_KINDS = ("shm", "sem")


def held(without: Container[Key] = ()) -> Held:
    """All that this process holds now, as descriptions under (kind, identity)."""
    everything = _children() | _threads() | _descriptors() | _sysv("shm") | _sysv("sem")
    return {key: text for key, text in everything.items() if key not in without}


def _children() -> Held:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # there are none; to look for them takes milliseconds
        return {}
    return {("child", child.pid): f"child {_describe(child)}" for child in psutil.Process().children()}


def _describe(process: psutil.Process) -> str:
    try:
        return f"{process.pid} ({process.status()}: {process.name()})"
    except psutil.NoSuchProcess:
        return f"{process.pid} (just gone)"


def _threads() -> Held:
    return {("thread", thread): f"thread {thread.name}" for thread in threading.enumerate()}


def _descriptors() -> Held:
    directory = Path("/proc/self/fd")
    if not directory.exists():
        return {}
    found: Held = {}
    for name in os.listdir(directory):
        try:
            target = os.readlink(directory / name)
        except FileNotFoundError:  # the one that listed the directory
            continue
        found["descriptor", (name, target)] = f"descriptor {name} -> {target}"
    return found


def _sysv(kind: str) -> Held:
    """Our own System V objects, and no other program's."""
    table = Path("/proc/sysvipc", kind)
    if not table.exists():
        return {}
    header, *lines = table.read_text().splitlines()
    found: Held = {}
    for line in lines:
        row = dict(zip(header.split(), map(int, line.split()), strict=True))
        key = row["key"] & 0xFFFFFFFF
        # Semaphores do not tell their creator.
        if key >> 16 == KEY_PREFIX or row.get("cpid") == os.getpid():
            identity = row[f"{kind}id"]
            found[kind, identity] = f"{kind} {identity} (key {key:#010x})"
    return found
