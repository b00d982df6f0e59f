"""Becoming the user whom a manager is to run as."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable

from multiprocessing_kit.errors import ManagerConfigError
from multiprocessing_kit.manager.settings import Settings

__all__ = ["become"]


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
        text = f"option {option}: only root may become another one"
        raise ManagerConfigError(text, option=option) from error
