"""Becoming the user whom a manager is to run as."""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Callable

from multiprocessing_kit.errors import ManagerConfigError
from multiprocessing_kit.manager.settings import Settings

__all__ = ["become", "check_identity"]


def check_identity(settings: Settings) -> None:
    """As `become`, as far as can be told without doing it.

    Raises:
        ManagerConfigError: This process may not.
    """
    if os.geteuid() == 0 or _has_capabilities():
        return
    if settings.uid is not None and settings.uid != os.geteuid():
        raise _not_root("user")
    if settings.gid is not None and settings.gid not in (os.getgid(), os.getegid()):
        raise _not_root("group")


def become(settings: Settings) -> None:
    """Set umask, group and user, for good.

    Raises:
        ManagerConfigError: This process may not.
    """
    if settings.umask is not None:
        os.umask(settings.umask)
    uid, gid = settings.uid, settings.gid
    if uid is not None and uid != os.geteuid():
        entry = pwd.getpwuid(uid)
        gid = entry.pw_gid if gid is None else gid
        _do("user", lambda: os.initgroups(entry.pw_name, entry.pw_gid if gid is None else gid))
    if gid is not None and gid != os.getegid():
        _do("group", lambda: os.setgid(gid))
    if uid is not None and uid != os.geteuid():
        _do("user", lambda: os.setuid(uid))


def _do(option: str, act: Callable[[], None]) -> None:
    try:
        act()
    except PermissionError as error:
        raise _not_root(option) from error


def _not_root(option: str) -> ManagerConfigError:
    return ManagerConfigError(f"option {option}: only root may become another one", option=option)


def _has_capabilities() -> bool:
    """Whether Linux lets it do something that else only root may, perhaps this."""
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        return any(line.startswith("CapEff:") and int(line.split()[1], 16) for line in file)
    return False
