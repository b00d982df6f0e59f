"""Two hosts on one Redis, each in a network of its own: the cable of one is pulled, and nobody says goodbye.

┌ one ───────┐ eth0 ── cable1 ┌ the test's ───────────┐ cable2 ── eth0 ┌ two ───────┐
│ 10.77.1.2  │────────────────│ Redis, at 10.77.0.1   │────────────────│ 10.77.2.2  │
└────────────┘                └───────────────────────┘                └────────────┘
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.servers import redis_server
from tests.folders import until
from tests.forks import in_child
from tests.service.services import Shop

pytestmark = pytest.mark.timeout(240)

NEW_NETWORK = 0x40000000  # CLONE_NEWNET, of <sched.h>
SERVER = "10.77.0.1"
LEASE = 3.0
COUNT = 300
NAP = """
    [[topics]]
    name = "nap"
    worker = "jobs:nap"
    workers = 2
"""
JOBS = """
def nap(number):
    time.sleep(0.05)
    note(number)
"""


class Cable:
    """Between this network and one more, of a process that does nothing else."""

    def __init__(self, number: int) -> None:
        self.name = f"cable{number}"
        self._anchor = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        there = Path(f"/proc/{self._anchor.pid}/ns/net")
        ours = os.readlink("/proc/self/ns/net")
        until(lambda: there.exists() and os.readlink(there) != ours, "another network")
        self.enter = ["nsenter", f"--net={there}"]
        self._ip(
            "link", "add", self.name, "type", "veth", "peer", "name", "eth0", "netns", f"{self._anchor.pid}"
        )
        self._ip("address", "add", f"10.77.{number}.1/24", "dev", self.name)
        self.plug()
        self._ip("address", "add", f"10.77.{number}.2/24", "dev", "eth0", there=True)
        for device in ("lo", "eth0"):
            self._ip("link", "set", device, "up", there=True)
        self._ip("route", "add", "default", "via", f"10.77.{number}.1", there=True)

    def plug(self) -> None:
        self._ip("link", "set", self.name, "up")

    def pull(self) -> None:
        """Packets are lost from now on, and no connection is told."""
        self._ip("link", "set", self.name, "down")

    def _ip(self, *words: str, there: bool = False) -> None:
        subprocess.run([*(self.enter if there else []), "ip", *words], check=True)

    def __enter__(self) -> Cable:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._anchor.kill()
        self._anchor.wait()


class Host(Shop):
    """A service at the other end of a cable."""

    def __init__(self, folder: Path, cable: Cable, **options: Any) -> None:
        self._cable = cable
        super().__init__(folder, NAP, JOBS, settings=f"lease = {LEASE}", **options)

    def line(self, *words: str) -> list[str]:
        return [*self._cable.enter, *super().line(*words)]


@contextlib.contextmanager
def two_hosts(folder: Path, name: str) -> Iterator[tuple[Host, Host, Cable]]:
    """In this process's network, which is to be a new one."""
    for words in (["address", "add", f"{SERVER}/32", "dev", "lo"], ["link", "set", "lo", "up"]):
        subprocess.run(["ip", *words], check=True)
    with (
        Cable(1) as first,
        Cable(2) as second,
        redis_server(folder / "redis", bind="0.0.0.0", protected_mode="no") as server,
    ):
        url = server.url.replace("127.0.0.1", SERVER)
        with (
            Host(folder / "one", first, broker=url, name=name) as one,
            Host(folder / "two", second, broker=url, name=name) as two,
        ):
            one.run()
            two.run()
            yield one, two, second


def has_networks() -> bool:
    """Whether this process may make networks; in a child, since it cannot go back."""
    return in_child(_leave_network) == 0


def _leave_network() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_NETWORK):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@pytest.fixture
def networks() -> None:
    if not has_networks():
        pytest.skip("no network namespaces here; test_faults has two hosts in two runtime directories")


@pytest.mark.usefixtures("networks")
def test_the_cable_of_a_host_is_pulled(tmp_path: Path, service_name: str) -> None:
    def story() -> None:
        _leave_network()
        with two_hosts(tmp_path, service_name) as (one, two, cable):
            one.push_many("nap", range(COUNT))
            one.wait_for_lines(20)
            two.wait_for_lines(20)
            cable.pull()
            one.wait_until_empty("nap")  # what the other one held is here after its lease
            done = one.runs + two.runs
            assert set(done) == {str(number) for number in range(COUNT)}
            assert set(done.values()) <= {1, 2}
            assert set(one.runs.values()) == set(two.runs.values()) == {1}

            two.wait_for_log("the broker is away")
            cable.plug()
            two.wait_for_log("the broker is back")
            one.stop()
            one.push("nap", COUNT)
            two.wait_until_empty("nap")
            assert two.runs[str(COUNT)] == 1
            assert set((one.runs + two.runs).values()) <= {1, 2}  # and nothing that it held is run again

    assert in_child(story) == 0
