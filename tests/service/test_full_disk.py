"""An SQLite file on a disk that is really full: one of 2 MB, in a mount namespace of the test's own."""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
from pathlib import Path

import pytest

from multiprocessing_kit.errors import BrokerUnavailableError
from tests.forks import in_child
from tests.service.services import Shop

NEW_MOUNTS = 0x20000  # CLONE_NEWNS, of <sched.h>


def _mount(disk: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_MOUNTS):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A directory that can be mounted upon."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if in_child(lambda: _mount(disk)) != 0:
        pytest.skip("nothing can be mounted here; test_broker_faults has a limit of the file's size")
    return disk


def test_a_service_whose_disk_is_full(tmp_path: Path, disk: Path) -> None:
    """What it has acknowledged is done when there is room again, with nobody's help, and nothing twice."""

    def story() -> None:
        _mount(disk)
        with Shop(tmp_path / "shop", broker=f"sqlite:///{disk}/shop.db", settings="lease = 3.0") as shop:
            shop.run()
            ballast = disk / "ballast"
            acknowledged: set[str] = set()
            with pytest.raises(BrokerUnavailableError, match="disk is full"):
                _push_on(shop, ballast, acknowledged)
            shop.wait_for_log("the broker is away: .*disk is full")
            ballast.unlink()
            shop.wait_for_log("the broker is back")
            shop.push("work", "last")
            shop.wait_until_empty()
            runs = {argument.split()[0]: count for argument, count in shop.runs.items()}
            assert acknowledged | {"last"} <= set(runs)
            assert len(set(runs) - acknowledged) <= 2
            assert set(runs.values()) == {1}
            shop.stop()

    assert in_child(story) == 0


def _push_on(shop: Shop, ballast: Path, acknowledged: set[str]) -> None:
    with shop.client() as client:
        for number in itertools.count():
            client.push("work", f"{number} {'x' * 2000}")
            acknowledged.add(str(number))
            if number == 20:
                _fill(ballast)


def _fill(ballast: Path) -> None:
    """To the last byte."""
    with ballast.open("wb", buffering=0) as out:
        for size in (65536, 1):
            try:
                while True:
                    out.write(b"x" * size)
            except OSError:
                continue
